"""SI-SNRi by repeats on a folder of fixed mixtures."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.devices import memory_guard
from tisdiss_cli.model.network import RECONSTRUCTOR, SPLITTER, TISDiSS
from tisdiss_cli.training.data import Example
from tisdiss_cli.training.fabric import Fabric
from tisdiss_cli.training.loss import MEASURES, best_si_snr, pairwise_si_snr, weighted_mean
from tisdiss_cli.training.recipe import Recipe


@dataclass(frozen=True)
class Validation:
    """Means over the mixtures."""

    loss: float  # the multi-loss, negative dB
    si_snri: list[float]  # dB, after the Splitter and after 1, 2, ... repeats


@torch.no_grad()
def validate(
    network: TISDiSS,
    examples: list[Example],
    *,
    repeats: int,
    device: torch.device,
    measure: str = "si-snr",
    splitter_weight: float = 1.0,
) -> Validation:
    """Runs every example once, at up to `repeats` repeats, as inference would (one at a time).

    `measure` and `splitter_weight` are those of `MultiLoss`.
    """
    losses: list[Tensor] = []
    gains: list[Tensor] = []
    training = network.training
    network.eval()
    for example in examples:
        mixture, references = example.mixture.to(device)[None], example.references.to(device)[None]
        unprocessed = pairwise_si_snr(mixture[:, None], references).mean()
        terms: list[tuple[str, Tensor]] = []
        gain: list[Tensor] = []
        for estimate in network.padded_estimates(mixture, repeats):
            voices = estimate.waveforms()
            terms.append((estimate.stage, -MEASURES[measure](voices, references)[0]))
            if estimate.stage == SPLITTER or (estimate.stage == RECONSTRUCTOR and estimate.ends_repeat):
                gain.append(best_si_snr(voices, references)[0] - unprocessed)
        losses.append(weighted_mean(terms, splitter_weight))
        gains.append(torch.stack(gain))
    network.train(training)
    return Validation(float(torch.stack(losses).mean()), torch.stack(gains).mean(dim=0).tolist())


def validate_all(fabric: Fabric, networks: list[TISDiSS], examples: list[Example], recipe: Recipe) -> list[Validation]:
    """Validates each network at the recipe's most repeats, on the first rank; known to every rank.

    Without examples there is nothing to return.
    """
    results: list[Validation] = []
    if examples and fabric.is_global_zero:
        options: dict[str, Any] = {"measure": recipe.loss, "splitter_weight": recipe.splitter_weight}
        with memory_guard("the validation"), fabric.autocast():
            results = [
                validate(network, examples, repeats=recipe.repeat_range[1], device=fabric.device, **options)
                for network in networks
            ]
    return fabric.broadcast(results) if fabric.world_size > 1 else results


def rehearse(fabric: Fabric, network: TISDiSS, examples: list[Example], *, repeats: int) -> float:
    """Tries the first examples; returns about how many seconds all of them take at up to `repeats` repeats."""
    begin = time.monotonic()
    with memory_guard("the validation"), fabric.autocast():
        validate(network, examples[:2], repeats=1, device=fabric.device)
    return (time.monotonic() - begin) / 2 * len(examples) * repeats
