"""Inputs of a run as its report shows them: lines of the record, with true scores if requested."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.results import Row, ScoreTable
from tisdiss_cli.folder.record import RECORD, Line, read_lines


@dataclass(frozen=True)
class Entry:
    """One input and its result."""

    line: Line  # the latest in the record; bytes of names that are not UTF-8 are surrogates
    out: Path  # folder of the run
    mixture: Path  # the input, which may no longer exist
    si_snri: float | None = None  # dB: predicted, or true after `with_scores`
    band: tuple[float, float] | None = None  # of the prediction, in dB

    @property
    def name(self) -> str:
        """Name in the record, relative to IN."""
        return self.line.input

    @property
    def failed(self) -> bool:
        """True if the input has no voices."""
        return self.line.status == "failed"

    @property
    def one_file(self) -> bool:
        """True if all voices are in one file, each as a channel."""
        return self.line.voices > len(self.line.outputs) == 1

    @property
    def voices(self) -> list[tuple[Path, int | None]]:
        """Path of each voice, and its channel, from 1, if all are in one file."""
        paths = [self.out / output for output in self.line.outputs]
        return [(paths[0], n) for n in range(1, self.line.voices + 1)] if self.one_file else [(p, None) for p in paths]

    @property
    def remarks(self) -> list[str]:
        """Reason of the failure, then the warnings."""
        return [*([self.line.reason or "failed"] if self.failed else []), *self.line.warnings]

    @property
    def doubtful(self) -> bool:
        """True if the input was separated with warnings or in doubt."""
        return not self.failed and bool(self.line.warnings or self.line.doubtful)


def read_entries(out: Path, source: Path | None = None) -> list[Entry]:
    """Returns an entry for each input in OUT's record, from its latest line; UserError if there is no record.

    `source`: IN, if the record does not name it or its files were moved.
    """
    lines: dict[tuple[str, str, int | None], Line] = {}
    owners: dict[str, tuple[str, str, int | None]] = {}  # by output, the input whose voices it holds
    for line in read_lines(out):
        lines[line.key] = line
        owners |= dict.fromkeys(line.outputs, line.key)
    if not lines:
        raise UserError(f"{out} has no record {RECORD}: name a folder that `tisdiss separate` wrote")
    below = source.parent if source and source.is_file() else source
    entries = []
    for key, line in lines.items():
        if all(owners[output] == key for output in line.outputs):  # else another input has replaced its voices
            quality = line.quality or {}
            band = (quality["low"], quality["high"]) if {"low", "high"} <= quality.keys() else None
            mixture = below / line.input if below else Path(line.path)
            entries.append(Entry(line, out, mixture, quality.get("si_snri"), band))
    return entries


def read_scores(path: Path) -> dict[str, list[Row]]:
    """Returns the rows by id of a file that `tisdiss score --csv` wrote; UserError for any other file."""
    if not path.is_file():
        raise UserError(f"--scores {path} does not exist: name a file that `tisdiss score --csv` wrote")
    try:
        rows = ScoreTable(path).rows
    except UserError:
        rows = []
    if not rows:
        raise UserError(f"--scores {path} holds no scores: name a file that `tisdiss score --csv` wrote")
    by_id: dict[str, list[Row]] = {}
    for row in rows:
        by_id.setdefault(row.id, []).append(row)
    return by_id


def with_scores(entries: Sequence[Entry], scores: dict[str, list[Row]]) -> list[Entry]:
    """Returns the entries with true SI-SNRi, at the entry's repeats or of finished estimates, in place of predicted.

    An id is a path without its extension; the record's name may have more folders before it.
    """
    scored = []
    for entry in entries:
        stem = Path(entry.name).with_suffix("").as_posix()
        parts = stem.split("/")
        rows = next((rows for i in range(len(parts)) if (rows := scores.get("/".join(parts[i:])))), [])
        matching = [row for row in rows if row.repeats in (entry.line.repeats, None)]
        value = matching[-1].si_snri if matching else None
        scored.append(replace(entry, si_snri=value, band=None))
    return scored


def worst_first(entries: Sequence[Entry]) -> list[Entry]:
    """Sorts failed entries first, then by SI-SNRi from the lowest, where a doubtful entry without one comes first."""

    def distrust(entry: Entry) -> tuple[float | str, ...]:
        unknown = -math.inf if entry.doubtful else math.inf
        value = unknown if entry.si_snri is None else entry.si_snri
        return (not entry.failed, value, -len(entry.remarks), entry.name)

    return sorted(entries, key=distrust)
