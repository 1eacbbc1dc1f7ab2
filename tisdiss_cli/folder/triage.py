"""Which inputs are to do, which are done, and which would replace what is not theirs."""

import filecmp
import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.locks import claimed
from tisdiss_cli.folder.makers import Made
from tisdiss_cli.folder.record import Line, Record
from tisdiss_cli.folder.settings import Settings


@dataclass
class Triage:
    """The jobs of a folder, sorted."""

    todo: list[Job] = field(default_factory=list)
    done: int = 0  # separated before under the same settings
    refused: list[Line] = field(default_factory=list)  # failures to be recorded


def triage(jobs: Iterable[Job], record: Record, settings: Settings) -> Triage:
    """Sorts jobs by what the record of OUT and the files there say; with `overwrite` all that can be are to do."""
    found = Triage()
    for job in jobs:
        source = fingerprint(job.path)
        names = [*job.outputs, *job.besides]
        reason = job.refused or _obstacle(job, names, record.out)
        maker = None if reason or settings.overwrite else _other_maker(job, names, source=source, record=record)
        if maker:
            holds = f"{record.out / names[0]} holds the voices of {maker.path or maker.input}"
            reason = f"{holds}, not of {job.resolved}: name another OUT, or pass --overwrite to replace them"
        elif not (reason or settings.overwrite):
            if record.done(names, settings.recorded, source):
                found.done += 1
                continue
            if stranger := _stranger(job, names, record):
                whose = f"{record.out / stranger} exists and is not from this folder's runs"
                reason = f"{whose}: pass --overwrite to replace it"
        if reason:
            line = Line(job.input, "failed", reason, settings=settings.recorded, source=source, channel=job.channel)
            line.path = job.resolved
            found.refused.append(line)
        else:
            found.todo.append(job)
    return found


def _obstacle(job: Job, names: list[str], out: Path) -> str | None:
    """What keeps an output from being written, whoever may replace files: a folder of its name, a name too long."""
    longest = _longest(out)
    for name in names:
        target = os.path.join(out, name)
        try:
            if max(map(len, os.fsencode(name).split(b"/"))) > longest:
                return f"{job.path} cannot become {target}: the name is too long: shorten the input's"
            if stat.S_ISDIR(os.lstat(target).st_mode):
                return f"{job.path} cannot become {target}, which is a folder: move it away"
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            return f"{job.path} cannot become {target}: a folder of that path is a file: move it away"
        except OSError as error:
            return f"{job.path} cannot become {target}: {error.strerror}"
    return None


@cache
def _longest(out: Path) -> int:
    """Bytes of a name on OUT's disk."""
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    if sys.platform != "win32":
        with suppress(OSError, ValueError):
            return os.pathconf(place, "PC_NAME_MAX")
    return 255


def _other_maker(job: Job, names: list[str], *, source: list[int], record: Record) -> Made | None:
    """The line of another input whose voices an output of the job holds; None if nothing would be lost."""
    same = None
    for name in names:
        maker = record.makers.get(name)
        if maker is None or maker is same:
            continue
        if _same_input(maker, job, source):
            same = maker
        elif os.path.lexists(record.out / name):
            return maker
    return None


def _same_input(line: Made, job: Job, source: list[int]) -> bool:
    """Whether a line is of the job's input: by its place, or, where that has moved, by size, time and content."""
    if not line.path:
        return line.input == job.input
    if line.path == job.resolved:
        return True
    if not source or line.source != source:
        return False
    before = Path(line.path)
    # Gone or changed since, it was moved here. If both are there, a copy is as good, and alike in size and time is not.
    return fingerprint(before) != source or _alike(before, job.path)


def _alike(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _stranger(job: Job, names: list[str], record: Record) -> str | None:
    """An output of the job that is there and that no run of this folder made."""
    for name in names:
        if name not in record.makers and os.path.lexists(os.path.join(record.out, name)):
            return None if claimed(record.out, job) else name  # an interrupted run may just have named them
    return None
