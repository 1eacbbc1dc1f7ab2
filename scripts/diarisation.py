"""Who speaks when, found against true: frame F1, diarisation error rate, and swaps of speakers."""

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor

STEP = 0.01  # seconds; a frame

Segments = Sequence[Sequence[tuple[float, float]]]  # of each voice: (begin, end) in seconds


def as_frames(segments: Segments, seconds: float) -> Tensor:
    """(S, F) bool: who speaks in each hundredth of a second."""
    found = torch.zeros(len(segments), round(seconds / STEP), dtype=torch.bool)
    for row, voice in zip(found, segments, strict=True):
        for begin, end in voice:
            row[round(begin / STEP) : round(end / STEP)] = True
    return found


def frame_f1(found: Tensor, true: Tensor) -> float:
    """Of (S, F) against (S, F), whose rows belong together; 1 where both say that nobody speaks."""
    both, either = int((found & true).sum()), int(found.sum()) + int(true.sum())
    return 2 * both / either if either else 1.0


def diarisation_error(found: Tensor, true: Tensor) -> float:
    """Missed, false and mistaken speech over all speech, 0 to ..., in the order of `found` that has the least.

    NIST's measure without a forgiving collar: overlap counts once for each who speaks.
    """
    speakers = true.sum(0)
    wrong = [
        int((torch.maximum(found.sum(0), speakers) - (found[list(order)] & true).sum(0)).sum())
        for order in permutations(range(found.shape[0]))
    ]
    return min(wrong) / max(1, int(speakers.sum()))


def swaps(voices: Tensor, references: Tensor, *, sample_rate: int, window: float = 2.0) -> int:
    """How often the order that fits (S, L) to (S, L) best changes from one window to the next that tells one.

    A window, in seconds, tells an order where the best has a tenth of the window's energy over the next.
    """
    size, before, count = round(window * sample_rate), None, 0
    orders = list(permutations(range(len(voices))))
    for voice, reference in zip(voices.split(size, dim=1), references.split(size, dim=1), strict=True):
        products = reference @ voice.T
        totals = torch.stack([products[range(len(order)), order].sum() for order in orders])
        best, second = totals.topk(2).values.tolist()
        if best - second > 0.1 * float((voice.square().sum() * reference.square().sum()).sqrt()) and best > second:
            order = orders[int(totals.argmax())]
            count += before is not None and order != before
            before = order
    return count
