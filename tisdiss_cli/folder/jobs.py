"""Which files of IN become which files of OUT."""

import os
import stat
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from tisdiss_cli.audio.find import find
from tisdiss_cli.audio.read import AudioError, channel_count
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.collisions import find_collisions, loose

PARTS = ".tisdiss-part"  # folder in OUT for what is being written

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


@dataclass
class Job:
    """One input, its outputs and, while it runs, where it is written."""

    path: Path
    input: str  # relative to IN
    outputs: list[str] = field(default_factory=list)  # relative to OUT
    besides: list[str] = field(default_factory=list)  # files of its segments, relative to OUT
    refused: str | None = None  # one sentence: why it cannot have these outputs
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


def check_ends(source: Path, out: Path) -> None:
    """UserError unless IN is a file or a folder that can be read and OUT a folder, or nothing yet, outside it."""
    try:
        mode = source.stat().st_mode
        if stat.S_ISDIR(mode):
            os.scandir(source).close()
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "no file")
            raise UserError(f"IN {source} is {kind}: write the recording to a file first, and name that")
    except FileNotFoundError:
        raise UserError(f"IN {source} does not exist: name a sound file or a folder of them") from None
    except OSError as error:
        raise UserError(
            f"IN {source} cannot be read: {error.strerror}: name a sound file or a folder of them"
        ) from None
    try:
        if not stat.S_ISDIR(out.stat().st_mode):
            raise UserError(f"OUT {out} is a file: name a folder")
    except (FileNotFoundError, NotADirectoryError):
        pass  # is made, or that fails with its own sentence
    except OSError as error:
        raise UserError(f"OUT {out} cannot be used: {error.strerror}: name another folder") from None
    if stat.S_ISDIR(mode) and out.resolve().is_relative_to(source.resolve()):
        raise _inside(out, source)


def plan_jobs(source: Path, out: Path, *, voices: int, extension: str) -> list[Job]:
    """A job for a file, or for every sound file under a folder, sorted; OUT mirrors IN's tree.

    `sub/call.wav` becomes `sub/call_s1.wav`, ...; inputs of one folder that differ only in their
    extension get it into the name, all of them: `call_wav_s1.wav`, `call_flac_s1.wav`. Inputs that
    would overwrite each other's voices all the same are refused: `collisions`.

    Raises:
        UserError: IN has no sound files, or as `check_ends`.
    """
    check_ends(source, out)
    if source.is_dir():
        paths, root = find(source), source
        if not paths:
            raise UserError(f"IN {source} has no sound files (wav, flac, ogg, opus, mp3, aiff, ...): check the folder")
        _check_linked(paths, source, out)
    else:
        paths, root = [source], source.parent

    jobs = [Job(path, _below(path, root)) for path in paths]
    extensions = defaultdict(set)
    for job in jobs:
        stem, suffix = _split(job.input)
        extensions[loose(stem)].add(suffix)
    for job in jobs:
        stem, suffix = _split(job.input)
        if len(extensions[loose(stem)]) > 1:
            stem += "_" + suffix[1:]
        job.outputs = [f"{stem}_s{number}.{extension}" for number in range(1, voices + 1)]
    _refuse_collisions(jobs, out)
    return jobs


def _refuse_collisions(jobs: list[Job], out: Path) -> None:
    reasons = find_collisions([job.path for job in jobs], [job.outputs for job in jobs], out)
    for index, job in enumerate(jobs):
        job.refused = reasons.get(index)


def _check_linked(paths: list[Path], source: Path, out: Path) -> None:
    """UserError if OUT lies in a folder that a link within IN leads to."""
    inside = {Path(folder) for folder in {os.path.dirname(path) for path in paths}}
    inside |= {parent for folder in inside for parent in folder.parents if parent.is_relative_to(source)}
    place = out.resolve()
    for folder in inside:
        if place.is_relative_to(os.path.realpath(folder)):
            raise _inside(out, folder)


def _inside(out: Path, source: Path) -> UserError:
    return UserError(f"OUT {out} lies inside IN {source}: name a folder outside it, or its voices become inputs")


def each_channel(jobs: list[Job], out: Path, track: int | None = None) -> list[Job]:
    """A job for every channel of every input, with `_c1`, ... before the voice: `call_c1_s1.wav`.

    An input that cannot be opened has one, which says why when it is run.
    """
    split = []
    for job in jobs:
        try:
            count = channel_count(job.path, track)
        except AudioError:
            count = 1
        for channel in range(1, count + 1):
            outputs = [f"_c{channel}_s".join(output.rsplit("_s", 1)) for output in job.outputs]
            split.append(replace(job, outputs=outputs, channel=channel))
    _refuse_collisions(split, out)
    return split


def _below(path: Path, root: Path) -> str:
    """A path relative to a folder, with slashes; by text where it can, for that is faster by far."""
    text, prefix = str(path), os.path.join(str(root), "")
    below = text[len(prefix) :] if text.startswith(prefix) else str(path.relative_to(root))
    return below.replace(os.sep, "/")


def _split(name: str) -> tuple[str, str]:
    """A relative path without its extension, and that with its point, as pathlib has them."""
    point = name.rfind(".")
    if name.rfind("/") + 1 < point < len(name) - 1:
        return name[:point], name[point:]
    return name, ""
