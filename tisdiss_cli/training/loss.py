"""The paper's multi-loss: every estimate is supervised, by permutation-invariant, clamped negative SI-SNR or SA-SDR."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tisdiss_cli.model.locoformer import SpeakerPath, SpectralPath
from tisdiss_cli.model.network import RECONSTRUCTOR, TISDiSS

CLAMP = 70.0  # dB, both ways


def pairwise_si_snr(estimates: Tensor, references: Tensor) -> Tensor:
    """Zero-mean SI-SNR of every estimate against every reference, clamped at +-70 dB.

    (..., E, L), (..., R, L) -> (..., E, R) in dB, float32 under any precision. A silent signal on
    either side gives -70 dB and no gradient.
    """
    with torch.autocast(estimates.device.type, enabled=False):
        e, r = zero_mean(estimates), zero_mean(references)
        return _aligned_db(e[..., :, None, :], r[..., None, :, :])


def zero_mean(signals: Tensor) -> Tensor:
    """(..., L) -> the same without each signal's mean, float32."""
    return signals.float() - signals.float().mean(dim=-1, keepdim=True)


def _aligned_db(estimates: Tensor, references: Tensor) -> Tensor:
    """SI-SDR, (..., L), (..., L) -> (...) in dB.

    With both signals of unit length, c being their inner product, the target c r has energy c^2 and what is left of
    the estimate |e - c r|^2 (Le Roux et al. 2019).
    """
    silent = estimates.square().sum(dim=-1) <= 1e-16
    e, r = F.normalize(estimates, dim=-1, eps=1e-8), F.normalize(references, dim=-1, eps=1e-8)
    c = (e * r).sum(dim=-1)
    # Not 1 - c^2, which float32 rounds away from 60 dB on.
    rest = (e - c[..., None] * r).square().sum(dim=-1)
    limit = 10 ** (-CLAMP / 10)
    rest = torch.where(silent, 1.0, rest.clamp(min=limit))
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


def best_si_snr(estimates: Tensor, references: Tensor) -> Tensor:
    """SI-SNR, the mean over the sources under the best permutation: twice (..., S, L) -> (...) in dB."""
    return best_mean(pairwise_si_snr(estimates, references))


def best_sa_sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """Scale-invariant SA-SDR under the best permutation: twice (..., S, L) -> (...) in dB, clamped at +-70 dB.

    Energies of target and error are summed over the sources before their ratio is taken (von Neumann et al. 2022), so
    a silent reference asks for a silent estimate; one factor scales all sources. That is the SI-SDR of the sources
    laid end to end.
    """
    with torch.autocast(estimates.device.type, enabled=False):
        e, r = zero_mean(estimates), zero_mean(references)
        orders = permutations(range(e.shape[-2]))
        values = [_aligned_db(torch.cat([e[..., row, :] for row in order], dim=-1), r.flatten(-2)) for order in orders]
        return torch.stack(values).amax(dim=0)


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"si-snr": best_si_snr, "sa-sdr": best_sa_sdr}


def weighted_mean(terms: Iterable[tuple[str, Tensor]], splitter_weight: float) -> Tensor:
    """Returns the mean of the terms, of which those of other stages than the Reconstructor have that weight."""
    weighted = [(1.0 if stage == RECONSTRUCTOR else splitter_weight, term) for stage, term in terms]
    total = sum(weight for weight, _ in weighted)
    return torch.stack([weight / total * term for weight, term in weighted]).sum(dim=0)


class MultiLoss(nn.Module):
    """The network and its loss as one module, so that several devices see one forward."""

    def __init__(
        self, network: TISDiSS, separator_outputs: bool = False, measure: str = "si-snr", splitter_weight: float = 1.0
    ) -> None:
        """Takes one of MEASURES, and the weight of exits before the Reconstructor, whose own have 1."""
        super().__init__()
        self.network, self.separator_outputs = network, separator_outputs
        self.measure, self.splitter_weight = MEASURES[measure], splitter_weight

    def forward(self, mixture: Tensor, references: Tensor, repeats: int) -> Tensor:
        """Mixture (B, L), references (B, S, L) -> the loss (), negative dB.

        It is the mean over the batch and the estimates, the Splitter's and every Reconstructor layer's, of which every
        item of every estimate chooses its own permutation.
        """
        estimates = self.network.estimates(mixture, repeats, separator_outputs=self.separator_outputs)
        terms = ((one.stage, -self.measure(one.waveforms(), references).mean()) for one in estimates)
        return weighted_mean(terms, self.splitter_weight)


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
