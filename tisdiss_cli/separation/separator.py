"""Python API: a waveform in, its voices out."""

import logging
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from tisdiss_cli.audio.channels import Survey
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.weights import QUALITY
from tisdiss_cli.separation.chunking import Chunker, ChunkPlan, Stitcher
from tisdiss_cli.separation.early_exit import Auto, EarlyExit, UntilQuality
from tisdiss_cli.separation.engine import Engine
from tisdiss_cli.separation.quality import QualityModel

log = logging.getLogger("tisdiss")

MOST_AUTO = 8  # default limit of repeats for an early exit


class Separator(Engine):
    """Engine for whole waveforms, with the defaults that its weights recommend."""

    @classmethod
    def from_pretrained(cls, repository: str, device: str = "auto", precision: str = "auto", shifts: int = 1) -> Self:
        """Loads weights of the Hugging Face Hub ("owner/name") from its cache, without a network.

        Arguments as in `load`. UserError if they were not fetched (`tisdiss weights fetch`).
        """
        return cls.load(repository, device, precision, shifts)

    def plan(self, seconds: float | None = None) -> ChunkPlan:
        """Returns the chunk plan for chunks of `seconds`; default: as the weights recommend."""
        seconds = seconds or self.weights.chunk_seconds
        return ChunkPlan(max(4 * self.config.n_fft, round(seconds * self.sample_rate)), self.sample_rate)

    def auto(self, most: int | None = None, threshold_db: float | None = None) -> Auto:
        """Returns the rule of `--repeats auto` with at most `most` repeats (default: 8).

        The default threshold is that of the weights' calibration; UserError if they have none.
        """
        threshold_db = self.weights.auto_threshold_db if threshold_db is None else threshold_db
        if threshold_db is None:
            raise UserError(f"--repeats auto: {self.weights.name!r} is not calibrated: run 'tisdiss weights calibrate'")
        return Auto(threshold_db, most or MOST_AUTO)

    def until_quality(self, least: float, most: int | None = None) -> UntilQuality:
        """Returns the rule of `--quality`: stop at `least` dB of predicted SI-SNRi or `most` repeats (default: 8)."""
        return UntilQuality(self.predictor("--quality"), least, most or MOST_AUTO)

    def predictor(self, option: str) -> QualityModel:
        """Returns the weights' predictor of SI-SNRi; UserError, naming `option`, if they have none."""
        model = QualityModel.of(self.weights.info.get(QUALITY))
        if model is None:
            raise UserError(f"{option}: {self.weights.name!r} is not calibrated: run 'tisdiss weights calibrate'")
        return model

    def separate(
        self,
        waveform: Tensor,
        sample_rate: int | None = None,
        *,
        repeats: int | str | None = None,
        separator_repeats: int | None = None,
    ) -> Tensor:
        """Returns the voices (S, L) of a mixture (L,) or (channels, L), at the network's rate, on the CPU.

        Args:
            waveform: floating point, any level; channels are averaged, or the loudest taken where they would cancel.
            sample_rate: rate of `waveform` in Hz; other rates than the network's are resampled. Default: the network's.
            repeats: repeats of the Reconstructor, at least 1, or "auto" for an early exit. Default: `default_repeats`.
            separator_repeats: repeats of the Separator, at least 1. Default: as trained.

        Raises:
            UserError: `repeats` below 1, an impossible shape, or samples that are NaN or infinite.
        """
        mixture = as_mixture(waveform, sample_rate, self.sample_rate)
        if isinstance(repeats, str) and repeats != "auto":
            raise UserError(f"repeats {repeats!r}: it must be a number or 'auto'")
        rule = self.auto() if isinstance(repeats, str) else repeats
        _check_repeats(rule, separator_repeats)
        return self.in_chunks(mixture, self.plan(), rule, separator_repeats)[0]

    def refine(
        self,
        waveform: Tensor,
        sample_rate: int | None = None,
        *,
        repeats: int | None = None,
        separator_repeats: int | None = None,
    ) -> Iterator[Tensor]:
        """Yields the voices (S, L) after each repeat of the Reconstructor, 1 to `repeats`; arguments as in `separate`.

        For a waveform of one chunk, each estimate is computed when it is requested; for longer ones, all are computed
        before the first is yielded.
        """
        mixture = as_mixture(waveform, sample_rate, self.sample_rate)
        _check_repeats(repeats, separator_repeats)
        plan = self.plan()
        chunker = Chunker(plan)
        chunks = chunker.push(mixture) + chunker.finish()

        def each(chunk: Tensor) -> Iterator[Tensor]:
            estimates = self.estimates(chunk[None], repeats, separator_repeats)
            return (estimate.waveforms()[0].cpu() for estimate in estimates if estimate.repeat)

        found = [each(chunk) for _, chunk in chunks]
        if len(chunks) > 1:  # the device cannot hold the state of several chunks between repeats
            found = [iter(list(estimates)) for estimates in found]
        for every in zip(*found, strict=True):
            stitcher = Stitcher(plan)
            parts = [stitcher.push(start, voices) for (start, _), voices in zip(chunks, every, strict=True)]
            yield torch.cat([*parts, stitcher.finish()], dim=1)


def as_mixture(waveform: Tensor, sample_rate: int | None, rate: int) -> Tensor:
    """Returns a waveform (L,) or (channels, L) as a mixture (L',) at `rate` Hz in float32 on the CPU.

    Channels are averaged, or the loudest taken where they would cancel, with a warning. `sample_rate` is the
    waveform's; default: `rate`. UserError for an impossible shape or dtype, or NaN or infinite samples.
    """
    if waveform.dim() not in (1, 2) or not waveform.numel() or not waveform.is_floating_point():
        raise UserError(f"waveform must be floating point, (L,) or (channels, L), not {tuple(waveform.shape)}")
    if not torch.isfinite(waveform).all():
        raise UserError("waveform has NaN or infinite samples: remove them")
    sample_rate = sample_rate or rate
    resampler = Resampler(sample_rate, rate)
    waveform = waveform.detach().float().cpu()
    if waveform.dim() == 2:
        survey = Survey((), sample_rate)
        survey.push(waveform.T.numpy())
        for warning in survey.decide():
            log.warning(f"waveform: {warning}")
        waveform = torch.from_numpy(survey.mix(waveform.T.numpy()))
    return torch.cat((resampler.push(waveform), resampler.finish()))


def _check_repeats(repeats: int | EarlyExit | None, separator_repeats: int | None) -> None:
    for option, value in (("--repeats", repeats), ("--separator-repeats", separator_repeats)):
        if isinstance(value, int) and value < 1:
            raise UserError(f"{option} {value}: it must be at least 1")
