"""Many sound files into memory: read ahead by threads, at one rate, kept as 16-bit samples."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.audio.read import Source
from tisdiss_cli.devices import cores
from tisdiss_cli.errors import UserError

FRAME = 256  # samples; activity is known frame by frame, and every clip starts at a multiple
ACTIVE_DB = 30.0  # a frame is active within this much of its clip's loudest
_AHEAD = 256  # files read at a time
_NAMED = 10  # of bad files

log = logging.getLogger("tisdiss")


class BadFiles(UserError):
    """Files that cannot be used: the first are named with their reasons, and how many more there are."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self.sentences = list(dict.fromkeys(sentences))
        count = len(self.sentences)
        more = f"; and {count - _NAMED} more" if count > _NAMED else ""
        said = "; ".join(self.sentences[:_NAMED]) + more
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

    `what` is the subject of that sentence, a folder say. After a bad file no more are yielded, but all are read.

    Raises:
        BadFiles: at the end, the files that cannot be read, or are silent.
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
    with ThreadPoolExecutor(min(8, cores())) as pool:
        for begin in range(0, len(paths), _AHEAD):
            for clip in pool.map(read, paths[begin : begin + _AHEAD]):
                if isinstance(clip, str):
                    bad.append(clip)
                elif not bad:
                    yield clip
    if bad:
        raise BadFiles(bad)
    say_rates(what, rates, sample_rate)


def say_rates(what: object, rates: set[int], sample_rate: int) -> None:
    """One sentence of the log if files of other rates are resampled."""
    other = sorted(rates - {sample_rate})
    if other:
        listed = ", ".join(str(rate) for rate in other)
        log.info(f"{what}: files at {listed} Hz are resampled to {sample_rate} Hz")


def padded(clip: Tensor) -> Tensor:
    """(..., L) with zeros to a multiple of FRAME."""
    return torch.nn.functional.pad(clip, (0, -clip.shape[-1] % FRAME))


def active_frames(clip: Tensor) -> Tensor:
    """Frames of a padded clip within ACTIVE_DB of its loudest, and not silent: (..., L) -> (..., L / FRAME)."""
    energy = clip.unflatten(-1, (-1, FRAME)).square().sum(dim=-1)
    return (energy > energy.amax(dim=-1, keepdim=True) * 10 ** (-ACTIVE_DB / 10)) & (energy > 0)


def pick_by_weight(weights: Tensor, count: int, random: torch.Generator) -> Tensor:
    """(..., N) not negative, at least `count` of them above 0 -> (..., count) indices, none twice.

    As torch.multinomial without replacement, whose draws these are; but that reads from the device whether the weights
    are in order, and so waits for it.
    """
    races = weights / torch.empty_like(weights).exponential_(generator=random)
    return races.argmax(dim=-1, keepdim=True) if count == 1 else races.topk(count, dim=-1).indices


def to_int16(clip: Tensor) -> Tensor:
    """Values in +-1 as 16-bit samples."""
    return (clip * 32767).round().to(torch.int16)


def checksum(samples: Tensor) -> str:
    """Of what a run trains on, so that it is not resumed on other data."""
    return f"{samples.numel()}:{int(samples.sum(dtype=torch.int64))}"


def to_device(data: Any, device: torch.device) -> Any:
    """A dataclass with all its tensors, its members' too, on `device`."""
    moved = {name: value.to(device) for name, value in vars(data).items() if hasattr(value, "to")}
    return replace(data, **moved)
