"""A set of mixtures in, the scores of every repetition setting out, in one pass over the network.

One thread reads ahead, the caller's thread runs the network, and worker processes score: SDR costs processor time that
the device must not wait for.
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

from tisdiss_cli.data.clips import commonest, count_rates
from tisdiss_cli.data.datasets import Dataset, Item
from tisdiss_cli.devices import OutOfMemory, cores, memory_guard, now
from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.estimates import find_estimates
from tisdiss_cli.evaluation.loading import Signals, read_ahead
from tisdiss_cli.evaluation.metrics import score
from tisdiss_cli.evaluation.results import METRICS, Row, Sheet, Summary, row_key, summarize
from tisdiss_cli.libraries import require
from tisdiss_cli.separation.separator import Separator

log = logging.getLogger("tisdiss")


@dataclass
class Evaluation:
    """The outcome of scoring a set."""

    settings: dict[str, Any]
    missing: list[str]  # what the set lacks
    resumed: int  # files whose rows were there already
    rows: list[Row]
    failed: list[str] = field(default_factory=list)  # one sentence a file

    @property
    def results(self) -> list[Summary]:
        """By repeats."""
        return summarize(self.rows)

    @property
    def warnings(self) -> list[str]:
        """One sentence a file."""
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
    sheet: Sheet | None = None,
    workers: int = 0,
    start: Callable[[int], object] = lambda files: None,
    advance: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Scores a set: what `separator` makes of the mixtures, or the files below `estimates`.

    Args:
        dataset: from `datasets.find_dataset`.
        separator: runs on whole mixtures; needed unless `estimates` is given.
        repeats: settings of the Reconstructor to score, each at least 1; None: 1 to as trained.
        estimates: a folder of them, in any sound format.
        pattern: of their names, where it is not one of the usual, as `estimates.find_estimates` has it.
        separator_repeats: of the Separator; None: as trained.
        stoi, pesq: also compute these (packages pystoi, pesq).
        sheet: rows to go on from; new ones are appended.
        workers: processes that score, 0: this one does; as `scorers`.
        start: is called with the number of files to score.
        advance: is called after each.

    Raises:
        UserError: the settings do not fit the set; whatever is wrong with single files is an entry of `failed` instead.
    """
    for wanted, option, package in ((stoi, "--stoi", "pystoi"), (pesq, "--pesq", "pesq")):
        if wanted:
            require(package, f"{option} needs", "metrics")
    settings, asked, files = _plan(dataset, separator, repeats, separator_repeats, estimates, pattern)
    rate = settings["sample_rate"]
    metrics = {"sample_rate": rate, "stoi": stoi, "pesq": pesq}
    settings |= metrics
    if pesq and rate not in (8000, 16000):
        raise UserError(f"--pesq: PESQ is defined at 8000 and 16000 Hz, not at {rate} Hz: leave it out")

    # A set that was moved, or has got its mixtures elsewhere, is the same set if the files are.
    keyed = {name: value for name, value in settings.items() if name not in ("data", "estimates", "layout")}
    keys = {
        item.id: row_key(keyed, (item.mixture, *item.references, *files.get(item.id, ()))) for item in dataset.items
    }
    if sheet and (dropped := sheet.keep(keys)):
        log.warning(f"{sheet.path}: {dropped} rows were of other settings or files and are dropped")
    known = {(row.id, row.repeats): row for row in sheet.rows} if sheet else {}
    todo = [item for item in dataset.items if any((item.id, setting) not in known for setting in asked)]
    rows = [row for row in known.values() if row.repeats in asked]
    outcome = Evaluation(settings, dataset.missing, len(dataset.items) - len(todo), rows)
    if separator and separator.device.type != "cpu":
        separator.run(torch.randn(1, rate), repeats=1)  # the first run of a device is slow, and no measurement
    start(len(todo))
    with scorers(workers) as pool:

        def submit(item: Item, signals: Signals) -> Future[list[Row]]:
            """Separates a mixture, and has the voices scored while the network goes on; UserError, OutOfMemory."""
            made: list[Any] = [(None, signals.estimates, None)]
            if separator:
                made = every_setting(separator, signals.mixture, repeats=asked, separator_repeats=separator_repeats)
            voices = [(setting, found.numpy(), seconds) for setting, found, seconds in made]
            arrays = signals.mixture.numpy(), signals.references.numpy(), voices
            facts = {"id": item.id, "key": keys[item.id], "seconds": signals.mixture.shape[0] / rate}
            return pool.submit(score_item, *arrays, facts=facts, warnings=signals.warnings, **metrics)

        ahead = 2 * workers + 2 if workers else 0  # in one process the network's time is not the scores' too
        for item, scored in _scores(read_ahead(todo, rate=rate, files=files), submit, ahead):
            if isinstance(scored, Exception):
                reason = " ".join(str(scored).split()) or type(scored).__name__
                outcome.failed.append(f"{item.id}: {reason}")
            else:
                new = [row for row in scored if (row.id, row.repeats) not in known]
                outcome.rows += new
                if sheet:
                    sheet.append(new)
            advance()
    outcome.rows.sort(key=lambda row: (row.id, row.repeats or 0))
    return outcome


def _plan(
    dataset: Dataset,
    separator: Separator | None,
    repeats: Sequence[int] | None,
    separator_repeats: int | None,
    estimates: Path | None,
    pattern: str | None,
) -> tuple[dict[str, Any], list[Any], dict[str, tuple[Path, ...]]]:
    """Returns all that the scores depend on, the repeats to score, and each item's estimates made elsewhere."""
    settings: dict[str, Any] = {
        "data": str(dataset.root),
        "layout": dataset.layout,
        "mixture": dataset.mixture,
        "references": list(dataset.references),
    }
    if separator is None:
        assert estimates is not None  # one of the two is given
        files = find_estimates(estimates, dataset, pattern)
        rates, _ = count_rates(path for paths in files.values() for path in paths)
        return settings | {"estimates": str(estimates), "sample_rate": commonest(rates) or 8000}, [None], files
    if separator.sources != dataset.speakers:
        raise UserError(
            f"{dataset.root} has {dataset.speakers} references a mixture, and the weights "
            f"{separator.weights.name!r} separate {separator.sources} voices: choose others"
        )
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
    """Yields what each file scores, or why it does not, while up to `ahead` others are being scored."""
    waiting: deque[tuple[Item, Future[list[Row]]]] = deque()

    def done(most: int) -> Iterator[tuple[Item, list[Row] | Exception]]:
        """Yields those whose scores are there, in order; waits until at most that many are left."""
        while waiting and (waiting[0][1].done() or len(waiting) > most):
            item, future = waiting.popleft()
            error = future.exception()
            if isinstance(error, BrokenProcessPool) or not isinstance(error, Exception | None):
                raise error  # which is no fault of this item
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
    """Runs a mixture (L,) once, as deep as the last of ascending `repeats`; `OutOfMemory`.

    Returns for each its voices (S, L), on the CPU, and what was spent until then by the clock, the device's in
    seconds: its own decoding included, the others' left out.
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
    """Returns how many scoring processes pay; none for a few files, as each takes seconds to start."""
    return min(max(1, cores() - 1), 16, len(dataset.items) // 8)


@contextmanager
def scorers(workers: int) -> Iterator[Executor]:
    """Gives that many processes for `score_item`, or with 0 a thread of this one.

    They are spawned, so a script that asks for some must have its `if __name__ == "__main__"`.
    """
    pool: Executor
    if workers:  # spawned: a forked child of a process that uses CUDA, or that runs threads, is not safe
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start)
    else:
        pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))
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
