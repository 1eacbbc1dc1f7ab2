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
from contextlib import suppress
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


class RunLock:
    """The right to write to OUT, or a shard's share of it, until `leave` or the end of the process.

    Args:
        out: the folder OUT, which must exist.
        shard: the share; None: all of it.

    Attributes:
        parts: the folder for unfinished outputs, in which each input has its own.
        left: for inputs that were on their way when a run died, by `Job.key`, their folders, which are empty now.

    Raises:
        UserError: another run is at work on some of the same inputs, or OUT cannot be written to.
    """

    def __init__(self, out: Path, shard: Shard | None = None) -> None:
        self.out, self.name = out, shard.name if shard else _ALL
        self.parts, self._lock = out / PARTS / self.name, FileLock(_lock(out, self.name), thread_local=False)
        self.left: dict[str, list[Path]] = {}
        self._dead: list[str] = []  # names of runs that have left something
        try:
            self._acquire()
        except OSError as error:
            raise UserError(f"OUT {out} cannot be written to: {error.strerror or error}: name another") from None
        try:
            check_free(out, shard, mine=self.name)
            who = Who(platform.node() or "localhost", os.getpid(), time.time(), str(shard or ""))
            _facts(out, self.name).write_text(json.dumps(asdict(who)), encoding="utf-8")
            self._take_over(shard)
        except BaseException:
            self.leave()
            raise

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def begun(self, job: Job) -> bool:
        """Whether a run that died had begun the job, whose outputs may then be there without a line of the record."""
        return job.key in self.left

    def last_begun(self, job: Job) -> float:
        """When that was, in seconds since 1970."""
        return max((_changed(folder) for folder in self.left.get(job.key, ())), default=0.0)

    def settled(self, job: Job) -> None:
        """Removes what marks the job as begun: its line is in the record."""
        for folder in (self.parts / job.key, *self.left.get(job.key, ())):
            shutil.rmtree(folder, ignore_errors=True)

    def dropped(self, job: Job) -> None:
        """Forgets a job that was stopped, unless a file of it has its name already, without a line of the record."""
        if any(os.path.lexists(self.out / name) for name in job.files):
            _empty(self.parts / job.key)
        else:
            self.settled(job)

    def leave(self) -> None:
        """Gives the right up, and removes what nobody needs; may be called again."""
        for name in (self.name, *self._dead):
            with suppress(OSError):
                (self.out / PARTS / name).rmdir()  # unless something is still to be done again
            if name == self.name or not (self.out / PARTS / name).exists():
                for file in (_facts(self.out, name), _lock(self.out, name)):
                    with suppress(OSError):
                        file.unlink()
        self._lock.release()
        with suppress(OSError):
            if os.name == "nt":  # where an open file cannot be removed
                _lock(self.out, self.name).unlink()
        with suppress(OSError):
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
            if _lock(
                self.out, self.name
            ).exists():  # else another that left has removed it, and a third may have made it
                return
            self._lock.release()

    def _take_over(self, shard: Shard | None) -> None:
        for name in _names(self.out):
            if name != self.name and not _overlap(shard, name):
                continue
            if name != self.name:
                self._dead.append(name)
            for folder in (self.out / PARTS / name).iterdir():
                if not folder.is_dir():
                    folder.unlink(missing_ok=True)
                    continue
                _empty(folder)
                self.left.setdefault(folder.name, []).append(folder)


def check_free(out: Path, shard: Shard | None, *, mine: str = "") -> None:
    """UserError if a run, other than `mine`, is at work in OUT on some of the shard's inputs."""
    for name in _names(out):
        if name != mine and _overlap(shard, name) and _held(out, name):
            raise _busy(out, name)


def at_work(out: Path) -> list[Who]:
    """The runs that are at work in OUT, in the order of their start."""
    found = [_who(out, name) for name in _names(out) if _held(out, name)]
    return sorted((who for who in found if who), key=lambda who: who.since)


def _busy(out: Path, name: str) -> UserError:
    return UserError(
        f"OUT {out} is being written by {_who(out, name) or 'another run'}: wait for it, or name another OUT"
    )


def _names(out: Path) -> list[str]:
    """Of every run that has left something, or is at work."""
    try:
        with os.scandir(out / PARTS) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _overlap(shard: Shard | None, name: str) -> bool:
    """Whether a run of that name may have inputs of the shard."""
    found = re.fullmatch(r"(\d+)-of-(\d+)", name)
    return shard is None or shard.overlaps(Shard(int(found[1]), int(found[2])) if found else None)


def _held(out: Path, name: str) -> bool:
    """Whether a run holds its lock; on a disk that keeps none, nobody knows."""
    if not _lock(out, name).exists():
        return False
    lock = FileLock(_lock(out, name), thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except (NotImplementedError, OSError):
        return False
    lock.release()
    return False


def _who(out: Path, name: str) -> Who | None:
    try:
        return Who(**json.loads(_facts(out, name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _empty(folder: Path) -> None:
    """Removes what is unfinished from a job's folder; which job was begun last is still to be seen."""
    when = _changed(folder)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        os.utime(folder, (when, when))


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _lock(out: Path, name: str) -> Path:
    return out / PARTS / f"{name}.lock"


def _facts(out: Path, name: str) -> Path:
    return out / PARTS / f"{name}.json"
