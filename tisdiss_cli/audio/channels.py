"""Several channels to one: averaged, chosen, or the loudest where averaging would cancel the sound.

What is done holds for a whole file, so it is decided by a first pass over it (`Survey`), in memory that does not grow.
"""

from collections.abc import Sequence
from math import inf, log10
from typing import Literal

import numpy as np

from tisdiss_cli.errors import UserError

CANCELS_DB = 20.0  # averaging that loses more takes the loudest channel instead
_PARTLY_DB = 6.0  # below what unrelated channels would average to: said, no more

# One talker a side: frames in which one channel is far above all others, of the frames in which somebody speaks.
_FRAME_SECONDS = 0.05
_ACTIVE_DB = 25.0  # below the level that a twentieth of the frames reach
_APART_DB = 10.0  # a channel this far above the others has a talker of its own in that frame
_APART_SHARE = 0.1  # of the active frames, for each of at least two channels
_LEAST_FRAMES = 40  # active ones; less tells nothing
_LEVELS, _DIFFERENCES = 200, 40  # bins of 1 dB: levels from -150 dB on, differences from 0 on


def parse_channels(text: str) -> tuple[int, ...] | Literal["each"]:
    """Returns () for `average` of all, `each`, or numbers from 1 on as in `1,3`, in their order; else UserError."""
    if text == "each":
        return "each"
    if text == "average":
        return ()
    try:
        numbers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        numbers = (0,)
    if numbers[0] < 1:
        raise UserError(f"--channels {text}: it must be average, each, or channels from 1 on, as in 2 or 1,3")
    return numbers


def chosen(wanted: Sequence[int], count: int) -> list[int]:
    """Returns the channels that are averaged, from 0 on, of `count`."""
    return [number - 1 for number in wanted] or list(range(count))


class Survey:
    """Several channels to one: all of a file's blocks are pushed, then it is decided, then they are mixed.

    Args:
        wanted: the channels that are to be averaged, from 1 on; () for all.
        rate: the blocks', Hz.
    """

    def __init__(self, wanted: Sequence[int], rate: float) -> None:
        self.wanted, self.frame = tuple(wanted), max(2, round(rate * _FRAME_SECONDS))
        self.tallies: dict[int, _Tally] = {}  # by the number of channels, which may change on the way
        self.instead: dict[int, int] = {}  # likewise: the one, from 0 on, that is taken instead of their average

    def push(self, block: np.ndarray) -> None:
        """Adds samples (n, C); blocks of any length give the same in the end."""
        count = block.shape[1]
        picked = block[:, chosen(self.wanted, count)]
        if picked.shape[1] > 1:
            self.tallies.setdefault(count, _Tally(picked.shape[1], self.frame)).push(picked)

    def mix(self, block: np.ndarray) -> np.ndarray:
        """Returns (n,) of a block (n, C): the channels' average until it was decided otherwise."""
        count = block.shape[1]
        if count in self.instead:
            return np.ascontiguousarray(block[:, self.instead[count]])
        return block[:, chosen(self.wanted, count)].mean(axis=1)

    def decide(self) -> list[str]:
        """Decides what is taken; returns what a user should know of it, sentences without the file's name."""
        warnings = []
        for count, tally in self.tallies.items():
            channels = chosen(self.wanted, count)
            place, loss, cancelled = tally.loss_db()
            loudest = channels[place]
            lost = f"averaging its channels loses {'more than 120' if loss > 120 else f'{loss:.0f}'} dB"
            if loss > CANCELS_DB:
                self.instead[count] = loudest
                warnings.append(f"{lost}, they cancel each other: channel {loudest + 1}, the loudest, is taken instead")
            elif cancelled > _PARTLY_DB:
                warnings.append(f"{lost}, they partly cancel each other: --channels {loudest + 1} takes the loudest")
            elif tally.apart():
                warnings.append(
                    "its channels hardly share anything, as where each has its own talker: "
                    "`tisdiss separate --channels each` takes every one by itself"
                )
        return warnings


class _Tally:
    """Sums over samples (n, C) with C from 2 on."""

    def __init__(self, count: int, frame: int) -> None:
        self.frames, self.sum, self.products = 0, np.zeros(count), np.zeros((count, count))
        self.frame, self.rest = frame, np.zeros((0, count))
        # Frames by their loudest channel, its level, and how far the next is below.
        self.seen = np.zeros((count, _LEVELS, _DIFFERENCES), dtype=np.int64)

    def push(self, block: np.ndarray) -> None:
        block = block.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # who reads the file says where it is not finite
            self.frames += len(block)
            self.sum += block.sum(axis=0)
            self.products += block.T @ block
            block = np.concatenate((self.rest, block))
            whole = len(block) // self.frame * self.frame
            self.rest = block[whole:]
            framed = block[:whole].reshape(-1, self.frame, block.shape[1])
            levels = 10 * np.log10(np.maximum(framed.var(axis=1), 1e-15))  # (frames, C); an offset is no sound
            levels = np.nan_to_num(levels, nan=-150, posinf=50)
        ordered = np.sort(levels, axis=1)
        level = np.clip(ordered[:, -1] + 150, 0, _LEVELS - 1).astype(int)
        difference = np.clip(ordered[:, -1] - ordered[:, -2], 0, _DIFFERENCES - 1).astype(int)
        np.add.at(self.seen, (levels.argmax(axis=1), level, difference), 1)

    def loss_db(self) -> tuple[int, float, float]:
        """Returns the loudest channel; and how far the average is below it, and below that of unrelated ones, in dB."""
        mean = self.sum / max(1, self.frames)
        with np.errstate(invalid="ignore", over="ignore"):
            covariance = self.products / max(1, self.frames) - np.outer(mean, mean)
        powers, count = np.diag(covariance), len(covariance)
        loudest = int(powers.argmax())
        if not powers.max() > 0:
            return loudest, 0.0, 0.0  # silence loses nothing
        average = covariance.sum() / count**2
        if average <= 1e-15 * powers.max():  # rounding of the sums
            return loudest, inf, inf
        return loudest, 10 * log10(powers.max() / average), 10 * log10(powers.sum() / count**2 / average)

    def apart(self) -> bool:
        """Tells if at least two channels are each far above all others where somebody speaks."""
        by_level = self.seen.sum(axis=(0, 2))
        from_above = by_level[::-1].cumsum()
        common = _LEVELS - 1 - int(np.searchsorted(from_above, max(1, by_level.sum() / 20)))
        active = self.seen[:, max(1, common - int(_ACTIVE_DB)) :]
        if active.sum() < _LEAST_FRAMES:
            return False
        shares = active[:, :, int(_APART_DB) :].sum(axis=(1, 2)) / active.sum()
        return int((shares >= _APART_SHARE).sum()) >= 2
