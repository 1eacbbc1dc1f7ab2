"""How much speaks for a voice's own speech: what the detector hears, and the voice's level against the others'.

A separated voice holds a quiet copy of the others where it should be silent, and a detector calls that speech. So both
must agree: the detector, and the voice's level over a quarter of a second and over a second to both sides.
"""

import torch
from torch import Tensor

NEAR, FAR = 8, 31  # windows to both sides that the levels are means of
_FLOOR = 1e-9  # mean square, below 16 bits' last one
_WIDEST = 20.0  # dB between levels that count
_KNEE = 8.0  # dB from which on a difference counts otherwise

# Log odds that what the detector calls speech is a voice's own, for each dB over the loudest other voice: of the near
# level up to the knee and beyond it, of the far level likewise, and a constant. A logistic regression on conversations
# of validation speech, as the bundled weights separate them and with the references leaking by 14, 22 and 30 dB.
WEIGHTS = (0.04, 0.2, 0.2, 0.03, 0.95)


def log_odds(probability: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """(S, m) each, the last two mean squares -> (S, m): the lower of what the detector and the levels say."""
    detector = torch.logit(probability.clamp(1e-4, 1 - 1e-4))
    levels = torch.full_like(detector, WEIGHTS[-1])
    for power, (below, beyond) in ((near, WEIGHTS[:2]), (far, WEIGHTS[2:4])):
        difference = _against_others(power)
        bent = difference.clamp(-_KNEE, _KNEE)
        levels = levels + below * bent + beyond * (difference - bent)
    return torch.minimum(detector, levels)


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

    def __init__(self, voices: int) -> None:
        # Rows: probability of each, mean square of each, and whether the window is within the recording.
        self.buffer = torch.zeros(2 * voices + 1, FAR)

    def push(self, probability: Tensor, power: Tensor) -> Tensor:
        """Adds windows (S, m), mean squares the second; returns the log odds (S, k) that are final."""
        known = torch.ones(1, probability.shape[1])
        return self._advance(torch.cat((probability, power, known)))

    def finish(self) -> Tensor:
        """The log odds (S, k) of the last windows."""
        return self._advance(torch.zeros(self.buffer.shape[0], FAR))

    def _advance(self, rows: Tensor) -> Tensor:
        self.buffer = torch.cat((self.buffer, rows), dim=1)
        ready = self.buffer.shape[1] - 2 * FAR
        voices = (self.buffer.shape[0] - 1) // 2
        if ready <= 0:
            return torch.zeros(voices, 0)
        part, self.buffer = self.buffer[:, : ready + 2 * FAR], self.buffer[:, ready:].clone()
        means = []
        for side in (NEAR, FAR):
            sums = part[voices:, FAR - side : FAR + ready + side].unfold(1, 2 * side + 1, 1).sum(-1)
            means.append(sums[:-1] / sums[-1].clamp_min(1))
        return log_odds(part[:voices, FAR : FAR + ready], *means)
