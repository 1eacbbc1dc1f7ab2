"""Capacity of a device: seconds of audio at a time, by its memory, and CPU threads for each chunk."""

from tisdiss_cli.model.config import Config
from tisdiss_cli.model.locoformer import MOST_ELEMENTS

MOST_SECONDS = 24.0  # seconds of audio at a time, in all chunks side by side on a CPU; limits their memory
_SHARE = 0.8  # share of the free memory that is used; the rest is for workspaces and fragmentation


def threads_of(seconds: float, cores: int) -> int:
    """Returns the threads of a chunk that runs beside others, 1 to `cores`.

    The length alone decides, as another number of threads rounds sums differently.
    """
    threads = -(-cores // max(1, min(cores, int(MOST_SECONDS / seconds))))
    return threads if cores // threads > 1 else cores


def bins_per_second(config: Config) -> float:
    """Returns the positions of the stages' grid (T', F') for a second of audio."""
    kernel, stride = config.encoder_kernel, config.encoder_stride
    bins = (config.bins + 2 * (kernel[1] // 2) - kernel[1]) // stride[1] + 1
    return config.sample_rate / config.hop_length / stride[0] * bins


def bytes_per_second(config: Config, precision: str, shifts: int = 1) -> float:
    """Estimates the peak memory of a second of audio on the device, in bytes, without parameters.

    Counts the tensors that live at once at the peak: in the feed-forward of the speaker path (both halves of its first
    product, the gate and their product, over S + kernel - 1 positions) or in the Splitter, whose inputs rest in
    float32, once for each shift.
    """
    s, d, h = config.speakers, config.channels, config.ffn_hidden
    speaker_path = s * d + 4 * h * (s + config.kernel_size - 1)
    splitter = d + 8 * d * s
    resting = 4 * s * d + d
    size = 2 if precision == "bf16" else 4
    return bins_per_second(config) * (size * max(speaker_path, splitter) + 4 * resting * shifts)


def most_seconds(config: Config) -> float:
    """Returns the seconds of audio whose largest tensor has MOST_ELEMENTS elements."""
    s, d, h = config.speakers, config.channels, config.ffn_hidden
    return MOST_ELEMENTS / bins_per_second(config) / max(2 * h * (s + config.kernel_size - 1), 4 * d * s)


def affordable_seconds(config: Config, precision: str, free: int | None, shifts: int = 1) -> float:
    """Returns the seconds of audio that fit `free` bytes at a time; for None only tensor sizes limit them."""
    affordable = float("inf") if free is None else _SHARE * free / bytes_per_second(config, precision, shifts)
    return min(most_seconds(config), affordable)
