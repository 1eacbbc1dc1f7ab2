"""Speaker profiles: spectrum and pitch by which the speakers of a recording are recognised.

Two stretches of speech are compared by the likelihood ratio of one speaker against two, in mel-like cepstra and octaves
of pitch. Their spread within and between speakers was measured on the training speech.
"""

from dataclasses import dataclass
from functools import cache
from operator import add

import torch
from torch import Tensor

from tisdiss_cli.separation.permutation import Order, best_permutation

FRAME = 0.032  # seconds
_LEAST = 25  # frames that a profile needs
_MOST = 100  # frames beyond which more speech adds no certainty
_DOMINANT = 4.0  # times the others' power, in a frame that counts for a voice
_AUDIBLE = 1e-3  # of the loudest frame's power

# Variances of cepstra 1 to 12 of four to ten seconds: within a speaker, and between speakers' means
_WITHIN = torch.tensor([0.87, 0.79, 0.47, 0.37, 0.28, 0.31, 0.26, 0.23, 0.25, 0.23, 0.18, 0.17]).square()
_BETWEEN = torch.tensor([2.08, 1.54, 1.07, 0.80, 0.59, 0.49, 0.49, 0.42, 0.51, 0.36, 0.41, 0.37]).square()
# The same for pitch in octaves, from 143 speakers: deviations of 0.7 and 5.3 semitones
_WITHIN_PITCH, _BETWEEN_PITCH = (0.7 / 12) ** 2, (5.3 / 12) ** 2
_PITCH_LIMITS = (-8.0, 3.0)  # of pitch's log likelihood ratio, as an octave error must not decide alone

_LOWEST, _HIGHEST = 65.0, 400.0  # Hz, range of pitch
_VOICED = 0.6  # least autocorrelation of a voiced frame, relative to lag 0
_NEAR = 0.9  # of the highest peak; the shortest lag with such a peak is the period


@dataclass(frozen=True)
class SpeakerProfile:
    """Spectrum and pitch of a speaker, as sums over frames."""

    frames: int
    cepstra: Tensor  # (12,), sum over the frames
    voiced: int  # frames with a pitch
    octaves: float  # sum of log2 of their pitch in Hz

    def __add__(self, other: "SpeakerProfile") -> "SpeakerProfile":
        return SpeakerProfile(*map(add, vars(self).values(), vars(other).values()))


class SpeakerProfiles:
    """Profiles of the speakers of S voices at a rate in Hz, learnt so far, in constant memory."""

    def __init__(self, voices: int, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.learnt: list[SpeakerProfile | None] = [None] * voices

    def profiles(self, voices: Tensor) -> list[SpeakerProfile | None]:
        """Returns the profile of each voice in (S, n), from frames in which it dominates; None for too few frames."""
        size = round(FRAME * self.sample_rate)
        whole = voices[:, : voices.shape[1] // size * size].unflatten(1, (-1, size)).float()  # (S, F, size)
        found: list[SpeakerProfile | None] = [None] * len(voices)
        if not whole.numel():
            return found
        power = whole.square().mean(-1)
        for index, level in enumerate(power):
            others = torch.cat((power[:index], power[index + 1 :])).sum(0)
            frames = whole[index, (level > _DOMINANT * others) & (level > _AUDIBLE * power.max())]
            if len(frames) >= _LEAST:
                cepstra, pitch = _cepstra(frames, self.sample_rate), octaves(frames, self.sample_rate)
                found[index] = SpeakerProfile(len(frames), cepstra.double().sum(0), len(pitch), float(pitch.sum()))
        return found

    def learn(self, profiles: list[SpeakerProfile | None]) -> None:
        """Adds one profile to each voice's."""
        for index, profile in enumerate(profiles):
            if profile:
                before = self.learnt[index]
                self.learnt[index] = before + profile if before else profile

    def order(self, profiles: list[SpeakerProfile | None], before: Order, stays: float) -> tuple[Order, float]:
        """Returns the most likely order of the voices, and its lead in log likelihood over the next.

        `stays` is the prior log odds of the order `before`.
        """
        ratios = [[_ratio(learnt, profile) for profile in profiles] for learnt in self.learnt]
        return best_permutation(torch.tensor(ratios, dtype=torch.float64), {before: stays})


def _ratio(one: SpeakerProfile | None, other: SpeakerProfile | None) -> float:
    """Returns the log likelihood ratio of one speaker against two; 0 if either profile is missing."""
    if not one or not other:
        return 0.0
    spread = _WITHIN * (_uncertainty(one.frames) + _uncertainty(other.frames))
    ratio = _of_one_speaker(one.cepstra / one.frames - other.cepstra / other.frames, spread, _BETWEEN).sum()
    if min(one.voiced, other.voiced) >= _LEAST:
        spread = torch.tensor(_WITHIN_PITCH * (_uncertainty(one.voiced) + _uncertainty(other.voiced)))
        apart = torch.tensor(one.octaves / one.voiced - other.octaves / other.voiced)
        ratio = ratio + _of_one_speaker(apart, spread, torch.tensor(_BETWEEN_PITCH)).clamp(*_PITCH_LIMITS)
    return float(ratio)


def _of_one_speaker(difference: Tensor, spread: Tensor, between: Tensor) -> Tensor:
    """Returns log likelihood ratios for differences with variance `spread` within a speaker."""
    apart = spread + 2 * between
    return 0.5 * difference.square() * (1 / apart - 1 / spread) + 0.5 * (apart / spread).log()


def _uncertainty(frames: int) -> float:
    """Returns the variance of a mean over `frames` frames, relative to a few seconds of speech."""
    return 0.5 if frames > _MOST else 0.3 + 0.7 * _MOST / frames


def _cepstra(frames: Tensor, sample_rate: int) -> Tensor:
    """Returns the cepstra (F, 12) of frames (F, n)."""
    spectra = torch.fft.rfft(frames * torch.hann_window(frames.shape[1])).abs().square()
    bands, cosines = _bases(frames.shape[1], sample_rate)
    return (spectra @ bands + 1e-9).log() @ cosines


@cache
def _bases(size: int, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Returns triangular bands from 100 to 3800 Hz (size / 2 + 1, 20) and the cosine transform (20, 12)."""
    high = torch.logspace(3, torch.tensor(3800.0).log10().item(), 12)[1:]
    edges = torch.cat((torch.linspace(100, 1000, 11), high))
    low, middle, up = (edges[start : len(edges) - 2 + start, None] for start in range(3))
    hertz = torch.fft.rfftfreq(size, 1 / sample_rate)
    bands = torch.minimum((hertz - low) / (middle - low), (up - hertz) / (up - middle)).clamp_min(0)
    steps = torch.arange(len(bands))[:, None] + 0.5
    cosines = (torch.pi / len(bands) * steps * torch.arange(1, len(_WITHIN) + 1)).cos() * (2 / len(bands)) ** 0.5
    return bands.T.contiguous(), cosines


def octaves(frames: Tensor, sample_rate: int) -> Tensor:
    """Returns log2 of the pitch in Hz (V,) of the voiced frames among (F, n), n at least 30 ms.

    By the autocorrelation of a windowed frame over that of its window (P. Boersma, 1993), from 65 to 400 Hz.
    """
    shortest, longest = _lags(frames.shape[-1], sample_rate)
    ratio = _periodicity(frames)
    heights = ratio[:, shortest : longest + 1]
    peaks = (heights >= ratio[:, shortest - 1 : longest]) & (heights >= ratio[:, shortest + 1 : longest + 2])
    highest = torch.where(peaks, heights, 0.0).amax(1)
    lags = (peaks & (heights >= _NEAR * highest[:, None])).int().argmax(1) + shortest
    return (sample_rate / lags[highest > _VOICED].float()).log2()


def periodicity(frames: Tensor, sample_rate: int) -> Tensor:
    """Returns the highest autocorrelation of frames (..., n) from 65 to 400 Hz, 0 to 1."""
    shortest, longest = _lags(frames.shape[-1], sample_rate)
    return _periodicity(frames)[..., shortest : longest + 1].amax(-1)


def _lags(size: int, sample_rate: int) -> tuple[int, int]:
    """Returns the shortest and the longest period, in samples, that a frame can show."""
    return int(sample_rate / _HIGHEST), min(int(sample_rate / _LOWEST), size - 2)


def _periodicity(frames: Tensor) -> Tensor:
    """Returns the autocorrelation (..., n) of windowed frames (..., n), divided by their window's."""
    size = frames.shape[-1]
    return _autocorrelation((frames - frames.mean(-1, keepdim=True)) * torch.hann_window(size)) / _of_window(size)


def _autocorrelation(x: Tensor) -> Tensor:
    """Returns the autocorrelation (..., n) of x (..., n), 1 at lag 0."""
    size = x.shape[-1]
    whole = torch.fft.irfft(torch.fft.rfft(x, 2 * size).abs().square(), 2 * size)[..., :size]
    return whole / whole[..., :1].clamp_min(1e-12)


@cache
def _of_window(size: int) -> Tensor:
    return _autocorrelation(torch.hann_window(size)[None])[0].clamp_min(0.05)
