"""Activity tracker: segments of speech of separated voices, as one stream."""

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from tisdiss_cli.activity.leakage import Evidence
from tisdiss_cli.activity.vad import WINDOW_SECONDS, SpeechProbability, vad_rate
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.stream import Stream

Segments = list[list[tuple[float, float]]]  # of each voice: (begin, end) in seconds, in order, disjoint

_BRIDGED = 0.25  # seconds; shorter pauses are bridged
_LEAST = 0.1  # seconds; shorter speech is dropped
_TALKS = 0.05  # share of the time with speech; a voice with less is not a talker


@dataclass(frozen=True)
class Speech:
    """Segments of speech in one recording."""

    segments: Segments  # of each voice
    seconds: float  # length of the recording

    @property
    def speech_seconds(self) -> list[float]:
        """Seconds in which each voice speaks."""
        return [round(sum(end - begin for begin, end in voice), 3) for voice in self.segments]

    @property
    def overlap_seconds(self) -> float:
        """Seconds in which two or more speak."""
        return round(self._during(2), 3)

    @property
    def silence_seconds(self) -> float:
        """Seconds in which nobody speaks."""
        return round(max(0.0, self.seconds - self._during(1)), 3)

    @property
    def talkers(self) -> int:
        """Number of voices with more than leakage."""
        return sum(seconds > _TALKS * self._during(1) for seconds in self.speech_seconds)

    def shifted(self, seconds: float) -> "Speech":
        """Returns the segments `seconds` later, on the clock of a video that began earlier."""
        later = [[(begin + seconds, end + seconds) for begin, end in voice] for voice in self.segments]
        return Speech(later, self.seconds + seconds)

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


class ActivityTracker(Stream[[Tensor], None, Speech]):
    """Activity of S voices at a rate in Hz, block by block; keeps a byte for each window."""

    def __init__(self, voices: int, sample_rate: int) -> None:
        rate = vad_rate(sample_rate)
        self.sample_rate, self.length = sample_rate, 0
        self.resamplers = [Resampler(sample_rate, rate) for _ in range(voices)]
        self.probability = SpeechProbability(voices, rate)
        self.window = self.probability.window
        self.rest = torch.zeros(voices, 0)  # begin of the next window, at the detector's rate
        self.evidence = Evidence(voices, self.window, rate)
        self.speaks: list[Tensor] = []  # (S, k) each, for the windows so far

    def push(self, voices: Tensor) -> None:
        """Adds samples (S, n)."""
        self.length += voices.shape[1]
        parts = [resampler.push(voice) for resampler, voice in zip(self.resamplers, voices, strict=True)]
        self._detect(torch.stack(parts))

    def finish(self) -> Speech:
        """Returns the segments of the whole recording."""
        self._detect(torch.stack([resampler.finish() for resampler in self.resamplers]))
        if missing := -self.rest.shape[1] % self.window:
            self._detect(torch.zeros(self.rest.shape[0], missing))
        self.speaks.append(self.evidence.finish() > 0)
        seconds = self.length / self.sample_rate
        segments = find_segments(torch.cat(self.speaks, dim=1))
        return Speech([[(round(begin, 3), round(min(end, seconds), 3)) for begin, end in v] for v in segments], seconds)

    def _detect(self, samples: Tensor) -> None:
        """Adds samples (S, n) at the detector's rate."""
        samples = torch.cat((self.rest, samples), dim=1)
        whole = samples.shape[1] // self.window * self.window
        self.rest = samples[:, whole:].clone()
        if whole:
            windows = samples[:, :whole].unflatten(1, (-1, self.window))
            self.speaks.append(self.evidence.push(self.probability.push(windows), windows) > 0)


def find_segments(speaks: Tensor) -> Segments:
    """Returns the segments of each voice from its activity in each window (S, m)."""
    found: Segments = []
    for voice in speaks.tolist():
        segments: list[tuple[float, float]] = []
        windows = 0
        for active, run in groupby(voice):
            begin = windows * WINDOW_SECONDS
            windows += len(list(run))
            end = windows * WINDOW_SECONDS
            if active and segments and begin - segments[-1][1] < _BRIDGED:
                segments[-1] = (segments[-1][0], end)
            elif active:
                segments.append((begin, end))
        found.append([(begin, end) for begin, end in segments if end - begin >= _LEAST])
    return found
