"""SI-SNR, for training, scoring and early exits."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SILENCE = 1e-12  # range of samples that counts as silence; one step of 24-bit sound is 1e-7


def si_snr(estimates: Tensor, references: Tensor, limit: float = 100.0) -> Tensor:
    """Returns zero-mean SI-SNR (Le Roux et al. 2019), (..., L), (..., L) -> (...) dB within +-`limit`.

    Computed in float32, or float64 for such inputs. A silent signal on either side gives -`limit`, without a gradient,
    as do values beyond the limit. With zero-mean signals e, r of unit length and inner product c, the target c r has
    the energy c^2, and the rest of the estimate |e - c r|^2.
    """
    with torch.autocast(estimates.device.type, enabled=False):
        silent = is_silent(estimates) | is_silent(references)
        e, r = (F.normalize(centred(signals), dim=-1, eps=_SILENCE) for signals in (estimates, references))
        c = (e * r).sum(dim=-1)
        # Not 1 - c^2, whose rounding in float32 dominates above 60 dB.
        rest = (e - c[..., None] * r).square().sum(dim=-1)
        floor = 10 ** (-limit / 10 - 1)
        decibels = 10 * torch.log10(c.square().clamp(min=floor) / rest.clamp(min=floor))
        return decibels.masked_fill(silent, -limit).clamp(-limit, limit)


def centred(signals: Tensor) -> Tensor:
    """Returns signals (..., L) without their means, at least in float32."""
    signals = signals.to(torch.promote_types(signals.dtype, torch.float32))
    return signals - signals.mean(dim=-1, keepdim=True)


def is_silent(signals: Tensor) -> Tensor:
    """Returns which signals are constant, (..., L) -> (...)."""
    return signals.amax(dim=-1) - signals.amin(dim=-1) <= _SILENCE
