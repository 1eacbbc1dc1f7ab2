"""SI-SNR: how much of a reference an estimate holds, whatever its level; training, scoring and early exits use it."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SILENCE = 1e-12  # between the lowest and the highest sample; a bit of 24-bit sound is 1e-7


def si_snr(estimates: Tensor, references: Tensor, limit: float = 100.0) -> Tensor:
    """Returns zero-mean SI-SNR (Le Roux et al. 2019), (..., L), (..., L) -> (...) dB within +-`limit`.

    In float32, or float64 where that is given. A silent signal on either side gives -`limit`, and like a value beyond
    it no gradient.

    With both signals zero-mean and of unit length, c being their inner product, the target c r has energy c^2 and what
    is left of the estimate |e - c r|^2.
    """
    with torch.autocast(estimates.device.type, enabled=False):
        silent = is_silent(estimates) | is_silent(references)
        e, r = (F.normalize(centred(signals), dim=-1, eps=_SILENCE) for signals in (estimates, references))
        c = (e * r).sum(dim=-1)
        # Not 1 - c^2, which float32 rounds away from 60 dB on.
        rest = (e - c[..., None] * r).square().sum(dim=-1)
        floor = 10 ** (-limit / 10 - 1)
        decibels = 10 * torch.log10(c.square().clamp(min=floor) / rest.clamp(min=floor))
        return decibels.masked_fill(silent, -limit).clamp(-limit, limit)


def centred(signals: Tensor) -> Tensor:
    """Returns (..., L) without each signal's mean, at least in float32."""
    signals = signals.to(torch.promote_types(signals.dtype, torch.float32))
    return signals - signals.mean(dim=-1, keepdim=True)


def is_silent(signals: Tensor) -> Tensor:
    """Tells which signals, (..., L) -> (...), are the same sample over and over."""
    return signals.amax(dim=-1) - signals.amin(dim=-1) <= _SILENCE
