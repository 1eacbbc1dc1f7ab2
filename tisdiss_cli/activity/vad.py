"""Speech probability by Silero VAD, of several voices at once.

The weights beside this file are those in the wheel of `silero-vad` (MIT, see NOTICE), read by `scripts/silero-weights`.
The convolutions process all windows at once and only the LSTM goes step by step, which gives the same numbers several
times faster than a window at a time.
"""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW_SECONDS = 0.032  # with one probability each
_MOST = 512  # windows processed at once, so that memory does not grow with a block

State = tuple[Tensor, Tensor]  # of the LSTM, (1, S, 128) each


def vad_rate(sample_rate: int) -> int:
    """Returns the detector's rate in Hz for voices of `sample_rate`."""
    return 16000 if sample_rate >= 16000 else 8000


class SileroVAD(nn.Module):
    """Silero's network for 8000 or 16000 Hz: magnitudes of a short-time Fourier transform, convolutions, an LSTM."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.window, self.context = sample_rate * 32 // 1000, sample_rate // 250  # samples; the context goes before
        self.frame = sample_rate * 16 // 1000
        self.stft = nn.Conv1d(1, self.frame + 2, self.frame, stride=self.frame // 2, bias=False)
        widths, strides = (self.frame // 2 + 1, 128, 64, 64, 128), (1, 2, 2, 1)
        convolutions = [
            nn.Conv1d(wide, to, 3, stride, padding=1)
            for wide, to, stride in zip(widths, widths[1:], strides, strict=False)
        ]
        self.encoder = nn.Sequential(*(layer for conv in convolutions for layer in (conv, nn.ReLU())))
        self.lstm = nn.LSTM(128, 128)
        self.out = nn.Linear(128, 1)

    def forward(self, windows: Tensor, state: State) -> tuple[Tensor, State]:
        """Returns the probabilities of speech (S, m) in windows (S, m, context + window), and the state after them."""
        padded = F.pad(windows.flatten(0, 1), (0, self.frame // 4), mode="reflect")
        real, imaginary = self.stft(padded[:, None]).chunk(2, dim=1)
        encoded = self.encoder((real.square() + imaginary.square()).sqrt())  # (S m, 128, 1)
        hidden, state = self.lstm(encoded.unflatten(0, windows.shape[:2]).squeeze(-1).transpose(0, 1), state)
        return self.out(hidden.relu()).sigmoid().squeeze(-1).T, state


@cache
def silero_vad(sample_rate: int) -> SileroVAD:
    """Returns the network for 8000 or 16000 Hz with Silero's weights, on the CPU."""
    network, prefix = SileroVAD(sample_rate), f"{sample_rate}."
    weights = load_file(Path(__file__).with_name("silero_vad.safetensors"))
    network.load_state_dict(
        {name.removeprefix(prefix): values for name, values in weights.items() if name.startswith(prefix)}
    )
    return network.eval()


class SpeechProbability:
    """Probability of speech in each 32 ms window of S voices at 8000 or 16000 Hz, one after the other."""

    def __init__(self, voices: int, sample_rate: int) -> None:
        self.network = silero_vad(sample_rate)
        self.window, self.context = self.network.window, self.network.context
        self.before = torch.zeros(voices, self.context)  # the last samples so far
        self.state: State = (torch.zeros(1, voices, 128), torch.zeros(1, voices, 128))

    @torch.inference_mode()
    def push(self, windows: Tensor) -> Tensor:
        """Adds windows (S, m, window), m at least 1; returns their probabilities (S, m)."""
        samples = torch.cat((self.before, windows.flatten(1)), dim=1)
        self.before = samples[:, -self.context :].clone()
        parts = []
        for part in samples.unfold(1, self.context + self.window, self.window).split(_MOST, dim=1):
            probability, self.state = self.network(part, self.state)
            parts.append(probability)
        return torch.cat(parts, dim=1)
