"""Chunks that run together, as one tensor or side by side on a CPU, and what becomes of them when memory runs out."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from tisdiss_cli.devices import OutOfMemory
from tisdiss_cli.separation.chunking import LAST, ChunkPlan
from tisdiss_cli.separation.early_exit import EarlyExit
from tisdiss_cli.separation.side_by_side import side_by_side

log = logging.getLogger("tisdiss")

Repeats = int | EarlyExit | None


class Network(Protocol):
    """What runs the chunks: a `Separator`."""

    @property
    def sample_rate(self) -> int:
        """In Hz."""

    @property
    def affordable_seconds(self) -> float:
        """Of audio at a time."""

    def threads_of(self, samples: int) -> int:
        """How many of a CPU's threads a chunk of such a length gets beside others."""

    def compute(
        self, mixtures: Tensor, repeats: Repeats = None, separator_repeats: int | None = None
    ) -> tuple[Tensor, list[int]]:
        """Chunks (B, n) to their voices (B, S, n) on the CPU and the repeats of each; OutOfMemory."""


class Batches:
    """Remembers how much a device turned out to take at a time; the log has a sentence of each time it was less."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.largest: int | None = None  # chunks in a batch, once memory has run out
        self.longest: int | None = None  # samples of a chunk, likewise

    def run(self, mixtures: Tensor, repeats: Repeats, separator_repeats: int | None) -> tuple[Tensor, list[int]]:
        """Chunks (B, n), any n from 1, to their voices (B, S, n) on the CPU and the repeats of each.

        No more than `affordable_seconds` are run at a time. When the device's memory runs out all the same the batch is
        halved, then the chunk, and the smaller size is kept from then on.
        """
        batch, length = mixtures.shape
        if self.longest and length > self.longest:
            plan = ChunkPlan.of(int(self.longest / LAST), self.network.sample_rate)
            cut = [self.in_chunks(mixture, plan, repeats, separator_repeats) for mixture in mixtures]
            return torch.stack([voices for voices, _ in cut]), [used for _, used in cut]
        seconds = length / self.network.sample_rate
        largest = min(self.largest or batch, max(1, int(self.network.affordable_seconds / seconds)))
        if batch > largest:
            parts = [self.run(part, repeats, separator_repeats) for part in mixtures.split(largest)]
            return torch.cat([voices for voices, _ in parts]), [used for _, part in parts for used in part]
        try:
            return self.network.compute(mixtures, repeats, separator_repeats)
        except OutOfMemory:
            if batch == 1 and length <= self.network.sample_rate:
                raise
        if batch > 1:
            if not self.largest:
                log.info(f"memory ran out at {batch} chunks at a time: going on with smaller batches")
            self.largest = batch // 2
        else:
            if not self.longest:
                log.info(f"memory ran out on a chunk of {seconds:.1f} s: going on with shorter chunks")
            self.longest = length // 2
        return self.run(mixtures, repeats, separator_repeats)

    def in_chunks(
        self, mixture: Tensor, plan: ChunkPlan, repeats: Repeats, separator_repeats: int | None
    ) -> tuple[Tensor, int]:
        """(L,) -> (S, L) and the most repeats used, one chunk after the other."""
        chunker, stitcher = plan.chunker(), plan.stitcher()
        parts, most = [], 0
        for start, chunk in chunker.push(mixture) + chunker.finish():
            voices, used = self.run(chunk[None], repeats, separator_repeats)
            parts.append(stitcher.push(start, voices[0]))
            most = max(most, *used)
        return torch.cat([*parts, stitcher.finish()], dim=1), most

    def stacked(
        self, mixtures: Sequence[Tensor], repeats: Repeats, separator_repeats: int | None
    ) -> Iterator[tuple[Tensor, int, float]]:
        """Equally long chunks (n,) in one tensor; yields (S, n), the repeats, and an equal share of the seconds."""
        began = time.perf_counter()
        voices, used = self.run(torch.stack(list(mixtures)), repeats, separator_repeats)
        share = (time.perf_counter() - began) / len(mixtures)
        for voice, count in zip(voices, used, strict=True):
            yield voice, count, share

    def beside(
        self, mixtures: Sequence[Tensor], repeats: Repeats, separator_repeats: int | None
    ) -> Iterator[tuple[Tensor, int, float]]:
        """Chunks (n,) side by side on a CPU; all get the threads that the longest gets.

        Yields, in their order, (S, n), the repeats, and the seconds that each would have taken with all threads. When
        memory runs out they are run one after the other from then on, as `run` does.
        """
        cores, threads = torch.get_num_threads(), self.network.threads_of(max(map(len, mixtures)))

        def timed(
            run: Callable[..., tuple[Tensor, list[int]]], share: float, mixture: Tensor
        ) -> tuple[Tensor, int, float]:
            began = time.perf_counter()
            voices, used = run(mixture[None], repeats, separator_repeats)
            return voices[0], used[0], share * (time.perf_counter() - began)

        done = 0
        if threads < cores and self.largest != 1:
            try:
                for each in side_by_side(partial(timed, self.network.compute, threads / cores), mixtures, threads):
                    yield each
                    done += 1
            except OutOfMemory:
                log.info(f"memory ran out at {cores // threads} chunks at a time: going on with one")
                self.largest = 1
        for mixture in mixtures[done:]:
            yield timed(self.run, 1.0, mixture)
