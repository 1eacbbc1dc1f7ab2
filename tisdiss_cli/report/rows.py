"""Entries as the page's scripts read them: short rows, for there may be ten thousand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tisdiss_cli.report.entries import Entry

# What a row has, in this order; shared.js makes objects of them. Outputs are written as how many characters they share
# with the name, and what follows.
FIELDS = (
    *("name", "root", "status", "seconds", "elapsed", "repeats", "sisnri", "low", "high"),
    *("settings", "outputs", "remarks", "here", "more"),
)
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Other:
    """The same input in the folder that the report is against."""

    out: Path
    entry: Entry


def settings_table(entries: Sequence[Entry]) -> list[Pairs]:
    """Lists every combination of settings that there is, once, each as names and values to show."""
    return list(dict.fromkeys(_pairs(entry) for entry in entries))


def _pairs(entry: Entry) -> Pairs:
    known = {name: value for name, value in entry.line.settings.items() if name != "weights_sha256"}
    return tuple(
        (name.replace("_", " "), f"{value:g}" if isinstance(value, float) else str(value))
        for name, value in known.items()
    )


def as_row(entry: Entry, root: int, *, settings: list[Pairs], out: Path, other: Other | None) -> list[Any]:
    """Returns the values of FIELDS; `here` has a bit for the mixture and each output that is on the disk."""
    line, (low, high) = entry.line, entry.band or (None, None)
    name, worst = root_of(entry)[1], (line.quality or {}).get("worst", {})
    more = {
        "mixture": name if name != entry.name else None,
        "channel": line.channel,
        "seams": [round(at, 2) for at in line.seams] or None,
        "worst": [_round(worst[end]) for end in ("from", "to")] if {"from", "to"} <= worst.keys() else None,
        "talkers": line.talkers,
        "overlap": _round(line.overlap_seconds),
        "speech": None if line.speech_seconds is None else _round(sum(line.speech_seconds)),
        "other": _other_run(entry, other, settings) if other else None,
    }
    return [
        entry.name,
        root,
        2 if entry.failed else 1 if entry.doubtful else 0,
        round(line.audio_seconds, 3),
        round(line.elapsed_seconds, 3),
        _round(line.repeats),
        _round(entry.si_snri),
        _round(low),
        _round(high),
        settings.index(_pairs(entry)),
        _shared(entry.name, line.outputs),
        entry.remarks,
        _here(entry, out),
        {name: value for name, value in more.items() if value is not None},
    ]


def _other_run(entry: Entry, other: Other, settings: list[Pairs]) -> dict[str, Any]:
    line = other.entry.line
    return {
        "repeats": line.repeats,
        "sisnri": _round(other.entry.si_snri),
        "seconds": round(line.audio_seconds, 3),
        "elapsed": round(line.elapsed_seconds, 3),
        "settings": settings.index(_pairs(other.entry)),
        "outputs": _shared(entry.name, line.outputs),
        "here": _here(other.entry, other.out),
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _shared(name: str, outputs: Sequence[str]) -> list[int | str]:
    found: list[int | str] = []
    for output in outputs:
        pairs = enumerate(zip(name, output, strict=False))
        length = next((at for at, (one, other) in pairs if one != other), min(len(name), len(output)))
        found += [_units(output[:length]), output[length:]]
    return found


def _units(text: str) -> int:
    """Counts as JavaScript does."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def root_of(entry: Entry) -> tuple[Path, str]:
    """Returns the folder that the mixture is below, and its name there: the record's unless a link led to it."""
    parts = Path(entry.name).parts
    if entry.mixture.parts[-len(parts) :] == parts:
        return Path(*entry.mixture.parts[: -len(parts)]), entry.name
    return entry.mixture.parent, entry.mixture.name


def _here(entry: Entry, out: Path) -> int:
    files = [entry.mixture, *(out / output for output in entry.line.outputs)]
    return sum(1 << bit for bit, path in enumerate(files) if path.is_file())
