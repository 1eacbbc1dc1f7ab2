"""Predicted quality: SI-SNRi estimated from voices and their mixture, without references.

An unsure network leaves leakage in each voice: the voices are similar, share their spectrum, and rise and fall
together. `tisdiss weights calibrate` fits a linear model of such measures to mixtures with references and stores it in
the weight file, with the band that held 80 % of held-out mixtures.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.errors import UserError
from tisdiss_cli.stream import Stream

# Inputs of the model, in this order
INPUTS = ("likeness", "levels", "residual", "envelopes", "contrast", "undecided", "power")
_SILENT = 1e-10  # mean square of a mixture (-100 dB of full scale) that is too quiet for a prediction
_FRAME = 256  # samples of a frame of the envelopes and the spectrum
WINDOW = 10.0  # seconds of the worst stretch


def describe(mixture: Tensor, voices: Tensor) -> Tensor | None:
    """Returns the INPUTS (7,) of a mixture (n,) and its voices (S, n), S at least 2; None if too short or too quiet.

    - likeness: mean correlation of pairs of voices
    - levels: dB from the loudest voice to the quietest
    - residual: dB of the mixture without its voices, relative to the mixture
    - envelopes: mean correlation of the levels in dB of pairs of voices
    - contrast: dB between the loudest voice and the next, the mean over frames
    - undecided: how evenly the voices share the power of the spectrum, 0 to 1, the mean over the spectrum
    - power: dB of all voices relative to the mixture
    """
    mixture, voices = mixture.float(), voices.float()
    whole = mixture.square().mean()
    if mixture.shape[0] < 2 * _FRAME or whole < _SILENT or voices.shape[0] < 2:
        return None
    voices = voices / whole.sqrt()
    mixture = mixture / whole.sqrt()
    centred = voices - voices.mean(1, keepdim=True)
    norms = centred.norm(dim=1).clamp_min(1e-6)
    pairs = list(combinations(range(voices.shape[0]), 2))
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    likeness = ((centred[first] * centred[second]).sum(1) / (norms[first] * norms[second])).mean()
    power = norms.square() / mixture.shape[0]
    frames = voices[:, : voices.shape[1] // _FRAME * _FRAME].unflatten(1, (-1, _FRAME)).square().mean(-1)
    envelope = _decibels(frames + 1e-5)
    around = envelope - envelope.mean(1, keepdim=True)
    spread = around.norm(dim=1).clamp_min(1e-6)
    envelopes = ((around[first] * around[second]).sum(1) / (spread[first] * spread[second])).mean()
    together = frames.sum(0)
    loudest_two = envelope[:, together >= 1e-4 * together.max()].topk(2, dim=0).values
    return torch.stack(
        [
            likeness,
            (_decibels(power.max() + 1e-6) - _decibels(power.min() + 1e-6)).clamp_max(40),
            _decibels((mixture - voices.sum(0)).square().mean() + 1e-6),
            envelopes,
            (loudest_two[0] - loudest_two[1]).clamp_max(30).mean(),
            _undecided(mixture, voices),
            _decibels(power.sum() + 1e-6),
        ]
    )


def _decibels(power: Tensor) -> Tensor:
    return 10 * power.log10()


def _undecided(mixture: Tensor, voices: Tensor) -> Tensor:
    """Returns the entropy of the voices' shares of each spectral bin, 0 to 1, weighted by the mixture's power."""
    window = torch.hann_window(_FRAME)
    spectra, whole = (
        torch.stft(x, _FRAME, _FRAME // 2, window=window, center=False, return_complex=True).abs().square()
        for x in (voices, mixture)
    )
    shares = spectra / spectra.sum(0).clamp_min(1e-12)
    entropy = -(shares * shares.clamp_min(1e-9).log()).sum(0) / torch.tensor(float(len(voices))).log()
    return (entropy * whole).sum() / whole.sum().clamp_min(1e-12)


@dataclass(frozen=True)
class QualityModel:
    """Linear model of the INPUTS; lists are in their order."""

    mean: list[float]  # means of the inputs
    scale: list[float]  # their standard deviations
    coefficients: list[float]  # dB of SI-SNRi per standard deviation
    constant: float  # dB of SI-SNRi at the means
    low: float  # dB from the prediction to the lower end of the band of 80 % of held-out mixtures
    high: float  # dB to the upper end
    rank_correlation: float  # with the true SI-SNRi of held-out mixtures
    mean_error: float  # mean absolute error in dB on held-out mixtures
    mixtures: int  # number of mixtures that it was fitted to

    @classmethod
    def of(cls, facts: Mapping[str, Any] | None) -> "QualityModel | None":
        """Returns the model in a weight file's facts; None without one, or with other inputs. UserError if damaged."""
        try:
            if not facts or tuple(facts.get("inputs", ())) != INPUTS:
                return None
            model = cls(**{name: facts[name] for name in cls.__dataclass_fields__})
            numbers = [model.constant, model.low, model.high, model.rank_correlation, model.mean_error]
            for _, *of_input in zip(INPUTS, model.mean, model.scale, model.coefficients, strict=True):
                numbers += of_input
            usable = all(map(isfinite, numbers))
        except (AttributeError, KeyError, TypeError, ValueError):
            usable = False
        if not usable:
            raise UserError("the weights' predictor of SI-SNRi is damaged: calibrate them again")
        return model

    def facts(self) -> dict[str, Any]:
        """Returns the facts that a weight file stores."""
        return {"inputs": list(INPUTS), **asdict(self)}

    def __str__(self) -> str:
        return (
            f"predicts SI-SNRi with a mean error of {self.mean_error:.1f} dB, "
            f"80 % band {self.low:+.1f} to {self.high:+.1f} dB, "
            f"rank correlation {self.rank_correlation:.2f}, from {self.mixtures} mixtures"
        )

    def predict(self, inputs: Tensor) -> float:
        """Returns the SI-SNRi in dB predicted from INPUTS (7,)."""
        scaled = (inputs.double() - torch.tensor(self.mean).double()) / torch.tensor(self.scale).double()
        return float(scaled.clamp(-4, 4) @ torch.tensor(self.coefficients).double()) + self.constant


class QualityMeter(Stream[[int, Tensor, Tensor], None, dict[str, Any] | None]):
    """Predicted quality of a recording from its chunks, in their order, in constant memory."""

    def __init__(self, model: QualityModel, sample_rate: int) -> None:
        self.model, self.sample_rate = model, sample_rate
        self.sum = self.seconds = self.end = 0.0
        self.worst: dict[str, float] | None = None
        self._recent: list[tuple[float, float, float]] = []  # begin and end in seconds, dB
        self._waiting: list[float] = []  # ends of WINDOWs whose chunks are not complete

    def push(self, start: int, mixture: Tensor, voices: Tensor) -> None:
        """Adds a chunk (n,) from sample `start` on and its voices (S, n); silence is ignored."""
        begin, seconds = start / self.sample_rate, mixture.shape[0] / self.sample_rate
        self._update_worst(begin)
        self.end = begin + seconds
        if (inputs := describe(mixture, voices)) is None:
            return
        predicted = self.model.predict(inputs)
        self.sum += predicted * seconds
        self.seconds += seconds
        self._recent.append((begin, self.end, predicted))
        # The mean over a moving window is lowest where one of its ends meets an end of a chunk.
        self._waiting += [at for edge in (begin, self.end) for at in (edge, edge + WINDOW) if at >= WINDOW]

    def _update_worst(self, now: float) -> None:
        """Takes in the WINDOWs that end by `now`, where the next chunk begins."""
        for end in self._waiting:
            if end > now:
                continue
            begin = end - WINDOW
            shares = [max(0.0, min(to, end) - max(since, begin)) for since, to, _ in self._recent]
            covered = sum(shares)
            if covered < 0.1:  # seconds
                continue
            mean = sum(share * one for share, (_, _, one) in zip(shares, self._recent, strict=True)) / covered
            if self.worst is None or mean < self.worst["si_snri"]:
                self.worst = {"si_snri": mean, "from": begin, "to": end}
        self._waiting = [end for end in self._waiting if end > now]
        since = min([now, *self._waiting]) - WINDOW
        self._recent = [stretch for stretch in self._recent if stretch[1] > since]

    def finish(self) -> dict[str, Any] | None:
        """Returns `si_snri` in dB, its 80 % band `low` to `high`, and the `worst` ten seconds; None for silence."""
        if not self.seconds:
            return None
        self._update_worst(self.end)
        predicted = self.sum / self.seconds
        whole = {"si_snri": predicted, "from": 0.0, "to": self.end}  # of a recording shorter than a WINDOW
        worst = {name: round(value, 2) for name, value in (self.worst or whole).items()}
        ends = {"low": round(predicted + self.model.low, 2), "high": round(predicted + self.model.high, 2)}
        return {"si_snri": round(predicted, 2), **ends, "worst": worst}
