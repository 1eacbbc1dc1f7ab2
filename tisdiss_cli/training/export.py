"""Weights for inference: the mean of the best validated ones, scaled so that outputs have the references' level.

SI-SNR ignores level and sign, so one factor on the Decoder sets both after training.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.separation.permutation import best_permutation
from tisdiss_cli.training.loss import pairwise_si_snr

WEIGHTS = "weights.safetensors"

Weights = dict[str, Tensor]


@dataclass
class Best:
    """The `count` states with the lowest validation loss, on the CPU."""

    count: int
    losses: list[float] = field(default_factory=list)  # ascending
    states: list[Weights] = field(default_factory=list)

    def add(self, loss: float, state: Weights) -> bool:
        """Adds a state if it is among the best and returns True if so; of equal losses the later is better."""
        place = sum(other < loss for other in self.losses)
        if place >= self.count:
            return False
        self.losses.insert(place, loss)
        self.states.insert(place, {name: value.detach().to("cpu", copy=True) for name, value in state.items()})
        del self.losses[self.count :], self.states[self.count :]
        return True

    def mean(self) -> Weights:
        """Returns the unweighted mean of every tensor."""
        return {name: torch.stack([state[name] for state in self.states]).mean(dim=0) for name in self.states[0]}


@torch.no_grad()
def output_gain(network: TISDiSS, pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Returns the least-squares factor, perhaps negative, from the network's outputs to the references.

    `pairs` are mixtures (B, L) and references (B, S, L) on the network's device; each item is matched under its best
    permutation. 1 if outputs and references are uncorrelated.
    """
    shared = energy = 0.0
    for mixture, references in pairs:
        voices = network.separate(mixture)
        scores = pairwise_si_snr(voices, references)  # (B, S, S), one row per voice
        for voice, reference, score in zip(voices, references, scores, strict=True):
            order, _ = best_permutation(score)
            shared += float((voice * reference[list(order)]).sum())
            energy += float(voice.square().sum())
    return shared / energy if shared and energy else 1.0


def scale_outputs(state: dict[str, Tensor], gain: float) -> dict[str, Tensor]:
    """Returns the weights with the linear Decoder, and so every output, multiplied by `gain`."""
    return {name: value * gain if name.startswith("decoder.deconv.") else value for name, value in state.items()}
