"""Which inputs become which files of OUT."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from tisdiss_cli.audio.read import AudioError, channel_count
from tisdiss_cli.folder.collisions import find_collisions, loose, repeated
from tisdiss_cli.folder.inputs import Input, list_inputs, split_name
from tisdiss_cli.folder.names import DEFAULT, Template

PARTS = ".tisdiss-part"  # folder in OUT for what is being written


@dataclass(frozen=True)
class Naming:
    """What the outputs of a run are called."""

    voices: int  # of each input
    extension: str = "wav"
    template: Template = field(default_factory=Template)


@dataclass(slots=True)
class Job:
    """One input and its outputs. A million of these are kept, so what can be told from the input is not held."""

    of: Input
    naming: Naming  # the same object for all of a run
    channel: int | None = None  # the one that is separated, from 1 on; None: as the settings have it
    with_extension: bool = False  # whether its outputs are told from others by it
    besides: Sequence[str] = ()  # files of its segments, relative to OUT
    refused: str | None = None  # one sentence: why it cannot have its outputs
    seconds: float = 0.0  # of audio, where its header has been asked

    @property
    def input(self) -> str:
        """Relative to IN, or what `inputs` calls it."""
        return self.of.name

    @property
    def path(self) -> Path:
        """Of the input."""
        return self.of.path

    @property
    def outputs(self) -> list[str]:
        """Relative to OUT."""
        (stem, told), naming, name = self._stems(), self.naming, self.of.name
        filled = [
            naming.template.fill(name, stem, told=told, voice=voice, channel=self.channel)
            for voice in range(1, naming.voices + 1)
        ]
        return [f"{one}.{naming.extension}" for one in filled]

    @property
    def stem(self) -> str:
        """What its segments are called but for the extension, relative to OUT."""
        _, told = self._stems()
        return told if self.channel is None else f"{told}_c{self.channel}"

    def _stems(self) -> tuple[str, str]:
        """The input without its extension, and the same with what tells it from others that differ in that alone."""
        stem, suffix = split_name(self.of.name)
        return stem, f"{stem}_{suffix[1:]}" if self.with_extension else stem

    @property
    def resolved(self) -> str:
        """The input's own place on the disk, absolute and without links: tells it from others of its name."""
        return os.path.realpath(self.of.place)

    @property
    def id(self) -> tuple[str, int | None]:
        """What tells it from the other jobs of a run, and its line from theirs."""
        return self.input, self.channel

    @property
    def key(self) -> str:
        """The same for names of files in `PARTS`."""
        name = self.input if self.channel is None else f"{self.input}/{self.channel}"  # no file is a folder too
        return sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


class _Each(Sequence[Any]):
    """Something of each job, made when it is asked for."""

    def __init__(self, jobs: list[Job], of: Callable[[Job], Any]) -> None:
        self.jobs, self.of = jobs, of

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: Any) -> Any:
        return self.of(self.jobs[index])

    def __iter__(self) -> Iterator[Any]:
        return map(self.of, self.jobs)


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
    naming = Naming(voices, extension, template or Template())
    told = _extensions(inputs)
    jobs: list[Job] = []
    for one in inputs:
        several = bool(told) and len(told.get(loose(split_name(one.name)[0]), ())) > 1
        channels = _channels(one.path, track) if each_channel else (None,)
        jobs += (Job(one, naming, channel, with_extension=several) for channel in channels)
    _check_apart(jobs, naming.template)
    for index, reason in find_collisions(_Each(jobs, lambda job: job.path), _outputs(jobs), out).items():
        jobs[index].refused = reason
    if not isinstance(source, Path):
        _refuse_inputs(jobs, out)
    return jobs


def _outputs(jobs: list[Job]) -> Sequence[list[str]]:
    return _Each(jobs, lambda job: job.outputs)


def _extensions(inputs: Sequence[Input]) -> dict[str, set[str]]:
    """The extensions of names that differ in nothing else, here or in their folder, by what they have in common."""
    some = repeated(loose(split_name(one.name)[0]) for one in inputs)
    found = defaultdict[str, set[str]](set)
    for one in inputs:
        stem, suffix = split_name(one.name)
        if one.siblings - {suffix} or (some and hash(loose(stem)) in some):
            found[loose(stem)] |= {suffix, *one.siblings}
    return found


def _check_apart(jobs: list[Job], template: Template) -> None:
    if template.text == DEFAULT:
        return
    some = repeated(output for names in _outputs(jobs) for output in names)
    alike = [job for job in jobs if any(hash(output) in some for output in job.outputs)] if some else []
    template.check_apart((job.input, job.channel, job.outputs) for job in alike)


def _channels(path: Path, track: int | None) -> Iterable[int]:
    try:
        return range(1, channel_count(path, track) + 1)
    except AudioError:
        return (1,)


def _refuse_inputs(jobs: list[Job], out: Path) -> None:
    """Refuses jobs whose outputs are inputs: OUT may be the folder that files of a list or of a command lie in."""
    place = os.path.realpath(out)
    inputs = {path for path in _resolved(job.of.place for job in jobs) if path.startswith(os.path.join(place, ""))}
    for job in jobs if inputs else ():
        if taken := next((name for name in job.outputs if os.path.join(place, name) in inputs), None):
            job.refused = f"{job.path} would become {out / taken}, which is an input itself: name another OUT"


def _resolved(places: Iterable[str]) -> Iterator[str]:
    """Each as `Job.resolved`, and many times faster where they lie in few folders."""
    folder = real = ""
    for place in places:
        head, tail = os.path.split(place)
        if tail in ("", os.curdir, os.pardir):
            yield os.path.realpath(place)
            continue
        if head != folder or not real:
            folder, real = head, os.path.realpath(head)
        path = os.path.join(real, tail)
        yield os.path.realpath(path) if os.path.islink(path) else path
