"""Which inputs become which files of OUT."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from tisdiss_cli.audio.read import AudioError, channel_count
from tisdiss_cli.folder.collisions import find_collisions, loose
from tisdiss_cli.folder.inputs import Input, list_inputs
from tisdiss_cli.folder.names import Template

PARTS = ".tisdiss-part"  # folder in OUT for what is being written


@dataclass
class Job:
    """One input, its outputs and, while it runs, where it is written."""

    path: Path
    input: str  # relative to IN, or what `inputs` calls it
    outputs: list[str] = field(default_factory=list)  # relative to OUT
    besides: list[str] = field(default_factory=list)  # files of its segments, relative to OUT
    refused: str | None = None  # one sentence: why it cannot have these outputs
    stem: str = ""  # what its segments are called but for the extension, relative to OUT
    channel: int | None = None  # the one that is separated, from 1 on; None: as the settings have it

    @cached_property
    def resolved(self) -> str:
        """The input's own place on the disk, absolute and without links: tells it from others of its name."""
        return os.path.realpath(self.path)

    @property
    def id(self) -> tuple[str, int | None]:
        """What tells it from the other jobs of a run, and its line from theirs."""
        return self.input, self.channel

    @property
    def key(self) -> str:
        """The same for names of files in `PARTS`."""
        name = self.input if self.channel is None else f"{self.input}/{self.channel}"  # no file is a folder too
        return sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def plan_jobs(
    source: Path | Sequence[Input],
    out: Path,
    *,
    voices: int,
    extension: str,
    template: Template | None = None,
    each_channel: bool = False,
    track: int | None = None,
) -> list[Job]:
    """A job for every input; OUT mirrors the inputs' trees.

    `sub/call.wav` becomes `sub/call_s1.wav`, ..., or as the template has it; inputs of one folder that differ only in
    their extension get it into the name, all of them: `call_wav_s1.wav`, `call_flac_s1.wav`. Inputs that would
    overwrite each other's voices all the same are refused: `collisions`.

    Args:
        source: a file or a folder, or inputs that are listed already.
        out: the folder OUT.
        voices: of each input.
        extension: of the outputs.
        template: of their names; None: the default.
        each_channel: a job for every channel of every input, with `_c1`, ... before the voice: `call_c1_s1.wav`. An
            input that cannot be opened has one, which says why when it is run.
        track: the audio track whose channels these are.

    Raises:
        UserError: the template gives two outputs of the inputs one name, or as `list_inputs`.
    """
    inputs = list_inputs([source], out) if isinstance(source, Path) else source
    template = template or Template()
    extensions = defaultdict[str, set[str]](set)
    for one in inputs:
        stem, suffix = _split(one.name)
        extensions[loose(stem)] |= {suffix, *one.siblings}
    jobs = []
    for one in inputs:
        stem, suffix = _split(one.name)
        told = f"{stem}_{suffix[1:]}" if len(extensions[loose(stem)]) > 1 else stem
        for channel in _channels(one.path, track) if each_channel else (None,):
            job = Job(one.path, one.name, stem=told if channel is None else f"{told}_c{channel}", channel=channel)
            names = [
                template.fill(one.name, stem, told=told, voice=voice, channel=channel) for voice in range(1, voices + 1)
            ]
            job.outputs = [f"{name}.{extension}" for name in names]
            jobs.append(job)
    template.check_apart([(job.input, job.channel, job.outputs) for job in jobs])
    reasons = find_collisions([job.path for job in jobs], [job.outputs for job in jobs], out)
    for index, job in enumerate(jobs):
        job.refused = reasons.get(index)
    if not isinstance(source, Path):
        _refuse_inputs(jobs, out)
    return jobs


def _channels(path: Path, track: int | None) -> Iterable[int]:
    try:
        return range(1, channel_count(path, track) + 1)
    except AudioError:
        return (1,)


def _refuse_inputs(jobs: list[Job], out: Path) -> None:
    """Refuses jobs whose outputs are inputs: OUT may be the folder that files of a list or of a command lie in."""
    inputs, place = {job.resolved for job in jobs}, os.path.realpath(out)
    for job in jobs:
        if taken := next((name for name in job.outputs if os.path.join(place, name) in inputs), None):
            job.refused = f"{job.path} would become {out / taken}, which is an input itself: name another OUT"


def _split(name: str) -> tuple[str, str]:
    """A relative path without its extension, and that with its point, as pathlib has them."""
    point = name.rfind(".")
    if name.rfind("/") + 1 < point < len(name) - 1:
        return name[:point], name[point:]
    return name, ""
