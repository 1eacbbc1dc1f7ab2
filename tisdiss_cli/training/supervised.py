"""The network and its loss as one module, compiled or checkpointed as a recipe wants."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.paths import SpeakerPath, SpectralPath
from tisdiss_cli.training.loss import multi_loss


class MultiLoss(nn.Module):
    """The network and its loss as one module, so that several devices see one forward."""

    def __init__(self, network: TISDiSS, separator_outputs: bool) -> None:
        super().__init__()
        self.network, self.separator_outputs = network, separator_outputs

    def forward(self, mixture: Tensor, references: Tensor, repeats: int) -> Tensor:
        """Mixture (B, L), references (B, S, L) -> the terms (K,); their mean is the loss."""
        estimates = self.network.estimates(mixture, repeats, separator_outputs=self.separator_outputs)
        return multi_loss((estimate.waveforms() for estimate in estimates), references)


def prepare(network: TISDiSS, compile: bool, activation_checkpointing: bool, device: torch.device) -> None:
    """Compiles the paths; or forgets their activations, which the backward pass then computes again."""
    for module in network.modules():
        if isinstance(module, SpectralPath | SpeakerPath):
            if activation_checkpointing:
                module.forward = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
            # On a CPU torch 2.11 corrupts memory in the compiled backward pass of the speaker path.
            if compile and (isinstance(module, SpectralPath) or device.type != "cpu"):
                module.compile(dynamic=False)
