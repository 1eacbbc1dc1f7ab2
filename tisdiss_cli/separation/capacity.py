"""Capacity of a device: seconds of audio at a time, by its memory, and threads for each chunk, by a CPU's cores."""

from tisdiss_cli.model.config import Config
from tisdiss_cli.model.locoformer import MOST_ELEMENTS

MOST_SECONDS = 24.0  # of audio at a time, in all chunks side by side on a CPU: what bounds their memory
_SHARE = 0.8  # of the free memory; what is left is for the kernels' workspaces and for gaps


def threads_of(seconds: float, cores: int) -> int:
    """Returns how many threads a chunk of that length gets beside others, 1 to `cores`: by its length alone.

    Never by what runs beside it: sums in another number of threads are rounded otherwise.
    """
    threads = -(-cores // max(1, min(cores, int(MOST_SECONDS / seconds))))
    return threads if cores // threads > 1 else cores


def bins_per_second(config: Config) -> float:
    """Returns how many positions of the grid (T', F'), on which the stages work, a second of audio has."""
    kernel, stride = config.encoder_kernel, config.encoder_stride
    bins = (config.bins + 2 * (kernel[1] // 2) - kernel[1]) // stride[1] + 1
    return config.sample_rate / config.hop_length / stride[0] * bins


def bytes_per_second(config: Config, precision: str, shifts: int = 1) -> float:
    """Returns the bytes that a second of audio takes on the device at the peak of a run, parameters left out.

    Reckoned, from the tensors that live at once where most do: in the feed-forward of the speaker path (both halves
    of what its first product gives, the gate's and their product, behind S + kernel - 1 positions each) or in the
    Splitter, on whose inputs everything rests in float32, once for each of the shifts.
    """
    s, d, h = config.speakers, config.channels, config.ffn_hidden
    speaker_path = s * d + 4 * h * (s + config.kernel_size - 1)
    splitter = d + 8 * d * s
    resting = 4 * s * d + d
    size = 2 if precision == "bf16" else 4
    return bins_per_second(config) * (size * max(speaker_path, splitter) + 4 * resting * shifts)


def most_seconds(config: Config) -> float:
    """Returns the seconds of audio whose largest tensor has no more than MOST_ELEMENTS elements."""
    s, d, h = config.speakers, config.channels, config.ffn_hidden
    return MOST_ELEMENTS / bins_per_second(config) / max(2 * h * (s + config.kernel_size - 1), 4 * d * s)


def affordable_seconds(config: Config, precision: str, free: int | None, shifts: int = 1) -> float:
    """Returns the seconds of audio that a device with `free` bytes takes at a time; None: found by trying."""
    affordable = float("inf") if free is None else _SHARE * free / bytes_per_second(config, precision, shifts)
    return min(most_seconds(config), affordable)
