"""Time, memory and arithmetic of every repetition setting, against what the machine can do at best."""

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

_MIN_SECONDS = 1.0  # that a setting is run for
_SEED = 0
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # Linux, proc(5)
# Fused kernels that torch's counter, which knows CUDA's, does not: a CPU's, MPS' and those of devices to come.
_OTHER_ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    torch.ops.aten._scaled_dot_product_attention_math_for_mps,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable,
)


@dataclass(frozen=True)
class Measurement:
    """One setting on one shape of input; all None but the first four where memory ran out.

    Where it ran out for the count alone, `macs`, `flops` and `of_ceiling` are None.
    """

    variant: str  # precision and shifts, as `Engine.variant`
    batch_size: int
    audio_seconds: float  # of each item of the batch
    repeats: int
    median: float | None = None  # seconds, network only, as are the next two
    lower: float | None = None  # first quartile
    upper: float | None = None  # third quartile
    runs: int | None = None
    rtf: float | None = None  # seconds for a second of audio
    memory: int | None = None  # bytes: the device's peak allocation, on a CPU the process's peak resident set
    macs: int | None = None  # multiply-accumulates of matrix products and convolutions
    flops: float | None = None  # achieved, 1/s; a multiply-accumulate is two operations
    of_ceiling: float | None = None  # that, as a fraction of the largest matrix product's

    @property
    def cell(self) -> tuple[str, int, float]:
        """Variant, batch size and length: what the settings of a group of rows share."""
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
    """Yields a measurement for each setting, on seeded noise of so many mixtures of a length at a time.

    Each is run for `min_seconds` and at least three times. `repeats` ascend; `ceiling` is `matmul_ceiling`'s.
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
    """Returns noise (batch_size, samples) on the separator's device, the same each time."""
    samples = max(round(audio_seconds * separator.sample_rate), 1)
    return torch.randn(batch_size, samples, generator=torch.Generator().manual_seed(_SEED)).to(separator.device)


def time_runs(run: Callable[[], object], device: torch.device, min_seconds: float = _MIN_SECONDS) -> list[float]:
    """Returns seconds of single runs: warmed up, synchronised, repeated for `min_seconds` and at least three times."""
    run()
    began, times = now(device), list[float]()
    while len(times) < 3 or now(device) - began < min_seconds:
        before = now(device)
        run()
        times.append(now(device) - before)
    return times


def peak_memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Returns bytes at the peak of a run: allocated on a CUDA device, resident on a CPU; None where it cannot be had.

    On a CPU, what the C library keeps of memory already freed is given back first.
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
        _CLEAR.write_text("5", encoding="ascii")  # the resident set's high-water mark starts anew
    except OSError:
        run()  # elsewhere the mark stands for the whole process so far
        return _peak_so_far()
    run()
    (line,) = (line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def _peak_so_far() -> int | None:
    """Returns bytes resident at the process's peak; None on Windows, whose Python cannot tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def count_macs(separator: Separator, samples: int, repeats: Sequence[int]) -> dict[int, int]:
    """Counts multiply-accumulates of one mixture for each setting, its decoding included, in one pass.

    As torch's flop counter has them: matrix products, convolutions and attention, no Fourier transforms.
    """
    mixture = seeded_mixture(separator, 1, samples / separator.sample_rate)[0]
    # Nothing compiled: the counter sees into no kernel that the compiler made.
    counter = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(_OTHER_ATTENTION, _attention_flops))
    with torch.compiler.set_stance("force_eager"), counter:
        found = every_setting(separator, mixture, repeats=repeats, clock=counter.get_total_flops)
    return {repeat: operations // 2 for repeat, _, operations in found}


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """Returns operations of a fused attention kernel, from the shapes that it is called with."""
    return sdpa_flop_count(query, key, value)


def matmul_ceiling(separator: Separator, min_seconds: float = 0.3) -> float | None:
    """Measures operations per second of the fastest large matrix product at the separator's precision on its device;
    None where there is memory for none.
    """
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
    """Returns what the numbers were measured on."""
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
