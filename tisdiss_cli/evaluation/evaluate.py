"""A set of mixtures in, the scores of every repetition setting out, in one pass over the network.

One thread reads ahead, the caller's thread runs the network, and worker processes score: SDR costs
processor time that the device must not wait for.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from tisdiss_cli.data.datasets import Dataset, Item
from tisdiss_cli.devices import OutOfMemory, memory_guard, now
from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.loading import Signals, find_estimates, read_ahead
from tisdiss_cli.evaluation.metrics import Score, score
from tisdiss_cli.evaluation.results import Row, Sheet, row_key, summarize
from tisdiss_cli.separation.separator import Separator


@dataclass
class Evaluation:
    """What became of a set."""

    settings: dict[str, Any]
    results: list[dict[str, Any]] = field(default_factory=list)  # as `results.summarize`
    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # what the set lacks
    failed: list[str] = field(default_factory=list)  # one sentence a file
    warnings: list[str] = field(default_factory=list)
    resumed: int = 0  # files whose rows were there already


@dataclass
class Progress:
    """What a caller may show."""

    start: Callable[[int], None] = lambda files: None  # so many are to be scored
    advance: Callable[[], None] = lambda: None  # one more is
    notice: Callable[[str], None] = lambda sentence: None


def evaluate(
    dataset: Dataset,
    separator: Separator | None = None,
    repeats: Sequence[int] | None = None,
    estimates: Path | None = None,
    separator_repeats: int | None = None,
    stoi: bool = False,
    pesq: bool = False,
    sheet: Sheet | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores a set: what `separator` makes of the mixtures, or the files below `estimates`.

    Args:
        dataset: from `datasets.find_dataset`.
        separator: runs on whole mixtures; needed unless `estimates` is given.
        repeats: settings of the Reconstructor to score, each at least 1; None: 1 to as trained. The
            deepest is run once, the others are decoded on the way.
        estimates: a folder with `<id>_s1`, `<id>_s2` or `s1/<id>`, `s2/<id>`, in any sound format.
        stoi, pesq: also compute these (packages pystoi, pesq).
        sheet: rows to go on from; new ones are appended.
        workers: processes that score, 0: this one does. They are spawned, so a script that asks for
            some must have its `if __name__ == "__main__"`.

    Raises:
        UserError: the settings do not fit the set. Whatever is wrong with single files becomes an
            entry of `failed` instead.
    """
    progress = progress or Progress()
    if (separator is None) == (estimates is None):
        raise UserError("give either a network or a folder of estimates to score")
    _check_extras(stoi, pesq)
    settings, wanted, files = _plan(dataset, separator, repeats, estimates, separator_repeats)
    rate = settings["sample_rate"]
    settings |= {"stoi": stoi, "pesq": pesq}
    if pesq and rate not in (8000, 16000):
        raise UserError(f"--pesq: PESQ is defined at 8000 and 16000 Hz, not at {rate} Hz: leave it out")

    # A set that was moved, or has got its mixtures elsewhere, is the same set if the files are.
    keyed = {name: value for name, value in settings.items() if name not in ("data", "estimates", "layout")}
    keys = {item.id: row_key(keyed, (item.mixture, *item.references, *files[item.id])) for item in dataset.items}
    if sheet and (dropped := sheet.keep(keys)):
        progress.notice(f"{sheet.path}: {dropped} rows were of other settings or files and are dropped")
    known = sheet.rows if sheet else []
    present = {(row.id, row.repeats) for row in known}
    todo = [item for item in dataset.items if any((item.id, depth) not in present for depth in wanted)]

    outcome = Evaluation(settings, missing=list(dataset.missing), resumed=len(dataset.items) - len(todo))
    outcome.rows = [row for row in known if row.repeats in wanted]
    if separator and separator.device.type != "cpu":
        separator.run(torch.randn(1, rate), repeats=1)  # the first run of a device is slow, and no measurement
    progress.start(len(todo))
    with ExitStack() as stack:
        submit = stack.enter_context(_Scorers(workers)).submit
        waiting: deque[tuple[Item, Signals, list[float | None], Future]] = deque()

        def collect() -> None:
            item, loaded, seconds, future = waiting.popleft()
            try:
                scores: list[Score] = future.result()
            except UserError as error:
                outcome.failed.append(f"{item.id}: {error}")
            else:
                length = loaded.mixture.shape[0] / rate
                rows = [
                    _row(item.id, depth, keys[item.id], result, length, spent, loaded.warnings)
                    for depth, result, spent in zip(wanted, scores, seconds, strict=True)
                ]
                rows = [row for row in rows if (row.id, row.repeats) not in present]
                outcome.rows += rows
                if sheet:
                    sheet.append(rows)
            progress.advance()

        resampled = False
        for item, loaded in read_ahead(todo, files, estimates is not None, rate):
            if isinstance(loaded, str):
                outcome.failed.append(f"{item.id}: {loaded}")
                progress.advance()
                continue
            if loaded.rates - {rate} and not resampled:
                resampled = True
                others = ", ".join(str(other) for other in sorted(loaded.rates - {rate}))
                whose = "the network's" if separator else "the estimates'"
                progress.notice(f"mixtures and references at {others} Hz are resampled to {whose} {rate} Hz")
            try:
                outputs, seconds = _outputs(separator, loaded, wanted, separator_repeats)
            except UserError as error:
                outcome.failed.append(f"{item.id}: {error}")
                progress.advance()
                continue
            arrays = (loaded.mixture.numpy(), loaded.references.numpy(), [output.numpy() for output in outputs])
            waiting.append((item, loaded, seconds, submit(_score, *arrays, rate, stoi, pesq)))
            while waiting and (waiting[0][3].done() or len(waiting) > 2 * workers + 2):
                collect()
        while waiting:
            collect()
    outcome.rows.sort(key=lambda row: (row.id, row.repeats or 0))
    outcome.warnings = sorted({f"{row.id}: {row.warnings}" for row in outcome.rows if row.warnings})
    outcome.results = summarize(outcome.rows)
    return outcome


def every_setting(
    separator: Separator, mixture: Tensor, repeats: Sequence[int], separator_repeats: int | None = None
) -> list[tuple[Tensor, float]]:
    """For each of the ascending `repeats`: the voices (S, L) of a whole mixture (L,), on the CPU, and the
    network's seconds until then, its own decoding included, the other settings' left out.
    """
    device = separator.device
    found: list[tuple[Tensor, float]] = []
    decoding, began = 0.0, now(device)
    for estimate in separator.estimates(mixture[None], max(repeats), separator_repeats):
        if estimate.repeat in repeats:
            reached = now(device)
            voices = estimate.waveforms()[0]
            decoded = now(device)
            found.append((voices.cpu(), decoded - began - decoding))
            decoding += now(device) - reached
    return found


def default_workers(dataset: Dataset) -> int:
    """As many scoring processes as this machine and the set make use of; none for a few files, as each takes
    seconds to start.
    """
    return min(max(1, (os.cpu_count() or 1) - 1), 16, len(dataset.items) // 8)


def _plan(
    dataset: Dataset,
    separator: Separator | None,
    repeats: Sequence[int] | None,
    estimates: Path | None,
    separator_repeats: int | None,
) -> tuple[dict[str, Any], list[int] | list[None], dict[str, tuple[Path, ...]]]:
    """All that the scores depend on, the repeats to score, and each item's estimates made elsewhere."""
    settings: dict[str, Any] = {
        "data": str(dataset.root),
        "layout": dataset.layout,
        "mixture": dataset.mixture,
        "references": list(dataset.references),
    }
    if separator is not None:
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
            "device": separator.device.type,
        }
        wanted = sorted(set(repeats or range(1, separator.config.reconstructor_repeats + 1)))
        return settings | {"sample_rate": separator.sample_rate}, wanted, {item.id: () for item in dataset.items}
    files = find_estimates(estimates, dataset)
    first = next((paths[0] for paths in files.values() if paths), None)
    if first is None:
        raise UserError(f"--estimates {estimates} has no file like {dataset.items[0].id}_s1 or s1/...: check it")
    return settings | {"estimates": str(estimates), "sample_rate": soundfile.info(first).samplerate}, [None], files


def _outputs(
    separator: Separator | None, signals: Signals, repeats: Sequence[int], separator_repeats: int | None
) -> tuple[list[Tensor], list[float | None]]:
    """The estimates (S, L) of every setting and the network's seconds; those of a file made elsewhere have none."""
    if separator is None:
        return [signals.estimates], [None]
    try:
        with memory_guard(f"{signals.mixture.shape[0] / separator.sample_rate:.1f} s of audio"):
            timed = every_setting(separator, signals.mixture, repeats, separator_repeats)
    except OutOfMemory as error:
        raise UserError(str(error)) from None
    return [voices for voices, _ in timed], [seconds for _, seconds in timed]


def _check_extras(stoi: bool, pesq: bool) -> None:
    for wanted, option, package in ((stoi, "--stoi", "pystoi"), (pesq, "--pesq", "pesq")):
        if wanted:
            try:
                __import__(package)
            except ImportError:
                raise UserError(f"{option} needs the package {package}: pip install 'tisdiss[metrics]'") from None


def _score(
    mixture: np.ndarray,
    references: np.ndarray,
    estimates: list[np.ndarray],
    rate: int,
    stoi: bool,
    pesq: bool,
) -> list[Score]:
    """`scoring.score` on arrays, which cross to a worker without shared memory."""
    tensors = [torch.from_numpy(estimate) for estimate in estimates]
    return score(torch.from_numpy(mixture), torch.from_numpy(references), tensors, rate, stoi, pesq)


def _row(
    id: str, repeats: int | None, key: str, result: Score, length: float, spent: float | None, said: list[str]
) -> Row:
    order = " ".join(str(estimate + 1) for estimate in result.permutation)
    return Row(
        id=id,
        repeats=repeats,
        si_snri=result.si_snri,
        sdri=result.sdri,
        si_snr=result.si_snr,
        sdr=result.sdr,
        stoi=result.stoi,
        pesq=result.pesq,
        permutation=order,
        seconds=length,
        network_seconds=spent,
        warnings="; ".join([*said, *result.warnings]),
        key=key,
    )


class _Scorers:
    """Processes that score, or none: then `submit` does the work itself."""

    def __init__(self, workers: int) -> None:
        # Spawned: a forked child of a process that uses CUDA, or that runs threads, is not safe.
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(workers, context, initializer=_start_worker) if workers else None

    def __enter__(self) -> "_Scorers":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(wait=kind is None, cancel_futures=True)

    def submit(self, work: Callable, *args: Any) -> Future:
        if self.pool:
            return self.pool.submit(work, *args)
        future: Future = Future()
        try:
            future.set_result(work(*args))
        except UserError as error:
            future.set_exception(error)
        return future


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
