"""One pass over the network, timed at every repetition setting on the way."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from tisdiss_cli.separation import Separator


def every_setting(
    separator: Separator, mixture: Tensor, repeats: Sequence[int], separator_repeats: int | None = None
) -> list[tuple[Tensor, float]]:
    """For each of the ascending `repeats`: the voices (S, L) of a whole mixture (L,), on the CPU, and the
    network's seconds until then, its own decoding included, the other settings' left out.
    """
    device = separator.device
    found: list[tuple[Tensor, float]] = []
    decoding, began = 0.0, now(device)
    for repeat, decode in separator.estimates(mixture, max(repeats), separator_repeats):
        if repeat in repeats:
            reached = now(device)
            voices = decode()
            decoded = now(device)
            found.append((voices.cpu(), decoded - began - decoding))
            decoding += now(device) - reached
    return found


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
