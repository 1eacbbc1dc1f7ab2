"""Jobs: an input, or a channel of one, and all its files in OUT."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from tisdiss_cli.activity.formats import FORMATS
from tisdiss_cli.audio.read import AudioError, channel_count
from tisdiss_cli.folder.inputs import Input, list_inputs
from tisdiss_cli.folder.naming import Template, find_collisions, loose, split_name
from tisdiss_cli.folder.record import Line


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
        """Of the input."""
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
    def id(self) -> tuple[str, int | None]:
        """What tells it from the other jobs of a run, and its line from theirs."""
        return self.input, self.channel

    @property
    def key(self) -> str:
        """The same, for the name of a folder."""
        name = self.input if self.channel is None else f"{self.input}/{self.channel}"  # no file is a folder too
        return sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def line(self, failure: str | None, **facts: Any) -> Line:
        """Returns its line of the record, which says "failed" where there is a reason."""
        status, outputs = ("failed", []) if failure else ("done", self.outputs)
        return Line(self.input, status, self.resolved, failure, outputs, channel=self.channel, **facts)


def plan_jobs(
    source: Path | Sequence[Input],
    out: Path,
    *,
    voices: int,
    extension: str,
    template: Template | None = None,
    each_channel: bool = False,
    track: int | None = None,
    segments: Sequence[str] = (),
) -> list[Job]:
    """Returns a job for every input; OUT mirrors the inputs' trees.

    `sub/call.wav` becomes `sub/call_s1.wav`, ..., or as the template has it, and its segments are `sub/call.rttm`, ...;
    inputs of one folder that differ only in their extension get it into the name, all of them: `call_wav_s1.wav`,
    `call_flac_s1.wav`. Inputs whose files would meet all the same are refused.

    Args:
        source: a file or a folder, or inputs that are listed already.
        out: the folder OUT.
        voices: of each input.
        extension: of the outputs.
        template: of their names; None: the default.
        each_channel: a job for every channel of every input, with `_c1`, ... before the voice: `call_c1_s1.wav`. An
            input that cannot be opened has one, which says why when it is run.
        track: the audio track whose channels these are.
        segments: formats of the files of who speaks when.

    Raises:
        UserError: the template gives two outputs of the inputs one name, or as `list_inputs`.
    """
    inputs = list_inputs([source], out) if isinstance(source, Path) else source
    template, alike = template or Template(), _alike(inputs)
    jobs: list[Job] = []
    for one in inputs:
        stem, suffix = split_name(one.name)
        told = f"{stem}_{suffix[1:]}" if len(alike.get(loose(stem), ())) > 1 else stem
        for channel in _channels(one.place, track) if each_channel else (None,):
            names = [
                template.fill(one.name, stem, told=told, voice=voice, channel=channel) for voice in range(1, voices + 1)
            ]
            beside = told if channel is None else f"{told}_c{channel}"
            files = [f"{name}.{extension}" for name in names], [beside + FORMATS[name].ending for name in segments]
            jobs.append(Job(one.name, one.place, files[0], beside, files[1], channel))
    template.check_apart((job.input, job.outputs) for job in jobs)
    for index, reason in find_collisions([job.place for job in jobs], [job.files for job in jobs], out).items():
        jobs[index].refused = reason
    return jobs


def _alike(inputs: Sequence[Input]) -> dict[str, set[str]]:
    """Returns the extensions of names, here or in their folder, by what they have in common."""
    found = defaultdict[str, set[str]](set)
    for one in inputs:
        stem, suffix = split_name(one.name)
        found[loose(stem)] |= {suffix, *one.siblings}
    return found


def _channels(place: str, track: int | None) -> Iterable[int]:
    try:
        return range(1, channel_count(Path(place), track) + 1)
    except AudioError:
        return (1,)
