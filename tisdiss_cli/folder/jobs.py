"""Jobs of a run: an input, or one of its channels, and its files in OUT."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from tisdiss_cli.activity.formats import FORMATS
from tisdiss_cli.audio.read import AudioError, read_header
from tisdiss_cli.audio.write import check_channels
from tisdiss_cli.folder.inputs import Input, list_inputs
from tisdiss_cli.folder.naming import DEFAULT, ONE_FILE, Template, find_collisions, loose
from tisdiss_cli.folder.record import Line
from tisdiss_cli.folder.settings import Options


@dataclass(slots=True)
class Job:
    """Job: one input and its files."""

    input: str  # its name, see `inputs`
    place: str  # its path
    outputs: list[str] = field(default_factory=list)  # its voices' files, relative to OUT
    voices: int = 0  # number of voices in its outputs
    stem: str = ""  # path of its segment files, without extension
    segments: list[str] = field(default_factory=list)  # its segment files, relative to OUT
    channel: int | None = None  # the channel to separate, from 1 on; None: as in the settings
    channels: int = 0  # number of channels to separate one by one into one file; 0: `channel` only
    refused: str | None = None  # one sentence: why it cannot have its files
    seconds: float = 0.0  # of audio to separate by its header, once that was read

    @property
    def path(self) -> Path:
        """Path of the input."""
        return Path(self.place)

    @property
    def files(self) -> list[str]:
        """All files of the job, relative to OUT."""
        return [*self.outputs, *self.segments]

    @property
    def mixtures(self) -> Sequence[int | None]:
        """Channel of each mixture to separate; None: as in the settings."""
        return range(1, self.channels + 1) if self.channels else (self.channel,)

    @property
    def resolved(self) -> str:
        """Absolute path of the input without links, which identifies it among inputs of the same name."""
        return os.path.realpath(self.place)

    @property
    def key(self) -> str:
        """Name of the job's working folder, unique within a run."""
        # Unambiguous, as a file is not a folder too.
        name = self.input if self.channel is None else f"{self.input}/{self.channel}"
        return sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def line(self, failure: str | None, **facts: Any) -> Line:
        """Returns the job's line of the record, "failed" with a reason or "done"."""
        status, outputs, voices = ("failed", [], 0) if failure else ("done", self.outputs, self.voices)
        return Line(self.input, status, self.resolved, failure, outputs, voices, channel=self.channel, **facts)


def plan_jobs(
    source: Path | Sequence[Input], options: Options, voices: int, template: Template | None = None
) -> list[Job]:
    """Returns a job for every input, or for each of its channels; OUT mirrors the inputs' trees.

    `sub/call.wav` becomes `sub/call_s1.wav`, ..., or follows the template; its segments are `sub/call.rttm`, ....
    Inputs of one folder that differ only in their extension keep it in the name: `call_wav_s1.wav`, `call_flac_s1.wav`.
    With a job for each channel, `_c1` precedes the voice: `call_c1_s1.wav`. With `--layout channels`, all voices are in
    `sub/call.wav`. Inputs whose files still collide, or have too many voices for one file, are refused. UserError if
    the template gives two outputs one name that the default does not, if no file of the format holds the voices of one
    mixture, or as in `list_inputs`.
    """
    if options.one_file:
        check_channels(options.format, voices)
    inputs = list_inputs([source], options.out) if isinstance(source, Path) else source
    template = template or Template(ONE_FILE if options.one_file else DEFAULT)
    extensions = defaultdict[str, set[str]](set)
    for one in inputs:
        stem, suffix = os.path.splitext(one.name)
        extensions[loose(stem)] |= {suffix, *one.siblings}
    jobs, numbers = list[Job](), (None,) if options.one_file else range(1, voices + 1)
    each_channel, formats = options.each_channel, options.formats
    for one in inputs:
        stem, suffix = os.path.splitext(one.name)
        unique = f"{stem}_{suffix[1:]}" if len(extensions[loose(stem)]) > 1 else stem
        channels = read_header(Path(one.place), options.track)[1] if each_channel else 0
        merged = channels if options.one_file else 0
        for channel in range(1, channels + 1) if channels and not merged else (None,):
            beside = unique if channel is None else f"{unique}_c{channel}"
            names = [template.fill(one.name, stem, unique=unique, voice=n, channel=channel) for n in numbers]
            outputs = [f"{name}.{options.format}" for name in names]
            segments = [beside + FORMATS[name].ending for name in formats]
            jobs.append(Job(one.name, one.place, outputs, voices * (merged or 1), beside, segments, channel, merged))
            jobs[-1].refused = _excess(jobs[-1], options.format) if merged else None
    template.check_unique((job.input, job.outputs) for job in jobs)
    reasons = find_collisions([job.place for job in jobs], [job.files for job in jobs], options.out)
    for index, reason in reasons.items():
        jobs[index].refused = reason
    return jobs


def _excess(job: Job, format: str) -> str | None:
    """Returns why one file of the format cannot hold the job's voices; None if it can."""
    try:
        check_channels(format, job.voices)
    except AudioError as error:
        return f"{job.path}: {error}"
    return None
