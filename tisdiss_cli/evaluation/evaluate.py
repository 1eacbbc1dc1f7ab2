"""Evaluation of a set of mixtures: scores of every repetition setting, in one pass over the network.

One thread reads ahead, the caller's thread runs the network, and worker processes compute the scores, as SDR takes CPU
time that the device should not wait for.
"""

import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tisdiss_cli.data.clips import count_sample_rates, most_common_rate
from tisdiss_cli.data.datasets import Dataset, Item
from tisdiss_cli.devices import OutOfMemory, cores, memory_guard, now
from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.estimates import find_estimates
from tisdiss_cli.evaluation.loading import Signals, read_ahead
from tisdiss_cli.evaluation.metrics import score
from tisdiss_cli.evaluation.results import METRICS, Row, ScoreTable, Summary, row_key, summarize
from tisdiss_cli.libraries import require
from tisdiss_cli.separation.separator import Separator

log = logging.getLogger("tisdiss")


@dataclass
class Evaluation:
    """Outcome of scoring a set."""

    settings: dict[str, Any]
    missing: list[str]  # incomplete items of the set
    resumed: int  # files that were scored before
    rows: list[Row]
    failed: list[str] = field(default_factory=list)  # one sentence for each file

    @property
    def results(self) -> list[Summary]:
        """Summary of each setting, by repeats."""
        return summarize(self.rows)

    @property
    def warnings(self) -> list[str]:
        """One sentence for each file with a warning."""
        return sorted({f"{row.id}: {row.warnings}" for row in self.rows if row.warnings})


def evaluate(
    dataset: Dataset,
    separator: Separator | None = None,
    repeats: Sequence[int] | None = None,
    *,
    estimates: Path | None = None,
    pattern: str | None = None,
    separator_repeats: int | None = None,
    stoi: bool = False,
    pesq: bool = False,
    table: ScoreTable | None = None,
    workers: int = 0,
    start: Callable[[int], object] = lambda files: None,
    advance: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Scores a set: the voices of `separator`, or the files below `estimates`.

    Args:
        dataset: the set, from `datasets.find_dataset`.
        separator: the network, which runs on whole mixtures; required unless `estimates` is given.
        repeats: repeats of the Reconstructor to score, each at least 1. Default: 1 to as trained.
        estimates: folder of estimates, in any sound format.
        pattern: naming pattern of the estimates, see `estimates.find_estimates`. Default: detected.
        separator_repeats: repeats of the Separator. Default: as trained.
        stoi, pesq: also compute these metrics (packages pystoi, pesq).
        table: score table to resume from; new rows are appended.
        workers: number of scoring processes, see `scorers`. Default: 0, this process.
        start: called with the number of files to score.
        advance: called after each file.

    Raises:
        UserError: the settings do not fit the set; faults of single files are entries of `failed` instead.
    """
    settings, requested, files = _plan(dataset, separator, repeats, separator_repeats, estimates, pattern)
    metrics = {"sample_rate": settings["sample_rate"], "stoi": stoi, "pesq": pesq}
    _check_metrics(**metrics)
    settings |= metrics
    keys = _row_keys(dataset, settings, files)
    scored = _resume(table, keys)
    todo = [item for item in dataset.items if any((item.id, setting) not in scored for setting in requested)]
    rows = [row for row in scored.values() if row.repeats in requested]
    outcome = Evaluation(settings, dataset.missing, len(dataset.items) - len(todo), rows)
    if separator and separator.device.type != "cpu":
        separator.run(torch.randn(1, separator.sample_rate), repeats=1)  # warm-up, as a device's first run is slow
    start(len(todo))
    with scorers(workers) as pool:
        submit = partial(_submit, pool, separator, requested, separator_repeats, keys, metrics)
        ahead = 2 * workers + 2 if workers else 0  # in one process, scoring must not count as the network's time
        signals = read_ahead(todo, rate=settings["sample_rate"], files=files)
        for item, outcome_rows in _scores(signals, submit, ahead):
            if isinstance(outcome_rows, Exception):
                reason = " ".join(str(outcome_rows).split()) or type(outcome_rows).__name__
                outcome.failed.append(f"{item.id}: {reason}")
            else:
                new = [row for row in outcome_rows if (row.id, row.repeats) not in scored]
                outcome.rows += new
                if table:
                    table.append(new)
            advance()
    outcome.rows.sort(key=lambda row: (row.id, row.repeats or 0))
    return outcome


def _check_metrics(sample_rate: int, stoi: bool, pesq: bool) -> None:
    for enabled, option, package in ((stoi, "--stoi", "pystoi"), (pesq, "--pesq", "pesq")):
        if enabled:
            require(package, f"{option} needs", "metrics")
    if pesq and sample_rate not in (8000, 16000):
        raise UserError(f"--pesq: PESQ is defined at 8000 and 16000 Hz, not at {sample_rate} Hz: leave it out")


def _row_keys(dataset: Dataset, settings: dict[str, Any], files: dict[str, tuple[Path, ...]]) -> dict[str, str]:
    """Returns each item's key; a moved set is the same set if its files are."""
    keyed = {name: value for name, value in settings.items() if name not in ("data", "estimates", "layout")}
    found = ((item.id, (item.mixture, *item.references, *files.get(item.id, ()))) for item in dataset.items)
    return {id: row_key(keyed, paths) for id, paths in found}


def _resume(table: ScoreTable | None, keys: dict[str, str]) -> dict[tuple[str, int | None], Row]:
    """Returns the table's rows that still hold, by id and setting; drops the others."""
    if table and (dropped := table.keep(keys)):
        log.warning(f"{table.path}: {dropped} rows of other settings or files are dropped")
    return {(row.id, row.repeats): row for row in table.rows} if table else {}


def _submit(
    pool: Executor,
    separator: Separator | None,
    repeats: Sequence[int],
    separator_repeats: int | None,
    keys: dict[str, str],
    metrics: dict[str, Any],
    item: Item,
    signals: Signals,
) -> Future[list[Row]]:
    """Separates a mixture and submits its voices, or estimates by another tool, for scoring; UserError, OutOfMemory."""
    made: list[Any] = [(None, signals.estimates, None)]
    if separator:
        made = every_setting(separator, signals.mixture, repeats=repeats, separator_repeats=separator_repeats)
    voices = [(setting, estimate.numpy(), seconds) for setting, estimate, seconds in made]
    arrays = signals.mixture.numpy(), signals.references.numpy(), voices
    seconds = signals.mixture.shape[0] / metrics["sample_rate"]
    facts = {"id": item.id, "key": keys[item.id], "seconds": seconds}
    return pool.submit(score_item, *arrays, facts=facts, warnings=signals.warnings, **metrics)


def _plan(
    dataset: Dataset,
    separator: Separator | None,
    repeats: Sequence[int] | None,
    separator_repeats: int | None,
    estimates: Path | None,
    pattern: str | None,
) -> tuple[dict[str, Any], list[Any], dict[str, tuple[Path, ...]]]:
    """Returns the settings that scores depend on, the repeats to score, and each item's estimates by other tools."""
    settings: dict[str, Any] = {
        "data": str(dataset.root),
        "layout": dataset.layout,
        "mixture": dataset.mixture,
        "references": list(dataset.references),
    }
    if separator is None:
        assert estimates is not None  # one of the two is given
        files = find_estimates(estimates, dataset, pattern)
        rates, _ = count_sample_rates(path for paths in files.values() for path in paths)
        return settings | {"estimates": str(estimates), "sample_rate": most_common_rate(rates) or 8000}, [None], files
    if separator.sources != dataset.speakers:
        raise UserError(f"{dataset.root} has {dataset.speakers} references, the weights separate {separator.sources}")
    settings |= {
        "weights": separator.weights.name,
        "weights_sha256": separator.weights.digest,
        "separator_repeats": separator_repeats or separator.config.separator_repeats,
        "precision": separator.precision,
        **({"shifts": separator.shifts} if separator.shifts > 1 else {}),
        "device": separator.device.type,
        "sample_rate": separator.sample_rate,
    }
    return settings, sorted(set(repeats or range(1, separator.config.reconstructor_repeats + 1))), {}


def _scores(
    signals: Iterator[tuple[Item, Signals | str]], submit: Callable[[Item, Signals], Future[list[Row]]], ahead: int
) -> Iterator[tuple[Item, list[Row] | Exception]]:
    """Yields each item's rows, or its error, while up to `ahead` others are being scored."""
    waiting: deque[tuple[Item, Future[list[Row]]]] = deque()

    def done(most: int) -> Iterator[tuple[Item, list[Row] | Exception]]:
        """Yields finished items in order, waiting until at most `most` are left."""
        while waiting and (waiting[0][1].done() or len(waiting) > most):
            item, future = waiting.popleft()
            error = future.exception()
            if isinstance(error, BrokenProcessPool) or not isinstance(error, Exception | None):
                raise error  # not this item's fault
            yield item, error or future.result()

    for item, loaded in signals:
        try:
            if isinstance(loaded, str):
                raise UserError(loaded)
            waiting.append((item, submit(item, loaded)))
        except (UserError, OutOfMemory) as error:
            yield item, error
        yield from done(ahead)
    yield from done(0)


def every_setting(
    separator: Separator,
    mixture: Tensor,
    *,
    repeats: Sequence[int],
    separator_repeats: int | None = None,
    clock: Callable[[], Any] | None = None,
) -> list[tuple[int, Tensor, Any]]:
    """Runs a mixture (L,) once, up to the last of ascending `repeats`; `OutOfMemory`.

    Returns for each setting its voices (S, L) on the CPU, and the clock's advance (default: the device's, in seconds)
    with its own decoding but without the others'.
    """
    clock = clock or partial(now, separator.device)
    found = []
    with memory_guard(f"{mixture.shape[0] / separator.sample_rate:.1f} s of audio"):
        others: Any = 0
        began = clock()
        for estimate in separator.estimates(mixture[None], max(repeats), separator_repeats):
            if estimate.repeat in repeats:
                reached = clock()
                voices = estimate.waveforms()[0]
                decoded = clock()
                found.append((estimate.repeat, voices.cpu(), decoded - began - others))
                others += clock() - reached
    return found


def default_workers(dataset: Dataset) -> int:
    """Returns the default number of scoring processes; 0 for few files, as each process takes seconds to start."""
    return min(max(1, cores() - 1), 16, len(dataset.items) // 8)


@contextmanager
def scorers(workers: int) -> Iterator[Executor]:
    """Yields an executor with that many processes for `score_item`, or with 0 a thread of this process.

    Processes are spawned, so a script that uses them needs `if __name__ == "__main__"`.
    """
    pool: Executor
    if workers:  # spawned, as forking a process with CUDA or threads is unsafe
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start)
    else:
        pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError("--workers: a scoring process was killed, perhaps by lack of memory: use fewer") from None
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
    """Returns a row for each setting of `made`: (repeats, estimates (S, L), network's seconds).

    Arrays, as they cross to a worker without shared memory. All rows share the facts and the files' warnings; options
    and errors are those of `score`.
    """
    estimates = [torch.from_numpy(voices) for _, voices, _ in made]
    scores = score(torch.from_numpy(mixture), torch.from_numpy(references), estimates, **options)
    return [
        Row(
            **facts,
            repeats=repeats,
            **{name: getattr(result, name) for name in METRICS},
            permutation=" ".join(str(estimate + 1) for estimate in result.permutation),
            network_seconds=seconds,
            warnings="; ".join([*warnings, *result.warnings]),
        )
        for (repeats, _, seconds), result in zip(made, scores, strict=True)
    ]


def _start() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
