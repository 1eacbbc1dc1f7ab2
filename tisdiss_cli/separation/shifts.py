"""Shifts: the mean of several passes over a mixture, each a part of a hop later than the one before.

The position of the frames changes the network's errors, as frames that overlap by half are coarse; the mean has less of
them. The word is demucs', for another length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from tisdiss_cli.model.network import Estimate, TISDiSS
from tisdiss_cli.separation.permutation import best_permutation


def shifted_estimates(
    network: TISDiSS, mixtures: Tensor, repeats: int, separator_repeats: int | None, shifts: int
) -> Iterator[Estimate]:
    """Yields the estimates of mixtures (B, L) as `padded_estimates` does, averaged over `shifts` passes (1 or more).

    Each pass is later than the one before by 1 / `shifts` of a hop of the Encoder's grid.
    """
    hop = network.config.hop_length * network.config.encoder_stride[0]
    passes = [
        network.padded_estimates(mixtures, repeats, separator_repeats, hop * index // shifts) for index in range(shifts)
    ]
    for estimates in zip(*passes, strict=True):
        yield replace(estimates[0], waveforms=partial(_mean, estimates))


def _mean(estimates: Sequence[Estimate]) -> Tensor:
    """Returns the mean (B, S, L) of all passes, with the sources in the order of the first pass."""
    first, *others = estimates
    total = reference = first.waveforms()
    for other in others:
        voices = other.waveforms()
        pairs = (reference @ voices.transpose(1, 2)).cpu()
        ordered = [item[list(best_permutation(pair)[0])] for item, pair in zip(voices, pairs, strict=True)]
        total = total + torch.stack(ordered)
    return total / len(estimates)
