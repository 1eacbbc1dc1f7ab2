"""Sound files in memory: read by threads, resampled, stored as 16-bit samples, drawn from in segments."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import torch
from torch import Tensor

from tisdiss_cli.audio.read import Source, probe
from tisdiss_cli.devices import cores
from tisdiss_cli.errors import UserError, listed

FRAME = 256  # samples; the unit of activity, and every clip starts at a multiple
CANDIDATES = 8  # random positions compared for each segment
ACTIVE_DB = 30.0  # a frame is active within this much of its clip's loudest
_AHEAD = 256  # files

log = logging.getLogger("tisdiss")
Item = TypeVar("Item")
Result = TypeVar("Result")


class BadFiles(UserError):
    """Unusable files: the message has their number, and the first ones with reasons."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self.sentences = list(dict.fromkeys(sentences))
        count, reasons = len(self.sentences), listed(self.sentences, "; ")
        super().__init__(reasons if count == 1 else f"{count} files cannot be used: {reasons}")


class ErrorCollector:
    """Collector of the bad files of several steps, to report them all in one message."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Suppresses and keeps a BadFiles of the block, whose results are then missing until `raise_if_any`."""
        try:
            yield
        except BadFiles as error:
            self.sentences += error.sentences

    def raise_if_any(self) -> None:
        """Raises BadFiles if there are any."""
        if self.sentences:
            raise BadFiles(self.sentences)


def read_clips(what: object, paths: Sequence[Path], sample_rate: int) -> Iterator[Tensor]:
    """Yields (L,) float32 for every path, in order, and logs once if files were resampled.

    `what` names the files in the log, such as their folder. After an unreadable or silent file, the rest is read but
    not yielded, and BadFiles is raised at the end.
    """
    rates: set[int] = set()

    def read(path: Path) -> Tensor | str:
        try:
            source = Source(path, sample_rate)
            rates.add(source.input_rate)
            waveform = torch.cat(list(source.blocks()))
        except UserError as error:
            return str(error)
        except OSError as error:  # such as a disk that was removed
            return f"{path} cannot be read ({error.strerror or error})"
        for warning in source.warnings:
            log.warning(f"{path}: {warning}")
        return waveform if waveform.any() else f"{path} is silent: remove it"

    bad: list[str] = []
    for clip in map_ahead(read, paths, threads=min(8, cores()), most=_AHEAD):
        if isinstance(clip, str):
            bad.append(clip)
        elif not bad:
            yield clip
    if bad:
        raise BadFiles(bad)
    log_resampling(what, rates, sample_rate)


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, most: int
) -> Iterator[Result]:
    """Yields the result for each item, in order; threads work up to `most` items ahead."""
    pool, pending = ThreadPoolExecutor(threads), deque[Future[Result]]()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > most:
                yield pending.popleft().result()
        for future in pending:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def count_sample_rates(paths: Iterable[Path]) -> tuple[Counter[int], list[str]]:
    """Returns the number of files at each rate in Hz, and the reasons why others cannot be opened."""
    rates, bad = Counter[int](), list[str]()
    for path in paths:
        try:
            rates[probe(path).input_rate] += 1
        except UserError as error:
            bad.append(str(error))
    return rates, bad


def most_common_rate(rates: Counter[int]) -> int | None:
    """Returns the most common rate, the lowest of equals; None if `rates` is empty."""
    return max(sorted(rates), key=rates.__getitem__, default=None)


def log_resampling(what: object, rates: set[int], sample_rate: int) -> None:
    """Logs that files at other rates are resampled."""
    if other := sorted(rates - {sample_rate}):
        log.info(f"{what}: files at {listed(other)} Hz are resampled to {sample_rate} Hz")


def active_frames(clip: Tensor) -> Tensor:
    """Returns True for frames within ACTIVE_DB of the loudest and not silent: (..., L) -> (..., L / FRAME)."""
    energy = clip.unflatten(-1, (-1, FRAME)).square().sum(dim=-1)
    return (energy > energy.amax(dim=-1, keepdim=True) * 10 ** (-ACTIVE_DB / 10)) & (energy > 0)


def cumulative_activity(active: Tensor) -> Tensor:
    """Returns the number of active frames before each frame: (K, F) -> (K, F + 1)."""
    return torch.nn.functional.pad(active.cumsum(dim=1), (1, 0)).int()


@dataclass(frozen=True)
class OnDevice:
    """Dataclass of tensors, or of other such dataclasses, on one device."""

    def to(self, device: torch.device) -> Self:
        """Returns a copy with all tensors on `device`."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if hasattr(value, "to")})


@dataclass(frozen=True)
class Clips(OnDevice):
    """Concatenated signals as 16-bit samples, from which segments are drawn; all tensors on one device."""

    samples: Tensor  # (K, N) int16; every clip starts at a multiple of FRAME
    active: Tensor  # (A, N / FRAME + 1) int32, active frames before each frame
    starts: Tensor  # (U,) int64, first sample of every clip
    lengths: Tensor  # (U,) int64, samples

    @staticmethod
    def pack(clips: Iterable[Tensor], first: int = 0) -> "Clips":
        """Packs clips (K, L) within +-1, on the CPU; signals from `first` on count for activity."""
        pieces, active, lengths = list[Tensor](), list[Tensor](), list[int]()
        for clip in clips:
            lengths.append(clip.shape[-1])
            clip = torch.nn.functional.pad(clip, (0, -clip.shape[-1] % FRAME))
            active.append(active_frames(clip[first:]))
            pieces.append((clip * 32767).round().to(torch.int16))
        sizes = torch.tensor([piece.shape[1] for piece in pieces])
        starts = sizes.cumsum(0) - sizes
        return Clips(torch.cat(pieces, 1), cumulative_activity(torch.cat(active, 1)), starts, torch.tensor(lengths))

    @property
    def checksum(self) -> str:
        """Checksum of the samples, to detect that a run is resumed on other data."""
        return f"{self.samples.numel()}:{int(self.samples.sum(dtype=torch.int64))}"

    def draw(self, clip: Tensor, samples: int, random: torch.Generator) -> Tensor:
        """Draws a segment of each clip, (...) -> (K, ..., samples) float32; shorter clips are zero-padded at random.

        Takes the first of CANDIDATES random offsets with at least half of the frames active, or else the most active;
        the least active of several signals counts.
        """
        start, length = self.starts[clip], self.lengths[clip]
        slack = (length - samples)[..., None]
        offset = (torch.rand(*clip.shape, CANDIDATES, device=clip.device, generator=random) * slack).long()
        inside = offset.clamp(min=0)
        frame = (start[..., None] + inside) // FRAME
        frames = (length[..., None] - inside).clamp(max=samples) // FRAME
        activity = (self.active[:, frame + frames] - self.active[:, frame]).amin(0).clamp(max=samples // FRAME // 2)
        offset = offset.gather(-1, activity.argmax(dim=-1, keepdim=True))  # (..., 1)
        position = offset + torch.arange(samples, device=clip.device)
        index = (start[..., None] + position).clamp(0, self.samples.shape[-1] - 1)
        return self.samples[:, index].float() / 32768 * ((position >= 0) & (position < length[..., None]))


def pick_by_weight(weights: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Draws distinct indices (..., count) by weights (..., N), none negative and at least `count` positive.

    Draws the same as torch.multinomial without replacement, which checks the weights and so waits for the device.
    """
    races = weights / torch.empty_like(weights).exponential_(generator=random)
    return races.argmax(dim=-1, keepdim=True) if count == 1 else races.topk(count, dim=-1).indices
