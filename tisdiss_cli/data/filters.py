"""Random gentle filters, a cascade for each voice, as rooms and microphones colour them differently.

The bands are the shelves and bells of R. Bristow-Johnson's Audio EQ Cookbook: analogue prototypes under the bilinear
transform, which moves their corner to where it shall be.
"""

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

BANDS = 3  # of a cascade
LOW_SHELF, BELL, HIGH_SHELF = range(3)
QUALITY = 0.5**0.5  # the steepest shelf that does not overshoot; a bell of about two octaves
LOWEST = 100.0  # Hz, the lowest corner
HIGHEST = 0.4  # of the sample rate, the highest
_TAIL = 0.1  # seconds after which the slowest band at 12 dB has rung down below float32's digits
_BLOCK = 1024  # samples, of whose multiples the transform is quick


@dataclass(frozen=True)
class Filters:
    """Cascades of BANDS bands, one for each signal of a shape (...); tensors on one device."""

    kinds: Tensor  # (..., BANDS) int64: LOW_SHELF, BELL or HIGH_SHELF
    gains_db: Tensor  # (..., BANDS): on the shelf, or at the top of the bell
    corners: Tensor  # (..., BANDS) Hz: where a shelf has half its gain in dB, or where the top is
    sample_rate: int  # Hz

    @staticmethod
    def draw(*shape: int, gain_db: float, sample_rate: int, random: torch.Generator) -> "Filters":
        """Draws kinds, gains uniform in +-`gain_db`, corners log-uniform from LOWEST up; on `random`'s device."""
        size = (*shape, BANDS)
        kinds = torch.randint(3, size, device=random.device, generator=random)
        gain, place = torch.rand(2, *size, device=random.device, generator=random)
        octaves = log(HIGHEST * sample_rate / LOWEST)
        return Filters(kinds, (2 * gain - 1) * gain_db, LOWEST * (place * octaves).exp(), sample_rate)

    def response(self, frequencies: Tensor) -> Tensor:
        """Returns the cascades' complex response at frequencies (F,) in Hz, 0 to half the sample rate: (..., F)."""
        a = 10 ** (self.gains_db / 40)
        one, slope = torch.ones_like(a), a.sqrt() / QUALITY
        # Of s^2, s and 1 in numerator and denominator, s being in units of the corner: (6, ..., BANDS).
        low = torch.stack((a, a * slope, a * a, a, slope, one))
        bell = torch.stack((one, a / QUALITY, one, one, 1 / (a * QUALITY), one))
        high = torch.stack((a * a, a * slope, a, one, slope, a))
        chosen = torch.where(self.kinds == LOW_SHELF, low, torch.where(self.kinds == BELL, bell, high))[..., None]
        # s = j tan(w / 2) / tan(w0 / 2), written without the tangent, which has no value at half the sample rate.
        half, corner = (pi * x / self.sample_rate for x in (frequencies, self.corners[..., None]))
        p, q = half.sin() * corner.cos(), half.cos() * corner.sin()  # (..., BANDS, F)

        def polynomial(second: Tensor, first: Tensor, zeroth: Tensor) -> Tensor:
            return torch.complex(zeroth * q * q - second * p * p, first * p * q)

        return (polynomial(*chosen[:3]) / polynomial(*chosen[3:])).prod(dim=-2)

    def apply(self, signals: Tensor) -> Tensor:
        """Filters the signals by their cascades, from rest, as long as before: (..., L) -> (..., L)."""
        samples = signals.shape[-1]
        size = -(-(samples + round(_TAIL * self.sample_rate)) // _BLOCK) * _BLOCK  # what rings on does not come round
        frequencies = torch.linspace(0, self.sample_rate / 2, size // 2 + 1, device=signals.device)
        spectrum = torch.fft.rfft(signals, size) * self.response(frequencies)
        return torch.fft.irfft(spectrum, size)[..., :samples]
