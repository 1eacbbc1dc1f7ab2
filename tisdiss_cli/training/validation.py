"""Validation: loss and SI-SNRi by repeats on fixed mixtures."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from tisdiss_cli.model.network import RECONSTRUCTOR, SPLITTER, TISDiSS
from tisdiss_cli.training.data import Example
from tisdiss_cli.training.loss import best_mean, best_score, pairwise_si_snr, weighted_mean


@dataclass(frozen=True)
class Validation:
    """Mean scores over the validation mixtures."""

    loss: float  # multi-loss, negative dB
    si_snri: list[float]  # dB, after the Splitter and after 1, 2, ... repeats


@torch.no_grad()
def validate(
    network: TISDiSS, examples: list[Example], *, repeats: int, device: torch.device, splitter_weight: float = 1.0
) -> Validation:
    """Returns the scores at up to `repeats` repeats; runs one example at a time, as inference does.

    `splitter_weight` is as in `MultiLoss`.
    """
    losses: list[Tensor] = []
    gains: list[Tensor] = []
    for example in examples:
        mixture, references = example.on(device)
        unprocessed = pairwise_si_snr(mixture[:, None], references).mean()
        terms: list[tuple[str, Tensor]] = []
        gain: list[Tensor] = []
        for estimate in network.padded_estimates(mixture, repeats):
            voices = estimate.waveforms()
            terms.append((estimate.stage, -best_score(voices, references)[0]))
            if estimate.stage == SPLITTER or (estimate.stage == RECONSTRUCTOR and estimate.ends_repeat):
                gain.append(best_mean(pairwise_si_snr(voices, references))[0] - unprocessed)
        losses.append(weighted_mean(terms, splitter_weight))
        gains.append(torch.stack(gain))
    return Validation(float(torch.stack(losses).mean()), torch.stack(gains).mean(dim=0).tolist())


def dry_run(network: TISDiSS, examples: list[Example], *, repeats: int, device: torch.device) -> float:
    """Validates the first two examples and returns the estimated seconds for all, at up to `repeats` repeats."""
    begin = time.monotonic()
    validate(network, examples[:2], repeats=1, device=device)
    return (time.monotonic() - begin) / 2 * len(examples) * repeats
