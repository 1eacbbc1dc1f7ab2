"""Fades a voice out where only another one talks."""

import math

import torch
from torch import Tensor

from tisdiss_cli.activity.vad import WINDOW_SECONDS

CLOSES = -2.2  # log odds of own speech below which a voice is faded out while another one speaks
REACH = 5  # windows by which it is open before its speech, and after


class Gate:
    """Voices and their log odds in, in any portions; gated voices out as soon as what follows is known.

    Where nobody speaks nothing changes, and before anybody has spoken all are open. A fade is a raised cosine of one
    window, from the middle of one to the middle of the next.

    Args:
        voices: S.
        sample_rate: Hz.
    """

    def __init__(self, voices: int, sample_rate: int) -> None:
        self.window = WINDOW_SECONDS * sample_rate
        self.samples = torch.zeros(voices, 0)
        self.sent = 0  # samples
        self.open = torch.ones(voices, dtype=torch.bool)  # the newest window's
        # From REACH windows before the next gain on: whether the voice speaks, and whether it is left open
        self.raw = torch.zeros(2, voices, REACH, dtype=torch.bool)
        self.gains = torch.zeros(voices, 0)  # from the window `first` on
        self.first = 0

    def push(self, voices: Tensor, odds: Tensor) -> Tensor:
        """Adds samples (S, n) and windows (S, m); returns the gated samples (S, k) that are final."""
        self.samples = torch.cat((self.samples, voices), dim=1)
        if odds.shape[1]:
            self._decide(odds)
        known = self.first + self.gains.shape[1]  # windows
        return self._send(math.floor((known - 0.5) * self.window) - self.sent)

    def finish(self) -> Tensor:
        """What is left, (S, k); all windows must have been pushed."""
        self.raw = torch.nn.functional.pad(self.raw, (0, REACH))
        self._dilate()
        left = self.samples.shape[1]
        return self._send(left)  # beyond the last window its gain goes on

    def _decide(self, odds: Tensor) -> None:
        spoken = (odds > 0).any(0)
        wanted = odds >= CLOSES
        states = []
        for index, somebody in enumerate(spoken.tolist()):
            if somebody:
                self.open = wanted[:, index]
            states.append(self.open)
        decided = torch.stack((wanted & spoken, torch.stack(states, dim=1)))
        self.raw = torch.cat((self.raw, decided), dim=-1)
        self._dilate()

    def _dilate(self) -> None:
        """Turns the decisions that have REACH windows after them into gains."""
        if self.raw.shape[-1] <= 2 * REACH:
            return
        near_speech = self.raw[0].unfold(1, 2 * REACH + 1, 1).any(-1)
        wide = near_speech | self.raw[1, :, REACH:-REACH]
        self.gains = torch.cat((self.gains, wide.float()), dim=1)
        self.raw = self.raw[..., wide.shape[1] :]

    def _send(self, count: int) -> Tensor:
        count = max(0, min(count, self.samples.shape[1]))
        if count == 0:
            return self.samples[:, :0]
        place = (torch.arange(self.sent, self.sent + count, dtype=torch.float64) + 0.5) / self.window - 0.5
        left = place.floor()
        rise = (1 - ((place - left) * torch.pi).cos()).float() / 2
        index = left.long() - self.first
        before, after = (self.gains[:, (index + step).clamp(0, self.gains.shape[1] - 1)] for step in (0, 1))
        out = self.samples[:, :count] * (before + rise * (after - before))
        self.samples, self.sent = self.samples[:, count:].clone(), self.sent + count
        spare = max(0, math.floor(self.sent / self.window - 0.5) - self.first)
        spare = min(spare, self.gains.shape[1] - 1)
        self.gains, self.first = self.gains[:, spare:], self.first + spare
        return out
