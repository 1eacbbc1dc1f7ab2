"""Who is at work in OUT: a run's lock, its own folder of parts, and the inputs that it has begun.

`OUT/.tisdiss-part` holds for each run (host, process, start) `<run>.lock`, which dies with it, `<run>.json`, which says
whose it is and is touched as long as it lives, and the folder `<run>` of what it is writing; and for each input that is
being done `<input>.claim`. A claim is taken by making the file, so that one of several takes it; it stays until the
input's line is in the record, and meanwhile marks the outputs as ours. Two that take the same one all the same, on a
disk that keeps no locks, write the same samples: the last rename counts.
"""

import json
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.jobs import PARTS, Job
from tisdiss_cli.folder.lines import record_name
from tisdiss_cli.folder.shards import Shard, parse_shard

_TOUCHED = 30.0  # seconds between signs of life
_SILENT = 600.0  # a run on another machine that has given none for so long is gone


@dataclass(frozen=True)
class Facts:
    """What a run says of itself to others."""

    host: str
    process: int
    start: float  # seconds since 1970
    boot: str = ""  # of the kernel that runs it, which containers share
    source: str = ""  # IN, absolute
    shard: str = ""  # "3/8", "" for all of IN
    record: str = ""  # name of the record file that it writes
    of: str = ""  # of a worker: the run that it works for

    @property
    def name(self) -> str:
        """Of its files in OUT."""
        return f"{_plain(self.host)}-{self.process}-{round(self.start * 1e6):x}"

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.start))
        return (
            f"process {self.process} on {self.host}"
            + (f" (shard {self.shard})" * bool(self.shard))
            + f", since {since}"
        )


def facts_of_this(**more: str) -> Facts:
    """Of this process, now."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return Facts(platform.node() or "localhost", os.getpid(), time.time(), boot, **more)


class Presence:
    """A run's presence in OUT, from `enter` to `leave`; a kill ends it as well.

    Raises:
        OSError: OUT cannot be written to.
    """

    def __init__(self, out: Path, facts: Facts | None = None) -> None:
        self.out, self.facts = out, facts or facts_of_this()
        self.name = self.facts.name
        self.folder = out / PARTS / self.name
        for attempt in range(5):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = _lock_file(out, self.name)
                _try(self._lock)
                part = _facts_file(out, self.name).with_suffix(".new")
                part.write_text(json.dumps(asdict(self.facts)), encoding="utf-8")
                os.replace(part, _facts_file(out, self.name))
                break
            except FileNotFoundError:  # another that left has just removed the empty folder
                if attempt == 4:
                    raise
        self.entered = _facts_file(out, self.name).stat().st_mtime_ns  # on the disk's clock
        self._left = threading.Event()
        threading.Thread(target=self._live, daemon=True).start()

    def __enter__(self) -> "Presence":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self, made: Container[str] = (), known_gone: Iterable[str] = ()) -> None:
        """Removes what is the run's, and as `sweep` what is of runs that are gone; may be called again."""
        if self._left.is_set():
            return
        self._left.set()
        self._lock.release()
        sweep(self.out, made, [self.name, *known_gone])

    def claim(self, job: Job) -> bool:
        """Takes an input, unless another that may be alive has begun it; OSError when the disk does not take it."""
        path = _claim_file(self.out, job)
        for _ in range(3):
            try:
                self._make(path, json.dumps({"owner": self.name, "outputs": [*job.outputs, *job.besides]}))
                return True
            except FileExistsError:
                owner, _ = _read_claim(path)
                if owner == self.name:
                    return True
                if _age(path) < _TOUCHED if owner is None else not gone(self.out, owner):
                    return False
                path.unlink(missing_ok=True)
        return False

    def _make(self, claim: Path, text: str) -> None:
        """Makes a claim, whole at once: a torn one, of a run that was killed, would count as alive for a while.

        Raises:
            FileExistsError: there is one.
        """
        part = self.folder / claim.name
        part.write_text(text, encoding="utf-8")
        try:
            os.link(part, claim)
        except FileExistsError:
            raise
        except OSError:  # a disk without hard links
            with claim.open("x", encoding="utf-8") as file:
                file.write(text)
        finally:
            part.unlink(missing_ok=True)

    def release(self, job: Job) -> None:
        """Has done with an input; for a worker its run does that, once the line is written."""
        if not self.facts.of:
            release(self.out, job)

    def parts(self, job: Job) -> Path:
        """The folder of the input's unfinished outputs."""
        return self.folder / job.key

    def _live(self) -> None:
        while not self._left.wait(_TOUCHED):
            with suppress(OSError):
                os.utime(_facts_file(self.out, self.name))


def enter(out: Path, source: Path, *, shard: Shard | None = None, join: bool = False) -> Presence:
    """This run's presence in OUT; its facts name the record file that no other run writes.

    Raises:
        UserError: another is at work on the same inputs, unless `join` is given; or OUT cannot be written to.
    """
    own, record = facts_of_this(), record_name(shard.name if shard else None)
    for _ in range(10):
        check_free(out, source, shard=shard, join=join)
        if any(other.record == record for other in at_work(out)):
            record = record_name(own.name)
        facts = replace(own, source=str(source.resolve()), shard=str(shard or ""), record=record)
        try:
            presence = Presence(out, facts)
        except OSError as error:
            raise UserError(f"OUT {out} cannot be written to: {error.strerror or error}: name another") from None
        # Of two that came at once and saw nobody, the one that started later finds out here.
        before = [other for other in at_work(out) if (other.start, other.name) < (facts.start, facts.name)]
        if not any(other.record == record or (not join and _overlap(facts, other)) for other in before):
            return presence
        presence.leave()
    raise UserError(f"OUT {out}: too many runs begin there at once: try again")


def check_free(out: Path, source: Path, *, shard: Shard | None = None, join: bool = False) -> None:
    """UserError if a run is at work in OUT on some of the same inputs, unless `join` is given."""
    mine = Facts("", 0, 0.0, source=str(source.resolve()), shard=str(shard or ""))
    others = [] if join else [other for other in at_work(out) if _overlap(mine, other)]
    if others:
        raise UserError(
            f"OUT {out} is being written by {others[0]}, from the same IN: wait for it, or pass --join to do what it "
            "has not begun"
        )


def _overlap(one: Facts, other: Facts) -> bool:
    """Whether two runs have inputs in common."""
    shards = [parse_shard(facts.shard or None) for facts in (one, other)]
    return one.source == other.source and (shards[0] is None or shards[0].overlaps(shards[1]))


def at_work(out: Path) -> list[Facts]:
    """The runs in OUT that are alive, or may be, in the order of their start; workers of theirs not counted."""
    found = [facts for name in _names(out) if not gone(out, name) and (facts := read_facts(out, name))]
    return sorted((facts for facts in found if not facts.of), key=lambda facts: (facts.start, facts.name))


def gone(out: Path, name: str) -> bool:
    """Whether a run is known to be gone: on this machine by its lock, elsewhere by its silence for ten minutes."""
    facts = read_facts(out, name)
    this = facts_of_this()
    if facts is None:  # swept, not yet written, or its run was killed before they were
        host, *rest = name.rsplit("-", 2)
        if host == _plain(this.host) and rest and rest[0].isdecimal() and not _process_lives(int(rest[0])):
            return True
        return _age(out / PARTS / name) > _TOUCHED
    here = facts.host == this.host or (bool(facts.boot) and facts.boot == this.boot)
    lock = _lock_file(out, name)
    free = _try(lock) if _lock_path(out, name).exists() else None
    if free:
        lock.release()
    if free is False:
        return False
    if here:
        return free or not _process_lives(facts.process)
    return _age(_facts_file(out, name)) > _SILENT  # a lock that is free there may be one that is not kept


def sweep(out: Path, made: Container[str], known_gone: Iterable[str] = ()) -> None:
    """Removes what runs that are gone have left, and the folder itself once it is empty.

    Args:
        out: the folder OUT.
        made: outputs that the record lists. A claim whose outputs are there and not recorded stays: it marks them as
            ours until that input is done again.
        known_gone: names of runs that are gone, whatever can be seen from here.
    """
    folder = out / PARTS
    if not folder.is_dir():
        return
    dead = set(known_gone) | {name for name in _names(out) if gone(out, name)}
    alive = {name for name in _names(out) if name not in dead}
    for claim, owner, outputs in _claims(out):
        stays = owner in alive if owner else _age(claim) < _TOUCHED
        if not stays and not _any_there(out, [name for name in outputs if name not in made]):
            claim.unlink(missing_ok=True)
    for name in dead:
        shutil.rmtree(folder / name, ignore_errors=True)
        for rest in (_facts_file(out, name), _facts_file(out, name).with_suffix(".new"), _lock_path(out, name)):
            rest.unlink(missing_ok=True)
    for lock in folder.glob("*.lock"):  # made by looking whether it was held, when its run had just left
        if lock.name.removesuffix(".lock") not in alive and _age(lock) > _TOUCHED:
            lock.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _try(lock: FileLock) -> bool | None:
    """Whether the lock could be taken; None on a disk that has none."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except FileNotFoundError:
        raise
    except (NotImplementedError, OSError):
        return None
    return True


def release(out: Path, job: Job) -> None:
    """Removes the claim on an input, whosever it is."""
    _claim_file(out, job).unlink(missing_ok=True)


def claimed(out: Path, job: Job, by: str | None = None) -> bool:
    """Whether somebody, or that run, has begun the input and its line is not yet in the record."""
    path = _claim_file(out, job)
    return path.exists() if by is None else _read_claim(path)[0] == by


def read_facts(out: Path, name: str) -> Facts | None:
    """What a run says of itself; None if it has not said it, or in other words."""
    try:
        values = json.loads(_facts_file(out, name).read_text(encoding="utf-8"))
        return Facts(**{key: values[key] for key in set(Facts.__dataclass_fields__) & set(values)})
    except (OSError, ValueError, TypeError):
        return None


def _names(out: Path) -> list[str]:
    """Of every run that has left something."""
    with suppress(OSError), os.scandir(out / PARTS) as entries:
        return sorted({entry.name.removesuffix(".json") for entry in entries if _is_runs(entry)})
    return []


def _is_runs(entry: "os.DirEntry[str]") -> bool:
    return entry.name.endswith(".json") or entry.is_dir(follow_symlinks=False)


def _claims(out: Path) -> Iterator[tuple[Path, str | None, list[str]]]:
    """Every claim, its owner and its outputs."""
    for path in (out / PARTS).glob("*.claim"):
        owner, outputs = _read_claim(path)
        yield path, owner, outputs


def _read_claim(path: Path) -> tuple[str | None, list[str]]:
    """(owner, outputs); (None, []) of one that is being written, or torn."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return str(values["owner"]), list(map(str, values["outputs"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None, []


def _any_there(out: Path, outputs: Iterable[str]) -> bool:
    return any(os.path.lexists(out / name) for name in outputs)


def _age(path: Path) -> float:
    """Seconds since a file changed; infinite if it is not there.

    By this machine's clock, whose difference from a network disk's is small beside what it is compared with.
    """
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


def _process_lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", text)[:60]


def _claim_file(out: Path, job: Job) -> Path:
    return out / PARTS / f"{job.key}.claim"


def _facts_file(out: Path, name: str) -> Path:
    return out / PARTS / f"{name}.json"


def _lock_path(out: Path, name: str) -> Path:
    return out / PARTS / f"{name}.lock"


def _lock_file(out: Path, name: str) -> FileLock:
    return FileLock(_lock_path(out, name), thread_local=False)
