"""Many sound files into memory: read ahead by threads, at one rate, kept as 16-bit samples."""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.audio.read import Source
from tisdiss_cli.errors import UserError

FRAME = 256  # samples; activity is known frame by frame, and every clip starts at a multiple
ACTIVE_DB = 30.0  # a frame is active within this much of its clip's loudest
_AHEAD = 256  # files read at a time

log = logging.getLogger("tisdiss")


def read_clips(what: object, paths: Sequence[Path], sample_rate: int) -> Iterator[Tensor]:
    """Yields (L,) float32 for every path, in order, none silent; the log says once what was resampled.

    `what` is the subject of that sentence, a folder say.

    Raises:
        UserError: a file that cannot be read, or is silent.
    """
    rates: set[int] = set()

    def read(path: Path) -> Tensor:
        source = Source(path, sample_rate)
        rates.add(source.input_rate)
        waveform = torch.cat(list(source.blocks()))
        for warning in source.warnings:
            log.warning(f"{path}: {warning}")
        if not waveform.any():
            raise UserError(f"{path} is silent: take it out")
        return waveform

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for begin in range(0, len(paths), _AHEAD):
            yield from pool.map(read, paths[begin : begin + _AHEAD])
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
