"""Fits the predictor of SI-SNRi to mixtures with references: a ridge regression, judged on mixtures held out."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tisdiss_cli.data.datasets import Dataset
from tisdiss_cli.evaluation.loading import read_ahead
from tisdiss_cli.evaluation.metrics import is_silent, si_snr
from tisdiss_cli.separation.permutation import best_permutation
from tisdiss_cli.separation.quality import QualityModel, describe
from tisdiss_cli.separation.separator import Separator

log = logging.getLogger("tisdiss")

LEAST = 12  # mixtures, for a fit that says anything
_FOLDS = 8
_RIDGE = 3.0  # examples that speak for coefficients of zero
_BAND = (0.1, 0.9)  # quantiles of the held-out errors


@torch.inference_mode()
def fit_quality(
    separator: Separator, dataset: Dataset, *, repeats: int, advance: Callable[[], None] = lambda: None
) -> QualityModel | None:
    """The model for these weights, by each mixture of the set as it is and changed; None of fewer than LEAST.

    A file that cannot be read, or has a silent reference, is left out; `advance` is told of each.
    """
    inputs, truths, groups = [], [], []
    nothing: dict[str, tuple[Path, ...]] = {item.id: () for item in dataset.items}
    earlier: Tensor | None = None
    for number, (_, loaded) in enumerate(read_ahead(dataset.items, nothing, needed=False, rate=separator.sample_rate)):
        if not isinstance(loaded, str) and not is_silent(loaded.references).any():
            references = loaded.references
            for changed in (references, *_changed(references, earlier, number)):
                described, truth = _example(separator, changed, repeats)
                if described is not None and np.isfinite(truth):
                    inputs.append(described.tolist())
                    truths.append(truth)
                    groups.append(number)
            earlier = references
        advance()
    if len(set(groups)) < LEAST:
        log.warning(
            f"{dataset.root}: {len(set(groups))} mixtures are too few to predict SI-SNRi by: {LEAST} are needed"
        )
        return None
    return fit(np.array(inputs), np.array(truths), np.array(groups))


def _changed(references: Tensor, earlier: Tensor | None, number: int) -> Iterator[Tensor]:
    """The references (S, L) once more: cut, at other levels, or the first with another mixture's others."""
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


def _example(separator: Separator, references: Tensor, repeats: int) -> tuple[Tensor | None, float]:
    mixture = references.sum(0)
    voices = separator.batch(mixture[None], repeats)[0].float().cpu()
    pairs = si_snr(voices[None], references[:, None])
    order, _ = best_permutation(pairs)
    before = si_snr(mixture.expand_as(references), references).mean()
    return describe(mixture, voices), float(pairs[range(len(order)), order].mean() - before)


def fit(inputs: np.ndarray, truths: np.ndarray, groups: np.ndarray) -> QualityModel:
    """The model of inputs (N, 7) and true SI-SNRi (N,) in dB; examples of one group (N,) are held out together."""
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
    """Spearman's, of two samples (N,) whose ties, if any, are taken in order; 0 where one is constant."""
    one, other = (np.argsort(np.argsort(x, kind="stable"), kind="stable") for x in (a, b))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
