"""Jobs: an input, or a channel of one, and all its files in OUT."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from tisdiss_cli.activity.formats import FORMATS
from tisdiss_cli.audio.read import AudioError, probe
from tisdiss_cli.folder.inputs import Input, list_inputs
from tisdiss_cli.folder.naming import Template, find_collisions, loose
from tisdiss_cli.folder.record import Line
from tisdiss_cli.folder.settings import Options


@dataclass(slots=True)
class Job:
    """One input and its files."""

    input: str  # relative to IN, or what `inputs` calls it
    place: str  # its path
    outputs: list[str] = field(default_factory=list)  # its voices, relative to OUT
    stem: str = ""  # what its segments are called, but for the ending
    segments: list[str] = field(default_factory=list)  # files of who speaks when, likewise
    channel: int | None = None  # the one that is separated, from 1 on; None: as the settings have it
    refused: str | None = None  # one sentence: why it cannot have its files
    seconds: float = 0.0  # of audio, where its header has been asked

    @property
    def path(self) -> Path:
        """The input's path."""
        return Path(self.place)

    @property
    def files(self) -> list[str]:
        """All that it makes, relative to OUT."""
        return [*self.outputs, *self.segments]

    @property
    def resolved(self) -> str:
        """The input's own place on the disk, absolute and without links: tells it from others of its name."""
        return os.path.realpath(self.place)

    @property
    def key(self) -> str:
        """The name of its folder, which tells it from the other jobs of a run."""
        name = self.input if self.channel is None else f"{self.input}/{self.channel}"  # no file is a folder too
        return sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def line(self, failure: str | None, **facts: Any) -> Line:
        """Returns its line of the record, which says "failed" where there is a reason."""
        status, outputs = ("failed", []) if failure else ("done", self.outputs)
        return Line(self.input, status, self.resolved, failure, outputs, channel=self.channel, **facts)


def plan_jobs(
    source: Path | Sequence[Input], options: Options, voices: int, template: Template | None = None
) -> list[Job]:
    """Returns a job for every input, or for every channel of each; OUT mirrors the inputs' trees.

    `sub/call.wav` becomes `sub/call_s1.wav`, ..., or as the template has it, and its segments are `sub/call.rttm`, ...;
    inputs of one folder that differ only in their extension get it into the name, all of them: `call_wav_s1.wav`,
    `call_flac_s1.wav`. With a job for each channel `_c1`, ... comes before the voice: `call_c1_s1.wav`. Inputs whose
    files would meet all the same are refused. UserError where the template gives two outputs one name that the default
    tells apart, or as `list_inputs`.
    """
    inputs = list_inputs([source], options.out) if isinstance(source, Path) else source
    template, alike = template or Template(), defaultdict[str, set[str]](set)
    for one in inputs:
        stem, suffix = os.path.splitext(one.name)
        alike[loose(stem)] |= {suffix, *one.siblings}
    jobs, each_channel, formats = list[Job](), options.each_channel, options.formats
    for one in inputs:
        stem, suffix = os.path.splitext(one.name)
        told = f"{stem}_{suffix[1:]}" if len(alike[loose(stem)]) > 1 else stem
        for channel in _channels(one.place, options.track) if each_channel else (None,):
            beside = told if channel is None else f"{told}_c{channel}"
            names = [template.fill(one.name, stem, told=told, voice=n, channel=channel) for n in range(1, voices + 1)]
            outputs = [f"{name}.{options.format}" for name in names]
            segments = [beside + FORMATS[name].ending for name in formats]
            jobs.append(Job(one.name, one.place, outputs, beside, segments, channel))
    template.check_apart((job.input, job.outputs) for job in jobs)
    reasons = find_collisions([job.place for job in jobs], [job.files for job in jobs], options.out)
    for index, reason in reasons.items():
        jobs[index].refused = reason
    return jobs


def _channels(place: str, track: int | None) -> Iterable[int]:
    """Returns the channels of an input; one for what cannot be opened, which says why when it is run."""
    try:
        return range(1, probe(Path(place), track, partial=True).channels + 1)
    except AudioError:
        return (1,)
