"""One pass over the network, timed at every repetition setting on the way."""

import time
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tisdiss_cli.separation import Separator


def every_setting(
    separator: Separator, mixture: Tensor, repeats: Sequence[int], separator_repeats: int | None = None
) -> Iterator[tuple[Tensor, float]]:
    """The voices (S, L) of a whole mixture (L,) after each of the ascending `repeats`, on the CPU, and the
    network's seconds until then, its own decoding included, the other settings' left out.
    """
    length, device = mixture.shape[0], separator.device
    padded = F.pad(mixture, (0, max(0, separator.network.min_samples - length)))[None].to(device)
    estimates = separator.network.estimates(padded, max(repeats), separator_repeats)
    decoding, began = 0.0, now(device)
    while True:
        # Not around the yield: the contexts would reach into the caller's code.
        with torch.inference_mode(), separator.autocast():
            estimate = next(estimates, None)
            if estimate is None:
                return
            if estimate.repeat not in repeats or not estimate.ends_repeat:
                continue
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
