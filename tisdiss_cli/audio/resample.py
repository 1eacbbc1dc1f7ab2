"""To another rate, block by block, by torchaudio."""

from fractions import Fraction

import torch
import torchaudio
from torch import Tensor


class Resampler:
    """torchaudio's band-limited resampling, block by block; the blocks join to what the whole would give.

    A long windowed sinc (torchaudio's "kaiser best" settings): flat to about 0.9 of the lower Nyquist
    frequency. Rates with no small common ratio are approximated to within one part in a million.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        ratio = Fraction(from_rate, to_rate)
        if ratio.numerator * ratio.denominator > 1 << 22:  # the kernel table would not fit
            ratio = ratio.limit_denominator(1000)
        self.down, self.up = ratio.numerator, ratio.denominator
        self.transform = torchaudio.transforms.Resample(
            self.down,
            self.up,
            resampling_method="sinc_interp_kaiser",
            lowpass_filter_width=64,
            rolloff=0.9475937167399596,
            beta=14.769656459379492,
        )
        # Input that an output sample depends on, each side, as a whole number of periods of the ratio.
        reach = 64 / 0.94 * max(1.0, self.down / self.up) + self.down
        self.context = -(-int(reach + 1) // self.down) * self.down
        self.buffer = torch.zeros(self.context)
        self.received = self.sent = 0

    def push(self, x: Tensor) -> Tensor:
        """The output samples (m,) that the input so far, and this block (n,), settle."""
        if self.down == self.up:
            return x
        self.received += x.shape[-1]
        return self._advance(torch.cat((self.buffer, x)))

    def finish(self) -> Tensor:
        """The rest; in all, ceil(n * to_rate / from_rate) samples come out."""
        if self.down == self.up:
            return torch.zeros(0)
        total = -(-self.received * self.up // self.down)
        rest = self._advance(torch.cat((self.buffer, torch.zeros(self.context + self.down))))
        return rest[: rest.shape[0] - (self.sent - total)]

    def _advance(self, buffered: Tensor) -> Tensor:
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
