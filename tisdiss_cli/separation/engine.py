"""Engine: a network on a device at a precision, and its batches."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Self

import torch
from torch import Tensor

from tisdiss_cli.devices import (
    OutOfMemory,
    choose_device,
    choose_precision,
    computing,
    free_bytes,
    memory_guard,
    side_by_side,
)
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.config import MOST_SHIFTS, Config
from tisdiss_cli.model.locoformer import SpeakerPath, SpectralPath
from tisdiss_cli.model.network import Estimate, TISDiSS
from tisdiss_cli.model.weights import WeightFile, find_weights, load_weights, read_info
from tisdiss_cli.separation.capacity import affordable_seconds, threads_of
from tisdiss_cli.separation.chunking import LAST, Chunker, ChunkPlan, Stitcher
from tisdiss_cli.separation.early_exit import EarlyExit, stop_early
from tisdiss_cli.separation.shifts import shifted_estimates

log = logging.getLogger("tisdiss")

Repeats = int | EarlyExit | None  # None: the weights' default

MOST_CHUNKS = 16  # in a batch by default
CHUNKS_A_CORE, MOST_ON_A_CPU = 4, 64  # in a batch on a CPU; many, so that cores wait little at its end


class Engine:
    """A loaded network with its device and precision: chunks in, their voices out.

    Attributes:
        network: the `TISDiSS` module, in evaluation mode.
        weights: metadata of the weight file.
        device, precision: as chosen; precision is "fp32", "tf32" or "bf16".
        precision_why: the reason for that precision, in words.
        shifts: averaged passes over each chunk, a part of a hop apart.
        compiled: whether `compile` was called.
        largest, longest: chunks in a batch, and samples of a chunk, that fit since memory ran out; None before that.
    """

    def __init__(self, network: TISDiSS, weights: WeightFile, device: torch.device, precision: str) -> None:
        self.network, self.weights, self.device, self.precision = network.to(device).eval(), weights, device, precision
        self.precision_why = "requested"
        self.shifts, self.compiled = 1, False
        self.largest: int | None = None
        self.longest: int | None = None

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        shifts: int = 1,
    ) -> Self:
        """Loads weights onto a device.

        Args:
            name_or_path: a bundled name, a weight file, or a fetched repository. Default: the bundled default.
            device: "auto", "cpu", "cuda", "cuda:0", ... or "mps".
            precision: "auto", "fp32", "bf16" or, on CUDA, "tf32".
            shifts: averaged passes over each chunk, a part of a hop apart: better, and that many times slower.

        Raises:
            UserError: unknown weights, device or precision, or an impossible number of shifts.
        """
        if not 1 <= shifts <= MOST_SHIFTS:
            raise UserError(f"--shifts {shifts}: it must be 1 to {MOST_SHIFTS}")
        chosen = choose_device(device)
        path = find_weights(name_or_path)
        weights = read_info(path)
        taken, why = choose_precision(precision, chosen, weights.bf16_agreement_db)
        engine = cls(load_weights(path), weights, chosen, taken)
        engine.precision_why, engine.shifts = why, shifts
        return engine

    def compile(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compiles each path at its first run, for any length, which takes a minute or two.

        The output differs by rounding only. `backend` is torch.compile's.
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
        """Rate of the voices, in Hz."""
        return self.config.sample_rate

    @property
    def sources(self) -> int:
        """Number of voices, S."""
        return self.config.speakers

    @property
    def default_repeats(self) -> int:
        """Default repeats of the Reconstructor: as the weights' calibration recommends, else as trained."""
        return self.weights.default_repeats

    @property
    def variant(self) -> str:
        """Precision and shifts in words: "fp32", "bf16, 2 shifts"."""
        return self.precision + (f", {self.shifts} shifts" if self.shifts > 1 else "")

    def autocast(self) -> AbstractContextManager[None]:
        """Returns a context in which torch computes at this precision."""
        return computing(self.device, self.precision)

    # What runs together

    @cached_property
    def affordable_seconds(self) -> float:
        """Seconds of audio that fit the device at a time, by its free memory at the first call."""
        return affordable_seconds(self.config, self.precision, free_bytes(self.device), self.shifts)

    def default_batch(self, plan: ChunkPlan, inputs: int = 1) -> int:
        """Returns the default number of chunks in a batch: as memory allows, up to MOST_CHUNKS; on a CPU by its cores.

        With fewer `inputs` than cores, a CPU runs one chunk at a time on all cores.
        """
        if self.device.type != "cpu":
            return max(1, min(MOST_CHUNKS, int(self.affordable_seconds * self.sample_rate / plan.chunk)))
        cores = torch.get_num_threads()
        return min(CHUNKS_A_CORE * cores, MOST_ON_A_CPU) if inputs >= cores > 1 and not self.compiled else 1

    def stacks(self, batch_size: int) -> bool:
        """Returns whether a batch is one tensor of equally long chunks, rather than runs side by side on a CPU."""
        return batch_size == 1 or self.device.type != "cpu" or self.compiled

    def threads_of(self, samples: int) -> int:
        """Returns the CPU threads of a chunk of that length that runs beside others."""
        return threads_of(samples / self.sample_rate, torch.get_num_threads())

    # Running, from the network up

    def estimates(
        self, mixtures: Tensor, repeats: int | None = None, separator_repeats: int | None = None
    ) -> Iterator[Estimate]:
        """Yields the Splitter's estimate and that of every repeat, for mixtures (B, n), any n from 1.

        Each repeat runs when it is requested; `waveforms` decodes its voices (B, S, n) on the device. All inference
        runs through here or through `batch`.
        """
        estimates = self._passes(mixtures, repeats, separator_repeats)

        def decode(estimate: Estimate) -> Tensor:
            with torch.inference_mode(), self.autocast():
                return estimate.waveforms()

        while True:
            # Not around the yield, where the contexts would apply to the caller's code.
            with torch.inference_mode(), self.autocast():
                estimate = next(estimates, None)
            if estimate is None:
                return
            if estimate.ends_repeat:
                yield replace(estimate, waveforms=partial(decode, estimate))

    def batch(self, mixtures: Tensor, repeats: int | None = None, separator_repeats: int | None = None) -> Tensor:
        """Returns the voices (B, S, n) of mixtures (B, n), any n from 1, on the device."""
        with torch.inference_mode(), self.autocast():
            for last in self._passes(mixtures, repeats, separator_repeats):  # noqa: B007  one estimate alive at a time
                pass
            return last.waveforms()

    def _passes(self, mixtures: Tensor, repeats: int | None, separator_repeats: int | None) -> Iterator[Estimate]:
        return shifted_estimates(
            self.network, mixtures.to(self.device), repeats or self.default_repeats, separator_repeats, self.shifts
        )

    def compute(
        self, mixtures: Tensor, repeats: Repeats = None, separator_repeats: int | None = None
    ) -> tuple[Tensor, list[int]]:
        """Returns voices and repeats as `run` does, with all chunks in one tensor; OutOfMemory."""
        batch, length = mixtures.shape
        with memory_guard(f"{batch} x {length / self.sample_rate:.1f} s of audio"):
            on_device = mixtures.to(self.device)
            if isinstance(repeats, EarlyExit):
                estimates = self.estimates(on_device, repeats.most, separator_repeats)
                voices, used = stop_early(estimates, repeats, on_device)
            else:
                used = [repeats or self.default_repeats] * batch
                voices = self.batch(on_device, used[0], separator_repeats)
            return voices.cpu(), used

    def run(
        self, mixtures: Tensor, repeats: Repeats = None, separator_repeats: int | None = None
    ) -> tuple[Tensor, list[int]]:
        """Returns the voices (B, S, n) of chunks (B, n), any n from 1, on the CPU, and the repeats of each.

        At most `affordable_seconds` run at a time. If memory runs out nevertheless, the batch is halved, then the
        chunk, and the smaller size is kept; the log says so.
        """
        batch, length = mixtures.shape
        if self.longest and length > self.longest:
            plan = ChunkPlan(int(self.longest / LAST), self.sample_rate)
            cut = [self.in_chunks(mixture, plan, repeats, separator_repeats) for mixture in mixtures]
            return torch.stack([voices for voices, _ in cut]), [used for _, used in cut]
        seconds = length / self.sample_rate
        largest = min(self.largest or batch, max(1, int(self.affordable_seconds / seconds)))
        if batch > largest:
            parts = [self.run(part, repeats, separator_repeats) for part in mixtures.split(largest)]
            return torch.cat([voices for voices, _ in parts]), [used for _, part in parts for used in part]
        try:
            return self.compute(mixtures, repeats, separator_repeats)
        except OutOfMemory:
            if batch == 1 and length <= self.sample_rate:
                raise
        if batch > 1:
            if not self.largest:
                log.info(f"memory ran out with {batch} chunks at a time: going on with smaller batches")
            self.largest = batch // 2
        else:
            if not self.longest:
                log.info(f"memory ran out on a chunk of {seconds:.1f} s: going on with shorter chunks")
            self.longest = length // 2
        return self.run(mixtures, repeats, separator_repeats)

    def in_chunks(
        self, mixture: Tensor, plan: ChunkPlan, repeats: Repeats = None, separator_repeats: int | None = None
    ) -> tuple[Tensor, int]:
        """Returns the voices (S, L) of a mixture (L,), separated chunk by chunk, and the most repeats used."""
        chunker, stitcher = Chunker(plan), Stitcher(plan)
        parts, most = [], 0
        for start, chunk in chunker.push(mixture) + chunker.finish():
            voices, used = self.run(chunk[None], repeats, separator_repeats)
            parts.append(stitcher.push(start, voices[0]))
            most = max(most, *used)
        return torch.cat([*parts, stitcher.finish()], dim=1), most

    def run_each(
        self,
        mixtures: Sequence[Tensor],
        repeats: Repeats = None,
        separator_repeats: int | None = None,
        *,
        stacked: bool,
    ) -> Iterator[tuple[Tensor, int, float]]:
        """Yields the voices (S, n) of each chunk (n,), in order, its repeats, and the seconds that it took.

        Args:
            mixtures: chunks of one length if `stacked`, else of lengths with the same number of threads.
            repeats, separator_repeats: as in `run`.
            stacked: run as one tensor, each chunk with an equal share of the seconds; else side by side on a CPU, each
                with the seconds that it would have taken with all threads. See `stacks`.
        """
        if not stacked:
            yield from self._side_by_side(mixtures, repeats, separator_repeats)
            return
        began = time.perf_counter()
        found, used = self.run(torch.stack(list(mixtures)), repeats, separator_repeats)
        share = (time.perf_counter() - began) / len(mixtures)
        for voices, count in zip(found, used, strict=True):
            yield voices, count, share

    def _side_by_side(
        self, mixtures: Sequence[Tensor], repeats: Repeats, separator_repeats: int | None
    ) -> Iterator[tuple[Tensor, int, float]]:
        """Yields as `run_each` does; once memory runs out, chunks run one after the other."""
        cores, threads = torch.get_num_threads(), self.threads_of(max(map(len, mixtures)))

        def timed(
            run: Callable[..., tuple[Tensor, list[int]]], share: float, mixture: Tensor
        ) -> tuple[Tensor, int, float]:
            began = time.perf_counter()
            voices, used = run(mixture[None], repeats, separator_repeats)
            return voices[0], used[0], share * (time.perf_counter() - began)

        done = 0
        if threads < cores and self.largest != 1:
            try:
                for each in side_by_side(partial(timed, self.compute, threads / cores), mixtures, threads):
                    yield each
                    done += 1
            except OutOfMemory:
                log.info(f"memory ran out with {cores // threads} chunks at a time: going on with one")
                self.largest = 1
        for mixture in mixtures[done:]:
            yield timed(self.run, 1.0, mixture)
