"""The paper's multi-loss: every estimate is supervised by permutation-invariant, clamped negative SI-SNR."""

from collections.abc import Iterable
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

CLAMP = 70.0  # dB, both ways


def si_snr(estimates: Tensor, references: Tensor) -> Tensor:
    """Zero-mean SI-SNR of every estimate against every reference, clamped at +-70 dB.

    (..., E, L), (..., R, L) -> (..., E, R) in dB, float32 under any precision. A silent signal on
    either side gives -70 dB and no gradient.

    With both signals zero-mean and of unit length, the projection of one on the other has energy
    c^2 and the rest 1 - c^2, c being their inner product (Le Roux et al. 2019, SI-SDR).
    """
    with torch.autocast(estimates.device.type, enabled=False):
        e, r = (
            F.normalize(x.float() - x.float().mean(dim=-1, keepdim=True), dim=-1, eps=1e-8)
            for x in (estimates, references)
        )
        share = (e @ r.transpose(-1, -2)).square()  # (..., E, R), c^2
        limit = 1 / (1 + 10 ** (CLAMP / 10))
        share = share.clamp(limit, 1 - limit)
        return 10 * torch.log10(share / (1 - share))


def best_permutation(scores: Tensor) -> Tensor:
    """The highest mean score over all assignments of estimates to references: (..., S, S) -> (...)."""
    speakers = scores.shape[-1]
    rows = range(speakers)
    means = [scores[..., rows, order].mean(dim=-1) for order in permutations(rows)]
    return torch.stack(means).amax(dim=0)


def multi_loss(estimates: Iterable[Tensor], references: Tensor) -> Tensor:
    """The terms (K,) of the multi-loss, negative dB: one an estimate, averaged over the batch.

    Every item of every term chooses its own permutation. The loss is the plain mean of the terms.

    Args:
        estimates: K tensors (B, S, L), the Splitter's and every Reconstructor layer's.
        references: (B, S, L).
    """
    return torch.stack([-best_permutation(si_snr(estimate, references)).mean() for estimate in estimates])
