"""A set of mixtures in, the scores of every repetition setting out, in one pass over the network.

One thread reads ahead, the caller's thread runs the network, and worker processes score: SDR costs
processor time that the device must not wait for.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.data.datasets import Dataset, Item
from tisdiss_cli.devices import OutOfMemory, cores, memory_guard, now
from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.estimates import find_estimates
from tisdiss_cli.evaluation.loading import Signals, commonest_rate, read_ahead
from tisdiss_cli.evaluation.metrics import Score
from tisdiss_cli.evaluation.results import Row, Sheet, Summary, row_key, summarize
from tisdiss_cli.evaluation.workers import Scorers
from tisdiss_cli.separation.separator import Separator

log = logging.getLogger("tisdiss")


@dataclass
class Evaluation:
    """What became of a set."""

    settings: dict[str, Any]
    results: list[Summary] = field(default_factory=list)  # by repeats
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


def evaluate(
    dataset: Dataset,
    separator: Separator | None = None,
    repeats: Sequence[int] | None = None,
    *,
    estimates: Path | None = None,
    separator_repeats: int | None = None,
    stoi: bool = False,
    pesq: bool = False,
    sheet: Sheet | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    pattern: str | None = None,
) -> Evaluation:
    """Scores a set: what `separator` makes of the mixtures, or the files below `estimates`.

    Args:
        dataset: from `datasets.find_dataset`.
        separator: runs on whole mixtures; needed unless `estimates` is given.
        repeats: settings of the Reconstructor to score, each at least 1; None: 1 to as trained. The
            deepest is run once, the others are decoded on the way.
        estimates: a folder of them, named as `estimates.find_estimates` has it, in any sound format.
        stoi, pesq: also compute these (packages pystoi, pesq).
        sheet: rows to go on from; new ones are appended.
        workers: processes that score, 0: this one does; as `workers.Scorers`.
        progress: what is told how far it is.
        pattern: of the estimates' names, where it is not one of the usual.

    Raises:
        UserError: the settings do not fit the set. Whatever is wrong with single files becomes an
            entry of `failed` instead.
    """
    progress = progress or Progress()
    if (separator is None) == (estimates is None):
        raise UserError("give either a network or a folder of estimates to score")
    _check_extras(stoi, pesq)
    settings, wanted, files = _plan(
        dataset, separator, repeats=repeats, estimates=estimates, separator_repeats=separator_repeats, pattern=pattern
    )
    rate = settings["sample_rate"]
    settings |= {"stoi": stoi, "pesq": pesq}
    if pesq and rate not in (8000, 16000):
        raise UserError(f"--pesq: PESQ is defined at 8000 and 16000 Hz, not at {rate} Hz: leave it out")

    # A set that was moved, or has got its mixtures elsewhere, is the same set if the files are.
    keyed = {name: value for name, value in settings.items() if name not in ("data", "estimates", "layout")}
    keys = {item.id: row_key(keyed, (item.mixture, *item.references, *files[item.id])) for item in dataset.items}
    if sheet and (dropped := sheet.keep(keys)):
        log.warning(f"{sheet.path}: {dropped} rows were of other settings or files and are dropped")
    known = sheet.rows if sheet else []
    present = {(row.id, row.repeats) for row in known}
    todo = [item for item in dataset.items if any((item.id, setting) not in present for setting in wanted)]

    outcome = Evaluation(settings, missing=list(dataset.missing), resumed=len(dataset.items) - len(todo))
    outcome.rows = [row for row in known if row.repeats in wanted]
    if separator and separator.device.type != "cpu":
        separator.run(torch.randn(1, rate), repeats=1)  # the first run of a device is slow, and no measurement
    progress.start(len(todo))
    with Scorers(workers, rate=rate, stoi=stoi, pesq=pesq) as scorers:
        rows_to_come = _Pending(outcome, wanted=wanted, keys=keys, present=present, sheet=sheet, progress=progress)
        signals = _said_if_resampled(
            read_ahead(todo, files, needed=estimates is not None, rate=rate), rate, separator is not None
        )
        for item, loaded in signals:
            try:
                if isinstance(loaded, str):
                    raise UserError(loaded)
                outputs, seconds = _outputs(separator, loaded, repeats=wanted, separator_repeats=separator_repeats)
            except UserError as error:
                rows_to_come.fail(item, error)
                continue
            rows_to_come.add(item, loaded, seconds, scorers.submit(loaded.mixture, loaded.references, outputs))
            rows_to_come.collect(2 * workers + 2)
        rows_to_come.collect(0)
    outcome.rows.sort(key=lambda row: (row.id, row.repeats or 0))
    outcome.warnings = sorted({f"{row.id}: {row.warnings}" for row in outcome.rows if row.warnings})
    outcome.results = summarize(outcome.rows)
    return outcome


class _Pending:
    """Files whose scores are being computed; those that are there become rows of the outcome, file by file."""

    def __init__(
        self,
        outcome: Evaluation,
        *,
        wanted: Sequence[int | None],
        keys: dict[str, str],
        present: set[tuple[str, int | None]],
        sheet: Sheet | None,
        progress: Progress,
    ) -> None:
        self.outcome, self.wanted, self.keys, self.present = outcome, wanted, keys, present
        self.sheet, self.progress = sheet, progress
        self.rate: int = outcome.settings["sample_rate"]
        self.waiting: deque[tuple[Item, Signals, list[float | None], Future[list[Score]]]] = deque()

    def add(self, item: Item, loaded: Signals, seconds: list[float | None], future: "Future[list[Score]]") -> None:
        self.waiting.append((item, loaded, seconds, future))

    def fail(self, item: Item, error: Exception) -> None:
        self.outcome.failed.append(f"{item.id}: {' '.join(str(error).split()) or type(error).__name__}")
        self.progress.advance()

    def collect(self, most: int) -> None:
        """Takes what is done, in order, and waits until at most so many files are left."""
        while self.waiting and (self.waiting[0][3].done() or len(self.waiting) > most):
            item, loaded, seconds, future = self.waiting.popleft()
            try:
                scores = future.result()
            except BrokenProcessPool:
                raise  # which is no fault of this item
            except (UserError, RuntimeError, MemoryError) as error:
                self.fail(item, error)
                continue
            length = loaded.mixture.shape[0] / self.rate
            rows = [
                _row(
                    item.id,
                    repeats,
                    key=self.keys[item.id],
                    result=result,
                    length=length,
                    spent=spent,
                    said=loaded.warnings,
                )
                for repeats, result, spent in zip(self.wanted, scores, seconds, strict=True)
                if (item.id, repeats) not in self.present
            ]
            self.outcome.rows += rows
            if self.sheet:
                self.sheet.append(rows)
            self.progress.advance()


def _said_if_resampled(
    signals: Iterator[tuple[Item, Signals | str]], rate: int, networks: bool
) -> Iterator[tuple[Item, Signals | str]]:
    """The same again; the first that is not at `rate` on disk is told of, whoever's rate that is."""
    told = False
    for item, loaded in signals:
        if not told and isinstance(loaded, Signals) and loaded.rates - {rate}:
            told = True
            others = ", ".join(str(other) for other in sorted(loaded.rates - {rate}))
            whose = "the network's" if networks else "the estimates'"
            log.info(f"mixtures and references at {others} Hz are resampled to {whose} {rate} Hz")
        yield item, loaded


def every_setting(
    separator: Separator, mixture: Tensor, *, repeats: Sequence[int], separator_repeats: int | None = None
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
    return min(max(1, cores() - 1), 16, len(dataset.items) // 8)


def _plan(
    dataset: Dataset,
    separator: Separator | None,
    *,
    repeats: Sequence[int] | None,
    estimates: Path | None,
    separator_repeats: int | None,
    pattern: str | None,
) -> tuple[dict[str, Any], Sequence[int | None], dict[str, tuple[Path, ...]]]:
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
    assert estimates is not None  # checked by the caller
    files = find_estimates(estimates, dataset, pattern)
    rate = commonest_rate([path for paths in files.values() for path in paths], default=8000)
    return settings | {"estimates": str(estimates), "sample_rate": rate}, [None], files


def _outputs(
    separator: Separator | None, signals: Signals, *, repeats: Sequence[int | None], separator_repeats: int | None
) -> tuple[list[Tensor], list[float | None]]:
    """The estimates (S, L) of every setting and the network's seconds; those of a file made elsewhere have none."""
    if separator is None:
        assert signals.estimates is not None  # those made elsewhere, read with the mixture
        return [signals.estimates], [None]
    settings = [setting for setting in repeats if setting is not None]
    try:
        with memory_guard(f"{signals.mixture.shape[0] / separator.sample_rate:.1f} s of audio"):
            timed = every_setting(separator, signals.mixture, repeats=settings, separator_repeats=separator_repeats)
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


def _row(
    id: str, repeats: int | None, *, key: str, result: Score, length: float, spent: float | None, said: list[str]
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
