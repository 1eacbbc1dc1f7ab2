"""The processes that score: SDR costs processor time that the device must not wait for."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.metrics import score
from tisdiss_cli.evaluation.results import METRICS, Row


class _Here(Executor):
    """Does what is submitted at once, in the caller's thread."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future:
        """Returns a future that is done."""
        future: Future = Future()
        try:
            future.set_result(function(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def scorers(workers: int) -> Iterator[Executor]:
    """Gives that many processes for `score_item`, or with 0 one that is no process.

    They are spawned, so a script that asks for some must have its `if __name__ == "__main__"`.
    """
    # Spawned: a forked child of a process that uses CUDA, or that runs threads, is not safe.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start) if workers else _Here()
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError(
            "--workers: a process that scores was ended from outside, for lack of memory perhaps: fewer of them need "
            "less, and with --csv the same command goes on"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def score_item(
    mixture: np.ndarray,
    references: np.ndarray,
    made: list[tuple[int | None, np.ndarray, float | None]],
    *,
    facts: dict[str, Any],
    warnings: list[str],
    **options: Any,
) -> list[Row]:
    """Returns a row for each setting: its repeats, its estimates (S, L), and the network's seconds.

    Arrays cross to a worker without shared memory. All rows have the facts in common, and the warnings of their
    files; options and errors are those of `score`.
    """
    estimates = [torch.from_numpy(voices) for _, voices, _ in made]
    scores = score(torch.from_numpy(mixture), torch.from_numpy(references), estimates, **options)
    return [
        Row(
            **facts,
            repeats=repeats,
            **{name: getattr(found, name) for name in METRICS},
            permutation=" ".join(str(estimate + 1) for estimate in found.permutation),
            network_seconds=seconds,
            warnings="; ".join([*warnings, *found.warnings]),
        )
        for (repeats, _, seconds), found in zip(made, scores, strict=True)
    ]


def _start() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
