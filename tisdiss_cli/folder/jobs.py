"""Which files of IN become which files of OUT."""

import shutil
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from tisdiss_cli.audio.find import find
from tisdiss_cli.errors import UserError

PARTS = ".tisdiss-part"  # folder in OUT for what is being written


@dataclass
class Job:
    """One input, its outputs and, while it runs, where it is written."""

    path: Path
    input: str  # relative to IN
    outputs: list[str] = field(default_factory=list)  # relative to OUT

    def parts(self, out: Path) -> Path:
        """The folder of this input's unfinished outputs; that it exists marks them as ours."""
        return out / PARTS / sha256(self.input.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def plan_jobs(source: Path, out: Path, *, voices: int, extension: str) -> list[Job]:
    """A job for a file, or for every sound file under a folder, sorted; OUT mirrors IN's tree.

    `sub/call.wav` becomes `sub/call_s1.wav`, ...; inputs of one folder that differ only in their
    extension get it into the name, all of them: `call_wav_s1.wav`, `call_flac_s1.wav`.

    Raises:
        UserError: IN does not exist or has no sound files, OUT is a file or lies inside IN.
    """
    if not source.exists():
        raise UserError(f"IN {source} does not exist: name a sound file or a folder of them")
    if out.exists() and not out.is_dir():
        raise UserError(f"OUT {out} is a file: name a folder")
    if source.is_dir():
        if out.resolve().is_relative_to(source.resolve()):
            raise UserError(f"OUT {out} lies inside IN {source}: name a folder outside it, or its voices become inputs")
        paths, root = find(source), source
        if not paths:
            raise UserError(f"IN {source} has no sound files (wav, flac, ogg, opus, mp3, aiff, ...): check the folder")
    else:
        paths, root = [source], source.parent

    jobs = [Job(path, path.relative_to(root).as_posix()) for path in paths]
    stems = Counter(_stem(job).lower() for job in jobs)
    for job in jobs:
        stem = _stem(job)
        if stems[stem.lower()] > 1:
            stem += "_" + Path(job.input).suffix[1:]
        job.outputs = [f"{stem}_s{number}.{extension}" for number in range(1, voices + 1)]
    taken: dict[str, Job] = {}
    for job in jobs:
        other = taken.setdefault(job.outputs[0].lower(), job)
        if other is not job:
            raise UserError(f"{other.input} and {job.input} would both become {job.outputs[0]}: rename one of them")
    return jobs


def _stem(job: Job) -> str:
    return Path(job.input).with_suffix("").as_posix()


def sweep(out: Path, keep: set[Path]) -> None:
    """Removes leftovers of interrupted runs but those in `keep`, and the folder itself once it is empty."""
    folder = out / PARTS
    if not folder.is_dir():
        return
    for leftover in folder.iterdir():
        if leftover not in keep:
            shutil.rmtree(leftover, ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()
