"""Is this speech? Silero VAD on several voices at once, as a stream.

The network is the one inside the wheel of `silero-vad` (MIT). Its windows are put through the part without a memory
all together, and only the recurrence goes step by step, which is several times as fast as a window at a time and
gives the same numbers.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

WINDOW_SECONDS = 0.032  # one probability for each
RATES = (8000, 16000)  # Hz, that the network knows
_MOST = 512  # windows put through at once, so that a block of any length takes the same memory


def vad_rate(sample_rate: int) -> int:
    """The rate, in Hz, at which voices of `sample_rate` are listened to."""
    return 16000 if sample_rate >= 16000 else 8000


@cache
def _network() -> torch.jit.ScriptModule:
    # By its path: importing the package sets the whole process to one thread.
    spec = find_spec("silero_vad")
    assert spec is not None and spec.origin is not None  # a dependency of ours
    return torch.jit.load(Path(spec.origin).parent / "data" / "silero_vad.jit", map_location="cpu").eval()


class SpeechProbability:
    """Streams of S voices in, how likely each 32 ms window of each holds speech out.

    Args:
        voices: S.
        sample_rate: 8000 or 16000 Hz.
    """

    def __init__(self, voices: int, sample_rate: int) -> None:
        if sample_rate not in RATES:
            raise ValueError(f"Silero VAD knows {RATES} Hz, not {sample_rate}")
        model = _network()
        self.network = model._model if sample_rate == 16000 else model._model_8k
        self.window, self.context = sample_rate * 32 // 1000, sample_rate // 250
        cell = self.network.decoder.rnn
        self.cell = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
        self.buffer = torch.zeros(voices, self.context)  # the context of the next window, and what follows it
        self.state = (torch.zeros(1, voices, 128), torch.zeros(1, voices, 128))

    @torch.inference_mode()
    def push(self, voices: Tensor) -> Tensor:
        """Adds samples (S, n); returns the probabilities (S, m) of the windows that are complete."""
        self.buffer = torch.cat((self.buffer, voices), dim=1)
        parts = []
        while (count := min(_MOST, (self.buffer.shape[1] - self.context) // self.window)) > 0:
            used = count * self.window
            parts.append(self._windows(self.buffer[:, : used + self.context]))
            self.buffer = self.buffer[:, used:].clone()
        return torch.cat(parts, dim=1) if parts else torch.zeros(voices.shape[0], 0)

    def finish(self) -> Tensor:
        """The probabilities (S, 0 or 1) of what is left, as if silence followed."""
        missing = self.window - (self.buffer.shape[1] - self.context)
        if missing == self.window:
            return torch.zeros(self.buffer.shape[0], 0)
        return self.push(torch.zeros(self.buffer.shape[0], missing))

    def _windows(self, samples: Tensor) -> Tensor:
        windows = samples.unfold(1, self.window + self.context, self.window)  # (S, m, window)
        features = self.network.encoder(self.network.stft(windows.flatten(0, 1)))  # (S m, 128, 1)
        sequence = features.reshape(*windows.shape[:2], -1).transpose(0, 1)  # (m, S, 128)
        hidden, *state = torch._VF.lstm(sequence, self.state, self.cell, True, 1, 0.0, False, False, False)
        self.state = (state[0], state[1])
        out = self.network.decoder.decoder(hidden.flatten(0, 1)[..., None])  # (m S, 1, 1)
        return out.reshape(hidden.shape[:2]).T
