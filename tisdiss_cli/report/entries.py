"""What a folder's record has on each input, as the report wants it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.results import Row, Sheet
from tisdiss_cli.folder.record import RECORD, Line, read_lines


@dataclass(frozen=True)
class Entry:
    """One input and what became of it; what the record does not have is None or empty."""

    name: str  # as in the record, relative to IN; bytes that are no UTF-8 as surrogates
    status: str  # "done" or "failed"
    channel: int | None = None  # of the mixture, from 1 on, where each was separated by itself
    mixture: Path | None = None  # where the input is, if that is known
    outputs: tuple[str, ...] = ()  # relative to OUT
    remarks: tuple[str, ...] = ()  # why it failed, or its warnings
    repeats: float | None = None
    seconds: float = 0.0  # of audio
    elapsed: float = 0.0  # the network's, in seconds
    settings: dict[str, Any] = field(default_factory=dict)
    si_snri: float | None = None  # dB: predicted, or true once `with_scores` was asked
    band: tuple[float, float] | None = None  # of the prediction
    worst: tuple[float, float] | None = None  # seconds from and to where the prediction is lowest
    seams: tuple[float, ...] = ()  # seconds at which the speakers may be swapped
    segments: tuple[str, ...] = ()  # files of who speaks when, relative to OUT
    speech_seconds: float | None = None  # of all voices together
    overlap_seconds: float | None = None
    talkers: int | None = None
    doubtful: bool = False  # separated, and something is to be said against it

    @property
    def rtf(self) -> float | None:
        """Network seconds for a second of audio."""
        return self.elapsed / self.seconds if self.seconds and self.status == "done" else None


def read_entries(out: Path, source: Path | None = None) -> list[Entry]:
    """Returns an entry for each input of OUT's record; the latest line of an input counts.

    Args:
        out: a folder that `tisdiss separate` wrote.
        source: IN, where the record does not say it or its files were moved.

    Raises:
        UserError: there is no record, or nothing in it, or it cannot be read.
    """
    lines: dict[tuple[str, str, int | None], Line] = {}
    makers: dict[str, tuple[str, str, int | None]] = {}  # of each output, the input whose voices it holds
    for line in read_lines(out):
        lines[line.key] = line
        makers |= dict.fromkeys(line.outputs, line.key)
    if not lines:
        raise UserError(f"{out} has no record {RECORD}: name a folder that `tisdiss separate` wrote")
    below = source.parent if source and source.is_file() else source
    found = {key: _entry(line, below) for key, line in lines.items()}
    # What another recording of the same name has replaced is not there to be heard.
    return [one for key, one in found.items() if all(makers.get(output) == key for output in one.outputs)]


def _entry(line: Line, source: Path | None) -> Entry:
    done, quality = line.status == "done", line.quality or {}
    worst = quality.get("worst") or {}
    return Entry(
        name=line.input,
        status=line.status,
        channel=line.channel,
        mixture=source / line.input if source else Path(line.path),
        outputs=tuple(line.outputs),
        remarks=tuple(line.warnings) if done else (line.reason or "failed", *line.warnings),
        repeats=line.repeats,
        seconds=line.audio_seconds,
        elapsed=line.elapsed_seconds,
        settings=line.settings,
        si_snri=quality.get("si_snri"),
        band=(quality["low"], quality["high"]) if {"low", "high"} <= quality.keys() else None,
        worst=(worst["from"], worst["to"]) if {"from", "to"} <= worst.keys() else None,
        seams=tuple(line.seams),
        segments=tuple(line.segments),
        speech_seconds=None if line.speech_seconds is None else sum(line.speech_seconds),
        overlap_seconds=line.overlap_seconds,
        talkers=line.talkers,
        doubtful=done and bool(line.warnings or line.doubtful),
    )


def read_scores(path: Path) -> dict[str, list[Row]]:
    """The rows of a file that `tisdiss score --csv` wrote, by id; UserError if it is none."""
    if not path.is_file():
        raise UserError(f"--scores {path} does not exist: name a file that `tisdiss score --csv` wrote")
    try:
        rows = Sheet(path).rows
    except UserError:
        rows = []
    if not rows:
        raise UserError(f"--scores {path} holds no scores: name a file that `tisdiss score --csv` wrote")
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(row)
    return found


def with_scores(entries: Sequence[Entry], scores: dict[str, list[Row]]) -> list[Entry]:
    """The entries with true SI-SNRi in place of predicted.

    An id is a path without its extension; where the record's names have more folders before it, the end decides. Of
    several settings the entry's own is taken, or the scores of finished estimates.
    """
    scored = []
    for entry in entries:
        stem = Path(entry.name).with_suffix("").as_posix()
        parts = stem.split("/")
        rows = next((rows for i in range(len(parts)) if (rows := scores.get("/".join(parts[i:])))), [])
        fitting = [row for row in rows if row.repeats in (entry.repeats, None)]
        value = fitting[-1].si_snri if fitting else None
        scored.append(replace(entry, si_snri=value, band=None))
    return scored


def worst_first(entries: Sequence[Entry]) -> list[Entry]:
    """Failed ones, then by SI-SNRi from the lowest; without that the doubtful ones first."""

    def distrust(entry: Entry) -> tuple[float | str, ...]:
        unknown = -math.inf if entry.doubtful else math.inf
        value = unknown if entry.si_snri is None else entry.si_snri
        return (entry.status != "failed", value, -len(entry.remarks), entry.name)

    return sorted(entries, key=distrust)
