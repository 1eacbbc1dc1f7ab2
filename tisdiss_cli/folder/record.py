"""Record of OUT, `tisdiss.jsonl`: the result of each input, and the provenance of each output.

All reading and writing of it is here. Each shard has its own file (`tisdiss.3-of-8.jsonl`), so that no two runs append
to one. Over all files, the latest line of an input counts, by its time; within a file, by its order.
"""

import heapq
import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import dump_json
from tisdiss_cli.folder.shards import Shard

log = logging.getLogger("tisdiss")

RECORD = "tisdiss.jsonl"
FORMAT = 1
_NAME = re.compile(r"tisdiss(?:\.(\d+)-of-(\d+))?\.jsonl")
_LONGEST = 1 << 24  # bytes of a line; longer ones are not ours
_INPUT = re.compile(rb'\s*\{"input": ("(?:[^"\\]|\\.)*")')  # the begin of every line, also of a torn one


class RecordError(Exception):
    """Record that cannot be written, so that a run must end; the sentence says why."""


@dataclass(slots=True)
class Line:
    """Line of the record: the result of one input."""

    input: str  # name relative to IN
    status: str  # "done" or "failed"
    path: str  # absolute path of the input, without links
    reason: str | None = None  # one sentence, if it failed
    outputs: list[str] = field(default_factory=list)  # relative to OUT
    voices: int = 0  # number of voices: one in each output, or one in each channel of a single output
    repeats: float = 0  # repeats of the Reconstructor; with --repeats auto the mean over the chunks
    audio_seconds: float = 0.0
    elapsed_seconds: float = 0.0  # the network's time on its chunks
    warnings: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)  # everything that the samples depend on
    source: list[int] = field(default_factory=list)  # size in bytes and time of change of the input
    start: float = 0.0  # second of the container's (a video's) clock at which the voices begin
    segments: list[str] = field(default_factory=list)  # segment files, relative to OUT
    seams: list[float] = field(default_factory=list)  # seconds at which the speakers may be swapped
    speech_seconds: list[float] | None = None  # of each voice; None: activity was not tracked
    overlap_seconds: float | None = None  # in which two or more speak
    silence_seconds: float | None = None  # in which nobody does
    talkers: int | None = None  # voices that speak
    quality: dict[str, Any] | None = None  # predicted SI-SNRi in dB, its 80 % band, and the worst ten seconds
    doubtful: bool = False  # predicted below --min-quality
    channel: int | None = None  # of the input, with --channels each
    precision_why: str = ""  # reason for the precision, in words
    sources: list[str] | None = None  # each IN, absolute, in the first line of a run
    files_from: str | None = None  # the list, in the first line of a run
    time: float = 0.0  # when it was written, in seconds since 1970
    format: int = FORMAT

    @property
    def id(self) -> tuple[str, int | None]:
        """Identity among the lines of a run."""
        return self.input, self.channel

    @property
    def key(self) -> tuple[str, str, int | None]:
        """Identity of its input among all inputs."""
        return self.input, self.path, self.channel


class Provenance(NamedTuple):
    """Provenance of an output, from its line."""

    key: tuple[str, str, int | None]  # `Line.key` of its input
    settings: dict[str, Any]
    source: list[int]  # fingerprint of the input at that time


class Record:
    """Record of OUT, read when opened; lines are appended to the shard's file or `tisdiss.jsonl`.

    The first line of a run has each IN and the list. UserError if a record is not a file, or cannot be read.

    Attributes:
        provenance: provenance of each output, by the newest line that lists it.
        torn: inputs of unreadable lines, whose outputs may exist.
    """

    def __init__(
        self, out: Path, shard: Shard | None = None, *, sources: Sequence[Path] = (), files_from: str | None = None
    ) -> None:
        self.out, self.path = out, out / (f"tisdiss.{shard.name}.jsonl" if shard else RECORD)
        if files_from not in (None, "-"):
            files_from = os.path.abspath(os.path.expanduser(files_from))
        self._origin: tuple[list[str] | None, str | None] = [os.path.realpath(each) for each in sources], files_from
        self.provenance: dict[str, Provenance] = {}
        self.torn: set[str] = set()
        self._failed: set[tuple[str, str, int | None]] = set()  # by their newest line
        self._settings: dict[str, Any] = {}  # the last ones, shared between lines
        for line in read_lines(out, self.torn):
            self._take(line)
        if not self.provenance and not self._failed and any(path.stat().st_size for path in record_files(out)):
            log.warning(f"warning: {self.path} has no readable line: nothing counts as done")

    def done(self, outputs: Sequence[str], settings: dict[str, Any], source: list[int]) -> bool:
        """Returns whether all outputs exist, from this version of the input and under the same settings."""
        made = self.provenance.get(outputs[0])
        return (
            made is not None
            and made.settings == settings
            and made.source == source
            and all(self.provenance.get(output) is made for output in outputs)
            and made.key not in self._failed
            and all(os.path.isfile(os.path.join(self.out, output)) for output in outputs)
        )

    def prepare(self) -> None:
        """Raises RecordError before the first input's work if the record cannot be written."""
        self._write(b"")

    def append(self, line: Line) -> None:
        """Appends a line with the time, durably; RecordError if that fails."""
        line.time, line.sources, line.files_from = time.time(), *self._origin
        values = {name: value for name, value in asdict(line).items() if name not in _ORIGIN or value is not None}
        self._write(dump_json(values).encode() + b"\n")
        self._origin = None, None
        self._take(line)

    def _write(self, row: bytes) -> None:
        try:
            with self.path.open("a+b") as file:
                if row and file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    row = row if file.read(1) == b"\n" else b"\n" + row  # after a line torn by a kill or a full disk
                file.write(row)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            full = error.errno in (ENOSPC, EDQUOT, EFBIG)
            advice = "free some space" if full else "name an OUT that can be written to"
            raise RecordError(f"{self.path} cannot be written: {error.strerror or error}: {advice}") from None

    def _take(self, line: Line) -> None:
        if line.status == "failed":
            self._failed.add(line.key)
            return
        self._failed.discard(line.key)
        self._settings = self._settings if line.settings == self._settings else line.settings
        made = Provenance(line.key, self._settings, line.source)
        self.provenance.update(dict.fromkeys([*line.outputs, *line.segments], made))


def read_lines(out: Path, torn: set[str] | None = None) -> Iterator[Line]:
    """Yields the lines of all files of OUT's record, in the order in which they count, without unreadable ones.

    `torn` receives the inputs of unreadable lines. UserError as in `Record`.
    """
    lost = set() if torn is None else torn
    for _, line in heapq.merge(*(_timed(path, lost) for path in record_files(out)), key=lambda timed: timed[0]):
        yield line


def record_files(out: Path) -> list[Path]:
    """Returns every file of OUT's record, sorted."""
    return sorted(path for path in out.glob("tisdiss*.jsonl") if _NAME.fullmatch(path.name))


def shard_count(out: Path) -> int:
    """Returns the number of shards of OUT's record, by the newest shard file; 0 without one."""
    found = {path: match for path in record_files(out) if (match := _NAME.fullmatch(path.name)) and match[2]}
    return int(found[max(found, key=lambda path: path.stat().st_mtime)][2]) if found else 0


def _timed(path: Path, torn: set[str]) -> Iterator[tuple[float, Line]]:
    """Yields the lines of a file with the times by which they count."""
    latest = 0.0
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is not a file, but the record must be there: move it away, or name another OUT")
        with path.open("rb") as file:
            while row := file.readline(_LONGEST):
                if line := _parse(row):
                    latest = max(latest, line.time)
                    yield latest, line
                elif found := _INPUT.match(row):
                    with suppress(ValueError):
                        torn.add(json.loads(found[1]))
    except FileNotFoundError:
        pass
    except OSError as error:
        advice = "make it readable, or name another OUT"
        raise UserError(f"{path} cannot be read: {error.strerror or error}: {advice}") from None


def _parse(row: bytes) -> Line | None:
    """Parses a row; None if it is not a line, or a field has another type."""
    try:
        values = json.loads(row)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not {"input", "status", "path"} <= values.keys():
        return None
    fields = {name: value for name, value in values.items() if name in _KINDS}
    return Line(**fields) if all(_KINDS[name](value) for name, value in fields.items()) else None


def _of_kind(kind: Any) -> Callable[[Any], bool]:
    """Returns a check whether a JSON value is of a type; numbers must be finite."""
    parts = [_of_kind(part) for part in get_args(kind)]
    if get_origin(kind) is list:
        return lambda value: type(value) is list and all(map(parts[0], value))
    if get_origin(kind) is dict:
        return lambda value: type(value) is dict and all(map(parts[1], value.values()))
    if parts:
        return lambda value: any(of_part(value) for of_part in parts)
    if kind in (int, float):
        return lambda value: type(value) in (int, kind) and -1e300 < value < 1e300
    return lambda value: type(value) is kind


def _is_quality(value: Any) -> bool:
    """Returns whether a value is a quality: numbers by name, and those of the worst stretch."""
    numbers = _of_kind(dict[str, float])
    return value is None or (type(value) is dict and numbers(value.get("worst", {})) and numbers({**value, "worst": 0}))


_ORIGIN = ("sources", "files_from")
_PLAIN = str | float | bool | None
_KINDS: dict[str, Callable[[Any], bool]] = {
    **{each.name: _of_kind(each.type) for each in fields(Line)},
    "status": lambda value: value in ("done", "failed"),
    "format": lambda value: value == FORMAT,
    "settings": _of_kind(dict[str, _PLAIN | list[_PLAIN]]),
    "quality": _is_quality,
}
