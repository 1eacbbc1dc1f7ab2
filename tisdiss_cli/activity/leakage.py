"""Leakage of one voice into another, told from a voice's own speech.

A separated voice holds a quiet copy of the others where it should be silent, and a detector calls that speech. So both
must agree: the detector, and a comparison of the voices over a quarter of a second and over a second to both sides. A
copy is quieter, its spectrum comes and goes with the other's, and what both are parts of is one voice: as periodic as
speech of one is, and more periodic than what is left of it in each.
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

NEAR, FAR = 8, 31  # windows to both sides that means are of
_FADES = 0.997  # a window; of the loudest so far
FEATURES = (
    "near level against the loudest other's, dB",
    "far level, likewise",
    "spectral correlation with the most alike other",
    "its far mean",
    "near level against the loudest so far of all together, dB",
    "that of the loudest other",
    *(f"{side} periodicity of {whose}" for side in ("near", "far") for whose in ("all together", "own", "the other")),
)
_FLOOR = 1e-9  # mean square, below 16 bits' last one
_WIDEST = 20.0  # dB between levels that count
_LEVELS = (-50.0, 10.0)  # dB against the loudest that count


def log_odds(features: Tensor, layers: Mapping[str, Tensor] | None = None) -> Tensor:
    """Returns the log odds (...) of own speech by FEATURES (..., 12) alone, through `layers` or the fitted ones."""
    layers = layers or _fitted()
    return torch.tanh(features @ layers["weight"].T + layers["bias"]) @ layers["out"] + layers["constant"]


@cache
def _fitted() -> dict[str, Tensor]:
    """Returns the layers that `scripts/fit-activity` has written beside this file."""
    file = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return {name: torch.tensor(values) for name, values in file["layers"].items()}


def compressed_spectra(windows: Tensor) -> Tensor:
    """Returns roots of the magnitudes (S, F, m) of samples (S, m, n), so that weak partials count too."""
    spectra = torch.fft.rfft(windows * torch.hann_window(windows.shape[-1]))
    return spectra.abs().sqrt().transpose(1, 2)


def spectral_correlation(spectra: Tensor, known: Tensor) -> Tensor:
    """Returns how alike each voice and the one most like it come and go: correlation over time, all frequencies as one.

    From compressed spectra (S, F, m + 2 NEAR), zero where nothing is known, and whether it is (m + 2 NEAR,), 1 or 0; to
    (S, m) of -1 to 1; 0 for a voice alone.
    """
    side = 2 * NEAR + 1
    count = known.unfold(0, side, 1).sum(-1).clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        return values.unfold(-1, side, 1).sum(-1) / count

    means = mean(spectra)
    spread = (mean(spectra.square()) - means.square()).sum(1).clamp_min(0).sqrt()
    voices = spectra.shape[0]
    found = torch.full((voices, voices, spread.shape[1]), -1.0)
    for first in range(voices):
        for second in range(first):
            together = (mean(spectra[first] * spectra[second]) - means[first] * means[second]).sum(0)
            alike = together / (spread[first] * spread[second]).clamp_min(_FLOOR)
            found[first, second] = found[second, first] = alike.clamp(-1, 1)
    return found.amax(1) if voices > 1 else torch.zeros_like(spread)


class Around(Stream[[Tensor], Tensor, Tensor]):
    """Columns in, the same with `side` more to both sides out; zeros stand beyond both ends."""

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
        """Returns the last columns, likewise."""
        return self.push(torch.zeros(self.buffer.shape[0], self.side))


class Comparison(Stream[[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]):
    """Windows of S voices in; what the detector heard and FEATURES of each out, NEAR + FAR windows later.

    Beyond the ends of the recording nothing is known, and the means are of what there is.
    """

    def __init__(self, voices: int, window: int, sample_rate: int) -> None:
        self.voices, self.sample_rate = voices, sample_rate
        self.loudest = 0.0
        self.last = torch.zeros(voices + 1, 1, window)
        # Rows: probability of each; mean square of each and of all together; the same times periodicity; the loudest so
        # far; whether the window is within the recording; the spectra of each.
        self.rows = [voices, voices + 1, voices + 1, 1, 1, voices * (window // 2 + 1)]
        self.around = Around(sum(self.rows), NEAR + FAR)

    def push(self, probability: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Adds m windows: probabilities (S, m), samples (S, m, window); returns final (S, k) and (S, k, 12)."""
        heard = torch.cat((windows, windows.sum(0, keepdim=True)))
        power = heard.square().mean(-1)
        before = torch.cat((self.last, heard), dim=1)
        self.last = before[:, -1:].clone()
        periodic = power * periodicity(torch.cat((before[:, :-1], heard), dim=-1), self.sample_rate)
        loudest = list(accumulate(power[-1].tolist(), lambda high, now: max(now, high * _FADES), initial=self.loudest))
        self.loudest = loudest[-1]
        rest = torch.stack((torch.tensor(loudest[1:]), torch.ones(probability.shape[1])))
        rows = torch.cat((probability, power, periodic, rest, compressed_spectra(windows).flatten(0, 1)))
        return self._compared(self.around.push(rows))

    def finish(self) -> tuple[Tensor, Tensor]:
        """Returns those of the last windows, likewise."""
        return self._compared(self.around.finish())

    def _compared(self, part: Tensor) -> tuple[Tensor, Tensor]:
        if not part.shape[1]:
            return torch.zeros(self.voices, 0), torch.zeros(self.voices, 0, len(FEATURES))
        *_, (within,), spectra = part.split(self.rows)
        probability, power, periodic, (loudest,), (known,), _ = part[:, NEAR:-NEAR].split(self.rows)
        alike = known * spectral_correlation(spectra.unflatten(0, (self.voices, -1)), within)
        own = slice(0, self.voices)
        levels, periodicities = [], []
        for side in (NEAR, FAR):
            inner = slice(FAR - side, len(known) - FAR + side)
            sums, weighted, count, likeness = (
                rows[..., inner].unfold(-1, 2 * side + 1, 1).sum(-1) for rows in (power, periodic, known, alike)
            )
            mean = sums / count.clamp_min(1)
            ratio = weighted / sums.clamp_min(_FLOOR)
            other = _loudest_other(mean[own])
            levels.append((mean[own], mean[own].gather(0, other)))
            periodicities += [ratio[-1:].expand(self.voices, -1), ratio[own], ratio[own].gather(0, other)]
            far_alike = likeness / count.clamp_min(1)
        (near, near_other), (far, far_other) = levels
        centre = slice(FAR, -FAR)
        high = loudest[centre]
        features = (
            _decibels(near, near_other).clamp(-_WIDEST, _WIDEST),
            _decibels(far, far_other).clamp(-_WIDEST, _WIDEST),
            alike[:, centre],
            far_alike,
            _decibels(near, high).clamp(*_LEVELS),
            _decibels(near_other, high).clamp(*_LEVELS),
            *periodicities,
        )
        return probability[:, centre], torch.stack(features, dim=-1)


class Evidence(Stream[[Tensor, Tensor], Tensor, Tensor]):
    """Windows of S voices in, log odds of own speech out, NEAR + FAR + NEAR windows later.

    The lower of what the detector says and what the comparison says on the mean of the windows near.
    """

    def __init__(self, voices: int, window: int, sample_rate: int) -> None:
        self.voices = voices
        self.comparison = Comparison(voices, window, sample_rate)
        self.steady = Around(2 * voices + 1, NEAR)  # rows: the detector's, the comparison's, whether there are any

    def push(self, probability: Tensor, windows: Tensor) -> Tensor:
        """Adds m windows: probabilities (S, m), samples (S, m, window); returns the log odds (S, k) that are final."""
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
    """Returns which other voice is the loudest, for powers (S, m); itself where there is none."""
    if power.shape[0] == 1:
        return torch.zeros_like(power, dtype=torch.long)
    first, second = power.topk(2, dim=0).indices
    return torch.where(torch.arange(power.shape[0])[:, None] == first, second, first)


def _decibels(power: Tensor, reference: Tensor) -> Tensor:
    return 10 * ((power + _FLOOR) / (reference + _FLOOR)).log10()
