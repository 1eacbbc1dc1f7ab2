"""Leakage of one voice into another, distinguished from target speech.

Where a separated voice should be silent it holds a quiet copy of the others, which a detector takes for speech. So two
must agree: the detector, and a comparison of the voices over a quarter of a second and over a second to both sides.
Leakage is quieter, its spectrum moves with the other voice's, and the sum of both is as periodic as one talker, and
more periodic than either part.
"""

import json
from collections.abc import Mapping
from functools import cache
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.separation.speaker_profile import periodicity
from tisdiss_cli.stream import Stream

NEAR, FAR = 8, 31  # windows to both sides over which means are taken
_DECAY = 0.997  # of the loudest power so far, each window
FEATURES = (
    "near level against the loudest other's, dB",
    "far level, likewise",
    "spectral correlation with the most similar other",
    "its far mean",
    "near level against the loudest so far of all together, dB",
    "that of the loudest other",
    *(f"{side} periodicity of {whose}" for side in ("near", "far") for whose in ("all together", "own", "the other")),
)
_FLOOR = 1e-9  # mean square below one step of 16 bits
_WIDEST = 20.0  # dB, limit of level differences
_LEVELS = (-50.0, 10.0)  # dB, limits of levels relative to the loudest


def log_odds(features: Tensor, layers: Mapping[str, Tensor] | None = None) -> Tensor:
    """Returns the log odds (...) of target speech from FEATURES (..., 12), by `layers`. Default: the fitted layers."""
    layers = layers or _fitted()
    return torch.tanh(features @ layers["weight"].T + layers["bias"]) @ layers["out"] + layers["constant"]


@cache
def _fitted() -> dict[str, Tensor]:
    """Returns the layers that `scripts/fit-activity` wrote beside this file."""
    file = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return {name: torch.tensor(values) for name, values in file["layers"].items()}


def compressed_spectra(windows: Tensor) -> Tensor:
    """Returns square roots of the magnitudes (S, F, m) of samples (S, m, n), so that weak partials count too."""
    spectra = torch.fft.rfft(windows * torch.hann_window(windows.shape[-1]))
    return spectra.abs().sqrt().transpose(1, 2)


def spectral_correlation(spectra: Tensor, inside: Tensor) -> Tensor:
    """Returns the correlation over time of each voice's spectrum with the most similar other voice's, -1 to 1 (S, m).

    Takes compressed spectra (S, F, m + 2 NEAR), zero outside the recording, and `inside` (m + 2 NEAR,), 1 or 0. A
    single voice gives 0.
    """
    side = 2 * NEAR + 1
    count = inside.unfold(0, side, 1).sum(-1).clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        return values.unfold(-1, side, 1).sum(-1) / count

    means = mean(spectra)
    spread = (mean(spectra.square()) - means.square()).sum(1).clamp_min(0).sqrt()
    voices = spectra.shape[0]
    correlations = torch.full((voices, voices, spread.shape[1]), -1.0)
    for first in range(voices):
        for second in range(first):
            together = (mean(spectra[first] * spectra[second]) - means[first] * means[second]).sum(0)
            correlation = (together / (spread[first] * spread[second]).clamp_min(_FLOOR)).clamp(-1, 1)
            correlations[first, second] = correlations[second, first] = correlation
    return correlations.amax(1) if voices > 1 else torch.zeros_like(spread)


class Around(Stream[[Tensor], Tensor, Tensor]):
    """Columns with `side` columns of context on both sides, zeros beyond the ends."""

    def __init__(self, rows: int, side: int) -> None:
        self.side, self.buffer = side, torch.zeros(rows, side)

    def push(self, columns: Tensor) -> Tensor:
        """Adds (rows, m); returns (rows, k + 2 side) of the k columns that are final, or (rows, 0)."""
        self.buffer = torch.cat((self.buffer, columns), dim=1)
        ready = self.buffer.shape[1] - 2 * self.side
        if ready <= 0:
            return self.buffer[:, :0]
        part, self.buffer = self.buffer[:, : ready + 2 * self.side], self.buffer[:, ready:].clone()
        return part

    def finish(self) -> Tensor:
        """Returns the last columns with their context."""
        return self.push(torch.zeros(self.buffer.shape[0], self.side))


class Comparison(Stream[[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]):
    """Comparison of S voices by windows: yields the detector's probability and FEATURES, NEAR + FAR windows later.

    At the ends of the recording, means are over the windows inside.
    """

    def __init__(self, voices: int, window: int, sample_rate: int) -> None:
        self.voices, self.sample_rate = voices, sample_rate
        self.loudest = 0.0
        self.last = torch.zeros(voices + 1, 1, window)
        # Rows: probability of each voice; mean square of each and of their sum; the same times periodicity; the loudest
        # so far; 1 inside the recording; the spectra of each.
        self.rows = [voices, voices + 1, voices + 1, 1, 1, voices * (window // 2 + 1)]
        self.around = Around(sum(self.rows), NEAR + FAR)

    def push(self, probability: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Adds m windows: probabilities (S, m), samples (S, m, window); returns the final (S, k) and (S, k, 12)."""
        all_voices = torch.cat((windows, windows.sum(0, keepdim=True)))
        power = all_voices.square().mean(-1)
        before = torch.cat((self.last, all_voices), dim=1)
        self.last = before[:, -1:].clone()
        periodic = power * periodicity(torch.cat((before[:, :-1], all_voices), dim=-1), self.sample_rate)
        loudest = list(accumulate(power[-1].tolist(), lambda high, now: max(now, high * _DECAY), initial=self.loudest))
        self.loudest = loudest[-1]
        rest = torch.stack((torch.tensor(loudest[1:]), torch.ones(probability.shape[1])))
        rows = torch.cat((probability, power, periodic, rest, compressed_spectra(windows).flatten(0, 1)))
        return self._compared(self.around.push(rows))

    def finish(self) -> tuple[Tensor, Tensor]:
        """Returns the same for the last windows."""
        return self._compared(self.around.finish())

    def _compared(self, part: Tensor) -> tuple[Tensor, Tensor]:
        if not part.shape[1]:
            return torch.zeros(self.voices, 0), torch.zeros(self.voices, 0, len(FEATURES))
        *_, (within,), spectra = part.split(self.rows)
        probability, power, periodic, (loudest,), (inside,), _ = part[:, NEAR:-NEAR].split(self.rows)
        correlation = inside * spectral_correlation(spectra.unflatten(0, (self.voices, -1)), within)
        voices = slice(0, self.voices)
        levels, periodicities = [], []
        for side in (NEAR, FAR):
            inner = slice(FAR - side, len(inside) - FAR + side)
            sums, weighted, count, correlated = (
                rows[..., inner].unfold(-1, 2 * side + 1, 1).sum(-1) for rows in (power, periodic, inside, correlation)
            )
            mean = sums / count.clamp_min(1)
            ratio = weighted / sums.clamp_min(_FLOOR)
            other = _loudest_other(mean[voices])
            levels.append((mean[voices], mean[voices].gather(0, other)))
            periodicities += [ratio[-1:].expand(self.voices, -1), ratio[voices], ratio[voices].gather(0, other)]
            far_correlation = correlated / count.clamp_min(1)
        (near, near_other), (far, far_other) = levels
        centre = slice(FAR, -FAR)
        high = loudest[centre]
        features = (
            _decibels(near, near_other).clamp(-_WIDEST, _WIDEST),
            _decibels(far, far_other).clamp(-_WIDEST, _WIDEST),
            correlation[:, centre],
            far_correlation,
            _decibels(near, high).clamp(*_LEVELS),
            _decibels(near_other, high).clamp(*_LEVELS),
            *periodicities,
        )
        return probability[:, centre], torch.stack(features, dim=-1)


class Evidence(Stream[[Tensor, Tensor], Tensor, Tensor]):
    """Log odds of target speech in windows of S voices, NEAR + FAR + NEAR windows later.

    The lower of the detector's and of the comparison's, averaged over the NEAR windows.
    """

    def __init__(self, voices: int, window: int, sample_rate: int) -> None:
        self.voices = voices
        self.comparison = Comparison(voices, window, sample_rate)
        self.steady = Around(2 * voices + 1, NEAR)  # rows: the detector's, the comparison's, 1 inside the recording

    def push(self, probability: Tensor, windows: Tensor) -> Tensor:
        """Adds m windows: probabilities (S, m), samples (S, m, window); returns the final log odds (S, k)."""
        return self._both(self.steady.push(self._rows(*self.comparison.push(probability, windows))))

    def finish(self) -> Tensor:
        """Returns the log odds (S, k) of the last windows."""
        last = self.steady.push(self._rows(*self.comparison.finish()))
        return torch.cat((self._both(last), self._both(self.steady.finish())), dim=1)

    def _rows(self, probability: Tensor, features: Tensor) -> Tensor:
        detector = torch.logit(probability.clamp(1e-4, 1 - 1e-4))
        return torch.cat((detector, log_odds(features), torch.ones(1, probability.shape[1])))

    def _both(self, part: Tensor) -> Tensor:
        if not part.shape[1]:
            return torch.zeros(self.voices, 0)
        sums = part[self.voices :].unfold(-1, 2 * NEAR + 1, 1).sum(-1)
        detector = part[: self.voices, NEAR:-NEAR]
        return torch.minimum(detector, sums[:-1] / sums[-1]) if self.voices > 1 else detector


def _loudest_other(power: Tensor) -> Tensor:
    """Returns the index of the loudest other voice for powers (S, m); 0 for a single voice."""
    if power.shape[0] == 1:
        return torch.zeros_like(power, dtype=torch.long)
    first, second = power.topk(2, dim=0).indices
    return torch.where(torch.arange(power.shape[0])[:, None] == first, second, first)


def _decibels(power: Tensor, reference: Tensor) -> Tensor:
    return 10 * ((power + _FLOOR) / (reference + _FLOOR)).log10()
