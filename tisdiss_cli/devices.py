"""Devices: choice, precision, CPU cores, memory and clock."""

import ctypes
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

from tisdiss_cli.errors import UserError

LEAST_AGREEMENT_DB = 30.0  # lowest SI-SNR of voices in bf16 to those in fp32 with which "auto" takes bf16

Item = TypeVar("Item")
Result = TypeVar("Result")
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def choose_device(name: str) -> torch.device:
    """Returns the device "auto" (CUDA, else CPU), "cpu", "cuda", "cuda:1" or "mps"; UserError if it is missing.

    "auto" never takes Apple's MPS, whose voices have not been compared with a CPU's yet.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name} is unknown: choose auto, cpu, cuda, cuda:0, ... or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: this machine has no MPS device; use --device cpu")
    if device.type == "cuda":
        # cuDNN's attention, torch's first choice on some cards, makes a plan for every new length.
        torch.backends.cuda.enable_cudnn_sdp(False)
        use_tf32(False)
    elif device.type == "cpu" and torch.get_num_threads() > (quota := _quota()):
        torch.set_num_threads(quota)  # more threads would only be throttled
    return device


def cores() -> int:
    """Returns the number of CPU cores that this process may use, by its affinity and its container's quota."""
    affinity = os.cpu_count() or 1
    if sys.platform == "linux":
        affinity = len(os.sched_getaffinity(0))
    return min(affinity, _quota())


def _quota() -> int:
    """Returns the container's CPU quota in cores (Linux, cgroup v2), rounded up; a huge number without one."""
    with suppress(OSError, ValueError):  # "max", or none
        share, period = _CPU_MAX.read_text(encoding="ascii").split()
        return max(1, -(-int(share) // int(period)))
    return sys.maxsize


def compute_in_one_thread() -> None:
    """Limits torch's CPU work that is started by the calling thread to that thread, from now on.

    For threads beside the network's: torch gives each thread that computes its own OpenMP helpers, and with more
    threads than cores OpenMP lets the network's sleep between steps. With two cores, files of a second took a sixth
    longer.
    """
    torch.get_num_threads()  # torch sets a thread's number at the first call, which would undo the next line
    threadpool_limits(1, user_api="openmp")  # this thread only; torch.set_num_threads would reach MKL in all


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """Yields the function's result for each item, in order; several calls run at once, each with `threads` threads.

    That beats all threads on one item after the other: they would wait for each other at every short step.
    """
    cores = torch.get_num_threads()
    torch.set_num_threads(threads)  # for this thread, MKL everywhere, and new threads
    pool = ThreadPoolExecutor(cores // threads, "tisdiss", torch.set_num_threads, (threads,))
    try:
        for future in [pool.submit(function, item) for item in items]:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


def use_tf32(enabled: bool) -> None:
    """Sets whether float32 products and convolutions run in TF32 on CUDA; torch's default is convolutions only."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = enabled


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """Runs torch at "fp32" (no TF32), "tf32" or "bf16" within the block."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    use_tf32(precision == "tf32")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def choose_precision(name: str, device: torch.device, agreement_db: float | None = None) -> tuple[str, str]:
    """Returns a precision, "fp32", "tf32" or "bf16", and the reason in words.

    "auto" is bf16 on devices with units for it, unless the weights agree by less than LEAST_AGREEMENT_DB with fp32.
    TF32 rounds the inputs of float32 products and convolutions to ten binary digits; only CUDA devices have it.

    Args:
        name: "auto" or a precision; UserError if it is unknown, or the device does not have it.
        device: the device that computes.
        agreement_db: SI-SNR in dB of the weights' voices at bf16 to those at fp32. Default: not measured, as in
            training.
    """
    if name == "auto":
        if not computes_in_bf16(device):
            return "fp32", f"torch finds no bf16 units on this {device.type} device"
        if agreement_db is not None and agreement_db < LEAST_AGREEMENT_DB:
            return "fp32", f"in bf16 these weights agree with fp32 to {agreement_db:g} dB only"
        return "bf16", f"this {device.type} device has bf16 units"
    if name not in ("fp32", "tf32", "bf16"):
        raise UserError(f"--precision {name} is unknown: choose auto, fp32, tf32 or bf16")
    if name == "tf32" and device.type != "cuda":
        raise UserError(f"--precision tf32 is for CUDA devices, and this one is {device.type}: choose fp32 or bf16")
    return name, "requested"


def computes_in_bf16(device: torch.device) -> bool:
    """Returns whether the device has bf16 units; without them a CPU is ten times slower in bf16 than in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


# glibc's names for mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_memory(device: torch.device) -> None:
    """Keeps freed memory in the process for the next tensors; for a CPU under glibc.

    By default glibc asks the system for each tensor above 32 MiB and returns it, so that every training step would
    fault in all activations again, page by page. Peak memory grows by a twentieth.
    """
    if device.type == "cpu":
        with suppress(OSError, AttributeError, TypeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(_M_TOP_PAD, 2**28)


def free_bytes(device: torch.device) -> int | None:
    """Returns the bytes of a device's own memory that are free for this process; None for a CPU."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None


class OutOfMemory(RuntimeError):
    """Memory ran out, on a device or the CPU; the sentence says on what."""


@contextmanager
def memory_guard(what: str) -> Iterator[None]:
    """Turns every library's error for exhausted memory into `OutOfMemory`: "memory ran out on <what>".

    The block's tensors are released, and CUDA's cache too, so that smaller work can follow at once.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        traceback.clear_frames(error.__traceback__)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory(f"memory ran out on {what}") from None


# In lower case: CUDA's runtime and MPS, the CPU's allocator in two versions, C++, cuBLAS and cuDNN (workspaces).
_WORDS = (
    *("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc"),
    *("alloc_failed", "unable to find an engine"),
)


def ran_out(error: BaseException) -> bool:
    """Returns whether the error means that memory ran out, by its class or by its words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def now(device: torch.device) -> float:
    """Returns seconds on a clock, once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
