"""Spectrograms of files of any length in flat memory, on one time axis, as small pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tisdiss_cli.audio.read import Source

COLUMNS, BANDS = 1200, 128
_HIGHEST_RATE = 16_000  # Hz; above 8 kHz there is little of a voice to see
_LONG = 60.0  # seconds from which on frames lie further apart
_RANGE = 70.0  # dB from a file's loudest point to black
_FLOOR = 1e-10


def shown_rate(path: Path) -> int:
    """The rate, in Hz, at which a voice and what stands beside it are looked at; AudioError as `Source`."""
    source = Source(path, _HIGHEST_RATE)
    source.close()
    return min(source.input_rate, _HIGHEST_RATE)


def spectrogram(
    path: Path, rate: int, seconds: float, *, track: int | None = None, channel: int | None = None
) -> np.ndarray:
    """Levels in dB (BANDS, columns), lowest band first, of a file heard at `rate`, Hz, on an axis of `seconds`.

    A column is the maximum over its stretch of time, a band over its frequencies, so that nothing short or narrow is
    lost however far the picture is scaled down. At most COLUMNS columns; the file is streamed, of a damaged one what
    there is. `track` as for `Source`; `channel`, from 1 on, else their average.

    Raises:
        AudioError: as `Source`.
    """
    window = 256 if rate <= 8000 else 512
    hop = window // 8 if seconds <= _LONG else window // 2
    total = max(1, round(seconds * rate))
    columns = max(1, min(COLUMNS, total // hop))
    powers = np.full((columns, BANDS), _FLOOR, np.float32)
    taper = np.hanning(window + 1)[:-1].astype(np.float32)
    rest, start = np.zeros(window // 2, np.float32), 0  # `start`: where the middle of the rest's first frame lies
    wanted = (channel,) if channel else ()
    source = Source(path, rate, track=track, partial=True, wanted=wanted)
    for block in _padded(source, window // 2):
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


def _padded(source: Source, silence: int) -> Iterator[np.ndarray]:
    for block in source.blocks():
        yield block.numpy()
    yield np.zeros(silence, np.float32)


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of two spectrograms of one size, of what is louder than their middle."""
    a, b = (np.maximum(levels - np.median(levels), 0.0) for levels in (one, other))
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm else 0.0


def draw(levels: Sequence[np.ndarray], paths: Sequence[Path]) -> None:
    """Writes each as a WebP picture, all on the scale of the loudest."""
    from matplotlib.image import imsave

    top = max(float(one.max()) for one in levels)
    for one, path in zip(levels, paths, strict=True):
        imsave(
            path,
            one[::-1],
            vmin=top - _RANGE,
            vmax=top,
            cmap="viridis",
            format="webp",
            pil_kwargs={"quality": 70, "method": 4},
        )
