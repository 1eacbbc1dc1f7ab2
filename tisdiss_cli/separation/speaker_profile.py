"""Speaker profiles: the spectrum and pitch of each voice of a recording, by which it is known again.

Two stretches are compared by the likelihood ratio of one speaker against two, in mel-like cepstra and in octaves of
pitch, whose spread within a speaker and between speakers was measured on the training speech.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from tisdiss_cli.separation.permutation import Order, best_permutation

FRAME = 0.032  # seconds
_LEAST = 25  # frames of a stretch that says anything
_MOST = 100  # frames after which more of the same text says no more
_DOMINANT = 4.0  # times the power of the others, in a frame that is a voice's own
_HEARD = 1e-3  # of the loudest frame

# Standard deviations of cepstra 1 to 12 of four to ten seconds: within a speaker, and of the speakers' means
_WITHIN = torch.tensor([0.87, 0.79, 0.47, 0.37, 0.28, 0.31, 0.26, 0.23, 0.25, 0.23, 0.18, 0.17]).square()
_BETWEEN = torch.tensor([2.08, 1.54, 1.07, 0.80, 0.59, 0.49, 0.49, 0.42, 0.51, 0.36, 0.41, 0.37]).square()
# The same of the pitch, in octaves, of 143 speakers: 0.7 and 5.3 semitones
_WITHIN_PITCH, _BETWEEN_PITCH = (0.7 / 12) ** 2, (5.3 / 12) ** 2
_PITCH_SAYS = (-8.0, 3.0)  # at most: an octave's error must not decide alone

_LOWEST, _HIGHEST = 65.0, 400.0  # Hz, of pitch
_VOICED = 0.6  # of the autocorrelation at lag 0
_NEAR = 0.9  # of the highest peak: the shortest lag this high is taken, not a multiple of it


@dataclass(frozen=True)
class SpeakerProfile:
    """Spectrum and pitch of one voice, as sums over its frames, which add up."""

    frames: int
    cepstra: Tensor  # (12,)
    voiced: int  # frames that have a pitch
    octaves: float

    def __add__(self, other: "SpeakerProfile") -> "SpeakerProfile":
        return SpeakerProfile(
            self.frames + other.frames,
            self.cepstra + other.cepstra,
            self.voiced + other.voiced,
            self.octaves + other.octaves,
        )


class SpeakerProfiles:
    """Profiles of S voices at a rate in Hz so far; as large after a day as after a minute."""

    def __init__(self, voices: int, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.known: list[SpeakerProfile | None] = [None] * voices

    def profiles(self, voices: Tensor) -> list[SpeakerProfile | None]:
        """Returns the profile of each of (S, n), from the frames that are its own; None where there are too few."""
        size = round(FRAME * self.sample_rate)
        whole = voices[:, : voices.shape[1] // size * size].unflatten(1, (-1, size)).float()  # (S, F, size)
        found: list[SpeakerProfile | None] = [None] * len(voices)
        if not whole.numel():
            return found
        power = whole.square().mean(-1)
        for index, own in enumerate(power):
            others = torch.cat((power[:index], power[index + 1 :])).sum(0)
            frames = whole[index, (own > _DOMINANT * others) & (own > _HEARD * power.max())]
            if len(frames) >= _LEAST:
                cepstra, pitch = _cepstra(frames, self.sample_rate), octaves(frames, self.sample_rate)
                found[index] = SpeakerProfile(len(frames), cepstra.double().sum(0), len(pitch), float(pitch.sum()))
        return found

    def learn(self, profiles: list[SpeakerProfile | None]) -> None:
        """Adds the profile of each voice, in this order."""
        for index, profile in enumerate(profiles):
            if profile:
                known = self.known[index]
                self.known[index] = known + profile if known else profile

    def order(self, profiles: list[SpeakerProfile | None], before: Order, stays: float) -> tuple[Order, float]:
        """Returns the order that brings the voices to those known, and its lead in log likelihood over the next.

        `stays` is what speaks for the order `before` already.
        """
        ratios = [[_ratio(known, profile) for profile in profiles] for known in self.known]
        return best_permutation(torch.tensor(ratios, dtype=torch.float64), {before: stays})


def _ratio(one: SpeakerProfile | None, other: SpeakerProfile | None) -> float:
    """Returns the log likelihood of one speaker over two; 0 where either is unknown."""
    if not one or not other:
        return 0.0
    spread = _WITHIN * (_uncertainty(one.frames) + _uncertainty(other.frames))
    ratio = _of_one_speaker(one.cepstra / one.frames - other.cepstra / other.frames, spread, _BETWEEN).sum()
    if min(one.voiced, other.voiced) >= _LEAST:
        spread = torch.tensor(_WITHIN_PITCH * (_uncertainty(one.voiced) + _uncertainty(other.voiced)))
        apart = torch.tensor(one.octaves / one.voiced - other.octaves / other.voiced)
        ratio = ratio + _of_one_speaker(apart, spread, torch.tensor(_BETWEEN_PITCH)).clamp(*_PITCH_SAYS)
    return float(ratio)


def _of_one_speaker(difference: Tensor, spread: Tensor, between: Tensor) -> Tensor:
    """Returns the log likelihood ratio of differences whose variance is `spread` within a speaker."""
    apart = spread + 2 * between
    return 0.5 * difference.square() * (1 / apart - 1 / spread) + 0.5 * (apart / spread).log()


def _uncertainty(frames: int) -> float:
    """Returns the variance of a mean of `frames` frames, over that of a few seconds."""
    return 0.5 if frames > _MOST else 0.3 + 0.7 * _MOST / frames


def _cepstra(frames: Tensor, sample_rate: int) -> Tensor:
    """Returns the cepstra (F, 12) of frames (F, n)."""
    spectra = torch.fft.rfft(frames * torch.hann_window(frames.shape[1])).abs().square()
    bands, cosines = _bases(frames.shape[1], sample_rate)
    return (spectra @ bands + 1e-9).log() @ cosines


@cache
def _bases(size: int, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Returns triangles from 100 to 3800 Hz, narrow below 1 kHz, (size / 2 + 1, 20), and their cosines (20, 12)."""
    high = torch.logspace(3, torch.tensor(3800.0).log10().item(), 12)[1:]
    edges = torch.cat((torch.linspace(100, 1000, 11), high))
    low, middle, up = (edges[start : len(edges) - 2 + start, None] for start in range(3))
    hertz = torch.fft.rfftfreq(size, 1 / sample_rate)
    bands = torch.minimum((hertz - low) / (middle - low), (up - hertz) / (up - middle)).clamp_min(0)
    steps = torch.arange(len(bands))[:, None] + 0.5
    cosines = (torch.pi / len(bands) * steps * torch.arange(1, len(_WITHIN) + 1)).cos() * (2 / len(bands)) ** 0.5
    return bands.T.contiguous(), cosines


def octaves(frames: Tensor, sample_rate: int) -> Tensor:
    """Returns log2 of the pitch in Hz (V,) of those of frames (F, n) that are voiced; n is 30 ms or more.

    The autocorrelation of a windowed frame over that of its window (P. Boersma, 1993), from 65 to 400 Hz.
    """
    shortest, longest = _lags(frames.shape[-1], sample_rate)
    ratio = _periodicity(frames)
    heights = ratio[:, shortest : longest + 1]
    peaks = (heights >= ratio[:, shortest - 1 : longest]) & (heights >= ratio[:, shortest + 1 : longest + 2])
    highest = torch.where(peaks, heights, 0.0).amax(1)
    lags = (peaks & (heights >= _NEAR * highest[:, None])).int().argmax(1) + shortest
    return (sample_rate / lags[highest > _VOICED].float()).log2()


def periodicity(frames: Tensor, sample_rate: int) -> Tensor:
    """Returns how periodic frames (..., n) are: their highest autocorrelation from 65 to 400 Hz, 0 to 1."""
    shortest, longest = _lags(frames.shape[-1], sample_rate)
    return _periodicity(frames)[..., shortest : longest + 1].amax(-1)


def _lags(size: int, sample_rate: int) -> tuple[int, int]:
    """Returns the shortest and the longest period, in samples, of which a frame tells."""
    return int(sample_rate / _HIGHEST), min(int(sample_rate / _LOWEST), size - 2)


def _periodicity(frames: Tensor) -> Tensor:
    """Returns the autocorrelation (..., n) of windowed frames (..., n) over that of their window."""
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
