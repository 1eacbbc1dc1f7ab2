"""A waveform in, its sources out: scale, chunk, run, stitch. The Python API is `Separator`."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.devices import choose_device, choose_precision, computing, memory_guard
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.locoformer import SpeakerPath, SpectralPath
from tisdiss_cli.model.network import Estimate, TISDiSS
from tisdiss_cli.model.weights import QUALITY, WeightFile, find_weights, load_weights, read_info
from tisdiss_cli.separation.agreement import known_agreement
from tisdiss_cli.separation.batches import Batches
from tisdiss_cli.separation.capacity import affordable_seconds, free_bytes
from tisdiss_cli.separation.chunking import ChunkPlan, Stitcher
from tisdiss_cli.separation.early_exit import Auto, EarlyExit, UntilQuality, settle
from tisdiss_cli.separation.quality import QualityModel
from tisdiss_cli.separation.side_by_side import threads_of
from tisdiss_cli.separation.waveform import as_mixture

MOST_CHUNKS = 16  # in a batch, where nobody asks for more
CHUNKS_A_CORE, MOST_ON_A_CPU = 4, 64  # in a batch: enough that no core waits long for the others at its end
MOST_AUTO = 8  # repeats, where nobody says how many an early exit may use


class Separator:
    """A loaded network with its device and precision: mixtures in, voices out.

    Attributes:
        network: the `TISDiSS` module, in evaluation mode.
        weights: metadata of the weight file.
        precision_why: why `load` took that one, in words.
        compiled: whether `compile` was called.
        device, precision: as chosen; precision is "fp32", "tf32" or "bf16".
    """

    def __init__(self, network: TISDiSS, weights: WeightFile, device: torch.device, precision: str) -> None:
        self.network, self.weights, self.device, self.precision = network.to(device).eval(), weights, device, precision
        self.precision_why = "it was asked for"
        self.compiled = False
        self.batches = Batches(self)

    @classmethod
    def load(
        cls, name_or_path: str | os.PathLike[str] | None = None, device: str = "auto", precision: str = "auto"
    ) -> "Separator":
        """Loads bundled weights by name, or a weight file; None: the bundled default.

        Raises:
            UserError: unknown weights, device or precision.
        """
        chosen = choose_device(device)
        path = find_weights(name_or_path)
        weights = read_info(path)
        taken, why = choose_precision(precision, chosen, known_agreement(weights))
        separator = cls(load_weights(path), weights, chosen, taken)
        separator.precision_why = why
        return separator

    def compile(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Has torch.compile fuse each path, for any length, when it first runs; which takes a minute or two.

        What comes out differs by rounding only. `backend` is torch.compile's.
        """
        # A graph for each axis, precision, and one or several at a time; beyond 8 torch would silently stop compiling.
        torch._dynamo.config.recompile_limit = 64
        for module in self.network.modules():
            if isinstance(module, SpectralPath | SpeakerPath):
                module.of_slice = torch.compile(module.of_slice, dynamic=True, backend=backend)  # type: ignore[method-assign]
        self.compiled = True

    @property
    def config(self) -> Config:
        """The network's configuration."""
        return self.network.config

    @property
    def sample_rate(self) -> int:
        """Of the voices, in Hz."""
        return self.config.sample_rate

    @property
    def sources(self) -> int:
        """The number of voices, S."""
        return self.config.speakers

    @property
    def default_repeats(self) -> int:
        """Of the Reconstructor where none are asked for: as the weights' calibration recommends, else as trained."""
        return self.weights.default_repeats

    def plan(self, seconds: float | None = None) -> ChunkPlan:
        """How waveforms longer than `seconds` are cut (None: as the weights' metadata recommend)."""
        seconds = seconds or self.weights.chunk_seconds
        return ChunkPlan.of(max(4 * self.config.n_fft, round(seconds * self.sample_rate)), self.sample_rate)

    @cached_property
    def affordable_seconds(self) -> float:
        """Of audio that the device takes at a time, by its free memory when this was first asked."""
        return affordable_seconds(self.config, self.precision, free_bytes(self.device))

    def stacks(self, batch_size: int) -> bool:
        """Whether a batch is one tensor, of equally long chunks, rather than as many runs side by side.

        A CPU is busy with one; what was compiled is run by one thread at a time.
        """
        return batch_size == 1 or self.device.type != "cpu" or self.compiled

    def default_batch(self, plan: ChunkPlan, inputs: int = 1) -> int:
        """Chunks in a batch: what a device affords at a time, up to MOST_CHUNKS; on a CPU by its cores.

        There each of fewer `inputs` than cores has all of them.
        """
        if self.device.type != "cpu":
            return max(1, min(MOST_CHUNKS, int(self.affordable_seconds * self.sample_rate / plan.chunk)))
        cores = torch.get_num_threads()
        return min(CHUNKS_A_CORE * cores, MOST_ON_A_CPU) if inputs >= cores > 1 and not self.compiled else 1

    def threads_of(self, samples: int) -> int:
        """How many of a CPU's threads a chunk of such a length gets beside others."""
        return threads_of(samples / self.sample_rate, torch.get_num_threads())

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which the network runs at this precision."""
        return computing(self.device, self.precision)

    def separate(
        self,
        waveform: Tensor,
        sample_rate: int | None = None,
        *,
        repeats: int | str | None = None,
        separator_repeats: int | None = None,
    ) -> Tensor:
        """The voices (S, L) of a mixture (L,) or (channels, L), at the network's rate, on the CPU.

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
        check_repeats(wanted, separator_repeats)
        return self.batches.in_chunks(mixture, self.plan(), wanted, separator_repeats)[0]

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
        check_repeats(repeats, separator_repeats)
        plan = self.plan()
        if mixture.shape[0] <= plan.last:
            for voices in self._every_repeat(mixture, repeats, separator_repeats):
                stitcher = plan.stitcher()
                yield torch.cat((stitcher.push(0, voices), stitcher.finish()), dim=1)
            return
        stitchers: list[Stitcher] = []
        parts: list[list[Tensor]] = []
        chunker = plan.chunker()
        for start, chunk in chunker.push(mixture) + chunker.finish():
            for index, voices in enumerate(self._every_repeat(chunk, repeats, separator_repeats)):
                if index == len(stitchers):
                    stitchers.append(plan.stitcher())
                    parts.append([])
                parts[index].append(stitchers[index].push(start, voices))
        for stitcher, part in zip(stitchers, parts, strict=True):
            yield torch.cat([*part, stitcher.finish()], dim=1)

    def estimates(
        self, mixtures: Tensor, repeats: int | None = None, separator_repeats: int | None = None
    ) -> Iterator[Estimate]:
        """Runs the network on whole mixtures (B, n), any n from 1, a repeat each time the next is asked for.

        Yields the Splitter's estimate and that of every repeat, whose `waveforms` decodes the voices (B, S, n) on the
        device. Everything that runs the network for inference comes through here, or through `batch`.
        """
        estimates = self.network.padded_estimates(
            mixtures.to(self.device), repeats or self.default_repeats, separator_repeats
        )
        while True:
            # Not around the yield: the contexts would reach into the caller's code.
            with torch.inference_mode(), self.autocast():
                estimate = next(estimates, None)
            if estimate is None:
                return
            if estimate.ends_repeat:
                yield replace(estimate, waveforms=partial(self._decode, estimate))

    def _decode(self, estimate: Estimate) -> Tensor:
        with torch.inference_mode(), self.autocast():
            return estimate.waveforms()

    def batch(self, mixtures: Tensor, repeats: int | None = None, separator_repeats: int | None = None) -> Tensor:
        """Mixtures (B, n), any n from 1, to their voices (B, S, n) on the device; memory may run out."""
        with torch.inference_mode(), self.autocast():
            return self.network.separate(mixtures.to(self.device), repeats or self.default_repeats, separator_repeats)

    def auto(self, most: int | None = None, threshold_db: float | None = None) -> Auto:
        """`--repeats auto`: by the threshold that the weights were calibrated to, at most `most` repeats (None: 8)."""
        threshold_db = self.weights.auto_threshold_db if threshold_db is None else threshold_db
        if threshold_db is None:
            raise UserError(
                f"--repeats auto: the weights {self.weights.name!r} have no threshold: run 'tisdiss weights calibrate' "
                "on them, or pass a number"
            )
        return Auto(threshold_db, most or MOST_AUTO)

    def until_quality(self, least: float, most: int | None = None) -> UntilQuality:
        """`--quality`: until so many dB of SI-SNRi are predicted, at most `most` repeats (None: 8)."""
        return UntilQuality(self.predictor("--quality"), least, most or MOST_AUTO)

    def predictor(self, option: str) -> QualityModel:
        """What `option` needs to predict SI-SNRi; UserError where the weights have none."""
        model = QualityModel.of(self.weights.info.get(QUALITY))
        if model is None:
            raise UserError(
                f"{option}: the weights {self.weights.name!r} do not predict SI-SNRi: run 'tisdiss weights calibrate' "
                "on them"
            )
        return model

    def run(
        self, mixtures: Tensor, repeats: int | EarlyExit | None = None, separator_repeats: int | None = None
    ) -> tuple[Tensor, list[int]]:
        """A batch of chunks (B, n), any n from 1, to their voices (B, S, n) on the CPU and the repeats of each.

        In smaller parts where the device's memory does not suffice for them together (`batches`).
        """
        return self.batches.run(mixtures, repeats, separator_repeats)

    def run_each(
        self,
        mixtures: Sequence[Tensor],
        repeats: int | EarlyExit | None = None,
        separator_repeats: int | None = None,
        *,
        stacked: bool,
    ) -> Iterator[tuple[Tensor, int, float]]:
        """Of chunks (n,), in their order, the voices (S, n), the repeats, and the seconds that each took.

        Args:
            mixtures: equally long where they are `stacked`, else of lengths that get equally many threads.
            repeats, separator_repeats: as `run`.
            stacked: in one tensor, or side by side; as `stacks` says.
        """
        run = self.batches.stacked if stacked else self.batches.beside
        return run(mixtures, repeats, separator_repeats)

    def compute(
        self, mixtures: Tensor, repeats: int | EarlyExit | None = None, separator_repeats: int | None = None
    ) -> tuple[Tensor, list[int]]:
        """`run` as it is asked for or not at all: OutOfMemory."""
        batch, length = mixtures.shape
        with memory_guard(f"{batch} x {length / self.sample_rate:.1f} s of audio"):
            on_device = mixtures.to(self.device)
            if isinstance(repeats, EarlyExit):
                estimates = self.estimates(on_device, repeats.most, separator_repeats)
                voices, used = settle(estimates, repeats, on_device)
            else:
                used = [repeats or self.default_repeats] * batch
                voices = self.batch(on_device, used[0], separator_repeats)
            return voices.cpu(), used

    def _every_repeat(self, mixture: Tensor, repeats: int | None, separator_repeats: int | None) -> Iterator[Tensor]:
        """(n,) -> the voices (S, n) after each repeat, on the CPU."""
        for estimate in self.estimates(mixture[None], repeats, separator_repeats):
            if estimate.repeat:
                yield estimate.waveforms()[0].cpu()


def check_repeats(repeats: int | EarlyExit | None, separator_repeats: int | None) -> None:
    """UserError unless both are None or at least 1."""
    for option, value in (("--repeats", repeats), ("--separator-repeats", separator_repeats)):
        if isinstance(value, int) and value < 1:
            raise UserError(f"{option} {value}: it must be at least 1")
