"""Mixing of channels into one: averaged, chosen, or the loudest where averaging would cancel the sound.

The decision holds for a whole file, so it takes a first pass over it (`Survey`), in constant memory.
"""

from collections.abc import Sequence
from math import inf, log10
from typing import Literal

import numpy as np

from tisdiss_cli.errors import UserError

CANCELS_DB = 20.0  # loss by averaging above which the loudest channel is taken instead
_PARTLY_DB = 6.0  # loss, beyond that of unrelated channels, above which a warning advises the loudest

# One talker on each channel: frames in which one channel is far above all others, among the active frames.
_FRAME_SECONDS = 0.05
_ACTIVE_DB = 25.0  # active frames are at most this far below the level that 5 % of the frames reach
_APART_DB = 10.0  # lead over the other channels in a frame with a talker on that channel only
_APART_SHARE = 0.1  # share of such frames among the active ones, for each of at least two channels
_LEAST_FRAMES = 40  # active frames that a decision needs
_LEVELS, _DIFFERENCES = 200, 40  # bins of 1 dB: levels from -150 dB, differences from 0 dB


def parse_channels(text: str) -> tuple[int, ...] | Literal["each"]:
    """Returns () for `average`, "each", or the ascending numbers of a list like `1,3`; UserError for another text."""
    if text == "each":
        return "each"
    if text == "average":
        return ()
    try:
        numbers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        numbers = (0,)
    if numbers[0] < 1:
        raise UserError(f"--channels {text}: it must be average, each, or channel numbers, as in 2 or 1,3")
    return numbers


def chosen(selected: Sequence[int], count: int) -> list[int]:
    """Returns the indices of the averaged channels among `count`, from 0 on."""
    return [number - 1 for number in selected] or list(range(count))


class Survey:
    """Survey of a file's channels: push all blocks, decide, then mix.

    Args:
        selected: channels to average, from 1 on; () for all.
        rate: rate of the blocks in Hz.
    """

    def __init__(self, selected: Sequence[int], rate: float) -> None:
        self.selected, self.frame = tuple(selected), max(2, round(rate * _FRAME_SECONDS))
        self.tallies: dict[int, _Tally] = {}  # by number of channels, which may change within a file
        self.instead: dict[int, int] = {}  # likewise: index of the channel that replaces the average

    def push(self, block: np.ndarray) -> None:
        """Adds samples (n, C); the block length does not matter."""
        count = block.shape[1]
        picked = block[:, chosen(self.selected, count)]
        if picked.shape[1] > 1:
            self.tallies.setdefault(count, _Tally(picked.shape[1], self.frame)).push(picked)

    def mix(self, block: np.ndarray) -> np.ndarray:
        """Returns a block (n, C) as (n,): the average, unless decided otherwise."""
        count = block.shape[1]
        if count in self.instead:
            return np.ascontiguousarray(block[:, self.instead[count]])
        return block[:, chosen(self.selected, count)].mean(axis=1)

    def decide(self) -> list[str]:
        """Decides how to mix; returns warnings, without the file's name."""
        warnings = []
        for count, tally in self.tallies.items():
            channels = chosen(self.selected, count)
            place, loss, cancelled = tally.loss_db()
            loudest = channels[place]
            lost = f"averaging its channels loses {'more than 120' if loss > 120 else f'{loss:.0f}'} dB"
            if loss > CANCELS_DB:
                self.instead[count] = loudest
                warnings.append(f"{lost}, they cancel each other: channel {loudest + 1}, the loudest, is taken instead")
            elif cancelled > _PARTLY_DB:
                warnings.append(f"{lost}, they partly cancel each other: --channels {loudest + 1} takes the loudest")
            elif tally.apart():
                warnings.append("its channels seem to have one talker each: --channels each separates them one by one")
        return warnings


class _Tally:
    """Sums over samples (n, C), C at least 2."""

    def __init__(self, count: int, frame: int) -> None:
        self.frames, self.sum, self.products = 0, np.zeros(count), np.zeros((count, count))
        self.frame, self.rest = frame, np.zeros((0, count))
        # Counts of frames by loudest channel, its level, and its lead over the next.
        self.seen = np.zeros((count, _LEVELS, _DIFFERENCES), dtype=np.int64)

    def push(self, block: np.ndarray) -> None:
        block = block.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # the reader reports non-finite samples
            self.frames += len(block)
            self.sum += block.sum(axis=0)
            self.products += block.T @ block
            block = np.concatenate((self.rest, block))
            whole = len(block) // self.frame * self.frame
            self.rest = block[whole:]
            framed = block[:whole].reshape(-1, self.frame, block.shape[1])
            levels = 10 * np.log10(np.maximum(framed.var(axis=1), 1e-15))  # (frames, C), without offset
            levels = np.nan_to_num(levels, nan=-150, posinf=50)
        ordered = np.sort(levels, axis=1)
        level = np.clip(ordered[:, -1] + 150, 0, _LEVELS - 1).astype(int)
        difference = np.clip(ordered[:, -1] - ordered[:, -2], 0, _DIFFERENCES - 1).astype(int)
        np.add.at(self.seen, (levels.argmax(axis=1), level, difference), 1)

    def loss_db(self) -> tuple[int, float, float]:
        """Returns the loudest channel, and the loss by averaging in dB, relative to it and to unrelated channels."""
        mean = self.sum / max(1, self.frames)
        with np.errstate(invalid="ignore", over="ignore"):
            covariance = self.products / max(1, self.frames) - np.outer(mean, mean)
        powers, count = np.diag(covariance), len(covariance)
        loudest = int(powers.argmax())
        if not powers.max() > 0:
            return loudest, 0.0, 0.0  # silence
        average = covariance.sum() / count**2
        if average <= 1e-15 * powers.max():  # rounding of the sums
            return loudest, inf, inf
        return loudest, 10 * log10(powers.max() / average), 10 * log10(powers.sum() / count**2 / average)

    def apart(self) -> bool:
        """Returns whether at least two channels are each far above all others in enough active frames."""
        by_level = self.seen.sum(axis=(0, 2))
        from_above = by_level[::-1].cumsum()
        common = _LEVELS - 1 - int(np.searchsorted(from_above, max(1, by_level.sum() / 20)))
        active = self.seen[:, max(1, common - int(_ACTIVE_DB)) :]
        if active.sum() < _LEAST_FRAMES:
            return False
        shares = active[:, :, int(_APART_DB) :].sum(axis=(1, 2)) / active.sum()
        return int((shares >= _APART_SHARE).sum()) >= 2
