"""How much memory a run takes at its peak."""

import ctypes
import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux, proc(5)


def peak_memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes at the peak of a run: allocated on a CUDA device, resident on a CPU; None where it cannot be had.

    On a CPU, what the C library keeps of memory already freed is given back first.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu":
        run()
        return None
    _give_back()
    try:
        _CLEAR.write_text("5", encoding="ascii")  # the resident set's high-water mark starts anew
    except OSError:
        run()  # elsewhere the mark stands for the whole process so far
        return _peak_so_far()
    run()
    return _status("VmHWM")


def working_memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes at the peak of a run above what was held before it; None where that cannot be had: on a CPU, off Linux."""
    gc.collect()
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
    elif device.type == "cpu" and sys.platform.startswith("linux"):
        _give_back()
        held = _status("VmRSS")
    else:
        return None
    peak = peak_memory(run, device)
    return None if peak is None else peak - held


def _peak_so_far() -> int | None:
    """Returns bytes resident at the process's peak; None on Windows, whose Python cannot tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _give_back() -> None:
    with suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _status(key: str) -> int:
    (line,) = (line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])
