"""The weights of a run as `separate` loads them: the mean of the best, at the sources' level, with their history.

SI-SNR, and so the loss, knows no level and no sign; one factor on the Decoder gives the voices those of
the sources.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tisdiss_cli.data.dynamic_mixing import generator
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import save_weights
from tisdiss_cli.training.loss import pairwise_si_snr
from tisdiss_cli.training.validation import Validation

if TYPE_CHECKING:
    from tisdiss_cli.training.loop import Training

WEIGHTS = "weights.safetensors"
_MIXTURES = 16  # that the level is taken from


State = dict[str, Tensor]


@dataclass
class Best:
    """Keeps the `count` states of lowest validation loss, on the CPU."""

    count: int
    losses: list[float] = field(default_factory=list)  # ascending
    states: list[State] = field(default_factory=list)

    def add(self, loss: float, state: State) -> bool:
        """Takes a state; True if it is among the best. Of equal losses the later is better."""
        place = sum(other < loss for other in self.losses)
        if place >= self.count:
            return False
        self.losses.insert(place, loss)
        self.states.insert(place, {name: value.detach().to("cpu", copy=True) for name, value in state.items()})
        del self.losses[self.count :], self.states[self.count :]
        return True

    def mean(self) -> State:
        """The plain mean of every tensor."""
        return {name: torch.stack([state[name] for state in self.states]).mean(dim=0) for name in self.states[0]}


def export(run: "Training", result: Validation | None) -> None:
    """Writes `weights.safetensors` into the run's folder, on its first rank only."""
    if not run.fabric.is_global_zero:
        return
    info: dict[str, Any] = {
        "trained": True,
        "recipe": run.recipe.to_dict(),
        "training": {
            "steps": run.step,
            "minutes": round(run.elapsed / 60, 2),
            "mixture_hours": round(run.mixture_seconds / 3600, 3),
            "device": run.fabric.device.type,
        },
    }
    for key, value in run.origin.get("before", {}).items():  # of the weights that the run began with
        info["training"][key] = round(info["training"].get(key, 0) + value, 3)
    if result:
        gains = [round(value, 3) for value in result.si_snri]
        info["validation"] = {"mixtures": len(run.examples), "step": run.step, "si_snri": gains}
    state = run.best.mean()
    config = replace(run.network.config, reconstructor_repeats=run.now.repeat_range[1])
    network = TISDiSS(config).to(run.fabric.device).eval()
    network.load_state_dict(state)
    with run.fabric.autocast():
        gain = output_gain(network, _pairs(run))
    save_weights(run.out / WEIGHTS, config, scale_outputs(state, gain), info)


def _pairs(run: "Training") -> list[tuple[Tensor, Tensor]]:
    """Mixtures with references to take the level from: some of the validation set, else a batch of training."""
    if run.examples:
        chosen = run.examples[:: -(-len(run.examples) // _MIXTURES)]
        device = run.fabric.device
        return [(one.mixture.to(device)[None], one.references.to(device)[None]) for one in chosen]
    random = generator(run.fabric.device, run.recipe.seed, run.step)
    return [run.data.draw(run.now.batch_size, run.network.config.speakers, run.now.segment_samples, random)]


@torch.no_grad()
def output_gain(network: TISDiSS, pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The one factor, negative if need be, that brings the network's voices nearest to the references.

    Args:
        network: runs at its trained repeats.
        pairs: mixtures (B, L) and their references (B, S, L), on the network's device.

    In the least-squares sense over all pairs, each item under its best permutation; 1 if the voices
    have nothing of the references.
    """
    shared = energy = 0.0
    for mixture, references in pairs:
        voices = network.separate(mixture)
        scores = pairwise_si_snr(voices, references)  # (B, S, S), rows are voices
        for voice, reference, score in zip(voices, references, scores, strict=True):
            rows = range(len(reference))
            order = list(max(permutations(rows), key=lambda order: float(score[rows, list(order)].sum())))
            shared += float((voice * reference[order]).sum())
            energy += float(voice.square().sum())
    return shared / energy if shared and energy else 1.0


def scale_outputs(state: dict[str, Tensor], gain: float) -> dict[str, Tensor]:
    """The state dict of the same network with every output multiplied by `gain`: the Decoder is linear."""
    return {name: value * gain if name.startswith("decoder.deconv.") else value for name, value in state.items()}
