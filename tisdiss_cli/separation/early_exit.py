"""Early exit: `--repeats auto` stops when the estimate converges, `--quality` at a predicted SI-SNRi."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from tisdiss_cli.model.network import Estimate
from tisdiss_cli.separation.quality import QualityModel, describe
from tisdiss_cli.separation.si_snr import is_silent, si_snr


@dataclass(frozen=True)
class Auto:
    """Rule that stops at the first repeat that hardly changes the estimate."""

    threshold_db: float  # SI-SNR to the previous repeat, of the source that changes most, at which it stops
    most: int  # repeats at most

    def done(self, voices: Tensor, older: Tensor, mixtures: Tensor) -> list[bool]:
        """Returns for each item whether its voices (B, S, n) have converged against the previous repeat's."""
        return (similarity(voices, older) >= self.threshold_db).tolist()  # waits for the device, once a repeat

    def __str__(self) -> str:
        return f"auto, {self.threshold_db:g} dB, at most {self.most}"


@dataclass(frozen=True)
class UntilQuality:
    """Rule that stops at the first repeat with the requested predicted SI-SNRi; silence stops at once."""

    model: QualityModel = field(hash=False)  # it holds lists
    least: float  # predicted SI-SNRi, dB
    most: int  # repeats at most

    def done(self, voices: Tensor, older: Tensor, mixtures: Tensor) -> list[bool]:
        """Returns for each item whether the prediction for its voices (B, S, n) and mixture (B, n) is high enough."""
        described = map(describe, mixtures.cpu(), voices.cpu())
        return [inputs is None or self.model.predict(inputs) >= self.least for inputs in described]

    def __str__(self) -> str:
        return f"until {self.least:g} dB are predicted, at most {self.most}"


EarlyExit = Auto | UntilQuality


def similarity(newer: Tensor, older: Tensor) -> Tensor:
    """Returns the SI-SNR (B,) in dB, at most 100, of `newer` to `older` (B, S, n), of the source that changed most."""
    return si_snr(newer, older).masked_fill(is_silent(newer) & is_silent(older), 100.0).amin(-1)


def stop_early(estimates: Iterator[Estimate], rule: EarlyExit, mixtures: Tensor) -> tuple[Tensor, list[int]]:
    """Decodes repeat after repeat until the rule stops every item; returns voices (B, S, n) and the repeats of each.

    `mixtures` are (B, n). An item's result does not depend on the others: those that stop early keep their estimate.
    """
    older: Tensor | None = None
    for estimate in estimates:
        if not estimate.ends_repeat:
            continue
        voices = estimate.waveforms()
        if older is None:  # the Splitter's estimate, with which the first repeat is compared
            result, used, stopped = voices.clone(), [0] * len(voices), [False] * len(voices)
        else:
            done = rule.done(voices, older, mixtures)
            for item in range(len(voices)):
                if not stopped[item]:
                    result[item], used[item], stopped[item] = voices[item], estimate.repeat, done[item]
            if all(stopped):
                break
        older = voices
    return result, used
