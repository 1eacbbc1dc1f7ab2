"""Inputs of a run as its report shows them: lines of the record, with true scores where there are some."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.results import Row, ScoreTable
from tisdiss_cli.folder.record import RECORD, Line, read_lines


@dataclass(frozen=True)
class Entry:
    """One input and what became of it."""

    line: Line  # its latest; bytes in names that are no UTF-8 are surrogates
    out: Path  # where its voices are
    mixture: Path  # where the input is, or was
    si_snri: float | None = None  # dB: predicted, or true once `with_scores` was asked
    band: tuple[float, float] | None = None  # of the prediction

    @property
    def name(self) -> str:
        """As in the record, relative to IN."""
        return self.line.input

    @property
    def failed(self) -> bool:
        """True when there are no voices of it."""
        return self.line.status == "failed"

    @property
    def remarks(self) -> list[str]:
        """Why it failed, and its warnings."""
        return [*([self.line.reason or "failed"] if self.failed else []), *self.line.warnings]

    @property
    def doubtful(self) -> bool:
        """True when it was separated, and something is to be said against it."""
        return not self.failed and bool(self.line.warnings or self.line.doubtful)


def read_entries(out: Path, source: Path | None = None) -> list[Entry]:
    """Returns an entry for each input of OUT's record, by its latest line; UserError if there is nothing to read.

    `source` is IN, where the record does not say it or its files were moved.
    """
    lines: dict[tuple[str, str, int | None], Line] = {}
    makers: dict[str, tuple[str, str, int | None]] = {}  # of each output, the input whose voices it holds
    for line in read_lines(out):
        lines[line.key] = line
        makers |= dict.fromkeys(line.outputs, line.key)
    if not lines:
        raise UserError(f"{out} has no record {RECORD}: name a folder that `tisdiss separate` wrote")
    below = source.parent if source and source.is_file() else source
    entries = []
    for key, line in lines.items():
        if all(makers[output] == key for output in line.outputs):  # what another input has replaced cannot be heard
            quality = line.quality or {}
            band = (quality["low"], quality["high"]) if {"low", "high"} <= quality.keys() else None
            mixture = below / line.input if below else Path(line.path)
            entries.append(Entry(line, out, mixture, quality.get("si_snri"), band))
    return entries


def read_scores(path: Path) -> dict[str, list[Row]]:
    """Reads the rows of a file that `tisdiss score --csv` wrote, by id; UserError if it is none."""
    if not path.is_file():
        raise UserError(f"--scores {path} does not exist: name a file that `tisdiss score --csv` wrote")
    try:
        rows = ScoreTable(path).rows
    except UserError:
        rows = []
    if not rows:
        raise UserError(f"--scores {path} holds no scores: name a file that `tisdiss score --csv` wrote")
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(row)
    return found


def with_scores(entries: Sequence[Entry], scores: dict[str, list[Row]]) -> list[Entry]:
    """Returns the entries with true SI-SNRi in place of predicted.

    An id is a path without its extension; where the record's names have more folders before it, the end decides. Of
    several settings the entry's own is taken, or the scores of finished estimates.
    """
    scored = []
    for entry in entries:
        stem = Path(entry.name).with_suffix("").as_posix()
        parts = stem.split("/")
        rows = next((rows for i in range(len(parts)) if (rows := scores.get("/".join(parts[i:])))), [])
        fitting = [row for row in rows if row.repeats in (entry.line.repeats, None)]
        value = fitting[-1].si_snri if fitting else None
        scored.append(replace(entry, si_snri=value, band=None))
    return scored


def worst_first(entries: Sequence[Entry]) -> list[Entry]:
    """Sorts failed ones first, then by SI-SNRi from the lowest; without that the doubtful ones."""

    def distrust(entry: Entry) -> tuple[float | str, ...]:
        unknown = -math.inf if entry.doubtful else math.inf
        value = unknown if entry.si_snri is None else entry.si_snri
        return (not entry.failed, value, -len(entry.remarks), entry.name)

    return sorted(entries, key=distrust)
