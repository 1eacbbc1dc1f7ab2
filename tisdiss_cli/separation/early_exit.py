"""`--repeats auto`: as many repeats as still change the estimate; `--quality`: as many as a predicted SI-SNRi takes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from tisdiss_cli.model.network import Estimate
from tisdiss_cli.separation.quality import QualityModel, describe
from tisdiss_cli.separation.si_snr import is_silent, si_snr


@dataclass(frozen=True)
class Auto:
    """Stop at the first repeat that hardly changes the estimate."""

    threshold_db: float  # of SI-SNR to the repeat before, of the source that changes most, from which on it is enough
    most: int  # repeats

    def enough(self, voices: Tensor, older: Tensor, mixtures: Tensor) -> list[bool]:
        """Returns, of each item, whether its voices (B, S, n) are near those of the repeat before."""
        return (similarity(voices, older) >= self.threshold_db).tolist()  # waits for the device, once a repeat

    def __str__(self) -> str:
        return f"auto, {self.threshold_db:g} dB, at most {self.most}"


@dataclass(frozen=True)
class UntilQuality:
    """Stop at the first repeat whose voices are predicted to be good enough; silence is."""

    model: QualityModel = field(hash=False)  # it holds lists
    least: float  # predicted SI-SNRi, dB
    most: int  # repeats

    def enough(self, voices: Tensor, older: Tensor, mixtures: Tensor) -> list[bool]:
        """Returns, of each item, whether its voices (B, S, n) are good enough for its mixture (B, n)."""
        told = [describe(mixture, own) for mixture, own in zip(mixtures.cpu(), voices.cpu(), strict=True)]
        return [inputs is None or self.model.predict(inputs) >= self.least for inputs in told]

    def __str__(self) -> str:
        return f"until {self.least:g} dB are predicted, at most {self.most}"


EarlyExit = Auto | UntilQuality


def similarity(newer: Tensor, older: Tensor) -> Tensor:
    """Returns the SI-SNR (B,) in dB of `newer` against `older`, (B, S, n): of each item's source that changed most.

    Both silent: 100 dB, the most that is told.
    """
    return si_snr(newer, older).masked_fill(is_silent(newer) & is_silent(older), 100.0).amin(-1)


def settle(estimates: Iterator[Estimate], rule: EarlyExit, mixtures: Tensor) -> tuple[Tensor, list[int]]:
    """Decodes repeat after repeat until every item (B) has enough; returns (B, S, n) and the repeats of each.

    `mixtures` (B, n) are what is separated. An item's result does not depend on the others': those that settle early
    keep their estimate.
    """
    older: Tensor | None = None
    for estimate in estimates:
        if not estimate.ends_repeat:
            continue
        voices = estimate.waveforms()
        if older is None:  # the Splitter's, with which the first repeat's is compared
            result, used, settled = voices.clone(), [0] * len(voices), [False] * len(voices)
        else:
            near = rule.enough(voices, older, mixtures)
            for item in range(len(voices)):
                if not settled[item]:
                    result[item], used[item], settled[item] = voices[item], estimate.repeat, near[item]
            if all(settled):
                break
        older = voices
    return result, used
