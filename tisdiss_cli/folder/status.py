"""How far a folder is, from OUT's record and the listing of IN: what is done, failed, missing, and of which shards."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tisdiss_cli.audio.find import find
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.lines import Line, LineFile, merged, record_files
from tisdiss_cli.folder.locks import Facts, at_work
from tisdiss_cli.folder.shards import array_expression, shard_of


@dataclass
class Counts:
    """Inputs of all of IN, or of a shard."""

    done: int = 0
    failed: int = 0
    missing: int = 0  # listed in IN and neither done nor failed, or done and an output is gone

    @property
    def lacks(self) -> bool:
        """Whether there is something to do, or to do again."""
        return bool(self.failed or self.missing)


@dataclass
class Status:
    """How far OUT is."""

    total: Counts = field(default_factory=Counts)
    shards: dict[int, Counts] = field(default_factory=dict)  # by index; empty where there are none
    seconds: float = 0.0  # of audio done
    network_seconds: float = 0.0  # that it took
    sources: list[str] = field(default_factory=list)  # each IN
    unseen: list[str] = field(default_factory=list)  # those that are not here, so that what is missing is not known
    at_work: list[Facts] = field(default_factory=list)

    @property
    def rtf(self) -> float | None:
        """Network seconds for a second of audio."""
        return self.network_seconds / self.seconds if self.seconds else None

    @property
    def array(self) -> str:
        """The shards that lack something, as `sbatch --array` takes them."""
        return array_expression(index for index, counts in self.shards.items() if counts.lacks)


@dataclass(slots=True)
class _Known:
    """What counts of an input's newest line."""

    done: bool
    seconds: float
    network_seconds: float
    outputs: str  # as JSON, which takes half the room of a list


def read_status(out: Path, source: Path | None = None, shards: int | None = None) -> Status:
    """The status of OUT.

    Args:
        out: the folder OUT.
        source: IN, where it is not what the record says, or is elsewhere now; else each IN of the record is listed.
        shards: how many there are; None: as the names of the record's files say, the newest if they differ.

    Raises:
        UserError: OUT is no folder, or has no record.
    """
    if not out.is_dir():
        raise UserError(f"OUT {out} is not a folder: name one that tisdiss separate has written to")
    files = record_files(out)
    if not files:
        raise UserError(f"OUT {out} has no record (tisdiss.jsonl): name a folder that tisdiss separate has written to")
    known: dict[str, dict[int | None, _Known]] = {}  # by input and channel
    sources: dict[str, None] = {}
    for line in merged(map(LineFile, files)):
        known.setdefault(line.input, {})[line.channel] = _known(line)
        if line.within:
            sources[line.within] = None
    status = Status(sources=[str(source)] if source else list(sources), at_work=at_work(out))
    names: set[str] = set()
    for place in status.sources:
        listed = _inputs(Path(place))
        if listed is None:
            status.unseen.append(place)
        else:
            names.update(listed)
    count = shards or _shard_count(files)
    status.shards = {index: Counts() for index in range(1, count + 1)} if count else {}
    for name in known.keys() | names:
        _count(name, list(known.get(name, {}).values()), out, status)
    return status


def _count(name: str, lines: list[_Known], out: Path, status: Status) -> None:
    """Takes in an input by its lines, of which it has several where its channels were separated each."""
    counts = [status.total]
    if status.shards:
        counts.append(status.shards[shard_of(name, len(status.shards))])
    failed = any(not line.done for line in lines)
    whole = all((out / output).is_file() for line in lines if line.done for output in json.loads(line.outputs))
    for each in counts:
        if failed:
            each.failed += 1
        elif lines and whole:
            each.done += 1
        else:
            each.missing += 1
    if lines and whole and not failed:
        status.seconds += sum(line.seconds for line in lines)
        status.network_seconds += sum(line.network_seconds for line in lines)


def _known(line: Line) -> _Known:
    done = line.status == "done"
    return _Known(done, line.audio_seconds, line.elapsed_seconds, json.dumps(line.outputs) if done else "")


def _inputs(source: Path) -> Iterable[str] | None:
    """Of IN, by their names in the record; None if it is not here."""
    if source.is_dir():
        return (path.relative_to(source).as_posix() for path in find(source))
    return [source.name] if source.exists() else None


def _shard_count(files: list[Path]) -> int:
    """Of the newest file that is a shard's; 0 if none is."""
    counts = [
        (path.stat().st_mtime, int(parts[-1]))
        for path in files
        if (parts := path.name.removeprefix("tisdiss.").removesuffix(".jsonl").split("-of-"))[-1].isdecimal()
        and len(parts) == 2
    ]
    return max(counts)[1] if counts else 0
