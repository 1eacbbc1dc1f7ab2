"""The lock of a run in OUT, which dies with its process, and the marks of inputs that one has begun.

`OUT/.tisdiss-part` holds for a run over all inputs `all.lock`, `all.json`, which says who holds it, and the folder
`all`; for a shard `3-of-8.lock` and so on. In the folder each input that is being done has one of its own, for its
unfinished outputs. It goes once the input's line is in the record, so what is found there later was on its way when a
run died.
"""

import json
import logging
import os
import platform
import re
import shutil
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.shards import Shard

log = logging.getLogger("tisdiss")

PARTS = ".tisdiss-part"  # folder in OUT for what is being written
_ALL = "all"  # the name of a run over all inputs
_MOMENT = 1.0  # seconds to wait for a lock: whoever looks whether it is held holds it for a moment


@dataclass(frozen=True)
class Who:
    """A run that is at work."""

    host: str
    process: int
    since: float  # seconds since 1970
    shard: str = ""  # "3/8"; "" for all inputs

    def __str__(self) -> str:
        shard = f" (shard {self.shard})" if self.shard else ""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.process} on {self.host}{shard}, since {since}"


class RunLock(AbstractContextManager):
    """The right to write to OUT, which is made, or a shard's share of it, until `leave` or the end of the process.

    UserError if another run is at work on some of the same inputs, or OUT cannot be written to.

    Attributes:
        parts: the folder for unfinished outputs, in which each input has its own.
        facts: the file that says who holds the lock.
        left: inputs that were on their way when a run died, by `Job.key`, and when they were begun, in seconds since
            1970; outputs of theirs may be there without a line of the record.
    """

    def __init__(self, out: Path, shard: Shard | None = None) -> None:
        self.out, self.name = out, shard.name if shard else _ALL
        self.parts, self.facts = out / PARTS / self.name, _file(out, self.name, "json")
        self._lock = FileLock(_file(out, self.name, "lock"), thread_local=False)
        self.left: dict[str, float] = {}
        self._names = [self.name]  # of all runs whose inputs these are
        try:
            self._acquire()
        except OSError as error:
            advice = "name a folder that can be written to"
            raise UserError(f"OUT {out} cannot be written to: {error.strerror or error}: {advice}") from None
        try:
            others = [name for name in _names(out) if name != self.name and _overlap(shard, name)]
            if held := next((name for name in others if _held(out, name)), None):
                raise _busy(out, held)
            self._names += others
            who = Who(platform.node() or "localhost", os.getpid(), time.time(), str(shard or ""))
            self.facts.write_text(json.dumps(asdict(who)), encoding="utf-8")
            for folder in (folder for name in self._names for folder in (out / PARTS / name).iterdir()):
                self.left[folder.name] = max(self.left.get(folder.name, 0.0), folder.stat().st_mtime)
                _empty(folder)
        except BaseException:
            self.leave()
            raise

    def __exit__(self, *_: object) -> None:
        self.leave()

    def settled(self, job: Job) -> None:
        """Removes what marks the job as begun: its line is in the record."""
        for name in self._names:
            shutil.rmtree(self.out / PARTS / name / job.key, ignore_errors=True)

    def dropped(self, job: Job) -> None:
        """Forgets a job that was stopped, unless a file of it has its name already, without a line of the record."""
        if not any(os.path.lexists(self.out / name) for name in job.files):
            self.settled(job)
        elif (self.parts / job.key).exists():
            _empty(self.parts / job.key)

    def leave(self) -> None:
        """Gives the right up, and removes what nobody needs; may be called again."""
        for name in self._names:
            with suppress(OSError):
                (self.out / PARTS / name).rmdir()  # unless something is still to be done again
            if name == self.name or not (self.out / PARTS / name).exists():
                for ending in ("json", "lock"):
                    with suppress(OSError):
                        _file(self.out, name, ending).unlink()
        self._lock.release()
        with suppress(OSError):
            if os.name == "nt":  # where an open file cannot be removed
                _file(self.out, self.name, "lock").unlink()
            (self.out / PARTS).rmdir()

    def _acquire(self) -> None:
        """Takes the lock, and makes the folder; UserError if another holds it, OSError if OUT takes nothing."""
        for _ in range(20):
            self.parts.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=_MOMENT)
            except Timeout:
                raise _busy(self.out, self.name) from None
            except FileNotFoundError:  # another that left has just removed the folder
                continue
            except PermissionError:
                raise
            except (NotImplementedError, OSError):
                log.warning(
                    f"warning: the disk of OUT {self.out} keeps no locks: do not let two runs write there at once"
                )
                return
            # Another that left may have removed it meanwhile, and a third have made it.
            if _file(self.out, self.name, "lock").exists():
                return
            self._lock.release()


def at_work(out: Path) -> list[Who]:
    """Returns the runs that are at work in OUT, in the order of their start."""
    found = [_who(out, name) for name in _names(out) if _held(out, name)]
    return sorted((who for who in found if who), key=lambda who: who.since)


def _busy(out: Path, name: str) -> UserError:
    return UserError(
        f"OUT {out} is being written by {_who(out, name) or 'another run'}: wait for it, or name another OUT"
    )


def _names(out: Path) -> list[str]:
    """Returns the names of all runs that have left something, or are at work."""
    return sorted(folder.name for folder in (out / PARTS).glob("*/"))


def _overlap(shard: Shard | None, name: str) -> bool:
    """Tells whether a run of that name may have inputs of the shard."""
    found = re.fullmatch(r"(\d+)-of-(\d+)", name)
    return shard is None or shard.overlaps(Shard(int(found[1]), int(found[2])) if found else None)


def _held(out: Path, name: str) -> bool:
    """Tells whether a run holds its lock; on a disk that keeps none, nobody knows."""
    if not _file(out, name, "lock").exists():
        return False
    lock = FileLock(_file(out, name, "lock"), thread_local=False)
    try:
        lock.acquire(blocking=False)
        lock.release()
    except Timeout:
        return True
    except (NotImplementedError, OSError):
        pass
    return False


def _who(out: Path, name: str) -> Who | None:
    try:
        return Who(**json.loads(_file(out, name, "json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _empty(folder: Path) -> None:
    """Removes what is unfinished from a job's folder; when the job was begun is still to be seen."""
    when = folder.stat().st_mtime
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        os.utime(folder, (when, when))


def _file(out: Path, name: str, ending: str) -> Path:
    return out / PARTS / f"{name}.{ending}"
