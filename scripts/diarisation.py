"""Who speaks when, found against true: frame F1, diarisation error rate, and swaps of speakers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tisdiss_cli.separation.permutation import best_permutation

STEP = 0.01  # seconds; a frame

Segments = Sequence[Sequence[tuple[float, float]]]  # of each voice: (begin, end) in seconds


def as_frames(segments: Segments, seconds: float) -> Tensor:
    """Returns who speaks in each hundredth of a second, (S, F) bool."""
    found = torch.zeros(len(segments), round(seconds / STEP), dtype=torch.bool)
    for row, voice in zip(found, segments, strict=True):
        for begin, end in voice:
            row[round(begin / STEP) : round(end / STEP)] = True
    return found


def frame_f1(found: Tensor, true: Tensor) -> float:
    """Returns F1 of (S, F) against (S, F), whose rows belong together; 1 where both say that nobody speaks."""
    both, either = int((found & true).sum()), int(found.sum()) + int(true.sum())
    return 2 * both / either if either else 1.0


def diarisation_error(found: Tensor, true: Tensor) -> float:
    """Returns missed, false and mistaken speech over all speech, 0 to ..., in the order of `found` that has the least.

    NIST's measure without a forgiving collar: overlap counts once for each who speaks.
    """
    right = true.float() @ found.float().T  # frames, (S, S)
    order, _ = best_permutation(right)
    either = torch.maximum(found.sum(0), true.sum(0)).sum()
    return float((either - right[range(len(order)), order].sum()) / true.sum().clamp(min=1))


def swaps(voices: Tensor, references: Tensor, *, sample_rate: int, window: float = 2.0) -> int:
    """Counts how often the order that fits (S, L) to (S, L) best changes from one window to the next that tells one.

    A window, in seconds, tells an order where the best has a tenth of the window's energy over the next.
    """
    size, before, count = round(window * sample_rate), None, 0
    for voice, reference in zip(voices.split(size, dim=1), references.split(size, dim=1), strict=True):
        order, lead = best_permutation(reference @ voice.T)
        if lead > 0.1 * float((voice.square().sum() * reference.square().sum()).sqrt()) and lead > 0:
            count += before is not None and order != before
            before = order
    return count
