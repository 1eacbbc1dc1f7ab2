"""Spectrograms of a mixture and its voices as small pictures, in constant memory at any length."""

import logging
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tisdiss_cli.audio.read import AudioError, Source, probe
from tisdiss_cli.audio.write import split_channels
from tisdiss_cli.report.entries import Entry
from tisdiss_cli.separation.permutation import best_permutation

log = logging.getLogger("tisdiss")

COLUMNS, BANDS = 1200, 128
_HIGHEST_RATE = 16_000  # Hz; above 8 kHz there is little of a voice to see
_LONG = 60.0  # seconds; above this, frames are further apart
_RANGE = 70.0  # dB from a file's loudest point to black
_FLOOR = 1e-10


def draw_tracks(entry: Entry, *, other: Entry | None, folder: Path, number: int) -> dict[str, Any]:
    """Draws `folder`/NUMBER-TRACK.webp for each file, and leaves unreadable ones out with a warning.

    Voices that are channels of one file become NUMBER-TRACK.wav too, as a browser cannot play them from there.
    Track 0 is the mixture, then come the voices, then those of the other run. Returns facts for the page; `order` is
    the permutation of the other run's voices whose spectrograms correlate best with these.
    """
    from matplotlib.image import imsave

    line, voices, others = entry.line, entry.voices, other.voices if other else []
    levels: dict[int, np.ndarray] = {}
    rate: int | None = None  # of the first readable voice
    mixture = (entry.mixture, line.channel)
    for track, (path, channel) in [*enumerate(voices, 1), (0, mixture), *enumerate(others, 1 + len(voices))]:
        try:
            rate = rate or min(probe(path).input_rate, _HIGHEST_RATE)
            container = line.settings.get("track") if track == 0 else None
            levels[track] = spectrogram(path, rate, line.audio_seconds, track=container, channel=channel)
        except AudioError as error:
            log.warning(f"warning: not drawn: {error}")
    if rate is None or not levels:
        return {}
    top = max(float(picture.max()) for picture in levels.values())  # all are on the scale of the loudest
    for track, picture in levels.items():
        looks: dict[str, Any] = {"cmap": "viridis", "format": "webp", "pil_kwargs": {"quality": 70, "method": 4}}
        imsave(folder / f"{number}-{track}.webp", picture[::-1], vmin=top - _RANGE, vmax=top, **looks)
    for first, run in ((1, entry), (1 + len(voices), other)):
        if run and run.one_file and first in levels:
            paths = [folder / f"{number}-{track}.wav" for track in range(first, first + run.line.voices)]
            split_channels(run.voices[0][0], paths)
    facts: dict[str, Any] = {"pictures": [number, *sorted(levels)], "top": rate / 2000}
    if others and len(others) == len(voices) and set(range(1, 2 * len(voices) + 1)) <= set(levels):
        rows, columns = ([levels[first + index] for index in range(len(voices))] for first in (1, 1 + len(voices)))
        facts["order"], _ = best_permutation(torch.tensor([[correlation(a, b) for b in columns] for a in rows]))
    return facts


def spectrogram(
    path: Path, rate: int, seconds: float, *, track: int | None = None, channel: int | None = None
) -> np.ndarray:
    """Returns levels in dB (BANDS, at most COLUMNS), lowest band first.

    Takes maxima over time and frequency, so that nothing short or narrow is lost, and streams the file, a damaged one
    as far as it can be read.

    Args:
        path: sound file.
        rate: sampling rate in Hz to read it at.
        seconds: length of the time axis.
        track: as for `Source`, whose errors these are too.
        channel: number of the channel, from 1. Default: the average of all.
    """
    window = 256 if rate <= 8000 else 512
    hop = window // 8 if seconds <= _LONG else window // 2
    total = max(1, round(seconds * rate))
    columns = max(1, min(COLUMNS, total // hop))
    powers = np.full((columns, BANDS), _FLOOR, np.float32)
    taper = np.hanning(window + 1)[:-1].astype(np.float32)
    rest, start = np.zeros(window // 2, np.float32), 0  # `start`: where the middle of the rest's first frame lies
    source = Source(path, rate, track=track, partial=True, selected=(channel,) if channel else ())
    for block in chain((block.numpy() for block in source.blocks()), [np.zeros(window // 2, np.float32)]):
        rest = np.concatenate((rest, block))
        frames = (len(rest) - window) // hop + 1
        if frames < 1:
            continue
        cut = np.lib.stride_tricks.sliding_window_view(rest, window)[::hop][:frames]
        power = np.abs(np.fft.rfft(cut * taper, axis=1)[:, 1:]) ** 2
        power = power.reshape(frames, BANDS, -1).max(axis=2)
        column = np.minimum((start + hop * np.arange(frames)) * columns // total, columns - 1)
        first = np.flatnonzero(np.diff(column, prepend=-1))
        powers[column[first]] = np.maximum(powers[column[first]], np.maximum.reduceat(power, first))
        rest, start = rest[frames * hop :], start + frames * hop
    return 10 * np.log10(powers.T)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the correlation of two spectrograms of one size, above their medians."""
    a, b = (np.maximum(levels - np.median(levels), 0.0) for levels in (one, other))
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm else 0.0
