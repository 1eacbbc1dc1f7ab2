"""Separated voices pass by, and it is known afterwards who spoke when; on the way they may be gated."""

import torch
from torch import Tensor

from tisdiss_cli.activity.gate import Gate
from tisdiss_cli.activity.own_speech import Evidence
from tisdiss_cli.activity.segments import Segmenter, Speech
from tisdiss_cli.activity.vad import WINDOW_SECONDS, SpeechProbability, vad_rate
from tisdiss_cli.audio.resample import Resampler


class Listener:
    """Takes S voices block by block and gives them back, gated or as they are; memory does not grow with their length.

    Args:
        voices: S.
        sample_rate: theirs, Hz.
        gate: whether a voice is faded out where only another one talks; what comes back is then late by up to 1.8 s.
    """

    def __init__(self, voices: int, sample_rate: int, *, gate: bool = False) -> None:
        rate = vad_rate(sample_rate)
        self.sample_rate, self.length = sample_rate, 0
        self.resamplers = [Resampler(sample_rate, rate) for _ in range(voices)]
        self.probability = SpeechProbability(voices, rate)
        self.window = round(WINDOW_SECONDS * rate)
        self.rest = torch.zeros(voices, 0)  # of the last window, at the detector's rate
        self.evidence, self.segmenter = Evidence(voices, self.window, rate), Segmenter(voices)
        self.gate = Gate(voices, sample_rate) if gate else None

    def push(self, voices: Tensor) -> Tensor:
        """Adds samples (S, n); returns the samples (S, k) that go on: the same where nothing is gated."""
        self.length += voices.shape[1]
        odds = self._listen(self._resampled(voices))
        return self.gate.push(voices, odds) if self.gate else voices

    def finish(self) -> tuple[Tensor, Speech]:
        """The samples (S, k) that are left, and who spoke when."""
        left = torch.stack([resampler.finish() for resampler in self.resamplers])
        odds = [self._listen(left)]
        if self.rest.shape[1]:
            odds.append(self._listen(torch.zeros(left.shape[0], self.window - self.rest.shape[1])))
        odds.append(self.evidence.finish())
        self.segmenter.push(odds[-1])
        speech = self.segmenter.finish(self.length / self.sample_rate)
        if not self.gate:
            return torch.zeros(left.shape[0], 0), speech
        sent = self.gate.push(torch.zeros(left.shape[0], 0), torch.cat(odds, dim=1))
        return torch.cat((sent, self.gate.finish()), dim=1), speech

    def _resampled(self, voices: Tensor) -> Tensor:
        return torch.stack([resampler.push(voice) for resampler, voice in zip(self.resamplers, voices, strict=True)])

    def _listen(self, samples: Tensor) -> Tensor:
        """Samples (S, n) at the detector's rate to the log odds (S, k) that are final."""
        samples = torch.cat((self.rest, samples), dim=1)
        whole = samples.shape[1] // self.window * self.window
        windows, self.rest = samples[:, :whole], samples[:, whole:].clone()
        if not whole:
            return samples[:, :0]
        odds = self.evidence.push(self.probability.push(windows), windows.unflatten(1, (-1, self.window)))
        self.segmenter.push(odds)
        return odds
