"""Many sound files in memory: read ahead by threads, at one rate, kept as 16-bit samples, drawn from in segments."""

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

FRAME = 256  # samples; activity is known frame by frame, and every clip starts at a multiple
CANDIDATES = 8  # positions tried for a segment that is not mostly silence
ACTIVE_DB = 30.0  # a frame is active within this much of its clip's loudest
_AHEAD = 256  # files

log = logging.getLogger("tisdiss")
Item = TypeVar("Item")
Result = TypeVar("Result")


class BadFiles(UserError):
    """Files that cannot be used: the first are named with their reasons, and how many more there are."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self.sentences = list(dict.fromkeys(sentences))
        count, said = len(self.sentences), listed(self.sentences, "; ")
        super().__init__(said if count == 1 else f"{count} files cannot be used: {said}")


class Complaints:
    """The bad files of several steps in one message, so that nobody mends them one by one."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keeps the bad files that the block ends with; what it would have made is missing until `check`."""
        try:
            yield
        except BadFiles as error:
            self.sentences += error.sentences

    def check(self) -> None:
        """BadFiles if there were any."""
        if self.sentences:
            raise BadFiles(self.sentences)


def read_clips(what: object, paths: Sequence[Path], sample_rate: int) -> Iterator[Tensor]:
    """Yields (L,) float32 for every path, in order, none silent; the log says once what was resampled.

    `what` is the subject of that sentence, a folder say. After a bad file no more are yielded, but all are read; at the
    end BadFiles has those that cannot be read, or are silent.
    """
    rates: set[int] = set()

    def read(path: Path) -> Tensor | str:
        try:
            source = Source(path, sample_rate)
            rates.add(source.input_rate)
            waveform = torch.cat(list(source.blocks()))
        except UserError as error:
            return str(error)
        except OSError as error:  # a disk that went away, say
            return f"{path} cannot be read ({error.strerror or error})"
        for warning in source.warnings:
            log.warning(f"{path}: {warning}")
        return waveform if waveform.any() else f"{path} is silent: take it out"

    bad: list[str] = []
    for clip in ahead(read, paths, threads=min(8, cores()), most=_AHEAD):
        if isinstance(clip, str):
            bad.append(clip)
        elif not bad:
            yield clip
    if bad:
        raise BadFiles(bad)
    say_rates(what, rates, sample_rate)


def ahead(function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, most: int) -> Iterator[Result]:
    """Yields the function's result for each item, in order; threads are up to `most` items ahead."""
    pool, coming = ThreadPoolExecutor(threads), deque[Future[Result]]()
    try:
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) > most:
                yield coming.popleft().result()
        for future in coming:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def count_rates(paths: Iterable[Path]) -> tuple[Counter[int], list[str]]:
    """Returns how many files have each rate, in Hz, and why others cannot be opened."""
    rates, bad = Counter[int](), list[str]()
    for path in paths:
        try:
            rates[probe(path).input_rate] += 1
        except UserError as error:
            bad.append(str(error))
    return rates, bad


def commonest(rates: Counter[int]) -> int | None:
    """Returns the rate of most of the files, of equals the lowest; None of none."""
    return max(sorted(rates), key=rates.__getitem__, default=None)


def say_rates(what: object, rates: set[int], sample_rate: int) -> None:
    """Says once in the log that files of other rates are resampled."""
    if other := sorted(rates - {sample_rate}):
        log.info(f"{what}: files at {listed(other)} Hz are resampled to {sample_rate} Hz")


def active_frames(clip: Tensor) -> Tensor:
    """Finds frames of a padded clip within ACTIVE_DB of its loudest, and not silent: (..., L) -> (..., L / FRAME)."""
    energy = clip.unflatten(-1, (-1, FRAME)).square().sum(dim=-1)
    return (energy > energy.amax(dim=-1, keepdim=True) * 10 ** (-ACTIVE_DB / 10)) & (energy > 0)


def active_before(active: Tensor) -> Tensor:
    """Returns how many frames are active before each, (K, F) -> (K, F + 1)."""
    return torch.nn.functional.pad(active.cumsum(dim=1), (1, 0)).int()


@dataclass(frozen=True)
class OnDevice:
    """Tensors, and others of this kind, that are together on one device."""

    def to(self, device: torch.device) -> Self:
        """Returns the same with its tensors on `device`."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if hasattr(value, "to")})


@dataclass(frozen=True)
class Clips(OnDevice):
    """Signals end to end as 16-bit samples, from which segments are drawn; all tensors on one device."""

    samples: Tensor  # (K, N) int16; every clip starts at a multiple of FRAME
    active: Tensor  # (A, N / FRAME + 1) int32: active frames before each frame, of the signals that decide
    starts: Tensor  # (U,) int64, first sample of every clip
    lengths: Tensor  # (U,) int64, samples

    @staticmethod
    def pack(clips: Iterable[Tensor], first: int = 0) -> "Clips":
        """Packs clips (K, L) in +-1, on the CPU; the signals from `first` on decide where segments lie."""
        pieces, active, lengths = list[Tensor](), list[Tensor](), list[int]()
        for clip in clips:
            lengths.append(clip.shape[-1])
            clip = torch.nn.functional.pad(clip, (0, -clip.shape[-1] % FRAME))
            active.append(active_frames(clip[first:]))
            pieces.append((clip * 32767).round().to(torch.int16))
        sizes = torch.tensor([piece.shape[1] for piece in pieces])
        starts = sizes.cumsum(0) - sizes
        return Clips(torch.cat(pieces, 1), active_before(torch.cat(active, 1)), starts, torch.tensor(lengths))

    @property
    def checksum(self) -> str:
        """A few digits of what a run trains on, so that it is not resumed on other data."""
        return f"{self.samples.numel()}:{int(self.samples.sum(dtype=torch.int64))}"

    def draw(self, clip: Tensor, samples: int, random: torch.Generator) -> Tensor:
        """Draws a segment of each clip, (...) -> (K, ..., samples) float32, with zeros where a clip is shorter.

        Of CANDIDATES offsets one is taken where at least half of the frames are active, or else the most active; of
        several signals the least active decides. A clip shorter than the segment lies at a random place in it.
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
    """Draws by weights (..., N), at least `count` of them above 0 and none below: (..., count) indices, none twice.

    As torch.multinomial without replacement, whose draws these are; but that reads from the device whether the weights
    are in order, and so waits for it.
    """
    races = weights / torch.empty_like(weights).exponential_(generator=random)
    return races.argmax(dim=-1, keepdim=True) if count == 1 else races.topk(count, dim=-1).indices
