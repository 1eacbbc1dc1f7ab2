"""Facts for a weight file: the threshold of `--repeats auto`, from validation data, and the agreement with bf16."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.data.datasets import Dataset
from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.loading import read_ahead
from tisdiss_cli.evaluation.metrics import is_silent, si_snr
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import AGREEMENT
from tisdiss_cli.separation.early_exit import similarity
from tisdiss_cli.separation.permutation import best_permutation
from tisdiss_cli.separation.separator import Separator

log = logging.getLogger("tisdiss")

ALLOWED_LOSS = 0.05  # dB of mean SI-SNRi below the best fixed setting; half of what auto promises elsewhere


@dataclass(frozen=True)
class Trace:
    """One mixture at every repeat from 1: its SI-SNRi and how near its estimate is to the one before, in dB."""

    si_snri: list[float]
    similarity_db: list[float]


@dataclass(frozen=True)
class Choice:
    """A threshold and what it gives on the traces: mean SI-SNRi and mean repeats, beside every fixed setting."""

    threshold_db: float
    si_snri: float
    repeats: float
    fixed: list[float]


@torch.inference_mode()
def trace(
    separator: Separator, dataset: Dataset, *, most: int, advance: Callable[[], None] = lambda: None
) -> list[Trace]:
    """Runs the network once on each mixture of the set, `most` repeats deep; `advance` is told of each.

    A file that cannot be read, or whose lengths differ too much, is said and left out; one with a silent reference
    or mixture is left out.

    Raises:
        UserError: the set does not fit the weights, or no mixture is left.
    """
    if dataset.speakers != separator.sources:
        raise UserError(f"{dataset.root} has {dataset.speakers} references, the weights separate {separator.sources}")
    traces = []
    nothing: dict[str, tuple[Path, ...]] = {item.id: () for item in dataset.items}
    for item, loaded in read_ahead(dataset.items, nothing, needed=False, rate=separator.sample_rate):
        if isinstance(loaded, str):
            log.warning(f"left out: {item.id}: {loaded}")
        elif not (is_silent(loaded.references).any() or is_silent(loaded.mixture)):
            traces.append(_trace(separator, loaded.mixture, loaded.references, most=most))
        advance()
    if not traces:
        raise UserError(
            f"{dataset.root}: no mixture can be read and has a voice in every reference, nothing can be calibrated"
        )
    return traces


def _trace(separator: Separator, mixture: Tensor, references: Tensor, *, most: int) -> Trace:
    before = si_snr(mixture.expand_as(references), references).mean()
    values, near, older = [], [], None
    for estimate in separator.estimates(mixture[None], most):
        voices = estimate.waveforms()[0]
        if older is not None:
            pairs = si_snr(voices[None].cpu(), references[:, None])
            order, _ = best_permutation(pairs)
            values.append(float(pairs[range(len(order)), order].mean() - before))
            near.append(float(similarity(voices[None], older[None])))
        older = voices
    return Trace(values, near)


def choose_threshold(traces: list[Trace]) -> Choice:
    """The smallest whole threshold, in dB, whose mean SI-SNRi is within ALLOWED_LOSS of the best fixed setting's."""
    most = len(traces[0].si_snri)
    fixed = [sum(one.si_snri[index] for one in traces) / len(traces) for index in range(most)]
    for threshold in range(101):
        stops = [
            next((index for index, value in enumerate(one.similarity_db) if value >= threshold), most - 1)
            for one in traces
        ]
        mean = sum(one.si_snri[stop] for one, stop in zip(traces, stops, strict=True)) / len(traces)
        if mean >= max(fixed) - ALLOWED_LOSS:
            break
    return Choice(float(threshold), mean, sum(stop + 1 for stop in stops) / len(stops), fixed)


def fixed_mixture(config: Config) -> Tensor:
    """Returns half a second (1, n) of two noises that swell in turns, the same for every network of a rate."""
    samples = round(0.5 * config.sample_rate)
    noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    swell = (torch.arange(samples) * (2 * torch.pi * 4 / config.sample_rate)).sin()  # four times a second
    return (noise * torch.stack((1 + swell, 1 - swell)) / 2).sum(0, keepdim=True)


def measure_agreement(config: Config, state: dict[str, Tensor]) -> dict[str, float]:
    """Returns the fact: SI-SNR in dB, at most 100, of the voice at bf16 that is furthest from its fp32 one.

    On a CPU, of the `fixed_mixture`, at the repeats that the network was trained with.
    """
    network = TISDiSS(config).eval()
    network.load_state_dict(state)
    mixture, found = fixed_mixture(config), []
    for bf16 in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found.append(network.separate(mixture))
    return {AGREEMENT: round(float(similarity(found[1], found[0])), 2)}
