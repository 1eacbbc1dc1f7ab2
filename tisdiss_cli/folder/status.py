"""Status of OUT, from its record and the listing of IN: what is done, failed and missing, and of which shards."""

import os
from collections import defaultdict
from collections.abc import Iterable
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
        """True when there is something to do, or to do again."""
        return bool(self.failed or self.missing)


@dataclass
class Status:
    """The progress of OUT."""

    total: Counts = field(default_factory=Counts)
    shards: dict[int, Counts] = field(default_factory=dict)  # by index; empty where there are none
    seconds: float = 0.0  # of audio done
    network_seconds: float = 0.0  # that it took
    sources: list[str] = field(default_factory=list)  # each IN
    unseen: list[str] = field(default_factory=list)  # those that are not here, so that what is missing is not known
    at_work: list[Who] = field(default_factory=list)

    def count(self, out: Path, name: str, lines: list[Line]) -> None:
        """Takes in an input by its latest lines: none if it is missing, several if its channels are separated each."""
        failed = any(line.status == "failed" for line in lines)
        whole = bool(lines) and all((out / output).is_file() for line in lines for output in line.outputs)
        for counts in (self.total, *([self.shards[shard_of(name, len(self.shards))]] if self.shards else [])):
            counts.failed += failed
            counts.done += whole and not failed
            counts.missing += not whole and not failed
        if whole and not failed:
            self.seconds += sum(line.audio_seconds for line in lines)
            self.network_seconds += sum(line.elapsed_seconds for line in lines)

    @property
    def rtf(self) -> float | None:
        """Network seconds for a second of audio."""
        return self.network_seconds / self.seconds if self.seconds else None

    @property
    def array(self) -> str:
        """The shards that lack something, as `sbatch --array` takes them."""
        return array_expression(index for index, counts in self.shards.items() if counts.lacks)


def read_status(out: Path, source: Path | None = None, shards: int | None = None) -> Status:
    """Returns the status of OUT; UserError if that is no folder, or has no record.

    Inputs are told apart by their places on the disk, for those of two IN may bear one name; where IN is elsewhere
    now, by their names.

    Args:
        out: the folder OUT.
        source: IN, where it is not what the record says, or is elsewhere now; else each IN of the record is listed.
        shards: how many there are; None: as the names of the record's files say, the newest if they differ.
    """
    if not out.is_dir():
        raise UserError(f"OUT {out} is not a folder: name one that tisdiss separate has written to")
    if not record_files(out):
        raise UserError(f"OUT {out} has no record (tisdiss.jsonl): name a folder that tisdiss separate has written to")
    latest = defaultdict[str, dict[int | None, Line]](dict)  # of each input, by its place and channel
    origins: dict[tuple[tuple[str, ...], str | None], None] = {}  # each IN of a run, and its list
    for line in read_lines(out):
        latest[line.path][line.channel] = line
        if line.sources or line.files_from:
            origins[tuple(line.sources or ()), line.files_from] = None
    named = defaultdict[str, list[Line]](list)
    for lines in latest.values():
        for line in lines.values():
            named[line.input].append(line)
    count = shards or shard_count(out)
    status = Status(at_work=at_work(out), shards={index: Counts() for index in range(1, count + 1)})
    for lines in latest.values():
        status.count(out, next(iter(lines.values())).input, list(lines.values()))
    for place, name in _listed({((str(source),), None): None} if source else origins, status).items():
        if source:
            known = name in named
        else:  # one that was moved or copied has its size and time still
            known = place in latest or any(line.source == fingerprint(Path(place)) for line in named[name])
        if not known:
            status.count(out, name, [])
    return status


def _listed(origins: Iterable[tuple[tuple[str, ...], str | None]], status: Status) -> dict[str, str]:
    """Returns the names of the inputs that there are, by their places; the status takes which IN is there."""
    found: dict[str, str] = {}
    for sources, files_from in origins:
        places = [*sources, *([files_from] if files_from else [])]
        gone = [place for place in places if not os.path.exists(place)]
        status.sources = list(dict.fromkeys([*status.sources, *places]))
        status.unseen = list(dict.fromkeys([*status.unseen, *gone]))
        if not gone:
            inputs = list_inputs([Path(place) for place in sources], None, files_from)
            found |= {os.path.realpath(one.place): one.name for one in inputs}
    return found
