"""The device that runs the network: its choice, precision, cores, memory and clock."""

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

LEAST_AGREEMENT_DB = 30.0  # SI-SNR of bf16's voices to fp32's, from which on "auto" takes bf16

Item = TypeVar("Item")
Result = TypeVar("Result")
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def choose_device(name: str) -> torch.device:
    """Returns "auto" (CUDA, else CPU), "cpu", "cuda", "cuda:1" or "mps"; UserError if it is not there.

    "auto" leaves Apple's MPS out: nobody has yet compared its voices with a CPU's.
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
        # cuDNN's attention, which torch tries first on some cards, makes a plan for every new length.
        torch.backends.cuda.enable_cudnn_sdp(False)
        use_tf32(False)
    elif device.type == "cpu" and torch.get_num_threads() > (quota := _quota()):
        torch.set_num_threads(quota)  # more would wait for each other while the container is halted
    return device


def cores() -> int:
    """Returns how many of the CPU's cores this process may use: by its affinity, and by its container's quota."""
    affinity = os.cpu_count() or 1
    if sys.platform == "linux":
        affinity = len(os.sched_getaffinity(0))
    return min(affinity, _quota())


def _quota() -> int:
    """Returns the cores' worth of time that a container (Linux, cgroup v2) is given, rounded up; else very many."""
    with suppress(OSError, ValueError):  # "max", or none
        share, period = _CPU_MAX.read_text(encoding="ascii").split()
        return max(1, -(-int(share) // int(period)))
    return sys.maxsize


def compute_in_one_thread() -> None:
    """Has torch compute what the calling thread asks of a CPU in that thread alone, from now on.

    For threads beside the network's: torch gives each one that computes helpers of its own, and where there are more of
    all than cores OpenMP lets the network's sleep between its steps instead of spin. With two cores, files of a
    second took a sixth longer.
    """
    torch.get_num_threads()  # torch sets a thread's number when first asked for it, and would undo what follows
    threadpool_limits(1, user_api="openmp")  # of this thread; torch.set_num_threads would reach MKL in all


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """Yields the function's result for each item, in their order; several run at once on a CPU's cores.

    Threads that compute something short together wait for each other at every step, and for the slowest of them
    wherever other work takes a core. `threads` are those of each call, at most the caller's.
    """
    cores = torch.get_num_threads()
    torch.set_num_threads(threads)  # of this thread, of MKL in all, and of threads to come
    pool = ThreadPoolExecutor(cores // threads, "tisdiss", torch.set_num_threads, (threads,))
    try:
        for future in [pool.submit(function, item) for item in items]:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


def use_tf32(wanted: bool) -> None:
    """Sets whether float32 products and convolutions run in TF32 on CUDA; by torch's own default convolutions do."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = wanted


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """Has what torch computes meanwhile run at "fp32" (no TF32), "tf32" or "bf16"."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    use_tf32(precision == "tf32")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def choose_precision(name: str, device: torch.device, agreement_db: float | None = None) -> tuple[str, str]:
    """Returns a precision, "fp32", "tf32" or "bf16", and why, in words.

    "auto" is bf16 where the device has units for it, unless the weights' voices keep to less than LEAST_AGREEMENT_DB in
    it. TF32 rounds what goes into float32 products and convolutions to ten binary digits; only CUDA devices have it.

    Args:
        name: "auto" or a precision; UserError where it is unknown, or not the device's.
        device: that is to compute.
        agreement_db: SI-SNR of the weights' voices at bf16 to those at fp32; None: not measured, as for training, whose
            gradients need fewer digits.
    """
    if name == "auto":
        if not computes_in_bf16(device):
            return "fp32", f"this {device.type} device has no units for bf16 that torch knows of"
        if agreement_db is not None and agreement_db < LEAST_AGREEMENT_DB:
            return "fp32", f"the weights' voices keep only to {agreement_db:g} dB in bf16"
        return "bf16", f"this {device.type} device has units for bf16"
    if name not in ("fp32", "tf32", "bf16"):
        raise UserError(f"--precision {name} is unknown: choose auto, fp32, tf32 or bf16")
    if name == "tf32" and device.type != "cuda":
        raise UserError(f"--precision tf32 is for CUDA devices, and this one is {device.type}: choose fp32 or bf16")
    return name, "it was asked for"


def computes_in_bf16(device: torch.device) -> bool:
    """Returns whether the device has units for bf16; without, a CPU computes in it ten times slower than in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


# glibc's names for mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_memory(device: torch.device) -> None:
    """Has the process keep the memory that its tensors leave, for the next ones; for a CPU under glibc.

    By itself that library asks the system for each tensor of more than 32 MiB, and gives it back: every training step
    would fault in all its activations again, page by page. Memory at its peak grows by a twentieth.
    """
    if device.type == "cpu":
        with suppress(OSError, AttributeError, TypeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(_M_TOP_PAD, 2**28)


def free_bytes(device: torch.device) -> int | None:
    """Returns what this process may still take of a device's own memory; None for a CPU, whose is not known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None


class OutOfMemory(RuntimeError):
    """Memory of the device, which may be the CPU's, did not suffice; the sentence says for what."""


@contextmanager
def memory_guard(what: str) -> Iterator[None]:
    """Turns each library's way to say that memory ran out into `OutOfMemory`: "memory ran out on <what>".

    What the block held is let go, and on CUDA given back, so that smaller work may follow at once.
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


# In lower case: CUDA's runtime and MPS, the CPU's allocator in two versions and C++'s own, cuBLAS and cuDNN (whose
# workspace did not fit), and cuDNN for which no algorithm's workspace did.
_WORDS = (
    *("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc"),
    *("alloc_failed", "unable to find an engine"),
)


def ran_out(error: BaseException) -> bool:
    """Returns whether the error is one of the ways to say that memory ran out, which are classes or only words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def now(device: torch.device) -> float:
    """Returns seconds on a clock, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
