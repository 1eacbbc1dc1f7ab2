"""Pictures of a file's mixture and voices, and of another run's voices, in an order that matches."""

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from tisdiss_cli.audio.read import AudioError
from tisdiss_cli.errors import UserError
from tisdiss_cli.report.entries import Entry
from tisdiss_cli.report.rows import Other
from tisdiss_cli.report.spectrograms import alike, draw, shown_rate, spectrogram

log = logging.getLogger("tisdiss")


@dataclass
class Tracks:
    """What was drawn of a file."""

    facts: dict[str, Any] = field(default_factory=dict)  # what the page must know of it
    files: set[Path] = field(default_factory=set)


def check_matplotlib() -> None:
    """UserError if it is not there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "the report's pictures need the package matplotlib: pip install 'tisdiss[plot]', or --most 0 for none"
        ) from None


def draw_tracks(out: Path, entry: Entry, *, other: Other | None, folder: Path, number: int) -> Tracks:
    """Draws `folder`/NUMBER-TRACK.webp for each file that can be read; the others are said and left out.

    Track 0 is the mixture, then come the voices, then those of the other run. A network knows no speaker's name, so the
    other's voices may come in another order: `facts["order"]` is the one that looks most alike.
    """
    voices = [out / output for output in entry.outputs]
    others = [other.out / output for output in other.entry.outputs] if other else []
    levels: dict[int, np.ndarray] = {}
    rate = _rate(voices)
    for track, path in enumerate([entry.mixture, *voices, *others]):
        if path is None or rate is None:
            continue
        try:
            chosen = entry.settings.get("track") if track == 0 else None
            channel = entry.channel if track == 0 else None
            levels[track] = spectrogram(path, rate, entry.seconds, track=chosen, channel=channel)
        except AudioError as error:
            log.warning(f"warning: not drawn: {error}")
    if not levels:
        return Tracks()
    paths = {track: folder / f"{number}-{track}.webp" for track in levels}
    draw(list(levels.values()), list(paths.values()))
    facts: dict[str, Any] = {"pictures": [number, *levels], "top": (rate or 0) / 2000}
    if others and len(others) == len(voices) and set(range(1, 2 * len(voices) + 1)) <= set(levels):
        first = len(voices) + 1
        likeness = [[alike(levels[1 + a], levels[first + b]) for b in range(len(others))] for a in range(len(voices))]
        orders = permutations(range(len(others)))
        facts["order"] = max(orders, key=lambda order: sum(likeness[a][b] for a, b in enumerate(order)))
    return Tracks(facts, set(paths.values()))


def _rate(voices: list[Path]) -> int | None:
    for path in voices:
        try:
            return shown_rate(path)
        except AudioError as error:
            log.warning(f"warning: not drawn: {error}")
    return None


def sweep(folder: Path, keep: set[Path]) -> None:
    """Removes pictures of an earlier report."""
    for path in folder.glob("*-*.webp") if folder.is_dir() else ():
        if path not in keep:
            with suppress(OSError):  # gone already, or a program has it open
                path.unlink()
