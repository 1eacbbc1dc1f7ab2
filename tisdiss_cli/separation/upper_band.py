"""Upper band: the mixture above the network's band, shared among the voices by their levels just below it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.stream import Stream

_HOP = 0.25  # seconds between shares, each from a window of twice that length


class UpperBand(Stream[[Tensor], Tensor, Tensor]):
    """Voices at a higher rate, each with a share of the mixture above the network's band, in constant memory.

    The shares are in the ratio of the voices' amplitudes in the octave below (2 to 4 kHz for a network at 8 kHz), over
    half a second, and add up to 1: a talker alone gets all of it; in overlap it is attenuated, not separated.

    Args:
        voices: number of voices S.
        rate: the network's rate in Hz.
        mixture: blocks (n,) of the mixture at `mixture_rate`, read in step with the voices.
        mixture_rate: rate of the mixture and of the output in Hz, above `rate`.
    """

    def __init__(self, voices: int, rate: int, mixture: Iterator[Tensor], mixture_rate: int) -> None:
        self.rate, self.mixture_rate = rate, mixture_rate
        self.raising = [Resampler(rate, mixture_rate) for _ in range(voices)]
        self.hop = max(2, round(_HOP * rate))
        self.window = torch.hann_window(2 * self.hop)
        self.window_input = torch.zeros(voices, self.hop)  # for the next share; the first is centred on sample 0
        self.shares: Tensor | None = None  # (S,), the latest
        self.done = 0  # number of shares so far
        self.waiting = torch.zeros(voices, 0)  # voices at the mixture's rate, without the upper band
        self.band, self.ready = _above(mixture, mixture_rate, rate), torch.zeros(0)

    def push(self, voices: Tensor) -> Tensor:
        """Adds samples (S, n) at the network's rate; returns the samples (S, m) that are now final."""
        raised = [resampler.push(voice) for resampler, voice in zip(self.raising, voices, strict=True)]
        self.waiting = torch.cat((self.waiting, torch.stack(raised)), dim=1)
        return self._advance(voices)

    def finish(self) -> Tensor:
        """Returns the remaining samples (S, m); the output is as long as that of a `Resampler`."""
        self.waiting = torch.cat((self.waiting, torch.stack([resampler.finish() for resampler in self.raising])), dim=1)
        return self._advance(torch.zeros(self.waiting.shape[0], 3 * self.hop))

    def _advance(self, voices: Tensor) -> Tensor:
        self.window_input, parts = torch.cat((self.window_input, voices), dim=1), [self.waiting[:, :0]]
        while self.window_input.shape[1] >= 2 * self.hop:
            after = self._share(self.window_input[:, : 2 * self.hop])
            if self.shares is not None:
                parts.append(self._with_band(self.shares, after))
            self.shares, self.done, self.window_input = after, self.done + 1, self.window_input[:, self.hop :]
        return torch.cat(parts, dim=1)

    def _share(self, voices: Tensor) -> Tensor:
        """Returns the shares (S,) for a window of voices (S, 2 * hop)."""
        power = torch.fft.rfft(voices * self.window).abs().square()
        amplitude = power[:, power.shape[1] // 2 :].sum(dim=1).sqrt()
        total = amplitude.sum()
        return amplitude / total if total else torch.full_like(amplitude, 1 / len(amplitude))

    def _with_band(self, before: Tensor, after: Tensor) -> Tensor:
        """Returns the next hop of the voices, with shares that go from `before` to `after`."""
        first, end = (-(-k * self.hop * self.mixture_rate // self.rate) for k in (self.done - 1, self.done))
        ready, self.waiting = self.waiting[:, : end - first], self.waiting[:, end - first :]
        samples = ready.shape[1]
        at = (torch.arange(first, first + samples).double() * self.rate / self.mixture_rate / self.hop) - self.done + 1
        return ready + torch.lerp(before[:, None], after[:, None], at.float()) * self._next(samples)

    def _next(self, samples: int) -> Tensor:
        """Returns the next samples (n,) of the upper band; zeros after its end, as voices may be slightly longer."""
        while self.ready.shape[0] < samples and (block := next(self.band, None)) is not None:
            self.ready = torch.cat((self.ready, block))
        band, self.ready = self.ready[:samples], self.ready[samples:]
        return torch.nn.functional.pad(band, (0, samples - band.shape[0]))


def _above(mixture: Iterator[Tensor], mixture_rate: int, rate: int) -> Iterator[Tensor]:
    """Yields the part of a mixture (blocks (n,)) that is lost by resampling to `rate` and back."""
    lowered, raised = Resampler(mixture_rate, rate), Resampler(rate, mixture_rate)
    whole, low = torch.zeros(0), torch.zeros(0)
    for block in mixture:
        whole, low = torch.cat((whole, block)), torch.cat((low, raised.push(lowered.push(block))))
        both = min(whole.shape[0], low.shape[0])
        yield whole[:both] - low[:both]
        whole, low = whole[both:], low[both:]
    low = torch.cat((low, raised.push(lowered.finish()), raised.finish()))
    yield whole - low[: whole.shape[0]]
