"""Measurement of time, memory and arithmetic of every repetition setting."""

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from tisdiss_cli.devices import OutOfMemory, cores, memory_guard, now
from tisdiss_cli.evaluation.evaluate import every_setting
from tisdiss_cli.separation.separator import Separator

_MIN_SECONDS = 1.0  # least time for which a setting is run
_SEED = 0
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # Linux, proc(5)
# Fused attention that torch's counter does not know: on CPUs, on MPS, and on devices with kernels of their own.
_OTHER_ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    torch.ops.aten._scaled_dot_product_attention_math_for_mps,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable,
)


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


@dataclass(frozen=True)
class Measurement:
    """Measurement of one setting on one shape of input; after the first four, None where memory ran out."""

    variant: str  # `Engine.variant`
    batch_size: int
    audio_seconds: float  # of each mixture in the batch
    repeats: int
    median: float | None = None  # seconds, network only, as are the next two
    lower: float | None = None  # first quartile
    upper: float | None = None  # third quartile
    runs: int | None = None
    rtf: float | None = None  # seconds for a second of audio
    memory: int | None = None  # bytes: the device's peak allocation, on a CPU the process's peak resident set
    macs: int | None = None  # multiply-accumulates of matrix products and convolutions
    flops: float | None = None  # achieved, 1/s; a multiply-accumulate is two operations
    of_ceiling: float | None = None  # `flops` as a share of the fastest matrix product's

    @property
    def cell(self) -> tuple[str, int, float]:
        """Variant, batch size and length, which a group of rows shares."""
        return self.variant, self.batch_size, self.audio_seconds


def measure(
    separator: Separator,
    repeats: Sequence[int],
    *,
    batch_size: int,
    audio_seconds: float,
    ceiling: float | None,
    min_seconds: float = _MIN_SECONDS,
) -> Iterator[Measurement]:
    """Yields a measurement for each of ascending `repeats`, on a batch of seeded noise.

    Each setting runs for `min_seconds` and at least three times. `ceiling` is that of `matmul_ceiling`.
    """
    samples = max(round(audio_seconds * separator.sample_rate), 1)
    what = f"{batch_size} x {audio_seconds:g} s of audio"
    macs: dict[int, int] = {}
    with suppress(OutOfMemory), memory_guard(what):
        macs = count_macs(separator, samples, repeats)
    for setting in repeats:
        shape = (separator.variant, batch_size, audio_seconds, setting)
        try:
            with memory_guard(what):
                run = partial(separator.batch, seeded_mixture(separator, batch_size, audio_seconds), setting)
                memory = peak_memory(run, separator.device)
                times = time_runs(run, separator.device, min_seconds)
        except OutOfMemory:
            yield Measurement(*shape)
            continue
        lower, median, upper = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
        counted = batch_size * macs[setting] if macs else None
        flops = 2 * counted / median if counted else None
        rtf = median / (batch_size * samples / separator.sample_rate)
        share = flops / ceiling if flops and ceiling else None
        yield Measurement(*shape, median, lower, upper, len(times), rtf, memory, counted, flops, share)


def seeded_mixture(separator: Separator, batch_size: int, audio_seconds: float) -> Tensor:
    """Returns seeded noise (batch_size, samples) on the separator's device."""
    samples = max(round(audio_seconds * separator.sample_rate), 1)
    return torch.randn(batch_size, samples, generator=torch.Generator().manual_seed(_SEED)).to(separator.device)


def time_runs(run: Callable[[], object], device: torch.device, min_seconds: float = _MIN_SECONDS) -> list[float]:
    """Returns the seconds of synchronised runs after a warm-up: for `min_seconds`, and at least three."""
    run()
    began, times = now(device), list[float]()
    while len(times) < 3 or now(device) - began < min_seconds:
        before = now(device)
        run()
        times.append(now(device) - before)
    return times


def peak_memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Returns the peak memory of a run in bytes: allocated on CUDA, resident on a CPU; None if it is unknown.

    On a CPU, freed memory that the C library keeps is returned to the system first.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu":
        run()
        return None
    with suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5", encoding="ascii")  # resets the peak of the resident set
    except OSError:
        run()  # elsewhere the peak is that of the whole process
        return _peak_so_far()
    run()
    (line,) = (line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def _peak_so_far() -> int | None:
    """Returns the process's peak resident set in bytes; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def count_macs(separator: Separator, samples: int, repeats: Sequence[int]) -> dict[int, int]:
    """Counts the multiply-accumulates of one mixture for each setting, with its decoding, in one pass.

    By torch's flop counter: matrix products, convolutions and attention, no Fourier transforms.
    """
    mixture = seeded_mixture(separator, 1, samples / separator.sample_rate)[0]
    # Uncompiled, as the counter does not see into compiled kernels.
    counter = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(_OTHER_ATTENTION, _attention))
    with torch.compiler.set_stance("force_eager"), counter:
        found = every_setting(separator, mixture, repeats=repeats, clock=counter.get_total_flops)
    return {repeat: operations // 2 for repeat, _, operations in found}


def matmul_ceiling(separator: Separator, min_seconds: float = 0.3) -> float | None:
    """Measures the operations per second of the fastest large matrix product; None if memory does not suffice."""
    dtype = torch.bfloat16 if separator.precision == "bf16" else torch.float32
    sizes = (1024, 2048) if separator.device.type == "cpu" else (4096, 8192)
    best = 0.0
    for size in sizes:
        with suppress(OutOfMemory), memory_guard(f"a matrix product of {size} x {size}"):
            a, b = torch.randn(2, size, size, device=separator.device).to(dtype)
            with separator.autocast():
                times = time_runs(partial(torch.matmul, a, b), separator.device, min_seconds)
            best = max(best, 2 * size**3 / float(np.median(times)))
    return best or None


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Returns a description of the machine."""
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    machine = {
        "device": str(device),
        "cpu": name,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }
    if device.type == "cuda":
        machine |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return machine
