"""Triage: which jobs are to do, which are done, and which would replace what is not theirs."""

import filecmp
import os
import stat
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.record import Line, Made, Record

_LONGEST = 255  # bytes of a name, on all but a few disks


@dataclass
class Triage:
    """The jobs of a folder, sorted."""

    todo: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)  # separated before under the same settings
    refused: list[Line] = field(default_factory=list)  # failures to be recorded


def triage(
    jobs: Sequence[Job],
    record: Record,
    recorded: dict[str, Any],
    *,
    overwrite: bool = False,
    begun: Container[str] = (),
    places: Iterable[str],
) -> Triage:
    """Sorts the jobs of a run by what the record of OUT and the files there say.

    `recorded` are the run's settings, as the record has them. With `overwrite` all that can be is done again. Of jobs
    that a run which died had `begun`, by their keys, files may be there without a line of the record. `places` are the
    paths of all inputs, which are never replaced.
    """
    found, inputs = Triage(), _identities(places)
    for job in jobs:
        source = fingerprint(job.path)
        reason = job.refused or _obstacle(job, record.out, inputs)
        if not reason and not overwrite:
            if maker := _other_maker(job, source, record):
                holds = f"{record.out / job.outputs[0]} holds the voices of {maker.key[1]}"
                reason = f"{holds}, not of {job.resolved}: name another OUT, or pass --overwrite to replace them"
            elif record.done(job.files, recorded, source):
                found.done.append(job)
                continue
            elif job.key not in begun and job.input not in record.torn:
                strange = (os.path.join(record.out, name) for name in job.files if name not in record.makers)
                if stranger := next(filter(os.path.lexists, strange), None):
                    reason = f"{stranger} exists and is not from this folder's runs: pass --overwrite to replace it"
        if reason:
            found.refused.append(job.line(reason, settings=recorded, source=source))
        else:
            found.todo.append(job)
    return found


def _identities(places: Iterable[str]) -> set[tuple[int, int]]:
    """Returns what tells files from all others, whatever path leads to them."""
    found = set[tuple[int, int]]()
    for place in places:
        with suppress(OSError, ValueError):
            status = os.stat(place)
            found.add((status.st_dev, status.st_ino))
    return found


def _obstacle(job: Job, out: Path, inputs: set[tuple[int, int]]) -> str | None:
    """Returns what keeps a file from being written, whoever may replace files, as a sentence."""
    for name in job.files:
        target = os.path.join(out, name)
        try:
            if max(map(len, os.fsencode(name).split(b"/"))) > _LONGEST:
                return f"{job.path} cannot become {target}: the name is too long: shorten the input's"
            status = os.lstat(target)
            if stat.S_ISDIR(status.st_mode):
                return f"{job.path} cannot become {target}, which is a folder: move it away"
            if (status.st_dev, status.st_ino) in inputs:
                return f"{job.path} would become {target}, which is an input itself: name another OUT"
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            return f"{job.path} cannot become {target}: a folder of that path is a file: move it away"
        except OSError as error:
            return f"{job.path} cannot become {target}: {error.strerror}"
    return None


def _other_maker(job: Job, source: list[int], record: Record) -> Made | None:
    """Returns the line of another input whose voices a file of the job holds; None if nothing would be lost."""
    mine = None
    for name in job.files:
        maker = record.makers.get(name)
        if maker is mine or maker is None:
            continue
        if _same_input(maker, job, source):
            mine = maker
        elif os.path.lexists(record.out / name):
            return maker
    return None


def _same_input(maker: Made, job: Job, source: list[int]) -> bool:
    """Tells whether a line is of the job's input: by its place, or, where that has moved, by size, time and content."""
    before = Path(maker.key[1])
    if maker.key[1] == job.resolved:
        return True
    if not source or maker.source != source:
        return False
    # Gone or changed since, it was moved here. If both are there, a copy is as good, and alike in size and time is not.
    with suppress(OSError):
        return fingerprint(before) != source or filecmp.cmp(before, job.path, shallow=False)
    return False
