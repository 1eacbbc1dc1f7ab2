"""Status of OUT, from its record and the listing of IN: what is done, failed and missing, and of which shards."""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.inputs import list_inputs
from tisdiss_cli.folder.record import Line, read_lines, record_files, shard_count
from tisdiss_cli.folder.run_lock import Who, at_work
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
    at_work: list[Who] = field(default_factory=list)

    @property
    def rtf(self) -> float | None:
        """Network seconds for a second of audio."""
        return self.network_seconds / self.seconds if self.seconds else None

    @property
    def array(self) -> str:
        """The shards that lack something, as `sbatch --array` takes them."""
        return array_expression(index for index, counts in self.shards.items() if counts.lacks)


_Origin = tuple[tuple[str, ...], str | None]  # each IN of a run, and its list
_Known = dict[str, dict[int | None, Line]]  # the latest lines, by the inputs' places and channels


def read_status(out: Path, source: Path | None = None, shards: int | None = None) -> Status:
    """Returns the status of OUT.

    Inputs are told apart by their places on the disk, for those of two IN may bear one name; where IN is elsewhere
    now, by their names.

    Args:
        out: the folder OUT.
        source: IN, where it is not what the record says, or is elsewhere now; else each IN of the record is listed.
        shards: how many there are; None: as the names of the record's files say, the newest if they differ.

    Raises:
        UserError: OUT is no folder, or has no record.
    """
    if not out.is_dir():
        raise UserError(f"OUT {out} is not a folder: name one that tisdiss separate has written to")
    if not record_files(out):
        raise UserError(f"OUT {out} has no record (tisdiss.jsonl): name a folder that tisdiss separate has written to")
    known: _Known = defaultdict(dict)
    origins: dict[_Origin, None] = {}
    for line in read_lines(out):
        known[line.path][line.channel] = line
        if line.sources or line.files_from:
            origins[tuple(line.sources or ()), line.files_from] = None
    if source:
        origins = {((str(source),), None): None}
    status = Status(at_work=at_work(out))
    count = shards or shard_count(out)
    status.shards = {index: Counts() for index in range(1, count + 1)} if count else {}
    for name in _missing(known, origins, status, by_name=source is not None):
        _count(name, [], out=out, status=status)
    for lines in known.values():
        _count(next(iter(lines.values())).input, list(lines.values()), out=out, status=status)
    return status


def _missing(known: _Known, origins: dict[_Origin, None], status: Status, *, by_name: bool) -> Iterator[str]:
    """Yields the names of inputs that are listed in an IN and that no line is of."""
    listed: dict[str, str] = {}  # names, by place
    for sources, files_from in origins:
        places = [*sources, *([files_from] if files_from else [])]
        status.sources += [place for place in places if place not in status.sources]
        gone = [place for place in places if not os.path.exists(place)]
        status.unseen += [place for place in gone if place not in status.unseen]
        if not gone:
            for one in list_inputs([Path(place) for place in sources], None, files_from):
                listed[os.path.realpath(one.place)] = one.name
    named = defaultdict[str, list[Line]](list)
    for lines in known.values():
        for line in lines.values():
            named[line.input].append(line)
    for place, name in listed.items():
        if place in known and not by_name:
            continue
        # One that was moved or copied has its size and time still.
        if not (named[name] if by_name else any(line.source == fingerprint(Path(place)) for line in named[name])):
            yield name


def _count(name: str, lines: list[Line], *, out: Path, status: Status) -> None:
    """Takes in an input by its lines, of which it has several where its channels were separated each."""
    counts = [status.total]
    if status.shards:
        counts.append(status.shards[shard_of(name, len(status.shards))])
    failed = any(line.status == "failed" for line in lines)
    whole = all((out / output).is_file() for line in lines if line.status == "done" for output in line.outputs)
    for each in counts:
        if failed:
            each.failed += 1
        elif lines and whole:
            each.done += 1
        else:
            each.missing += 1
    if lines and whole and not failed:
        status.seconds += sum(line.audio_seconds for line in lines)
        status.network_seconds += sum(line.elapsed_seconds for line in lines)
