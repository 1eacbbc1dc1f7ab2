"""How much speaks for a voice's own speech: what the detector hears, its level, how like others it is.

A separated voice holds a quiet copy of the others where it should be silent, and a detector calls that speech. So both
must agree: the detector, and what the voices are side by side: levels over a quarter of a second and over a second to
both sides, and how alike their spectra come and go within that quarter. A copy is quieter and alike; two people who
talk at once may be as far apart in level, but not alike.
"""

import torch
from torch import Tensor

NEAR, FAR = 8, 31  # windows to both sides that the levels are means of
_FLOOR = 1e-9  # mean square, below 16 bits' last one
_WIDEST = 20.0  # dB between levels that count
_KNEE = 8.0  # dB from which on a difference counts otherwise

# Log odds that what the detector calls speech is a voice's own, for each dB over the loudest other voice: of the near
# level up to the knee and beyond it, of the far level likewise; for the spectral correlation; and a constant. A
# logistic regression on validation speech: conversations and mixtures as the bundled weights separate them, and
# conversations whose references leak by 14, 22 and 30 dB.
WEIGHTS = (0.11, 0.15, 0.12, 0.12, -3.7, 3.7)


def log_odds(probability: Tensor, near: Tensor, far: Tensor, alike: Tensor) -> Tensor:
    """(S, m) each, near and far mean squares, `alike` of -1 to 1 -> (S, m): the lower of detector and comparison."""
    detector = torch.logit(probability.clamp(1e-4, 1 - 1e-4))
    own = WEIGHTS[-1] + WEIGHTS[-2] * alike
    for power, (below, beyond) in ((near, WEIGHTS[:2]), (far, WEIGHTS[2:4])):
        difference = _against_others(power)
        bent = difference.clamp(-_KNEE, _KNEE)
        own = own + below * bent + beyond * (difference - bent)
    return torch.minimum(detector, own)


def compressed_spectra(windows: Tensor) -> Tensor:
    """(S, m, n) samples -> (S, F, m): roots of the magnitudes, so that weak partials count too."""
    spectra = torch.fft.rfft(windows * torch.hann_window(windows.shape[-1]))
    return spectra.abs().sqrt().transpose(1, 2)


def spectral_correlation(spectra: Tensor, known: Tensor) -> Tensor:
    """How alike each voice and the one most like it come and go: correlation over time, all frequencies together.

    Args:
        spectra: (S, F, m + 2 NEAR), compressed; zero where nothing is known.
        known: (m + 2 NEAR,), 1 or 0.

    Returns:
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


def _against_others(power: Tensor) -> Tensor:
    """dB over the loudest other voice, (S, m) -> (S, m); a voice alone is as loud as can be."""
    if power.shape[0] == 1:
        return torch.full_like(power, _WIDEST)
    first, second = power.topk(2, dim=0).values
    others = torch.where(power == first, second, first)
    return (10 * ((power + _FLOOR) / (others + _FLOOR)).log10()).clamp(-_WIDEST, _WIDEST)


class Evidence:
    """Windows of S voices in, log odds of own speech out, FAR windows later.

    Beyond the ends of the recording nothing is known, and the means are of what there is.
    """

    def __init__(self, voices: int, window: int) -> None:
        self.voices = voices
        # Rows: probability of each, mean square of each, whether the window is within the recording, spectrum of each.
        self.buffer = torch.zeros(voices * (2 + window // 2 + 1) + 1, FAR)

    def push(self, probability: Tensor, windows: Tensor) -> Tensor:
        """Adds m windows: probabilities (S, m), samples (S, m, window); returns the log odds (S, k) that are final."""
        known = torch.ones(1, probability.shape[1])
        spectra = compressed_spectra(windows).flatten(0, 1)
        return self._advance(torch.cat((probability, windows.square().mean(-1), known, spectra)))

    def finish(self) -> Tensor:
        """The log odds (S, k) of the last windows."""
        return self._advance(torch.zeros(self.buffer.shape[0], FAR))

    def _advance(self, rows: Tensor) -> Tensor:
        self.buffer = torch.cat((self.buffer, rows), dim=1)
        ready, voices = self.buffer.shape[1] - 2 * FAR, self.voices
        if ready <= 0:
            return torch.zeros(voices, 0)
        part, self.buffer = self.buffer[:, : ready + 2 * FAR], self.buffer[:, ready:].clone()
        near, far = (self._level(part[:, FAR - side : FAR + ready + side], side) for side in (NEAR, FAR))
        around = part[2 * voices :, FAR - NEAR : FAR + ready + NEAR]
        alike = spectral_correlation(around[1:].unflatten(0, (voices, -1)), around[0])
        return log_odds(part[:voices, FAR : FAR + ready], near, far, alike)

    def _level(self, part: Tensor, side: int) -> Tensor:
        """Mean squares (S, m) over so many windows to both sides, of rows with 2 `side` windows more."""
        sums = part[self.voices : 2 * self.voices + 1].unfold(1, 2 * side + 1, 1).sum(-1)
        return sums[:-1] / sums[-1].clamp_min(1)
