"""The signals of a set's items, and of estimates made elsewhere, read ahead of those who work on them."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.audio.find import find
from tisdiss_cli.audio.read import input_rate, read
from tisdiss_cli.data.datasets import Dataset, Item
from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.metrics import trim

_AHEAD = 2  # items


@dataclass
class Signals:
    """One item's signals, all of one length at one rate."""

    mixture: Tensor  # (L,)
    references: Tensor  # (S, L)
    estimates: Tensor | None  # (S, L)
    warnings: list[str]
    rates: set[int]  # of the mixture and the references on disk


def find_estimates(folder: Path, dataset: Dataset) -> dict[str, tuple[Path, ...]]:
    """Each item's estimates, in the order of their numbers: `<id>_s1`, ... or `s1/<id>`, ...; () for none.

    The id may have the mixtures' folder in front, as when the whole set was separated.
    """
    if not folder.is_dir():
        raise UserError(f"--estimates {folder} is not a folder: pass the one that the estimates are in")
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in find(folder)}
    found: dict[str, tuple[Path, ...]] = {}
    for item in dataset.items:
        found[item.id] = ()
        for name in (item.id, f"{Path(dataset.mixture).name}/{item.id}"):
            for pattern in ("{name}_s{number}", "s{number}/{name}"):
                paths: list[Path] = []
                while path := files.get(pattern.format(name=name, number=len(paths) + 1)):
                    paths.append(path)
                found[item.id] = found[item.id] or tuple(paths)
    return found


def read_ahead(
    items: Sequence[Item], files: dict[str, tuple[Path, ...]], needed: bool, rate: int
) -> Iterator[tuple[Item, Signals | str]]:
    """Each item's signals, or a sentence why not, read while the caller works on those before."""

    def load(item: Item) -> Signals | str:
        try:
            return _load(item, files[item.id], needed, rate)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(1) as thread:
        coming: deque[tuple[Item, Future]] = deque()
        for item in items:
            coming.append((item, thread.submit(load, item)))
            if len(coming) > _AHEAD:
                ready, future = coming.popleft()
                yield ready, future.result()
        for ready, future in coming:
            yield ready, future.result()


def _load(item: Item, estimates: tuple[Path, ...], needed: bool, rate: int) -> Signals:
    if needed and len(estimates) != len(item.references):
        raise UserError(f"there are {len(estimates)} estimates for {len(item.references)} references")
    paths = {"the mixture": item.mixture}
    paths |= {f"reference {number}": path for number, path in enumerate(item.references, 1)}
    paths |= {f"estimate {number}": path for number, path in enumerate(estimates, 1)}
    warnings: list[str] = []
    signals, warning = trim({name: read(path, rate, warnings) for name, path in paths.items()}, rate)
    rates = {input_rate(path) for path in (item.mixture, *item.references)}
    mixture, *others = signals.values()
    speakers = len(item.references)
    return Signals(
        mixture,
        torch.stack(others[:speakers]),
        torch.stack(others[speakers:]) if needed else None,
        warnings + ([warning] if warning else []),
        rates,
    )
