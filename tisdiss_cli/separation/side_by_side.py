"""A CPU's cores shared out among inputs: several run at once, each in threads of its own, instead of one in all.

Threads that compute one short input together wait for each other at every step, and for the slowest of them wherever
other work takes a core. How many an input gets follows from its length alone, never from what runs beside it: sums in
another number of threads are rounded otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_SECONDS = 24.0  # of audio at a time, in all inputs together: what bounds their memory


def threads_of(seconds: float, cores: int) -> int:
    """How many threads an input of such a length gets, 1 to `cores`."""
    threads = -(-cores // max(1, min(cores, int(MOST_SECONDS / seconds))))
    return threads if cores // threads > 1 else cores


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """The function of each item, in their order.

    Args:
        function: is called in several threads at once.
        items: what it is given, one each.
        threads: of each call, at most the caller's.
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
