"""How much audio a device takes at a time: by its free memory, and by what its kernels can count."""

import torch

from tisdiss_cli.model.config import Config
from tisdiss_cli.model.locoformer import MOST_ELEMENTS

_SHARE = 0.8  # of the free memory; what is left is for the kernels' workspaces and for gaps


def bins_per_second(config: Config) -> float:
    """Positions of the grid (T', F') on which the stages work, for a second of audio."""
    kernel, stride = config.encoder_kernel, config.encoder_stride
    bins = (config.bins + 2 * (kernel[1] // 2) - kernel[1]) // stride[1] + 1
    return config.sample_rate / config.hop_length / stride[0] * bins


def bytes_per_second(config: Config, precision: str) -> float:
    """Bytes that a second of audio takes on the device at the peak of a run, parameters left out.

    Reckoned, from the tensors that live at once where most do: in the feed-forward of the speaker path (both halves
    of what its first product gives, the gate's and their product, behind S + kernel - 1 positions each) or in the
    Splitter, on whose inputs everything rests in float32.
    """
    s, d, h = config.speakers, config.channels, config.ffn_hidden
    speaker_path = s * d + 4 * h * (s + config.kernel_size - 1)
    splitter = d + 8 * d * s
    resting = 4 * s * d + d
    size = 2 if precision == "bf16" else 4
    return bins_per_second(config) * (size * max(speaker_path, splitter) + 4 * resting)


def most_seconds(config: Config) -> float:
    """Seconds of audio whose largest tensor has no more than MOST_ELEMENTS elements."""
    s, d, h = config.speakers, config.channels, config.ffn_hidden
    return MOST_ELEMENTS / bins_per_second(config) / max(2 * h * (s + config.kernel_size - 1), 4 * d * s)


def free_bytes(device: torch.device) -> int | None:
    """What this process may still take of a device's own memory; None for a CPU, and where it cannot be had."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None


def affordable_seconds(config: Config, precision: str, free: int | None) -> float:
    """Seconds of audio that a device with `free` bytes takes at a time; None: what fits is found by trying."""
    affordable = float("inf") if free is None else _SHARE * free / bytes_per_second(config, precision)
    return min(most_seconds(config), affordable)
