"""Segments of speech from log odds, window by window, and how much they are."""

from dataclasses import dataclass

from torch import Tensor

from tisdiss_cli.activity.vad import WINDOW_SECONDS
from tisdiss_cli.stream import Stream

Segments = list[list[tuple[float, float]]]  # of each voice: (begin, end) in seconds, in order, disjoint

_BRIDGED = 0.25  # seconds; a shorter pause is speech
_LEAST = 0.1  # seconds; shorter speech is none
_TALKS = 0.05  # of the time with speech; a voice that is heard less than that is no talker


@dataclass(frozen=True)
class Speech:
    """Who speaks when in one recording.

    Attributes:
        segments: within its length.
        seconds: the recording's length.
    """

    segments: Segments
    seconds: float

    @property
    def speech_seconds(self) -> list[float]:
        """Of each voice."""
        return [round(sum(end - begin for begin, end in voice), 3) for voice in self.segments]

    @property
    def overlap_seconds(self) -> float:
        """In which two or more speak."""
        return round(self._during(2), 3)

    @property
    def silence_seconds(self) -> float:
        """In which nobody speaks."""
        return round(max(0.0, self.seconds - self._during(1)), 3)

    @property
    def talkers(self) -> int:
        """Voices that are more than a rest of the others."""
        return sum(seconds > _TALKS * self._during(1) for seconds in self.speech_seconds)

    def _during(self, least: int) -> float:
        """Returns the seconds in which at least `least` speak."""
        ends = [pair for voice in self.segments for pair in voice]
        changes = sorted([(begin, 1) for begin, _ in ends] + [(end, -1) for _, end in ends])
        speaking, since, total = 0, 0.0, 0.0
        for time, step in changes:
            if speaking >= least:
                total += time - since
            speaking, since = speaking + step, time
        return total


class Segmenter(Stream[[Tensor], None, Segments]):
    """Log odds of own speech in, as they come; segments out. Keeps nothing but the segments."""

    def __init__(self, voices: int) -> None:
        self.windows = 0
        self.begins: list[int | None] = [None] * voices
        self.found: Segments = [[] for _ in range(voices)]

    def push(self, odds: Tensor) -> None:
        """Adds windows (S, m)."""
        for voice, active in enumerate((odds > 0).tolist()):
            for index, now in enumerate(active, self.windows):
                self._step(voice, index, now)
        self.windows += odds.shape[1]

    def finish(self) -> Segments:
        """Returns the segments of each voice, whose last window may reach beyond the recording."""
        for voice in range(len(self.begins)):
            self._step(voice, self.windows, False)
        return [[(begin, end) for begin, end in voice if end - begin >= _LEAST] for voice in self.found]

    def _step(self, voice: int, index: int, active: bool) -> None:
        begin, found = self.begins[voice], self.found[voice]
        if active and begin is None:
            self.begins[voice] = index
        elif not active and begin is not None:
            start, end = begin * WINDOW_SECONDS, index * WINDOW_SECONDS
            if found and start - found[-1][1] < _BRIDGED:
                found[-1] = (found[-1][0], end)
            else:
                if found and found[-1][1] - found[-1][0] < _LEAST:
                    found.pop()
                found.append((start, end))
            self.begins[voice] = None
