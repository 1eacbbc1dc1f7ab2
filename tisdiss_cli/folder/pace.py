"""Pace of a run: the most repeats that `--rtf` or `--budget` allow."""

import logging
import time
from dataclasses import dataclass

import torch

from tisdiss_cli.folder.settings import Settings
from tisdiss_cli.separation.separator import Separator

log = logging.getLogger("tisdiss")


@dataclass
class Pace:
    """Choice of the most repeats within a time limit, updated during the work.

    The network's seconds for a second of audio are modelled as fixed + each * repeats, from `measure_pace`; the time
    that the work really takes scales both.
    """

    fixed: float
    each: float
    most: int  # repeats at most
    rtf: float | None = None  # allowed seconds of work for a second of audio; None: by the budget
    deadline: float = 0.0  # of the budget, by time.perf_counter()
    audio_left: float = 0.0  # seconds
    scale: float = 1.0
    chosen: int = 0

    def limit(self, audio: float, *, rtf: float | None = None, budget: float | None = None) -> str:
        """Sets the limit for `audio` seconds and makes the first choice; returns a sentence about it."""
        self.audio_left, self.rtf, self.deadline = audio, rtf, time.perf_counter() + (budget or 0.0)
        option = f"--rtf {rtf:g}" if rtf is not None else f"--budget of {budget:g} s for {audio:.1f} s of audio"
        too_slow = "" if self._allowed() >= self.fixed + self.each else ", although that takes longer here"
        return (
            f"{option}: {counted(self.choose())}{too_slow}; this machine takes "
            f"{self.fixed:.3f} + {self.each:.3f} x repeats seconds for a second of audio"
        )

    def choose(self) -> int:
        """Returns the repeats for the next input, at least 1."""
        best = int((self._allowed() / self.scale - self.fixed) / self.each + 1e-9)
        best = max(1, min(self.most, best))
        if self.chosen and best != self.chosen:
            turn = "slower" if best < self.chosen else "faster"
            log.info(f"going on with {counted(best)} instead of {self.chosen}: the work is {turn} than planned")
        self.chosen = best
        return best

    def report(self, repeats: int, audio: float, seconds: float) -> None:
        """Updates the scale with the real time of `audio` seconds, slowly, so that an outlier changes little."""
        self.audio_left = max(0.0, self.audio_left - audio)
        if audio > 0:
            self.scale += 0.3 * (seconds / audio / (self.fixed + self.each * repeats) - self.scale)

    def _allowed(self) -> float:
        """Returns the allowed seconds of work for a second of audio."""
        if self.rtf is not None:
            return self.rtf
        return max(0.0, self.deadline - time.perf_counter()) / max(self.audio_left, 1e-6)


def measure_pace(separator: Separator, settings: Settings, seconds: float) -> Pace:
    """Returns a pace within the options' limit for `seconds` of audio, and logs its choice.

    Times the network on a batch of noise at one and at two repeats. OutOfMemory.
    """
    plan, batch_size = settings.plan, settings.batch_size
    length = min(plan.chunk, 4 * separator.sample_rate)
    stacked = separator.stacks(batch_size)
    if not stacked:
        batch_size = torch.get_num_threads() // separator.threads_of(length)
    noise = torch.randn(batch_size, length) / 10
    # Overlapping chunks compute some of the audio twice.
    audio = batch_size * length / separator.sample_rate * (plan.chunk - plan.overlap) / plan.chunk
    costs = []
    for repeats in (1, 1, 2):  # the first is a warm-up
        began = time.perf_counter()
        list(separator.run_each(noise.unbind(), repeats, settings.options.separator_repeats, stacked=stacked))
        costs.append((time.perf_counter() - began) / audio)
    each = max(costs[2] - costs[1], 0.01 * costs[1])
    options = settings.options
    most = options.max_repeats or separator.config.reconstructor_repeats
    pace = Pace(max(costs[1] - each, 0.0), each, most)
    log.info(pace.limit(seconds, rtf=options.rtf, budget=options.budget_seconds))
    return pace


def counted(repeats: int) -> str:
    """Returns "1 repeat", "2 repeats"."""
    return f"{repeats} repeat" + "s" * (repeats != 1)
