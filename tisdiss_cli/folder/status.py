"""Status of OUT: inputs done, failed and missing, by shard, from the record and the listing of IN."""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.inputs import list_inputs
from tisdiss_cli.folder.record import Line, read_lines, record_files, shard_count
from tisdiss_cli.folder.run_lock import RunInfo, at_work
from tisdiss_cli.folder.shards import array_expression, shard_of


@dataclass
class Counts:
    """Counts of inputs, of all or of a shard."""

    done: int = 0
    failed: int = 0
    missing: int = 0  # listed in IN and neither done nor failed, or done but an output is missing

    @property
    def lacks(self) -> bool:
        """True if something is left to do."""
        return bool(self.failed or self.missing)


@dataclass
class Status:
    """Status of OUT."""

    total: Counts = field(default_factory=Counts)
    shards: dict[int, Counts] = field(default_factory=dict)  # by index; empty without shards
    seconds: float = 0.0  # of audio done
    network_seconds: float = 0.0  # the network's time for it
    sources: list[str] = field(default_factory=list)  # each IN
    unseen: list[str] = field(default_factory=list)  # each IN that is not here, so that missing inputs are unknown
    at_work: list[RunInfo] = field(default_factory=list)

    def count(self, out: Path, name: str, lines: list[Line]) -> None:
        """Counts an input by its latest lines: none if it is missing, several with --channels each."""
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
        """Shards with something left to do, as for `sbatch --array`."""
        return array_expression(index for index, counts in self.shards.items() if counts.lacks)


def read_status(out: Path, source: Path | None = None, shards: int | None = None) -> Status:
    """Returns the status of OUT; UserError if it is not a folder, or has no record.

    Inputs are identified by their paths, as inputs of two IN may have one name; with another `source`, by their names.

    Args:
        out: the folder OUT.
        source: IN, if it was moved. Default: each IN of the record.
        shards: number of shards. Default: from the names of the record's files, the newest if they differ.
    """
    if not out.is_dir():
        raise UserError(f"OUT {out} is not a folder: name one that tisdiss separate has written to")
    if not record_files(out):
        raise UserError(f"OUT {out} has no record (tisdiss.jsonl): name a folder that tisdiss separate has written to")
    latest = defaultdict[str, dict[int | None, Line]](dict)  # by the input's path and channel
    origins: dict[tuple[tuple[str, ...], str | None], None] = {}  # each IN and the list of every run
    for line in read_lines(out):
        lines = latest[line.path]
        if (None in lines) != (line.channel is None):  # separated as a whole before, and now by channel, or the reverse
            lines.clear()
        lines[line.channel] = line
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
            recorded = name in named
        else:  # a moved or copied input keeps its size and time
            recorded = place in latest or any(line.source == fingerprint(Path(place)) for line in named[name])
        if not recorded:
            status.count(out, name, [])
    return status


def _listed(origins: Iterable[tuple[tuple[str, ...], str | None]], status: Status) -> dict[str, str]:
    """Returns the names of existing inputs by path; notes each IN and the missing ones in the status."""
    found: dict[str, str] = {}
    for sources, files_from in origins:
        places = [*sources, *([files_from] if files_from else [])]
        missing = [place for place in places if not os.path.exists(place)]
        status.sources = list(dict.fromkeys([*status.sources, *places]))
        status.unseen = list(dict.fromkeys([*status.unseen, *missing]))
        if not missing:
            inputs = list_inputs([Path(place) for place in sources], None, files_from)
            found |= {os.path.realpath(one.place): one.name for one in inputs}
    return found
