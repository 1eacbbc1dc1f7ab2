"""One pass over the network, timed at every repetition setting on the way."""

import time
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tisdiss_cli.separation import Separator


@torch.inference_mode()
def every_setting(
    separator: Separator, mixture: Tensor, repeats: Sequence[int], separator_repeats: int | None = None
) -> Iterator[tuple[Tensor, float]]:
    """The voices (S, L) of a whole mixture (L,) after each of the ascending `repeats`, on the CPU, and the
    network's seconds until then, its own decoding included, the other settings' left out.
    """
    length, device = mixture.shape[0], separator.device
    padded = F.pad(mixture, (0, max(0, separator.network.min_samples - length)))[None].to(device)
    decoding, began = 0.0, now(device)
    with separator.autocast():
        for estimate in separator.network.estimates(padded, max(repeats), separator_repeats):
            if estimate.repeat in repeats and estimate.ends_repeat:
                reached = now(device)
                voices = estimate.waveforms()
                decoded = now(device)
                yield voices[0, :, :length].cpu(), decoded - began - decoding
                decoding += now(device) - reached  # and whatever the caller did with it


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
