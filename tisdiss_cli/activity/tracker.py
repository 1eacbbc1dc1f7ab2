"""Speaker activity of separated voices, as one stream: detector, comparison of the voices, segments."""

import torch
from torch import Tensor

from tisdiss_cli.activity.leakage import Evidence
from tisdiss_cli.activity.segments import Speech, find_segments
from tisdiss_cli.activity.vad import SpeechProbability, vad_rate
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.stream import Stream


class ActivityTracker(Stream[[Tensor], None, Speech]):
    """S voices at a rate in Hz in, block by block; who spoke when at the end. It keeps a byte for each window."""

    def __init__(self, voices: int, sample_rate: int) -> None:
        rate = vad_rate(sample_rate)
        self.sample_rate, self.length = sample_rate, 0
        self.resamplers = [Resampler(sample_rate, rate) for _ in range(voices)]
        self.probability = SpeechProbability(voices, rate)
        self.window = self.probability.window
        self.rest = torch.zeros(voices, 0)  # of the last window, at the detector's rate
        self.evidence = Evidence(voices, self.window, rate)
        self.speaks: list[Tensor] = []  # (S, k) each, of the windows so far

    def push(self, voices: Tensor) -> None:
        """Adds samples (S, n)."""
        self.length += voices.shape[1]
        parts = [resampler.push(voice) for resampler, voice in zip(self.resamplers, voices, strict=True)]
        self._listen(torch.stack(parts))

    def finish(self) -> Speech:
        """Returns who spoke when."""
        self._listen(torch.stack([resampler.finish() for resampler in self.resamplers]))
        if missing := -self.rest.shape[1] % self.window:
            self._listen(torch.zeros(self.rest.shape[0], missing))
        self.speaks.append(self.evidence.finish() > 0)
        seconds = self.length / self.sample_rate
        found = find_segments(torch.cat(self.speaks, dim=1))
        return Speech([[(round(begin, 3), round(min(end, seconds), 3)) for begin, end in v] for v in found], seconds)

    def _listen(self, samples: Tensor) -> None:
        """Adds samples (S, n) at the detector's rate."""
        samples = torch.cat((self.rest, samples), dim=1)
        whole = samples.shape[1] // self.window * self.window
        self.rest = samples[:, whole:].clone()
        if whole:
            windows = samples[:, :whole].unflatten(1, (-1, self.window))
            self.speaks.append(self.evidence.push(self.probability.push(windows), windows) > 0)
