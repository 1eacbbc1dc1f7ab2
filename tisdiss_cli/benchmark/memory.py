"""How much memory a run takes at its peak."""

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # Linux, proc(5)


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
    _give_back()
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


def _give_back() -> None:
    with suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
