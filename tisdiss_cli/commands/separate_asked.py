"""What `tisdiss separate` was asked for, and what became of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tisdiss_cli.folder.inputs import Input
    from tisdiss_cli.folder.jobs import Job
    from tisdiss_cli.folder.locks import Presence
    from tisdiss_cli.folder.names import Template
    from tisdiss_cli.folder.record import Line, Record
    from tisdiss_cli.folder.shards import Shard
    from tisdiss_cli.folder.triage import Triage

_LINES = 1000  # kept though there is nothing to tell of them: a million would take a gigabyte


@dataclass
class Run:
    """A run over a folder as it was asked for, and what became of it."""

    inputs: "list[Input]"
    source: Path  # where they are from: IN, or the list, or what several IN have in common
    out: Path
    shard: "Shard | None"
    join: bool
    format: str
    template: "Template"  # of the outputs' names
    every_channel: bool  # a job for each
    track: int | None
    segments: list[str]  # formats of the files of who speaks when
    sources: list[Path]  # each IN
    files_from: str | None  # the list
    lines: "list[Line]" = field(default_factory=list)  # the first, and all that have something to tell
    more: int = 0  # others, which are done
    more_seconds: float = 0.0  # of audio in those
    left: int = 0  # inputs that another run had begun, or did meanwhile
    done: int = 0  # before
    elapsed: float = 0.0  # seconds

    def jobs(self, voices: int) -> "list[Job]":
        """Those of the shard."""
        from tisdiss_cli.folder.hearing import name_segments
        from tisdiss_cli.folder.jobs import plan_jobs

        jobs = plan_jobs(
            self.inputs,
            self.out,
            voices=voices,
            extension=self.format,
            template=self.template,
            each_channel=self.every_channel,
            track=self.track,
        )
        name_segments(jobs, self.segments)
        return jobs if self.shard is None else [job for job in jobs if self.shard.takes(job.input)]

    def begin(self, record: "Record", found: "Triage", presence: "Presence") -> None:
        """Writes down what is to do, and what is refused."""
        self.done = found.done
        record.write_to(presence.facts.record, presence.facts.source, sources=self.sources, files_from=self.files_from)
        record.prepare()
        for line in found.refused:
            record.append(line)
            self.take(line)

    def take(self, line: "Line") -> None:
        """Takes note of what became of an input."""
        if len(self.lines) < _LINES or line.reason or line.warnings:
            self.lines.append(line)
        else:
            self.more, self.more_seconds = self.more + 1, self.more_seconds + line.audio_seconds

    def sums(self) -> tuple[int, int, float]:
        """Inputs that are done, that have failed, and seconds of audio in the first."""
        done = [line for line in self.lines if line.status == "done"]
        seconds = sum(line.audio_seconds for line in done) + self.more_seconds
        return len(done) + self.more, len(self.lines) - len(done), seconds

    def leave(self, job: "Job") -> None:
        """Takes note of an input that is another run's."""
        self.left += 1
