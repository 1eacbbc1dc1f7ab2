"""Rows of scores, one for each file and setting: kept in a CSV file that a stopped run goes on from, and summed up."""

import csv
import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import appending, fingerprint, replacing

# Names that are not UTF-8 have surrogates for their bytes, which become those bytes again.
_open = partial(open, newline="", encoding="utf-8", errors="surrogateescape")
WITHIN = 0.1  # dB; a setting this close to the best is as good
METRICS = ("si_snri", "sdri", "si_snr", "sdr", "stoi", "pesq")


@dataclass(frozen=True)
class Row:
    """One file under one setting."""

    id: str
    repeats: int | None  # None: estimates that were made elsewhere
    si_snri: float  # dB, as are the next three
    sdri: float
    si_snr: float
    sdr: float
    stoi: float | None
    pesq: float | None
    permutation: str  # "2 1": the second estimate is the first reference's
    seconds: float  # of audio
    network_seconds: float | None  # until this setting's estimate was there
    warnings: str
    key: str  # of the settings and files that the row follows from


_COLUMNS = [field.name for field in fields(Row)]


def row_key(settings: dict[str, Any], files: Iterable[Path]) -> str:
    """Returns 16 hexadecimal digits that change when a setting or a file (its size, its time of change) does."""
    known = [settings, *(fingerprint(path) for path in files)]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


class Sheet:
    """A CSV file of rows: read when opened, appended to file by file. Ids of any bytes come back as they were.

    UserError if the file exists and is no sheet of scores, or it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        with self._sentence("read"):
            if not path.exists() or path.stat().st_size == 0:
                return
            with _open(path) as file:
                reader = csv.DictReader(file)
                if reader.fieldnames != _COLUMNS:
                    raise UserError(f"--csv {path} exists and holds no scores of this program: name another file")
                for values in reader:
                    try:
                        self.rows.append(_parse(values))
                    except (TypeError, ValueError):
                        continue  # torn when a run was killed: that file is scored again

    def keep(self, keys: dict[str, str]) -> int:
        """Drops rows whose id is not in `keys` or has another key there, and all but an id's last; returns how many."""
        kept = {(row.id, row.repeats): row for row in self.rows if keys.get(row.id) == row.key}
        dropped = len(self.rows) - len(kept)
        self.rows = list(kept.values())
        with self._sentence("written"), replacing(self.path) as part, _open(part, "w") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(map(_text, self.rows))
        return dropped

    def append(self, rows: Sequence[Row]) -> None:
        """Adds the rows of one file."""
        self.rows += rows
        with self._sentence("written"), appending(self.path) as file:
            csv.DictWriter(file, _COLUMNS).writerows(map(_text, rows))

    @contextmanager
    def _sentence(self, done: str) -> Iterator[None]:
        try:
            yield
        except (OSError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--csv {self.path} cannot be {done} ({reason}): name another file") from None


def part_of(path: Path, name: str) -> Path:
    """Returns where a share's rows go: `scores.csv` of "3-of-8" is `scores.3-of-8.csv`."""
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


def merge_sheets(path: Path) -> tuple[list[Row], int]:
    """Writes the rows of all of a sheet's parts, and its own, to it; returns them and the number of shares.

    Of an id that several have, the rows of the newest file count. UserError if there are no parts, or one is no sheet.
    """
    pattern = re.compile(rf"{re.escape(path.stem)}\.(\d+)-of-(\d+){re.escape(path.suffix)}")
    parts = {part: int(found[2]) for part in path.parent.iterdir() if (found := pattern.fullmatch(part.name))}
    if not parts:
        raise UserError(f"--merge: {path.parent} has no parts of {path.name}, like {part_of(path, '1-of-8').name}")
    files = [*parts, *([path] if path.exists() else [])]
    oldest_first = sorted(files, key=lambda file: file.stat().st_mtime_ns)
    rows = [row for file in oldest_first for row in Sheet(file).rows]
    merged = Sheet(path)
    merged.rows = sorted(rows, key=lambda row: (row.id, row.repeats or 0))  # of one id and setting the newest last
    merged.keep({row.id: row.key for row in rows})
    return merged.rows, parts[max(parts, key=lambda part: part.stat().st_mtime_ns)]


def _text(row: Row) -> dict[str, Any]:
    """Returns its cells; None becomes an empty one."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(row).items()}


def _parse(values: dict[str, str]) -> Row:
    """Reads a line; TypeError or ValueError if it is not whole."""
    numbers = {name: float(values[name]) if values[name] else None for name in (*METRICS, "seconds", "network_seconds")}
    needed = [numbers[name] for name in ("si_snri", "sdri", "si_snr", "sdr", "seconds")]
    if None in needed or not values["key"] or not all(math.isfinite(value or 0.0) for value in numbers.values()):
        raise ValueError("a cell is empty, or no number")
    repeats = int(values["repeats"]) if values["repeats"] else None
    cells: dict[str, Any] = {**values, **numbers, "repeats": repeats}
    return Row(**cells)


class Mean(NamedTuple):
    """A mean over files."""

    mean: float
    ci95: float | None  # half width of its 95 % confidence interval (Student's t); None for one file


@dataclass(frozen=True)
class Summary:
    """The means of one setting over all files."""

    repeats: int | None  # None: estimates that were made elsewhere
    means: dict[str, Mean]  # of those of METRICS that were measured, by name
    files: int
    rtf: float | None  # network seconds for a second of audio; None where no network ran

    def as_dict(self) -> dict[str, Any]:
        """Returns it for JSON: `{"repeats", "si_snri": {"mean", "ci95"}, ..., "files", "rtf"}`."""
        means = {metric: mean._asdict() for metric, mean in self.means.items()}
        return {"repeats": self.repeats, **means, "files": self.files, "rtf": self.rtf}


def summarize(rows: Sequence[Row]) -> list[Summary]:
    """Returns a summary for each setting, by repeats."""
    results = []
    for repeats in sorted({row.repeats for row in rows}, key=lambda value: value or 0):
        group = [row for row in rows if row.repeats == repeats]
        values = {metric: [v for row in group if (v := getattr(row, metric)) is not None] for metric in METRICS}
        means = {metric: mean_interval(found) for metric, found in values.items() if found}
        timed = [row for row in group if row.network_seconds is not None]
        seconds = sum(row.seconds for row in timed)
        rtf = sum(row.network_seconds or 0.0 for row in timed) / seconds if seconds else None
        results.append(Summary(repeats, means, len(group), rtf))
    return results


def mean_interval(values: Sequence[float]) -> Mean:
    """Returns the mean of at least one value, and its interval."""
    n, mean = len(values), statistics.fmean(values)
    return Mean(mean, student_t(n - 1) * statistics.stdev(values, mean) / math.sqrt(n) if n > 1 else None)


@cache
def student_t(freedom: int, probability: float = 0.95) -> float:
    """Returns the t that |T| stays below with that probability, for that many degrees of freedom.

    T is √freedom times the tangent of an angle whose density goes with cos^(freedom - 1), which is summed up here.
    """
    ends = np.linspace(0, np.pi / 2, 1_000_001)
    inside = np.cumsum(np.cos((ends[1:] + ends[:-1]) / 2) ** (freedom - 1))
    angle = np.interp(probability * inside[-1], inside, ends[1:])
    return math.sqrt(freedom) * math.tan(angle)


def smallest_within(quality: dict[int, float], margin: float = WITHIN) -> int:
    """Returns the smallest setting whose quality, in dB, is within `margin` of the best."""
    best = max(quality.values())
    return min(repeats for repeats, value in quality.items() if value >= best - margin)


@dataclass(frozen=True)
class Point:
    """A setting, what it takes and what it gives."""

    repeats: int
    rtf: float  # network seconds for a second of audio
    si_snri: float  # dB


@dataclass(frozen=True)
class Curve:
    """Quality against time, a series of settings."""

    name: str  # a precision, or nothing where there is one
    points: list[Point]  # at least one

    @property
    def marked(self) -> int:
        """The smallest setting that is about as good as the best."""
        return smallest_within({point.repeats: point.si_snri for point in self.points})
