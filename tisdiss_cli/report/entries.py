"""What a folder's record has on each input, as the report wants it."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.results import Row, Sheet
from tisdiss_cli.folder.record import RECORD


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
    """An entry for each input of OUT's record, or of its records where several processes shared the work.

    The last line of an input counts.

    Args:
        out: a folder that `tisdiss separate` wrote.
        source: IN, where the record does not say it or its files were moved.

    Raises:
        UserError: there is no record, or nothing in it.
    """
    files = [out / RECORD, *sorted(path for path in out.glob("tisdiss.*.jsonl") if path.name != RECORD)]
    lines: dict[tuple[str, str, int | None], dict[str, Any]] = {}
    makers: dict[str, tuple[str, str, int | None]] = {}  # of each output, the input whose voices it holds
    for path in files:
        try:
            text = path.read_bytes().decode("utf-8", "surrogateescape")
        except OSError:
            continue
        for row in text.split("\n"):
            try:
                line = json.loads(row)
                name, whence = str(line["input"]), str(line.get("path") or "")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue  # torn by a kill while it was written
            channel = _whole(line.get("channel"))
            lines.pop((name, "", channel), None)  # of a time when paths were not kept
            lines[name, whence, channel] = line
            makers |= dict.fromkeys(map(str, _list(line.get("outputs"))), (name, whence, channel))
    if not lines:
        raise UserError(f"{out} has no record {RECORD}: name a folder that `tisdiss separate` wrote")
    below = source.parent if source and source.is_file() else source
    found = {key: _entry(line, below) for key, line in lines.items()}
    # What another recording of the same name has replaced is not there to be heard.
    return [one for key, one in found.items() if all(makers.get(output) == key for output in one.outputs)]


def _entry(line: dict[str, Any], source: Path | None) -> Entry:
    done = line.get("status") != "failed"
    quality = line["quality"] if isinstance(line.get("quality"), dict) else {}
    low, high = _number(quality.get("low")), _number(quality.get("high"))
    warnings = tuple(map(str, _list(line.get("warnings"))))
    return Entry(
        name=str(line["input"]),
        status="done" if done else "failed",
        channel=_whole(line.get("channel")),
        mixture=source / str(line["input"]) if source else _mixture(line),
        outputs=tuple(map(str, _list(line.get("outputs")))),
        remarks=warnings if done else (str(line.get("reason") or "failed"), *warnings),
        repeats=_number(line.get("repeats")),
        seconds=_number(line.get("audio_seconds")) or 0.0,
        elapsed=_number(line.get("elapsed_seconds")) or 0.0,
        settings=line["settings"] if isinstance(line.get("settings"), dict) else {},
        si_snri=_number(quality.get("si_snri")),
        band=(low, high) if low is not None and high is not None else None,
        worst=_span(quality.get("worst")),
        seams=_seams(line, warnings),
        segments=tuple(one for one in _list(line.get("segments")) if isinstance(one, str)),
        speech_seconds=_sum(line.get("speech_seconds")),
        overlap_seconds=_sum(line.get("overlap_seconds")),
        talkers=_whole(line.get("talkers")),
        doubtful=done and bool(warnings or line.get("doubtful")),
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _sum(value: Any) -> float | None:
    """Of one number, or of one for each voice."""
    found = [number for one in (value if isinstance(value, list) else [value]) if (number := _number(one)) is not None]
    return sum(found) if found else None


def _mixture(line: dict[str, Any]) -> Path | None:
    if isinstance(line.get("path"), str) and line["path"]:
        return Path(line["path"])
    if isinstance(line.get("root"), str) and line["root"]:
        return Path(line["root"]) / str(line["input"])
    return None


def _span(value: Any) -> tuple[float, float] | None:
    """`{"from", "to"}` in seconds."""
    start, end = (_number(value.get(key)) if isinstance(value, dict) else None for key in ("from", "to"))
    return (start, end) if start is not None and end is not None else None


def _seams(line: dict[str, Any], warnings: Sequence[str]) -> tuple[float, ...]:
    """From a field, else from the sentence about them, which names the first few."""
    given = [number for one in _list(line.get("seams")) if (number := _number(one)) is not None]
    if not given:
        told = [re.search(r"swapped from (.*?) on\b", sentence) for sentence in warnings]
        given = [float(at) for found in told if found for at in re.findall(r"(\d+(?:\.\d+)?) s\b", found[1])]
    return tuple(given)


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
