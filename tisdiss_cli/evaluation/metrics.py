"""Metrics of a separation: SI-SNR, SDR, their improvements over the mixture, the best permutation.

SI-SNR is Le Roux et al. 2019 ("SDR: half-baked or well done?") with zero-mean signals; SDR is BSS Eval
v3's (Vincent et al. 2006), which forgives any filter of 512 taps. An improvement (SI-SNRi, SDRi) is the
estimate's value minus the unprocessed mixture's. All in dB, all computed in double precision.

Edge cases, so that no mean ever meets a NaN:

- Values are held to -100 ... 100 dB: a perfect estimate scores 100.
- A silent (constant) estimate scores -100.
- A silent (constant) reference cannot be scored: its speaker is left out of the file's mean and of the
  choice of the permutation. A file without any other reference is an error.
- A silent (constant) mixture is an error.
- STOI and PESQ have no value for a file that is too short, or has too little speech, in any of its speakers:
  the file is scored without them, with a warning.
- Lengths that differ by up to 20 ms are cut to the shortest, with a warning; by more, they are an error.
"""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.audio import signal_distortion_ratio

from tisdiss_cli.errors import UserError
from tisdiss_cli.separation.permutation import best_permutation
from tisdiss_cli.separation.si_snr import is_silent, si_snr

LIMIT = 100.0  # dB; 16-bit files reach 90, and double precision about 120
TAPS = 512  # of BSS Eval v3's filter
TRIM_SECONDS = 0.02  # more than the hops and filter delays of common tools


@dataclass
class Score:
    """Scores of one file under one setting, as means over its speakers."""

    si_snr: float  # dB, as are the next three
    si_snri: float
    sdr: float
    sdri: float
    permutation: tuple[int, ...]  # estimate permutation[s] belongs to reference s
    stoi: float | None = None  # None: not requested, or undefined, with a warning
    pesq: float | None = None  # likewise
    warnings: list[str] = field(default_factory=list)


def sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """Returns BSS Eval v3's SDR, (..., L), (..., L) -> (...) dB within ±LIMIT; a constant estimate gives -LIMIT.

    The references must not be constant.
    """
    # In double and of norm 1, so that no epsilon depends on the level; silence stays silence.
    signals = (torch.nn.functional.normalize(x.double(), dim=-1, eps=1e-300) for x in (estimates, references))
    # One pair at a time: torch's batched solver on several threads may hang or be wrong (pytorch/pytorch#142815).
    values = [_sdr(*pair) for pair in zip(*(x.reshape(-1, x.shape[-1]) for x in signals), strict=True)]
    return torch.stack(values).view(estimates.shape[:-1]).masked_fill(is_silent(estimates), -LIMIT)


def _sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Returns the SDR of signals (L,) of unit norm, () dB."""
    value = torch.tensor(torch.nan)
    with suppress(torch.linalg.LinAlgError):  # the reference has fewer than 512 independent shifts
        value = signal_distortion_ratio(estimate, reference, filter_length=TAPS)
    if value.isnan():
        # A perfect estimate (a coherence that rounds to above 1), or a reference like a pure tone with dependent
        # shifts: a loaded diagonal handles both, and changes nothing below LIMIT.
        value = signal_distortion_ratio(estimate, reference, filter_length=TAPS, load_diag=1e-10)
    return value.nan_to_num(LIMIT, LIMIT, -LIMIT).clamp(-LIMIT, LIMIT)


def si_snri(mixture: Tensor, references: Tensor, estimates: Tensor) -> float:
    """Returns the mean SI-SNRi in dB under the best permutation: (L,), (S, L), (S, L)."""
    pairs = si_snr(estimates[None], references[:, None])
    order, _ = best_permutation(pairs)
    return float((pairs[range(len(order)), order] - si_snr(mixture.expand_as(references), references)).mean())


def trim(signals: dict[str, Tensor], sample_rate: int) -> tuple[dict[str, Tensor], str | None]:
    """Cuts (..., L) signals to the shortest, with a warning; UserError if they differ by more than TRIM_SECONDS."""
    lengths = {name: signal.shape[-1] for name, signal in signals.items()}
    shortest, longest = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
    difference = lengths[longest] - lengths[shortest]
    if difference == 0:
        return signals, None
    difference_text = f"{longest} is {difference} samples longer than {shortest}"
    if difference > TRIM_SECONDS * sample_rate:
        raise UserError(f"{difference_text}: they must have the same length")
    return {name: signal[..., : lengths[shortest]] for name, signal in signals.items()}, f"{difference_text}: cut"


def score(
    mixture: Tensor,
    references: Tensor,
    estimates: Sequence[Tensor],
    *,
    sample_rate: int,
    stoi: bool = False,
    pesq: bool = False,
) -> list[Score]:
    """Scores every estimate of one file, each under the permutation that has the best mean SI-SNR.

    Args:
        mixture: (L,).
        references: (S, L).
        estimates: each (S, L), at any level and in any order of the speakers.
        sample_rate: rate in Hz, on which STOI and PESQ depend.
        stoi, pesq: also compute these metrics.

    Raises:
        UserError: the mixture or every reference is silent, shapes do not fit, or a sample is NaN or infinite.
    """
    mixture, references = mixture.double(), references.double()
    audible = ~is_silent(references)  # (S,)
    if is_silent(mixture):
        raise UserError("the mixture is silent: there is nothing to improve on")
    if not audible.any():
        raise UserError("every reference is silent: there is nothing to score")
    mixtures = mixture.expand_as(references)[audible]
    si_snr_before, sdr_before = si_snr(mixtures, references[audible]), sdr(mixtures, references[audible])
    scores = []
    for estimate in estimates:
        if estimate.shape != references.shape:
            raise UserError(f"estimates are {tuple(estimate.shape)}, references {tuple(references.shape)}")
        if not estimate.isfinite().all():
            raise UserError("the estimates have NaN or infinite samples")
        estimate = estimate.double()
        scored = torch.zeros(len(references), len(references), dtype=torch.float64)
        scored[audible] = si_snr(estimate[None], references[audible, None])
        order, _ = best_permutation(scored)  # rows are references, columns estimates
        matched = estimate[list(order)][audible]
        si_snr_after, sdr_after = si_snr(matched, references[audible]), sdr(matched, references[audible])
        result = Score(
            si_snr=si_snr_after.mean().item(),
            si_snri=(si_snr_after - si_snr_before).mean().item(),
            sdr=sdr_after.mean().item(),
            sdri=(sdr_after - sdr_before).mean().item(),
            permutation=order,
        )
        result.warnings += [f"reference {s + 1} is silent" for s in range(len(references)) if not audible[s]]
        result.warnings += [f"estimate {s + 1} is silent" for s in range(len(estimate)) if is_silent(estimate[s])]
        pairs = list(zip(references[audible].numpy(), matched.numpy(), strict=True))
        for name, requested, measure, needs in (
            ("stoi", stoi, _stoi, "STOI needs 0.4 s of speech"),
            ("pesq", pesq, _pesq, "PESQ needs a quarter of a second, and an utterance"),
        ):
            if requested:
                # All speakers or none: without a lost voice, the good one's value alone would flatter.
                value = sum(measure(*pair, sample_rate) for pair in pairs) / len(pairs)
                if np.isfinite(value):
                    setattr(result, name, value)
                else:
                    result.warnings.append(f"without {name.upper()}: {needs}")
        scores.append(result)
    return scores


def _stoi(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Returns pystoi's STOI of (L,) signals; NaN for less than 0.4 s of speech."""
    import pystoi

    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        try:
            value = float(pystoi.stoi(reference, estimate, sample_rate))
        except ValueError:  # NumPy's error about a missing axis, for less than one frame
            return np.nan
    # For too few frames pystoi returns 1e-5 with a warning.
    return np.nan if any("STFT frames" in str(one.message) for one in messages) else value


def _pesq(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Returns PESQ of (L,) signals, narrow band at 8 kHz, wide at 16 kHz; NaN below 1/4 s, or without an utterance."""
    import pesq as package

    if not estimate.any():
        return np.nan
    try:
        return float(package.pesq(sample_rate, reference, estimate, "wb" if sample_rate == 16000 else "nb"))
    except (package.PesqError, ValueError):  # ValueError: a NaN of its own
        return np.nan
