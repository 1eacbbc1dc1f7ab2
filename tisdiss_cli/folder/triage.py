"""Which inputs are to do, which are done, and which would replace a file that is not ours."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.record import Line, Record
from tisdiss_cli.folder.settings import Settings


@dataclass
class Triage:
    """The jobs of a folder, sorted."""

    todo: list[Job] = field(default_factory=list)
    done: int = 0  # separated before under the same settings
    foreign: list[Line] = field(default_factory=list)  # refused: failures to be recorded


def triage(jobs: Iterable[Job], record: Record, settings: Settings) -> Triage:
    """Sorts jobs by what the record of OUT and the files there say; with `overwrite` all are to do."""
    found = Triage()
    for job in jobs:
        source = fingerprint(job.path)
        if settings.overwrite:
            found.todo.append(job)
        elif record.done(job.input, settings.recorded, source):
            found.done += 1
        elif stranger := _stranger(job, record):
            reason = (
                f"{record.out / stranger} exists and is not from this folder's runs: pass --overwrite to replace it"
            )
            found.foreign.append(Line(job.input, "failed", reason, settings=settings.recorded, source=source))
        else:
            found.todo.append(job)
    return found


def _stranger(job: Job, record: Record) -> str | None:
    """An output of the job that is there and that no run of this folder made."""
    if job.parts(record.out).exists():  # an interrupted run has just named them
        return None
    return next((name for name in job.outputs if name not in record.made and (record.out / name).exists()), None)
