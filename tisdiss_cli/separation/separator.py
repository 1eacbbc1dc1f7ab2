"""The Python API: a waveform in, its voices out, by an `Engine` in chunks of what the weights recommend."""

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

MOST_AUTO = 8  # repeats, where nobody says how many an early exit may use


class Separator(Engine):
    """An engine that takes whole waveforms, and knows what its weights recommend."""

    @classmethod
    def from_pretrained(cls, repository: str, device: str = "auto", precision: str = "auto", shifts: int = 1) -> Self:
        """Loads weights of the Hugging Face Hub ("owner/name") from its cache, into which `weights fetch` puts them.

        Arguments as `load`. No network is used. UserError where the cache has none.
        """
        return cls.load(repository, device, precision, shifts)

    def plan(self, seconds: float | None = None) -> ChunkPlan:
        """Returns how waveforms longer than `seconds` are cut; None: as the weights' metadata recommend."""
        seconds = seconds or self.weights.chunk_seconds
        return ChunkPlan(max(4 * self.config.n_fft, round(seconds * self.sample_rate)), self.sample_rate)

    def auto(self, most: int | None = None, threshold_db: float | None = None) -> Auto:
        """Returns the rule of `--repeats auto`: at most `most` repeats (None: 8), and as `Auto` the threshold.

        None: that of the weights' calibration, UserError where there is none.
        """
        threshold_db = self.weights.auto_threshold_db if threshold_db is None else threshold_db
        if threshold_db is None:
            raise UserError(
                f"--repeats auto: the weights {self.weights.name!r} have no threshold: run 'tisdiss weights calibrate' "
                "on them, or pass a number"
            )
        return Auto(threshold_db, most or MOST_AUTO)

    def until_quality(self, least: float, most: int | None = None) -> UntilQuality:
        """Returns the rule of `--quality`: `least` dB of SI-SNRi are predicted, or `most` repeats done (None: 8)."""
        return UntilQuality(self.predictor("--quality"), least, most or MOST_AUTO)

    def predictor(self, option: str) -> QualityModel:
        """Returns what `option` needs to predict SI-SNRi; UserError where the weights have none."""
        model = QualityModel.of(self.weights.info.get(QUALITY))
        if model is None:
            raise UserError(
                f"{option}: the weights {self.weights.name!r} do not predict SI-SNRi: run 'tisdiss weights calibrate' "
                "on them"
            )
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
            sample_rate: of `waveform` in Hz; None: the network's. Other rates are resampled.
            repeats: of the Reconstructor, at least 1; None: `default_repeats`; "auto": until the estimate settles.
            separator_repeats: of the Separator, at least 1; None: as trained.

        Raises:
            UserError: `repeats` below 1, an impossible shape, or samples that are NaN or infinite.
        """
        mixture = as_mixture(waveform, sample_rate, self.sample_rate)
        if isinstance(repeats, str) and repeats != "auto":
            raise UserError(f"repeats {repeats!r}: it must be a number or 'auto'")
        wanted = self.auto() if isinstance(repeats, str) else repeats
        _check_repeats(wanted, separator_repeats)
        return self.in_chunks(mixture, self.plan(), wanted, separator_repeats)[0]

    def refine(
        self,
        waveform: Tensor,
        sample_rate: int | None = None,
        *,
        repeats: int | None = None,
        separator_repeats: int | None = None,
    ) -> Iterator[Tensor]:
        """Yields the voices (S, L) after each repeat of the Reconstructor, 1 to `repeats`; arguments as `separate`.

        Where the waveform is one chunk, each estimate is computed when it is asked for; for longer ones
        all are computed before the first is yielded.
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
        if len(chunks) > 1:  # the device cannot hold the state of several between repeats
            found = [iter(list(estimates)) for estimates in found]
        for every in zip(*found, strict=True):
            stitcher = Stitcher(plan)
            parts = [stitcher.push(start, voices) for (start, _), voices in zip(chunks, every, strict=True)]
            yield torch.cat([*parts, stitcher.finish()], dim=1)


def as_mixture(waveform: Tensor, sample_rate: int | None, wanted: int) -> Tensor:
    """Returns a waveform (L,) or (channels, L), any level, as a mixture (L',) at `wanted` Hz in float32 on the CPU.

    Channels are averaged, or the loudest taken where they would cancel, which the log says. UserError of an impossible
    shape or dtype, or samples that are NaN or infinite. `sample_rate` is the waveform's; None: `wanted`.
    """
    if waveform.dim() not in (1, 2) or not waveform.numel() or not waveform.is_floating_point():
        raise UserError(f"waveform must be floating point, (L,) or (channels, L), not {tuple(waveform.shape)}")
    if not torch.isfinite(waveform).all():
        raise UserError("waveform has NaN or infinite samples: mend or drop it")
    rate = sample_rate or wanted
    resampler = Resampler(rate, wanted)
    waveform = waveform.detach().float().cpu()
    if waveform.dim() == 2:
        survey = Survey((), rate)
        survey.push(waveform.T.numpy())
        for warning in survey.decide():
            log.warning(f"waveform: {warning}")
        waveform = torch.from_numpy(survey.mix(waveform.T.numpy()))
    return torch.cat((resampler.push(waveform), resampler.finish()))


def _check_repeats(repeats: int | EarlyExit | None, separator_repeats: int | None) -> None:
    for option, value in (("--repeats", repeats), ("--separator-repeats", separator_repeats)):
        if isinstance(value, int) and value < 1:
            raise UserError(f"{option} {value}: it must be at least 1")
