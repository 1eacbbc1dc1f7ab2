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
from importlib.util import find_spec
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
from tisdiss_cli.evaluation.results import METRICS, Row, Sheet, Summary, row_key, summarize
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
    for asked, option, package in ((stoi, "--stoi", "pystoi"), (pesq, "--pesq", "pesq")):
        if asked and not find_spec(package):
            raise UserError(f"{option} needs the package {package}: pip install 'tisdiss[metrics]'")
    settings, wanted, files = _plan(
        dataset, separator, repeats=repeats, estimates=estimates, separator_repeats=separator_repeats, pattern=pattern
    )
    rate = settings["sample_rate"]
    settings |= {"stoi": stoi, "pesq": pesq}
    if pesq and rate not in (8000, 16000):
        raise UserError(f"--pesq: PESQ is defined at 8000 and 16000 Hz, not at {rate} Hz: leave it out")

    # A set that was moved, or has got its mixtures elsewhere, is the same set if the files are.
    keyed = {name: value for name, value in settings.items() if name not in ("data", "estimates", "layout")}
    found = files or {}
    keys = {
        item.id: row_key(keyed, (item.mixture, *item.references, *found.get(item.id, ()))) for item in dataset.items
    }
    if sheet and (dropped := sheet.keep(keys)):
        log.warning(f"{sheet.path}: {dropped} rows were of other settings or files and are dropped")
    known = list(sheet.rows) if sheet else []
    present = {(row.id, row.repeats) for row in known}
    todo = [item for item in dataset.items if any((item.id, setting) not in present for setting in wanted)]

    outcome = Evaluation(settings, missing=list(dataset.missing), resumed=len(dataset.items) - len(todo))
    outcome.rows = [row for row in known if row.repeats in wanted]
    if separator and separator.device.type != "cpu":
        separator.run(torch.randn(1, rate), repeats=1)  # the first run of a device is slow, and no measurement
    progress.start(len(todo))
    with Scorers(workers, rate=rate, stoi=stoi, pesq=pesq) as scorers:
        signals = read_ahead(todo, rate=rate, files=files)
        for item, scored in _scores(signals, scorers, separator, repeats=wanted, separator_repeats=separator_repeats):
            if isinstance(scored, Exception):
                reason = " ".join(str(scored).split()) or type(scored).__name__
                outcome.failed.append(f"{item.id}: {reason}")
            else:
                rows = [row for row in scored.rows(item.id, keys[item.id]) if (row.id, row.repeats) not in present]
                outcome.rows += rows
                if sheet:
                    sheet.append(rows)
            progress.advance()
    outcome.rows.sort(key=lambda row: (row.id, row.repeats or 0))
    outcome.warnings = sorted({f"{row.id}: {row.warnings}" for row in outcome.rows if row.warnings})
    outcome.results = summarize(outcome.rows)
    return outcome


@dataclass
class _Scored:
    """A file under every setting, whose scores are there or being computed."""

    repeats: Sequence[int | None]
    seconds: float  # of audio
    network_seconds: list[float | None]
    warnings: list[str]
    future: "Future[list[Score]]"

    def rows(self, id: str, key: str) -> list[Row]:
        """Returns a row for each setting."""
        return [
            Row(
                id=id,
                repeats=repeats,
                **{name: getattr(score, name) for name in METRICS},
                permutation=" ".join(str(estimate + 1) for estimate in score.permutation),
                seconds=self.seconds,
                network_seconds=spent,
                warnings="; ".join([*self.warnings, *score.warnings]),
                key=key,
            )
            for repeats, score, spent in zip(self.repeats, self.future.result(), self.network_seconds, strict=True)
        ]


def _scores(
    signals: Iterator[tuple[Item, Signals | str]],
    scorers: Scorers,
    separator: Separator | None,
    *,
    repeats: Sequence[int | None],
    separator_repeats: int | None,
) -> Iterator[tuple[Item, _Scored | Exception]]:
    """Yields what each file scores, or why it does not, while the network is at those after it."""
    waiting: deque[tuple[Item, _Scored]] = deque()

    def done(most: int) -> Iterator[tuple[Item, _Scored | Exception]]:
        """Yields those whose scores are there, in order; waits until at most that many are left."""
        while waiting and (waiting[0][1].future.done() or len(waiting) > most):
            item, scored = waiting.popleft()
            error = scored.future.exception()
            if isinstance(error, BrokenProcessPool) or not isinstance(error, Exception | None):
                raise error  # which is no fault of this item
            yield item, error or scored

    for item, loaded in signals:
        try:
            if isinstance(loaded, str):
                raise UserError(loaded)
            voices, spent = _outputs(separator, loaded, repeats=repeats, separator_repeats=separator_repeats)
        except UserError as error:
            yield item, error
            continue
        future = scorers.submit(loaded.mixture, loaded.references, voices)
        seconds = loaded.mixture.shape[0] / scorers.rate
        waiting.append((item, _Scored(repeats, seconds, spent, loaded.warnings, future)))
        yield from done(2 * scorers.workers + 2)
    yield from done(0)


def every_setting(
    separator: Separator, mixture: Tensor, *, repeats: Sequence[int], separator_repeats: int | None = None
) -> list[tuple[Tensor, float]]:
    """Returns a mixture's (L,) voices (S, L), on the CPU, and the network's seconds, for each of ascending `repeats`.

    Those are until then, its own decoding included, the other settings' left out.
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
    """Returns how many scoring processes pay; none for a few files, as each takes seconds to start."""
    return min(max(1, cores() - 1), 16, len(dataset.items) // 8)


def _plan(
    dataset: Dataset,
    separator: Separator | None,
    *,
    repeats: Sequence[int] | None,
    estimates: Path | None,
    separator_repeats: int | None,
    pattern: str | None,
) -> tuple[dict[str, Any], Sequence[int | None], dict[str, tuple[Path, ...]] | None]:
    """Returns all that the scores depend on, the repeats to score, and each item's estimates if made elsewhere."""
    settings: dict[str, Any] = {
        "data": str(dataset.root),
        "layout": dataset.layout,
        "mixture": dataset.mixture,
        "references": list(dataset.references),
    }
    if separator is None:
        assert estimates is not None  # checked by the caller
        files = find_estimates(estimates, dataset, pattern)
        rate = commonest_rate([path for paths in files.values() for path in paths], default=8000)
        return settings | {"estimates": str(estimates), "sample_rate": rate}, [None], files
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
        "sample_rate": separator.sample_rate,
    }
    return settings, sorted(set(repeats or range(1, separator.config.reconstructor_repeats + 1))), None


def _outputs(
    separator: Separator | None, signals: Signals, *, repeats: Sequence[int | None], separator_repeats: int | None
) -> tuple[list[Tensor], list[float | None]]:
    """Returns every setting's estimates (S, L) and the network's seconds; those of a file made elsewhere have none."""
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
