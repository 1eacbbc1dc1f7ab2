"""The paper's multi-loss: every estimate is supervised by permutation-invariant, clamped negative SI-SNR."""

from collections.abc import Iterable
from functools import partial
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tisdiss_cli.model.locoformer import SpeakerPath, SpectralPath
from tisdiss_cli.model.network import TISDiSS

CLAMP = 70.0  # dB, both ways


def pairwise_si_snr(estimates: Tensor, references: Tensor) -> Tensor:
    """Zero-mean SI-SNR of every estimate against every reference, clamped at +-70 dB.

    (..., E, L), (..., R, L) -> (..., E, R) in dB, float32 under any precision. A silent signal on
    either side gives -70 dB and no gradient.

    With both signals zero-mean and of unit length, c being their inner product, the target c r has
    energy c^2 and what is left of the estimate |e - c r|^2 (Le Roux et al. 2019, SI-SDR).
    """
    with torch.autocast(estimates.device.type, enabled=False):
        e, r = (x.float() - x.float().mean(dim=-1, keepdim=True) for x in (estimates, references))
        silent = e.square().sum(dim=-1) <= 1e-16  # (..., E)
        e, r = F.normalize(e, dim=-1, eps=1e-8)[..., :, None, :], F.normalize(r, dim=-1, eps=1e-8)[..., None, :, :]
        c = (e * r).sum(dim=-1)  # (..., E, R)
        # Not 1 - c^2, which float32 rounds away from 60 dB on.
        rest = (e - c[..., None] * r).square().sum(dim=-1)
        limit = 10 ** (-CLAMP / 10)
        rest = torch.where(silent[..., None], 1.0, rest.clamp(min=limit))
        return 10 * torch.log10(c.square().clamp(min=limit) / rest)


def best_mean(scores: Tensor) -> Tensor:
    """The highest mean score over all assignments of estimates to references: (..., S, S) -> (...)."""
    rows = range(scores.shape[-1])
    # One by one: a list of indices is a tensor that has to come to the device first, and waits for it.
    pairs = [[scores[..., row, column] for column in rows] for row in rows]
    means = [
        torch.stack([pairs[row][column] for row, column in enumerate(order)], dim=-1).mean(dim=-1)
        for order in permutations(rows)
    ]
    return torch.stack(means).amax(dim=0)


def multi_loss(estimates: Iterable[Tensor], references: Tensor) -> Tensor:
    """The terms (K,) of the multi-loss, negative dB: one an estimate, averaged over the batch.

    Every item of every term chooses its own permutation. The loss is the plain mean of the terms.

    Args:
        estimates: K tensors (B, S, L), the Splitter's and every Reconstructor layer's.
        references: (B, S, L).
    """
    return torch.stack([-best_mean(pairwise_si_snr(estimate, references)).mean() for estimate in estimates])


class MultiLoss(nn.Module):
    """The network and its loss as one module, so that several devices see one forward."""

    def __init__(self, network: TISDiSS, separator_outputs: bool) -> None:
        super().__init__()
        self.network, self.separator_outputs = network, separator_outputs

    def forward(self, mixture: Tensor, references: Tensor, repeats: int) -> Tensor:
        """Mixture (B, L), references (B, S, L) -> the terms (K,); their mean is the loss."""
        estimates = self.network.estimates(mixture, repeats, separator_outputs=self.separator_outputs)
        return multi_loss((estimate.waveforms() for estimate in estimates), references)


def prepare(network: TISDiSS, *, compile: bool, activation_checkpointing: bool, device: torch.device) -> None:
    """Compiles the paths; or forgets their activations, which the backward pass then computes again."""
    for module in network.modules():
        if isinstance(module, SpectralPath | SpeakerPath):
            if activation_checkpointing:
                again = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
                module.forward = again  # type: ignore[method-assign]
            # On a CPU torch 2.11 corrupts memory in the compiled backward pass of the speaker path.
            if compile and (isinstance(module, SpectralPath) or device.type != "cpu"):
                module.compile(dynamic=False)
