"""Run lock of OUT, which ends with its process, and the working folders of begun inputs.

`OUT/.tisdiss-part` has, for a run over all inputs, `all.lock`, `all.json` (the run info) and the folder `all`; for a
shard `3-of-8.lock` and so on. In the folder, each begun input has a folder for its unfinished outputs. It is removed
once the input's line is recorded, so that folders found later are of inputs that were interrupted.
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

PARTS = ".tisdiss-part"  # folder in OUT for unfinished files
_ALL = "all"  # name of a run over all inputs
_MOMENT = 1.0  # seconds to wait for a lock, which is held briefly to test it


@dataclass(frozen=True)
class RunInfo:
    """Run info: a run at work."""

    host: str
    process: int
    since: float  # seconds since 1970
    shard: str = ""  # "3/8"; "" for all inputs

    def __str__(self) -> str:
        shard = f" (shard {self.shard})" if self.shard else ""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.process} on {self.host}{shard}, since {since}"


class RunLock(AbstractContextManager):
    """Lock of OUT (which is made), or of a shard in it, until `release` or the end of the process.

    UserError if another run works on some of the same inputs, or OUT cannot be written to.

    Attributes:
        parts: folder for unfinished outputs, with a folder for each input.
        info: file with the run info.
        interrupted: inputs that were begun when a run died, by `Job.key`, with the time in seconds since 1970; their
            outputs may exist without a line of the record.
    """

    def __init__(self, out: Path, shard: Shard | None = None) -> None:
        self.out, self.name = out, shard.name if shard else _ALL
        self.parts, self.info = out / PARTS / self.name, _file(out, self.name, "json")
        self._lock = FileLock(_file(out, self.name, "lock"), thread_local=False)
        self.interrupted: dict[str, float] = {}
        self._names = [self.name]  # of all runs with some of these inputs
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
            info = RunInfo(platform.node() or "localhost", os.getpid(), time.time(), str(shard or ""))
            self.info.write_text(json.dumps(asdict(info)), encoding="utf-8")
            for folder in (folder for name in self._names for folder in (out / PARTS / name).iterdir()):
                self.interrupted[folder.name] = max(self.interrupted.get(folder.name, 0.0), folder.stat().st_mtime)
                _empty(folder)
        except BaseException:
            self.release()
            raise

    def __exit__(self, *_: object) -> None:
        self.release()

    def clear(self, job: Job) -> None:
        """Removes the working folders of a job whose line is recorded."""
        for name in self._names:
            shutil.rmtree(self.out / PARTS / name / job.key, ignore_errors=True)

    def abandon(self, job: Job) -> None:
        """Removes the working folder of a stopped job, unless one of its files is already named."""
        if not any(os.path.lexists(self.out / name) for name in job.files):
            self.clear(job)
        elif (self.parts / job.key).exists():
            _empty(self.parts / job.key)

    def release(self) -> None:
        """Releases the lock and removes what is not needed; may be called again."""
        for name in self._names:
            with suppress(OSError):
                (self.out / PARTS / name).rmdir()  # unless inputs are to be done again
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
        """Acquires the lock and makes the folder; UserError if another holds it, OSError if OUT cannot be written."""
        for _ in range(20):
            self.parts.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=_MOMENT)
            except Timeout:
                raise _busy(self.out, self.name) from None
            except FileNotFoundError:  # another run has just removed the folder
                continue
            except PermissionError:
                raise
            except (NotImplementedError, OSError):
                log.warning(f"warning: the disk of OUT {self.out} keeps no locks: never start two runs there")
                return
            # Another run may have removed it meanwhile, and a third made it anew.
            if _file(self.out, self.name, "lock").exists():
                return
            self._lock.release()


def at_work(out: Path) -> list[RunInfo]:
    """Returns the runs at work in OUT, in the order of their start."""
    found = [_info(out, name) for name in _names(out) if _held(out, name)]
    return sorted((info for info in found if info), key=lambda info: info.since)


def _busy(out: Path, name: str) -> UserError:
    return UserError(f"OUT {out} is in use by {_info(out, name) or 'another run'}: wait for it, or name another OUT")


def _names(out: Path) -> list[str]:
    """Returns the names of all runs with a working folder."""
    return sorted(folder.name for folder in (out / PARTS).glob("*/"))


def _overlap(shard: Shard | None, name: str) -> bool:
    """Returns whether a run of that name may have inputs of the shard."""
    found = re.fullmatch(r"(\d+)-of-(\d+)", name)
    return shard is None or shard.overlaps(Shard(int(found[1]), int(found[2])) if found else None)


def _held(out: Path, name: str) -> bool:
    """Returns whether a run holds its lock; False on a disk without locks."""
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


def _info(out: Path, name: str) -> RunInfo | None:
    try:
        return RunInfo(**json.loads(_file(out, name, "json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _empty(folder: Path) -> None:
    """Empties a job's folder, but keeps its time, at which the job was begun."""
    when = folder.stat().st_mtime
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        os.utime(folder, (when, when))


def _file(out: Path, name: str, ending: str) -> Path:
    return out / PARTS / f"{name}.{ending}"
