"""What the Python API is given, as the mixture that the network hears."""

import logging

import torch
from torch import Tensor

from tisdiss_cli.audio.channels import Survey
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.errors import UserError

log = logging.getLogger("tisdiss")


def as_mixture(waveform: Tensor, sample_rate: int | None, wanted: int) -> Tensor:
    """A waveform (L,) or (channels, L), any level, as a mixture (L',) in float32 on the CPU.

    Channels are averaged, or the loudest taken where they would cancel, which the log says.

    Args:
        waveform: floating point.
        sample_rate: of the waveform in Hz; None: `wanted`.
        wanted: the network's rate, in Hz.

    Raises:
        UserError: an impossible shape or dtype, or samples that are NaN or infinite.
    """
    if waveform.dim() not in (1, 2) or not waveform.numel() or not waveform.is_floating_point():
        raise UserError(f"waveform must be floating point, (L,) or (channels, L), not {tuple(waveform.shape)}")
    if not torch.isfinite(waveform).all():
        raise UserError("waveform has NaN or infinite samples: mend or drop it")
    rate = sample_rate or wanted
    resampler = Resampler(rate, wanted)
    waveform = waveform.detach().float().cpu()
    if waveform.dim() == 2:
        survey = Survey((), rate)
        survey.push(waveform.T.numpy())
        mix = survey.mix()
        for warning in mix.warnings:
            log.warning(f"waveform: {warning}")
        waveform = torch.from_numpy(mix(waveform.T.numpy()))
    return torch.cat((resampler.push(waveform), resampler.finish()))
