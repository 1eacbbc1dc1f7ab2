"""Multi-loss of the paper: permutation-invariant, clamped negative SI-SNR of every estimate, and silence."""

from collections.abc import Iterable
from functools import partial
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tisdiss_cli.model.locoformer import SpeakerPath, SpectralPath
from tisdiss_cli.model.network import RECONSTRUCTOR, TISDiSS
from tisdiss_cli.separation.si_snr import centred, si_snr

CLAMP = 70.0  # dB, of both signs
MOST_SNR = 30.0  # dB, in mixtures with silent sources


def pairwise_si_snr(estimates: Tensor, references: Tensor) -> Tensor:
    """Returns the SI-SNR of every estimate against every reference: (..., E, L), (..., R, L) -> (..., E, R) in dB."""
    return si_snr(estimates[..., :, None, :], references[..., None, :, :], CLAMP)


def best_mean(scores: Tensor) -> Tensor:
    """Returns the highest mean score over all permutations: (..., S, S) -> (...)."""

    def mean(order: tuple[int, ...]) -> Tensor:
        # One at a time: indexing with a list copies it to the device and waits for that.
        return torch.stack([scores[..., row, column] for row, column in enumerate(order)], dim=-1).mean(dim=-1)

    return torch.stack([mean(order) for order in permutations(range(scores.shape[-1]))]).amax(dim=0)


def best_score(estimates: Tensor, references: Tensor) -> Tensor:
    """Returns the mean score of the sources under the best permutation: twice (..., S, L) -> (...) in dB.

    The score is SI-SNR, clamped to +-70 dB. In a mixture with silent sources, MOST_SNR below the loudest, it is softly
    limited to MOST_SNR, and the score of a silent source is the level of its estimate below all estimates together,
    limited alike (as in Wisdom et al. 2021, with estimates of any scale).
    """
    floor = 10 ** (-MOST_SNR / 10)
    energy = centred(references).square().sum(-1)  # (..., R)
    silent = energy <= floor * energy.amax(-1, keepdim=True)
    scores = pairwise_si_snr(estimates, references)  # (..., E, R)
    limited = -10 * torch.log10(10 ** (-scores / 10) + floor)
    energy = centred(estimates).square().sum(-1)  # (..., E)
    share = energy / energy.sum(-1, keepdim=True).clamp(min=1e-12)
    quiet = -10 * torch.log10(share + floor)
    with_silence = torch.where(silent[..., None, :], quiet[..., None], limited)
    return best_mean(torch.where(silent.any(-1)[..., None, None], with_silence, scores))


def weighted_mean(terms: Iterable[tuple[str, Tensor]], splitter_weight: float) -> Tensor:
    """Returns the mean of the terms, weighting those before the Reconstructor by `splitter_weight`."""
    weighted = [(1.0 if stage == RECONSTRUCTOR else splitter_weight, term) for stage, term in terms]
    total = sum(weight for weight, _ in weighted)
    return torch.stack([weight / total * term for weight, term in weighted]).sum(dim=0)


class MultiLoss(nn.Module):
    """The network and its loss as one module, so that DDP sees a single forward."""

    def __init__(self, network: TISDiSS, separator_outputs: bool = False, splitter_weight: float = 1.0) -> None:
        """Takes the weight of exits before the Reconstructor; the others have 1."""
        super().__init__()
        self.network, self.separator_outputs, self.splitter_weight = network, separator_outputs, splitter_weight

    def forward(self, mixture: Tensor, references: Tensor, repeats: int) -> Tensor:
        """Returns the loss (), in negative dB, for mixtures (B, L) and references (B, S, L).

        Averages over the batch and the estimates of the Splitter and every Reconstructor layer; each item of each
        estimate has its own permutation.
        """
        estimates = self.network.estimates(mixture, repeats, separator_outputs=self.separator_outputs)
        terms = ((e.stage, -best_score(e.waveforms(), references).mean()) for e in estimates)
        return weighted_mean(terms, self.splitter_weight)


def prepare(network: TISDiSS, *, compile: bool, activation_checkpointing: bool, device: torch.device) -> None:
    """Compiles the spectral and speaker paths, or recomputes their activations in the backward pass."""
    for module in network.modules():
        if isinstance(module, SpectralPath | SpeakerPath):
            if activation_checkpointing:
                checkpointed = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
                module.forward = checkpointed  # type: ignore[method-assign]
            # On a CPU torch 2.11 corrupts memory in the compiled backward pass of the speaker path.
            if compile and (isinstance(module, SpectralPath) or device.type != "cpu"):
                module.compile(dynamic=False)
