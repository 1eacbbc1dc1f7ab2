"""Calibration of a weight file: threshold of `--repeats auto`, predictor of SI-SNRi, agreement of bf16 with fp32."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from tisdiss_cli.data.datasets import Dataset
from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.loading import Signals, read_ahead
from tisdiss_cli.evaluation.metrics import is_silent, si_snri
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import AGREEMENT
from tisdiss_cli.separation.early_exit import similarity
from tisdiss_cli.separation.quality import QualityModel, describe
from tisdiss_cli.separation.separator import Separator

log = logging.getLogger("tisdiss")

ALLOWED_LOSS = 0.05  # dB of mean SI-SNRi below the best fixed setting; half of what auto promises elsewhere
LEAST = 12  # mixtures that the predictor's fit needs
_FOLDS = 8
_RIDGE = 3.0  # weight of the ridge, in examples
_BAND = (0.1, 0.9)  # quantiles of the held-out errors


@dataclass(frozen=True)
class Trace:
    """SI-SNRi of one mixture at every repeat from 1, and SI-SNR to the previous repeat, in dB."""

    si_snri: list[float]
    similarity_db: list[float]


@dataclass(frozen=True)
class Choice:
    """Threshold with its mean SI-SNRi and mean repeats, and the mean SI-SNRi of every fixed setting."""

    threshold_db: float
    si_snri: float
    repeats: float
    fixed: list[float]


@torch.inference_mode()
def trace(
    separator: Separator, dataset: Dataset, *, most: int, advance: Callable[[], object] = lambda: None
) -> list[Trace]:
    """Runs the network once on each mixture of the set, up to `most` repeats; `advance` is called after each.

    Unreadable files, and those with unequal lengths, are reported and left out, silent ones left out. UserError if the
    set does not fit the weights, or no mixture is left.
    """
    if dataset.speakers != separator.sources:
        raise UserError(f"{dataset.root} has {dataset.speakers} references, the weights separate {separator.sources}")
    traces = []
    for _, signals in _usable(separator, dataset, advance, tell=log.warning):
        found, older = Trace([], []), None
        for estimate in separator.estimates(signals.mixture[None], most):
            voices = estimate.waveforms()[0]
            if older is not None:
                found.si_snri.append(si_snri(signals.mixture, signals.references, voices.cpu()))
                found.similarity_db.append(float(similarity(voices[None], older[None])))
            older = voices
        traces.append(found)
    if not traces:
        raise UserError(f"{dataset.root}: every mixture is unreadable, or has a silent reference: name another set")
    return traces


def _usable(
    separator: Separator, dataset: Dataset, advance: Callable[[], object], tell: Callable[[str], None]
) -> Iterator[tuple[int, Signals]]:
    """Yields the number and signals of each mixture that is readable and has no silent signal."""
    for number, (item, loaded) in enumerate(read_ahead(dataset.items, rate=separator.sample_rate)):
        if isinstance(loaded, str):
            tell(f"left out: {item.id}: {loaded}")
        elif not (is_silent(loaded.references).any() or is_silent(loaded.mixture)):
            yield number, loaded
        advance()


def choose_threshold(traces: list[Trace]) -> Choice:
    """Returns the smallest whole threshold in dB with a mean SI-SNRi within ALLOWED_LOSS of the best fixed setting."""
    gains, near = (np.array([getattr(one, name) for one in traces]) for name in ("si_snri", "similarity_db"))
    fixed = gains.mean(0)  # by repeats
    for threshold in range(101):
        converged = near >= threshold
        converged[:, -1] = True
        stops = converged.argmax(1)  # the first
        mean = float(gains[np.arange(len(gains)), stops].mean())
        if mean >= max(fixed) - ALLOWED_LOSS:
            break
    return Choice(float(threshold), mean, float(stops.mean()) + 1, fixed.tolist())


@torch.inference_mode()
def fit_quality(
    separator: Separator, dataset: Dataset, *, repeats: int, advance: Callable[[], object] = lambda: None
) -> QualityModel | None:
    """Fits the predictor to each mixture of the set, original and changed; None for fewer than LEAST.

    Leaves out the same mixtures as `trace`, which reports them; `advance` is called after each.
    """
    inputs, truths, groups = [], [], []
    earlier: Tensor | None = None
    for number, signals in _usable(separator, dataset, advance, tell=log.debug):
        for references in (signals.references, *_changed(signals.references, earlier, number)):
            mixture = references.sum(0)
            voices = separator.batch(mixture[None], repeats)[0].float().cpu()
            described, truth = describe(mixture, voices), si_snri(mixture, references, voices)
            if described is not None and np.isfinite(truth):
                inputs.append(described.tolist())
                truths.append(truth)
                groups.append(number)
        earlier = signals.references
    if len(set(groups)) < LEAST:
        log.warning(f"{dataset.root}: {len(set(groups))} mixtures are too few to predict SI-SNRi: {LEAST} are needed")
        return None
    return fit(np.array(inputs), np.array(truths), np.array(groups))


def _changed(references: Tensor, earlier: Tensor | None, number: int) -> Iterator[Tensor]:
    """Yields the references (S, L) changed: cut, at other levels, perhaps with another mixture's sources."""
    random = torch.Generator().manual_seed(number)
    share, place, swap = torch.rand(3, generator=random).tolist()
    gains = 10 ** ((torch.rand(len(references), 1, generator=random) * 2 - 1) * 4 / 20)
    if earlier is not None and swap < 0.5:
        length = min(references.shape[1], earlier.shape[1])
        references = torch.cat((references[:1, :length], earlier[1:, :length]))
    kept = round(references.shape[1] * (0.4 + 0.6 * share))
    begin = round(place * (references.shape[1] - kept))
    changed = references[:, begin : begin + kept] * gains
    if not is_silent(changed).any():
        yield changed


def fit(inputs: np.ndarray, truths: np.ndarray, groups: np.ndarray) -> QualityModel:
    """Fits the model to inputs (N, 7) and true SI-SNRi (N,) in dB; examples of a group (N,) are held out together."""
    held_out = np.zeros(len(truths))
    folds = np.unique(groups, return_inverse=True)[1] % _FOLDS
    for fold in range(_FOLDS):
        out = folds == fold
        if out.any():
            mean, scale, coefficients, constant = _ridge(inputs[~out], truths[~out])
            held_out[out] = ((inputs[out] - mean) / scale).clip(-4, 4) @ coefficients + constant
    low, high = np.quantile(truths - held_out, _BAND)
    mean, scale, coefficients, constant = _ridge(inputs, truths)
    return QualityModel(
        mean=mean.tolist(),
        scale=scale.tolist(),
        coefficients=coefficients.tolist(),
        constant=constant,
        low=float(low),
        high=float(high),
        rank_correlation=rank_correlation(held_out, truths),
        mean_error=float(np.abs(truths - held_out).mean()),
        mixtures=len(truths),
    )


def _ridge(inputs: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    mean, scale = inputs.mean(0), inputs.std(0).clip(1e-6)
    scaled, constant = (inputs - mean) / scale, float(truths.mean())
    coefficients = np.linalg.solve(scaled.T @ scaled + _RIDGE * np.eye(inputs.shape[1]), scaled.T @ (truths - constant))
    return mean, scale, coefficients, constant


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Spearman's rank correlation of two samples (N,); 0 if one is constant."""
    return float(spearman_corrcoef(torch.from_numpy(a), torch.from_numpy(b)).nan_to_num())


def fixed_mixture(config: Config) -> Tensor:
    """Returns half a second (1, n) of two noises that swell in turns, the same for every network of that rate."""
    samples = round(0.5 * config.sample_rate)
    noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    swell = (torch.arange(samples) * (2 * torch.pi * 4 / config.sample_rate)).sin()  # four times a second
    return (noise * torch.stack((1 + swell, 1 - swell)) / 2).sum(0, keepdim=True)


def measure_agreement(config: Config, state: dict[str, Tensor]) -> dict[str, float]:
    """Measures the lowest SI-SNR in dB, at most 100, of a voice in bf16 to the same in fp32.

    On a CPU, for the `fixed_mixture` at the trained repeats.
    """
    network = TISDiSS(config).eval()
    network.load_state_dict(state)
    mixture, found = fixed_mixture(config), []
    for bf16 in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found.append(network.separate(mixture))
    return {AGREEMENT: round(float(similarity(found[1], found[0])), 2)}
