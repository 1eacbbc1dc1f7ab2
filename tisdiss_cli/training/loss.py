"""The paper's multi-loss: every estimate is supervised, by permutation-invariant, clamped negative SI-SNR or SA-SDR."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tisdiss_cli.model.locoformer import SpeakerPath, SpectralPath
from tisdiss_cli.model.network import RECONSTRUCTOR, TISDiSS
from tisdiss_cli.separation.si_snr import centred, si_snr

CLAMP = 70.0  # dB, both ways


def pairwise_si_snr(estimates: Tensor, references: Tensor) -> Tensor:
    """Returns SI-SNR of every estimate against every reference: (..., E, L), (..., R, L) -> (..., E, R) in dB."""
    return si_snr(estimates[..., :, None, :], references[..., None, :, :], CLAMP)


def best_order(value: Callable[[tuple[int, ...]], Tensor], sources: int) -> Tensor:
    """Returns the highest value that an assignment of estimates to references has."""
    return torch.stack([value(order) for order in permutations(range(sources))]).amax(dim=0)


def best_mean(scores: Tensor) -> Tensor:
    """Returns the highest mean score over all assignments of estimates to references: (..., S, S) -> (...)."""

    def mean(order: tuple[int, ...]) -> Tensor:
        # One by one: a list of indices is a tensor that has to come to the device first, and waits for it.
        return torch.stack([scores[..., row, column] for row, column in enumerate(order)], dim=-1).mean(dim=-1)

    return best_order(mean, scores.shape[-1])


def best_si_snr(estimates: Tensor, references: Tensor) -> Tensor:
    """Returns SI-SNR, the mean over the sources under the best permutation: twice (..., S, L) -> (...) in dB."""
    return best_mean(pairwise_si_snr(estimates, references))


def best_sa_sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """Returns scale-invariant SA-SDR under the best permutation: twice (..., S, L) -> (...) in dB, clamped at +-70 dB.

    Energies of target and error are summed over the sources before their ratio is taken (von Neumann et al. 2022), so
    a silent reference asks for a silent estimate; one factor scales all sources. That is the SI-SDR of the sources
    laid end to end.
    """
    e, r = centred(estimates), centred(references).flatten(-2)
    return best_order(lambda order: si_snr(torch.cat([e[..., i, :] for i in order], dim=-1), r, CLAMP), e.shape[-2])


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"si-snr": best_si_snr, "sa-sdr": best_sa_sdr}


def weighted_mean(terms: Iterable[tuple[str, Tensor]], splitter_weight: float) -> Tensor:
    """Returns the mean of the terms, in which stages before the Reconstructor have that weight."""
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
        """Returns the loss (), negative dB, on mixtures (B, L) and references (B, S, L).

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
