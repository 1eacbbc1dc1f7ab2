"""An entry as the page's scripts read it: short, for there may be ten thousand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tisdiss_cli.activity.formats import read_segments
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
    """Every combination of settings that there is, once, each as names and values to show."""
    return list(dict.fromkeys(_pairs(entry) for entry in entries))


def _pairs(entry: Entry) -> Pairs:
    known = {name: value for name, value in entry.settings.items() if name != "weights_sha256"}
    return tuple((name.replace("_", " "), _short(value)) for name, value in known.items())


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_row(entry: Entry, root: int, *, settings: list[Pairs], out: Path, other: Other | None) -> list[Any]:
    """The values of FIELDS; `here` has a bit for the mixture and then one for each output that is on the disk."""
    low, high = entry.band or (None, None)
    more: dict[str, Any] = {}
    if (name := root_of(entry)[1]) != entry.name:
        more["mixture"] = name
    if entry.channel is not None:
        more["channel"] = entry.channel
    if entry.seams:
        more["seams"] = [round(at, 2) for at in entry.seams]
    if entry.worst:
        more["worst"] = [round(at, 2) for at in entry.worst]
    if entry.talkers is not None:
        more["talkers"] = entry.talkers
    if entry.overlap_seconds is not None:
        more["overlap"] = round(entry.overlap_seconds, 2)
    if entry.speech_seconds is not None:
        more["speech"] = round(entry.speech_seconds, 2)
    if other:
        one = other.entry
        more["other"] = {
            "repeats": one.repeats,
            "sisnri": _round(one.si_snri),
            "seconds": round(one.seconds, 3),
            "elapsed": round(one.elapsed, 3),
            "settings": settings.index(_pairs(one)),
            "outputs": _shared(entry.name, one.outputs),
            "here": _here(one, other.out),
        }
    status = 2 if entry.status == "failed" else 1 if entry.doubtful else 0
    return [
        entry.name,
        root,
        status,
        round(entry.seconds, 3),
        round(entry.elapsed, 3),
        _round(entry.repeats),
        _round(entry.si_snri),
        _round(low),
        _round(high),
        settings.index(_pairs(entry)),
        _shared(entry.name, entry.outputs),
        list(entry.remarks),
        _here(entry, out),
        more,
    ]


def spoken(out: Path, entry: Entry) -> dict[str, Any]:
    """Who speaks when, only for the files that are drawn: it may be long."""
    found = read_segments([out / path for path in entry.segments], len(entry.outputs))
    spans = [[[round(start, 2), round(end, 2)] for start, end in voice] for voice in found]
    return {"spoken": spans} if any(spans) else {}


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
    """Its length as JavaScript counts."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def root_of(entry: Entry) -> tuple[Path | None, str]:
    """The folder that the mixture is below, and its name there: the record's unless a link led to it."""
    if entry.mixture is None:
        return None, entry.name
    parts = Path(entry.name).parts
    if entry.mixture.parts[-len(parts) :] == parts:
        return Path(*entry.mixture.parts[: -len(parts)]), entry.name
    return entry.mixture.parent, entry.mixture.name


def _here(entry: Entry, out: Path) -> int:
    files = [entry.mixture, *(out / output for output in entry.outputs)]
    return sum(1 << bit for bit, path in enumerate(files) if path and path.is_file())
