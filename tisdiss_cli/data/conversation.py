"""Windows of conversations: when each voice of a mixture speaks."""

from math import pi

import torch
from torch import Tensor

TURN = (1.0, 10.0)  # seconds, uniform
PAUSE = (0.1, 1.5)  # seconds, uniform
MOST_OVERLAP = 0.8  # of the shorter of two turns; uniform from 0, the same throughout a conversation
SHORTEST = 0.5  # seconds
ALONE = 0.25  # share of windows; with turns alone it would be 1 in 20 of 8 s, too few to learn what one talker is
FADE = 0.01  # seconds


def draw_turns(batch: int, speakers: int, samples: int, sample_rate: int, random: torch.Generator) -> Tensor:
    """Draws the gains of each voice, 0 to 1, in windows of conversations: (batch, speakers, samples).

    The speakers take turns. A turn begins after a pause or, as often, before the one before it has ended, and fades in
    and out. The middle of the window lies in a turn of the first speaker. A voice with less than SHORTEST, or a quarter
    of the window, is silent. In a share of the windows, ALONE, only the first speaker speaks.
    """
    seconds = samples / sample_rate

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, device=random.device, generator=random)

    # Even if all are short and overlap, this many turns on each side reach beyond the window.
    around = int(seconds / 2 / TURN[0] / (1 - MOST_OVERLAP)) + 1
    around += -around % speakers
    length = uniform(*TURN, batch, 2 * around + 1)
    shorter = torch.minimum(length[:, 1:], length[:, :-1])
    pauses = uniform(0, 1, *shorter.shape) < 0.5
    gap = torch.where(pauses, uniform(*PAUSE, *shorter.shape), -uniform(0, MOST_OVERLAP, batch, 1) * shorter)
    begin = torch.nn.functional.pad((length[:, :-1] + gap).cumsum(1), (1, 0))
    middle = begin[:, around] + uniform(0, 1, batch) * length[:, around]
    begin += seconds / 2 - middle[:, None]

    time = torch.arange(samples, device=random.device) / sample_rate
    within = torch.full((batch, speakers, samples), -1.0, device=random.device)  # seconds from the nearer end of a turn
    for turn in range(2 * around + 1):
        first, last = begin[:, turn, None], (begin + length)[:, turn, None]
        voice = within[:, turn % speakers]
        torch.maximum(voice, torch.minimum(time - first, last - time), out=voice)
    gains = (pi / 2 * (within / FADE).clamp(0, 1)).sin().square()
    gains[:, 1:] *= uniform(0, 1, batch, 1, 1) >= ALONE
    return gains * (gains.sum(-1, keepdim=True) / sample_rate >= min(SHORTEST, seconds / 4))
