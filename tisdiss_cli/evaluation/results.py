"""Score tables: a row for each file and setting in a CSV file, and their means."""

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

# Names that are not UTF-8 have surrogates, which become their bytes again.
_open = partial(open, newline="", encoding="utf-8", errors="surrogateescape")
WITHIN = 0.1  # dB; a setting this close to the best counts as good
METRICS = ("si_snri", "sdri", "si_snr", "sdr", "stoi", "pesq")


@dataclass(frozen=True)
class Row:
    """Scores of one file under one setting."""

    id: str
    repeats: int | None  # None: estimates by another tool
    si_snri: float  # dB, as are the next three
    sdri: float
    si_snr: float
    sdr: float
    stoi: float | None
    pesq: float | None
    permutation: str  # "2 1": the second estimate is the first reference's
    seconds: float  # of audio
    network_seconds: float | None  # time until this setting's estimate
    warnings: str
    key: str  # `row_key` of its settings and files


_COLUMNS = [field.name for field in fields(Row)]


def row_key(settings: dict[str, Any], files: Iterable[Path]) -> str:
    """Returns 16 hexadecimal digits that change with any setting, or a file's size or time of change."""
    identity = [settings, *(fingerprint(path) for path in files)]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


class ScoreTable:
    """CSV file of rows, read when opened and appended to file by file; ids may have any bytes.

    UserError if the file is not a score table, or cannot be read or written.
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
        """Drops rows that do not match `keys` (by id), and all but the last of an id and setting; returns how many."""
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


def shard_path(path: Path, name: str) -> Path:
    """Returns the path of a shard's table: `scores.csv` of "3-of-8" is `scores.3-of-8.csv`."""
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


def merge_tables(path: Path) -> tuple[list[Row], int]:
    """Merges the rows of all shards of a table, and its own, into it; returns them and the number of shards.

    For an id in several files, the rows of the newest count. UserError if there are no shards, or one is damaged.
    """
    pattern = re.compile(rf"{re.escape(path.stem)}\.(\d+)-of-(\d+){re.escape(path.suffix)}")
    shards = {file: int(found[2]) for file in path.parent.iterdir() if (found := pattern.fullmatch(file.name))}
    if not shards:
        raise UserError(f"--merge: {path.parent} has no shards of {path.name}, like {shard_path(path, '1-of-8').name}")
    files = [*shards, *([path] if path.exists() else [])]
    oldest_first = sorted(files, key=lambda file: file.stat().st_mtime_ns)
    rows = [row for file in oldest_first for row in ScoreTable(file).rows]
    merged = ScoreTable(path)
    merged.rows = sorted(rows, key=lambda row: (row.id, row.repeats or 0))  # the newest of an id and setting last
    merged.keep({row.id: row.key for row in rows})
    return merged.rows, shards[max(shards, key=lambda file: file.stat().st_mtime_ns)]


def _text(row: Row) -> dict[str, Any]:
    """Returns the cells of a row; None is an empty cell."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(row).items()}


def _parse(values: dict[str, str]) -> Row:
    """Parses the cells of a row; TypeError or ValueError if it is not whole."""
    numbers = {name: float(values[name]) if values[name] else None for name in (*METRICS, "seconds", "network_seconds")}
    needed = [numbers[name] for name in ("si_snri", "sdri", "si_snr", "sdr", "seconds")]
    if None in needed or not values["key"] or not all(math.isfinite(value or 0.0) for value in numbers.values()):
        raise ValueError("a cell is empty, or not a number")
    repeats = int(values["repeats"]) if values["repeats"] else None
    cells: dict[str, Any] = {**values, **numbers, "repeats": repeats}
    return Row(**cells)


class Mean(NamedTuple):
    """Mean over files."""

    mean: float
    ci95: float | None  # half width of its 95 % confidence interval (Student's t); None for one file


@dataclass(frozen=True)
class Summary:
    """Means of one setting over all files."""

    repeats: int | None  # None: estimates by another tool
    means: dict[str, Mean]  # of the measured METRICS, by name
    files: int
    rtf: float | None  # network seconds for a second of audio; None without a network

    def as_dict(self) -> dict[str, Any]:
        """Returns the summary for JSON: `{"repeats", "si_snri": {"mean", "ci95"}, ..., "files", "rtf"}`."""
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
    """Returns the mean of at least one value, with its interval."""
    n, mean = len(values), statistics.fmean(values)
    return Mean(mean, student_t(n - 1) * statistics.stdev(values, mean) / math.sqrt(n) if n > 1 else None)


@cache
def student_t(freedom: int, probability: float = 0.95) -> float:
    """Returns the two-sided quantile of Student's t with `freedom` degrees of freedom.

    T is √freedom times the tangent of an angle with density cos^(freedom - 1), which is integrated numerically.
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
    """Time and quality of one setting."""

    repeats: int
    rtf: float  # network seconds for a second of audio
    si_snri: float  # dB


@dataclass(frozen=True)
class Curve:
    """Curve of quality against time over settings."""

    name: str  # the variant; "" for a single one
    points: list[Point]  # at least one

    @property
    def marked(self) -> int:
        """The smallest setting within WITHIN of the best."""
        return smallest_within({point.repeats: point.si_snri for point in self.points})
