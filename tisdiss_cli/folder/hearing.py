"""What is told of an input's voices while they pass to their files: who speaks when, and how good it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tisdiss_cli.activity.formats import FORMATS, write_segments
from tisdiss_cli.activity.segments import Speech
from tisdiss_cli.activity.tracker import ActivityTracker
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.separation.quality import QualityMeter, QualityModel


@dataclass(frozen=True)
class Wanted:
    """What a run tells of its inputs."""

    speech: bool = False  # who speaks when
    segments: tuple[str, ...] = ()  # the files' formats
    quality: QualityModel | None = None
    least: float | None = None  # predicted SI-SNRi, in dB, below which an input is doubtful

    def hearing(self, voices: int, sample_rate: int) -> "Hearing":
        """For one input's S voices."""
        return Hearing(self, voices, sample_rate)


class Hearing:
    """Takes one input's chunks and stitched voices; memory does not grow with their length.

    Args:
        wanted: what is told.
        voices: S.
        sample_rate: theirs, Hz.
    """

    def __init__(self, wanted: Wanted, voices: int, sample_rate: int) -> None:
        self.wanted = wanted
        self.tracker = ActivityTracker(voices, sample_rate) if wanted.speech or wanted.segments else None
        self.meter = QualityMeter(wanted.quality, sample_rate) if wanted.quality else None
        self.speech: Speech | None = None

    def chunk(self, start: int, mixture: Tensor, voices: Tensor) -> None:
        """A chunk (n,) from sample `start` on and its voices (S, n), in the network's order."""
        if self.meter:
            self.meter.push(start, mixture, voices)

    def push(self, voices: Tensor) -> None:
        """Adds the next samples (S, n) of the stitched voices."""
        if self.tracker:
            self.tracker.push(voices)

    def finish(self) -> None:
        """Ends the voices."""
        if self.tracker:
            self.speech = self.tracker.finish()

    def write(self, out: Path, job: Job) -> None:
        """The segments, under the names that `name_segments` gave them; OSError where the disk does not take them."""
        if self.speech and job.besides:
            speech = self.speech
            write_segments(out, job.stem, self.wanted.segments, segments=speech.segments, seconds=speech.seconds)

    def facts(self) -> dict[str, Any]:
        """What goes into the input's line."""
        quality = self.meter.finish() if self.meter else None
        facts: dict[str, Any] = {"quality": quality}
        if quality and self.wanted.least is not None:
            facts["doubtful"] = quality["si_snri"] < self.wanted.least
        if self.speech:
            for name in ("speech_seconds", "overlap_seconds", "silence_seconds", "talkers"):
                facts[name] = getattr(self.speech, name)
        return facts

    def warnings(self) -> list[str]:
        """Sentences for the input's line."""
        facts, found = self.facts(), []
        if facts.get("talkers") == 1:
            found.append("only one voice talks; the other is a rest of it")
        if facts.get("doubtful"):
            predicted = facts["quality"]["si_snri"]
            found.append(f"doubtful: a predicted SI-SNRi of {predicted:.1f} dB is below {self.wanted.least:g} dB")
        return found


def name_segments(jobs: Sequence[Job], formats: Sequence[str]) -> None:
    """Gives each job the files of its segments, `call.rttm` beside `call_s1.wav`, whatever its outputs are called."""
    for job in jobs if formats else ():
        job.besides = [job.stem + FORMATS[name].ending for name in formats]
