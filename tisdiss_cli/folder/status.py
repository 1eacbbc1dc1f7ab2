"""How far a folder is, from OUT's record and the listing of IN: what is done, failed, missing, and of which shards."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.inputs import inputs_again
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

    input: str
    done: bool
    seconds: float
    network_seconds: float
    source: list[int]  # its fingerprint then
    outputs: str  # as JSON, which takes half the room of a list


_Origin = tuple[tuple[str, ...], str]  # each IN of a run, and its list
_Lines = dict[int | None, _Known]  # of an input, by channel


def read_status(out: Path, source: Path | None = None, shards: int | None = None) -> Status:
    """The status of OUT.

    Inputs are told apart by their places on the disk, for those of two IN may bear one name; where IN is elsewhere now,
    or a line is from before places were kept, by their names.

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
    known: dict[str, _Lines] = {}  # by the inputs' places
    origins: dict[_Origin, str] = {}  # with what the lines of each have as IN
    for line in merged(map(LineFile, files)):
        known.setdefault(line.path or line.input, {})[line.channel] = _known(line)
        if line.sources or line.files_from:
            origins[tuple(line.sources), line.files_from] = line.within
        elif line.within not in origins.values() and line.within:
            origins[(line.within,), ""] = line.within
    if source:
        origins = {((str(source),), ""): str(source)}
    status = Status(at_work=at_work(out))
    count = shards or _shard_count(files)
    status.shards = {index: Counts() for index in range(1, count + 1)} if count else {}
    for name in _missing(known, origins, status, by_name=source is not None):
        _count(name, [], out=out, status=status)
    for lines in known.values():
        _count(next(iter(lines.values())).input, list(lines.values()), out=out, status=status)
    return status


def _missing(known: dict[str, _Lines], origins: Iterable[_Origin], status: Status, *, by_name: bool) -> Iterable[str]:
    """The names of inputs that are listed in an IN and that no line is of."""
    listed: dict[str, str] = {}  # names, by place
    for sources, files_from in origins:
        places = [*sources, *([files_from] if files_from else [])]
        status.sources += [place for place in places if place not in status.sources]
        gone = [place for place in places if not os.path.exists(place)]
        status.unseen += [place for place in gone if place not in status.unseen]
        if gone:
            continue
        roots = dict[Path, str]()
        for one in inputs_again([Path(place) for place in sources], files_from or None):
            root = roots.setdefault(one.root, os.path.realpath(one.root))
            if not by_name and (os.path.join(root, one.name) in known or os.path.realpath(one.place) in known):
                continue
            listed[os.path.realpath(one.place)] = one.name
    named = defaultdict[str, list[_Known]](list)
    wanted = set(listed.values())
    for lines in known.values():
        for line in lines.values():
            if line.input in wanted:
                named[line.input].append(line)
    for place, name in listed.items():
        alike = named.get(name, ())
        # One that was moved or copied has its size and time still.
        if not (alike if by_name else name in known or any(line.source == fingerprint(Path(place)) for line in alike)):
            yield name


def _count(name: str, lines: list[_Known], *, out: Path, status: Status) -> None:
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
    outputs = json.dumps(line.outputs) if done else ""
    return _Known(line.input, done, line.audio_seconds, line.elapsed_seconds, line.source, outputs)


def _shard_count(files: list[Path]) -> int:
    """Of the newest file that is a shard's; 0 if none is."""
    counts = [
        (path.stat().st_mtime, int(parts[-1]))
        for path in files
        if (parts := path.name.removeprefix("tisdiss.").removesuffix(".jsonl").split("-of-"))[-1].isdecimal()
        and len(parts) == 2
    ]
    return max(counts)[1] if counts else 0
