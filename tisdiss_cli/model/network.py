"""The TISDiSS network: one generator of estimates for inference, scoring and training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tisdiss_cli.model.config import Config
from tisdiss_cli.model.stages import Decoder, Encoder, Reconstructor, Reinjection, SeparatorStage, Splitter

SEPARATOR, SPLITTER, RECONSTRUCTOR = "separator", "splitter", "reconstructor"


@dataclass(frozen=True)
class Estimate:
    """Estimate of the voices after one stage, decoded when `waveforms` is called."""

    stage: str  # "separator" (through the Splitter), "splitter" or "reconstructor"
    repeat: int  # 1, 2, ... within that stage; 0 for the Splitter's
    ends_repeat: bool  # False for all but the last layer of a repeat
    waveforms: Callable[[], Tensor]  # () -> (B, S, L), at the mixture's level


def _part(begin: int, end: int, waveforms: Callable[[], Tensor]) -> Tensor:
    return waveforms()[..., begin:end]


def _last(estimates: Iterator[Estimate]) -> Tensor:
    for last in estimates:  # noqa: B007  one estimate alive at a time
        pass
    return last.waveforms()


class TISDiSS(nn.Module):
    """Speech separation network that scales at inference, from waveform to waveforms (arXiv 2509.15666)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.separator = SeparatorStage(config)
        self.splitter = Splitter(config)
        self.reconstructor = Reconstructor(config)
        self.decoder = Decoder(config)
        reinjected = config.separator_reinjection or config.reconstructor_reinjection
        self.reinjection = Reinjection(config) if reinjected else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises matrices and kernels Xavier-uniform, as in the paper, and biases to zero."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def parameter_count(self) -> int:
        """Number of parameters as the authors count, with a table of rotary frequencies for each kind of path."""
        tables = 3 * self.config.attention_channels // self.config.heads // 2
        return sum(parameter.numel() for parameter in self.parameters()) + tables

    @property
    def min_samples(self) -> int:
        """Smallest number of samples that `estimates` takes, which the STFT's reflection needs."""
        return self.config.n_fft // 2 + 1

    def estimates(
        self,
        mixture: Tensor,
        repeats: int | None = None,
        separator_repeats: int | None = None,
        separator_outputs: bool = False,
    ) -> Iterator[Estimate]:
        """Yields the estimate after the Splitter and after every Reconstructor layer, in order.

        Args:
            mixture: (B, L) at the configured rate and any level, L at least `min_samples`. Each item is scaled by its
                standard deviation; a silent item gives silence.
            repeats: repeats of the Reconstructor, at least 0 (0: only the Splitter's estimate). Default: as trained.
            separator_repeats: repeats of the Separator, at least 1. Default: as trained.
            separator_outputs: first yields the output of each Separator layer but the last, sent through the Splitter
                (an option of the paper's multi-loss).

        Raises:
            ValueError: a repetition count or the mixture's shape is out of range.
        """
        repeats = self.config.reconstructor_repeats if repeats is None else repeats
        separator_repeats = self.config.separator_repeats if separator_repeats is None else separator_repeats
        if repeats < 0 or separator_repeats < 1:
            raise ValueError(f"repeats ({repeats}) must be at least 0, separator_repeats ({separator_repeats}) 1")
        if mixture.dim() != 2 or mixture.shape[1] < self.min_samples:
            raise ValueError(f"mixture must be (B, L) with L >= {self.min_samples}, not {tuple(mixture.shape)}")

        scale = mixture.std(dim=-1, keepdim=True)  # (B, 1), unbiased
        spectrum = self.encoder.spectrum(mixture / torch.where(scale > 0, scale, 1.0))

        def waveforms(x: Tensor) -> Tensor:
            return self.decoder(x, spectrum, mixture.shape[1]) * scale[:, None]

        for stage, repeat, ends_repeat, x in self.outputs(spectrum, repeats, separator_repeats, separator_outputs):
            yield Estimate(stage, repeat, ends_repeat, partial(waveforms, x))

    def outputs(
        self, spectrum: Tensor, repeats: int, separator_repeats: int, separator_outputs: bool = False
    ) -> Iterator[tuple[str, int, bool, Tensor]]:
        """Yields stage, repeat, whether it ends the repeat, and the Decoder's input (B, S, T', F', D), in order.

        Takes the mixture's spectrum (B, T, F, 2), and else the arguments of `estimates`.
        """
        features = self.encoder(spectrum)
        layers = len(self.separator.layers)
        for index, x in enumerate(self.separator(features, separator_repeats, self.reinjection), 1):
            if separator_outputs and index < separator_repeats * layers:
                yield SEPARATOR, -(-index // layers), index % layers == 0, self.splitter(x)
        split = self.splitter(x)
        yield SPLITTER, 0, True, split
        layers = len(self.reconstructor.layers)
        for index, x in enumerate(self.reconstructor(features, split, repeats, self.reinjection), 1):
            yield RECONSTRUCTOR, -(-index // layers), index % layers == 0, x

    def prepare(self, mixture: Tensor, delay: int = 0) -> Tensor:
        """Subtracts a mixture's mean (..., L), L from 1, and pads it with zeros to a whole number of hops.

        `delay`: samples of silence before the mixture.

        The mean, a microphone's offset, would count in the level by which `estimates` scales and appear in the voices.
        It goes before the padding, so that there is no step at the end. Without padding, the last samples may lie at
        the edge of a single window, by whose square the inverse STFT divides: voices would end in a click.
        """
        length, hop = delay + mixture.shape[-1], self.config.hop_length
        first = mixture[..., :1]
        mean = first + (mixture - first).mean(dim=-1, keepdim=True)  # exact where all samples are equal
        return F.pad(mixture - mean, (delay, -(-max(length, self.min_samples) // hop) * hop - length))

    def padded_estimates(
        self, mixture: Tensor, repeats: int | None = None, separator_repeats: int | None = None, delay: int = 0
    ) -> Iterator[Estimate]:
        """Yields `estimates` of (B, L), L from 1, after `prepare` and cut back to L, for all uses but training."""
        for estimate in self.estimates(self.prepare(mixture, delay), repeats, separator_repeats):
            yield replace(estimate, waveforms=partial(_part, delay, delay + mixture.shape[-1], estimate.waveforms))

    def separate(self, mixture: Tensor, repeats: int | None = None, separator_repeats: int | None = None) -> Tensor:
        """Separates (B, L) -> (B, S, L), L from 1: decodes the last of `padded_estimates`."""
        return _last(self.padded_estimates(mixture, repeats, separator_repeats))

    def forward(self, mixture: Tensor, repeats: int | None = None, separator_repeats: int | None = None) -> Tensor:
        """Computes the published function, (B, L) -> (B, S, L): decodes the last of `estimates`."""
        return _last(self.estimates(mixture, repeats, separator_repeats))
