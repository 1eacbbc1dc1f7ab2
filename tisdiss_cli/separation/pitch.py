"""The pitch of speech, frame by frame, by autocorrelation, and how much there is of it."""

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
    shortest, longest = _lags(frames.shape[-1], sample_rate)
    ratio = _ratio(frames)
    heights = ratio[:, shortest : longest + 1]
    peaks = (heights >= ratio[:, shortest - 1 : longest]) & (heights >= ratio[:, shortest + 1 : longest + 2])
    highest = torch.where(peaks, heights, 0.0).amax(1)
    lags = (peaks & (heights >= _NEAR * highest[:, None])).int().argmax(1) + shortest
    return (sample_rate / lags[highest > _VOICED].float()).log2()


def periodicity(frames: Tensor, sample_rate: int) -> Tensor:
    """How much of frames (..., n) is periodic between 65 and 400 Hz: the highest autocorrelation there, 0 to 1."""
    shortest, longest = _lags(frames.shape[-1], sample_rate)
    return _ratio(frames)[..., shortest : longest + 1].amax(-1)


def _lags(size: int, sample_rate: int) -> tuple[int, int]:
    """The shortest and the longest period, in samples, of which a frame tells."""
    return int(sample_rate / _HIGHEST), min(int(sample_rate / _LOWEST), size - 2)


def _ratio(frames: Tensor) -> Tensor:
    size = frames.shape[-1]
    return _autocorrelation((frames - frames.mean(-1, keepdim=True)) * torch.hann_window(size)) / _of_window(size)


def _autocorrelation(x: Tensor) -> Tensor:
    """(..., n) -> (..., n), 1 at lag 0."""
    size = x.shape[-1]
    whole = torch.fft.irfft(torch.fft.rfft(x, 2 * size).abs().square(), 2 * size)[..., :size]
    return whole / whole[..., :1].clamp_min(1e-12)


@cache
def _of_window(size: int) -> Tensor:
    return _autocorrelation(torch.hann_window(size)[None])[0].clamp_min(0.05)
