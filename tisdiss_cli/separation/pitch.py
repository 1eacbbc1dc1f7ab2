"""The pitch of speech, frame by frame, by autocorrelation: what tells voices apart first."""

from functools import cache

import torch
from torch import Tensor

_LOWEST, _HIGHEST = 65.0, 400.0  # Hz
_VOICED = 0.6  # of the autocorrelation at lag 0
_NEAR = 0.9  # of the highest peak: the shortest lag this high is taken, not a multiple of it


def octaves(frames: Tensor, sample_rate: int) -> Tensor:
    """log2 of the pitch in Hz of those of frames (F, n) that are voiced, (V,); n is 30 ms or more.

    The autocorrelation of a windowed frame over that of its window (P. Boersma, 1993), from 65 to 400 Hz.
    """
    size = frames.shape[1]
    shortest, longest = int(sample_rate / _HIGHEST), min(int(sample_rate / _LOWEST), size - 2)
    window = torch.hann_window(size)
    ratio = _autocorrelation((frames - frames.mean(1, keepdim=True)) * window) / _of_window(size)
    heights = ratio[:, shortest : longest + 1]
    peaks = (heights >= ratio[:, shortest - 1 : longest]) & (heights >= ratio[:, shortest + 1 : longest + 2])
    highest = torch.where(peaks, heights, 0.0).amax(1)
    lags = (peaks & (heights >= _NEAR * highest[:, None])).int().argmax(1) + shortest
    return (sample_rate / lags[highest > _VOICED].float()).log2()


def _autocorrelation(x: Tensor) -> Tensor:
    """(F, n) -> (F, n), 1 at lag 0."""
    whole = torch.fft.irfft(torch.fft.rfft(x, 2 * x.shape[1]).abs().square(), 2 * x.shape[1])[:, : x.shape[1]]
    return whole / whole[:, :1].clamp_min(1e-12)


@cache
def _of_window(size: int) -> Tensor:
    return _autocorrelation(torch.hann_window(size)[None])[0].clamp_min(0.05)
