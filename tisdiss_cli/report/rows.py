"""Rows of the page's data: entries in short form, as there may be ten thousand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tisdiss_cli.report.entries import Entry

# Order of a row's values; run.js turns them into objects.
FIELDS = (
    *("name", "root", "status", "seconds", "elapsed", "repeats", "sisnri", "low", "high"),
    *("settings", "outputs", "remarks", "here", "more"),
)
Pairs = tuple[tuple[str, str], ...]


def settings_table(entries: Sequence[Entry]) -> list[Pairs]:
    """Returns each distinct combination of settings as names and values to show."""
    return list(dict.fromkeys(_pairs(entry) for entry in entries))


def _pairs(entry: Entry) -> Pairs:
    return tuple(
        (name.replace("_", " "), f"{value:g}" if isinstance(value, float) else str(value))
        for name, value in entry.line.settings.items()
        if name != "weights_sha256"
    )


def as_row(entry: Entry, root: int, *, settings: list[Pairs], other: Entry | None) -> list[Any]:
    """Returns the values of FIELDS; `other`: the same input in the folder that the report compares with."""
    line, (low, high) = entry.line, entry.band or (None, None)
    name, worst = root_of(entry)[1], (line.quality or {}).get("worst", {})
    result = _result(entry, settings)
    more = {
        "mixture": name if name != entry.name else None,
        "channel": line.channel,
        "voices": result["voices"],
        "seams": [round(at, 2) for at in line.seams] or None,
        "worst": [_round(worst[end]) for end in ("from", "to")] if {"from", "to"} <= worst.keys() else None,
        "talkers": line.talkers,
        "overlap": _round(line.overlap_seconds),
        "speech": None if line.speech_seconds is None else _round(sum(line.speech_seconds)),
        "other": _result(other, settings) if other else None,
    }
    row = {
        "name": entry.name,
        "root": root,
        "status": 2 if entry.failed else 1 if entry.doubtful else 0,
        "low": _round(low),
        "high": _round(high),
        "remarks": entry.remarks,
        "more": {name: value for name, value in more.items() if value is not None},
        **result,
    }
    return [row[field] for field in FIELDS]


def _result(entry: Entry, settings: list[Pairs]) -> dict[str, Any]:
    """Returns the values that both runs have; `here` has a bit for the mixture and for each output that exists."""
    line = entry.line
    files = [entry.mixture, *(entry.out / output for output in line.outputs)]
    return {
        "seconds": round(line.audio_seconds, 3),
        "elapsed": round(line.elapsed_seconds, 3),
        "repeats": _round(line.repeats),
        "sisnri": _round(entry.si_snri),
        "settings": settings.index(_pairs(entry)),
        "outputs": line.outputs,
        "voices": line.voices if entry.one_file else None,
        "here": sum(1 << bit for bit, path in enumerate(files) if path.is_file()),
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def root_of(entry: Entry) -> tuple[Path, str]:
    """Returns the mixture's root folder and its name below that: the record's name unless a link led to the file."""
    parts = Path(entry.name).parts
    if entry.mixture.parts[-len(parts) :] == parts:
        return Path(*entry.mixture.parts[: -len(parts)]), entry.name
    return entry.mixture.parent, entry.mixture.name
