"""Resampling block by block: by torchaudio, or by a table of its kernel for rates without a small ratio."""

from fractions import Fraction
from math import ceil

import torch
from torch import Tensor

from tisdiss_cli.libraries import load_torchaudio
from tisdiss_cli.stream import Stream

_WIDTH, _ROLLOFF, _BETA = 64, 0.9475937167399596, 14.769656459379492
_MOST_ENTRIES = 1 << 18  # limit of torchaudio's kernel table
_PHASES = 1024  # phases of our table, with linear interpolation: 1e-6 of full scale
_AT_A_TIME = 1 << 20  # products of samples and entries of that table


class Resampler(Stream[[Tensor], Tensor, Tensor]):
    """Band-limited resampling, block by block; the blocks join to the result for the whole.

    A long windowed sinc (torchaudio's "kaiser best" settings), flat to about 0.9 of the lower Nyquist frequency. Every
    ratio of whole rates is exact, in bounded memory: rates such as 8001 and 8000, whose kernel table would have
    millions of entries, interpolate in a small one.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        ratio = Fraction(from_rate, to_rate)
        self.down, self.up = ratio.numerator, ratio.denominator
        # Input samples on each side that an output sample depends on.
        self.reach = ceil(_WIDTH / _ROLLOFF * max(1.0, from_rate / to_rate)) + 1
        self.whole_periods = self.up * (2 * self.reach + self.down) <= _MOST_ENTRIES
        if self.down == self.up:
            return
        if self.whole_periods:
            self.transform = load_torchaudio().transforms.Resample(
                self.down,
                self.up,
                resampling_method="sinc_interp_kaiser",
                lowpass_filter_width=_WIDTH,
                rolloff=_ROLLOFF,
                beta=_BETA,
            )
            # In whole periods of the ratio.
            self.context = -(-(self.reach + self.down) // self.down) * self.down
        else:
            self.table = _kernel_table(from_rate, to_rate, self.reach)
            self.context = self.reach
        self.buffer = torch.zeros(self.context)
        self.first = -self.context  # position of the buffer in the input
        self.received = self.sent = 0

    def push(self, x: Tensor) -> Tensor:
        """Adds samples (n,); returns the output samples (m,) that are now final."""
        if self.down == self.up:
            return x
        self.received += x.shape[-1]
        return self._advance(torch.cat((self.buffer, x)))

    def finish(self) -> Tensor:
        """Returns the remaining samples; the output has ceil(n * to_rate / from_rate) in all."""
        if self.down == self.up:
            return torch.zeros(0)
        total = -(-self.received * self.up // self.down)
        rest = self._advance(torch.cat((self.buffer, torch.zeros(self.context + self.down))))
        return rest[: rest.shape[0] - (self.sent - total)]

    def _advance(self, buffered: Tensor) -> Tensor:
        return self._by_periods(buffered) if self.whole_periods else self._by_table(buffered)

    def _by_periods(self, buffered: Tensor) -> Tensor:
        periods = (buffered.shape[0] - 2 * self.context) // self.down
        if periods <= 0:
            self.buffer = buffered
            return torch.zeros(0)
        used = 2 * self.context + periods * self.down
        skip = self.context // self.down * self.up
        y = self.transform(buffered[:used])[skip : skip + periods * self.up]
        self.buffer = buffered[periods * self.down :].clone()
        self.sent += y.shape[0]
        return y

    def _by_table(self, buffered: Tensor) -> Tensor:
        # The output sample m lies at m * down / up of the input and needs `reach` input samples each side of it.
        final = self.first + buffered.shape[0] - self.reach  # input samples with complete surroundings
        end = max(self.sent, -(-final * self.up // self.down))
        phases, taps = self.table.shape[0] - 1, self.table.shape[1]
        parts, step = [torch.zeros(0)], max(1, _AT_A_TIME // taps)
        for begin in range(self.sent, end, step):
            at = torch.arange(begin, min(begin + step, end)) * self.down
            before = at // self.up
            phase = (at % self.up).double() * (phases / self.up)
            low = phase.long()
            share = (phase - low).float()[:, None]
            windows = buffered.unfold(0, taps, 1)[before - self.reach + 1 - self.first]
            kernels = torch.lerp(self.table[low], self.table[low + 1], share)
            parts.append((windows * kernels).sum(dim=-1))
        y = torch.cat(parts)
        self.sent += y.shape[0]
        keep = max(self.first, self.sent * self.down // self.up - self.reach + 1)
        self.buffer = buffered[keep - self.first :].clone()
        self.first = keep
        return y


def _kernel_table(from_rate: int, to_rate: int, reach: int) -> Tensor:
    """Returns torchaudio's kernel at every phase between two input samples: (phases + 1, 2 * reach).

    A lower output rate has a wider kernel and fewer phases, so that the table's size stays the same.
    """
    lower = min(1.0, to_rate / from_rate) * _ROLLOFF  # cutoff relative to the input's Nyquist frequency
    phases = ceil(_PHASES * min(1.0, to_rate / from_rate))
    taps = torch.arange(1 - reach, reach + 1, dtype=torch.float64)
    at = (taps - torch.linspace(0, 1, phases + 1, dtype=torch.float64)[:, None]) * lower
    inside = (1 - (at / _WIDTH).square()).clamp(min=0)
    window = torch.special.i0(_BETA * inside.sqrt()) / torch.special.i0(torch.tensor(_BETA, dtype=torch.float64))
    return (torch.sinc(at) * window * (inside > 0) * lower).float()
