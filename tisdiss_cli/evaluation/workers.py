"""The processes that score: SDR costs processor time that the device must not wait for."""

import multiprocessing
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.metrics import Score, score


class Scorers:
    """So many processes that score, or with 0 none: then `submit` does the work itself.

    They are spawned, so a script that asks for some must have its `if __name__ == "__main__"`.
    """

    def __init__(self, workers: int, *, rate: int, stoi: bool, pesq: bool) -> None:
        self.workers, self.rate = workers, rate
        # Spawned: a forked child of a process that uses CUDA, or that runs threads, is not safe.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, context, initializer=_start) if workers else None
        self._options: dict[str, Any] = {"sample_rate": rate, "stoi": stoi, "pesq": pesq}

    def __enter__(self) -> "Scorers":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is not None and issubclass(kind, BrokenProcessPool):
            raise UserError(
                "--workers: a process that scores was ended from outside, for lack of memory perhaps: fewer of them "
                "need less, and with --csv the same command goes on"
            ) from None

    def submit(self, mixture: Tensor, references: Tensor, estimates: list[Tensor]) -> "Future[list[Score]]":
        """Returns the scores to come, as `metrics.score` gives them, of a mixture (L,), its references (S, L) and every
        setting's estimates (S, L); the future raises UserError where there are none, and what else went wrong.
        """
        # Arrays cross to a worker without shared memory.
        arrays = (mixture.numpy(), references.numpy(), [estimate.numpy() for estimate in estimates])
        if self._pool:
            return self._pool.submit(_score, *arrays, **self._options)
        future: Future[list[Score]] = Future()
        try:
            future.set_result(_score(*arrays, **self._options))
        except (UserError, RuntimeError, MemoryError) as error:
            future.set_exception(error)
        return future


def _score(mixture: np.ndarray, references: np.ndarray, estimates: list[np.ndarray], **options: Any) -> list[Score]:
    tensors = [torch.from_numpy(estimate) for estimate in estimates]
    return score(torch.from_numpy(mixture), torch.from_numpy(references), tensors, **options)


def _start() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
