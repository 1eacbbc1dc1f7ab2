"""Triage of jobs: to do, done, or refused because they would replace other files."""

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
from tisdiss_cli.folder.record import Line, Provenance, Record

_LONGEST = 255  # bytes of a name, on all but a few disks


@dataclass
class Triage:
    """Jobs by what is to be done with them."""

    todo: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)  # before, under the same settings
    refused: list[Line] = field(default_factory=list)  # failures to record


def triage(
    jobs: Sequence[Job],
    record: Record,
    recorded: dict[str, Any],
    *,
    overwrite: bool = False,
    begun: Container[str] = (),
    places: Iterable[str],
) -> Triage:
    """Sorts the jobs of a run by the record of OUT and the files there.

    `recorded` are the run's settings as recorded. With `overwrite` everything is done again. Jobs in `begun`, by key,
    were interrupted: their files may exist without a line. `places` are the paths of all inputs, never replaced.
    """
    found, inputs = Triage(), _identities(places)
    for job in jobs:
        source = fingerprint(job.path)
        reason = job.refused or _obstacle(job, record.out, inputs)
        if not reason and not overwrite:
            if maker := _other_provenance(job, source, record):
                holds = f"{record.out / job.outputs[0]} holds the voices of {maker.key[1]}"
                reason = f"{holds}, not of {job.resolved}: name another OUT, or pass --overwrite to replace them"
            elif record.done(job.files, recorded, source):
                found.done.append(job)
                continue
            elif job.key not in begun and job.input not in record.torn:
                strange = (os.path.join(record.out, name) for name in job.files if name not in record.provenance)
                if stranger := next(filter(os.path.lexists, strange), None):
                    reason = f"{stranger} exists and is not from this folder's runs: pass --overwrite to replace it"
        if reason:
            found.refused.append(job.line(reason, settings=recorded, source=source))
        else:
            found.todo.append(job)
    return found


def _identities(places: Iterable[str]) -> set[tuple[int, int]]:
    """Returns the (device, inode) of each file, which identifies it under any path."""
    found = set[tuple[int, int]]()
    for place in places:
        with suppress(OSError, ValueError):
            status = os.stat(place)
            found.add((status.st_dev, status.st_ino))
    return found


def _obstacle(job: Job, out: Path, inputs: set[tuple[int, int]]) -> str | None:
    """Returns a sentence on what prevents writing a job's files, even with --overwrite; None if nothing does."""
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


def _other_provenance(job: Job, source: list[int], record: Record) -> Provenance | None:
    """Returns the provenance of a file of the job that is another input's; None if nothing would be lost."""
    mine = None
    for name in job.files:
        maker = record.provenance.get(name)
        if maker is mine or maker is None:
            continue
        if _same_input(maker, job, source):
            mine = maker
        elif os.path.lexists(record.out / name):
            return maker
    return None


def _same_input(maker: Provenance, job: Job, source: list[int]) -> bool:
    """Returns whether an output is of the job's input, by path, or if that was moved, by size, time and content."""
    before = Path(maker.key[1])
    if maker.key[1] == job.resolved:
        return True
    if not source or maker.source != source:
        return False
    # Missing or changed since, it was moved here. If both exist, a copy counts, but not the same size and time alone.
    with suppress(OSError):
        return fingerprint(before) != source or filecmp.cmp(before, job.path, shallow=False)
    return False
