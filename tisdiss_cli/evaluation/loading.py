"""Signals of a set's items and their estimates, read ahead."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.audio.read import Source
from tisdiss_cli.data.clips import log_resampling, map_ahead
from tisdiss_cli.data.datasets import Item
from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.metrics import trim

_AHEAD = 2  # items


@dataclass
class Signals:
    """Signals of one item, of one length at one rate."""

    mixture: Tensor  # (L,)
    references: Tensor  # (S, L)
    estimates: Tensor  # (S, L); empty without estimates by other tools
    warnings: list[str]


def read_ahead(
    items: Sequence[Item], *, rate: int, files: dict[str, tuple[Path, ...]] | None = None
) -> Iterator[tuple[Item, Signals | str]]:
    """Yields each item's signals, or a sentence with the reason why not, read ahead of the caller.

    `files` are estimates by other tools, by id, one for each reference. At the end the log says what was resampled.
    """
    rates: set[int] = set()

    def load(item: Item) -> Signals | str:
        try:
            return _load(item, (files or {}).get(item.id), rate, rates)
        except UserError as error:
            return str(error)
        except (OSError, MemoryError) as error:  # such as a disk that was removed
            return f"its files cannot be read ({error or type(error).__name__})"

    yield from zip(items, map_ahead(load, items, threads=1, most=_AHEAD), strict=True)
    log_resampling("mixtures and references", rates, rate)


def _load(item: Item, estimates: tuple[Path, ...] | None, rate: int, rates: set[int]) -> Signals:
    speakers = len(item.references)
    if estimates is not None and len(estimates) != speakers:
        raise UserError(f"there are {len(estimates)} estimates for {speakers} references")
    paths = {"the mixture": item.mixture}
    paths |= {f"reference {number}": path for number, path in enumerate(item.references, 1)}
    paths |= {f"estimate {number}": path for number, path in enumerate(estimates or (), 1)}
    signals: dict[str, Tensor] = {}
    warnings: list[str] = []
    for name, path in paths.items():
        source = Source(path, rate)
        signals[name] = torch.cat(list(source.blocks()))
        warnings += [f"{path}: {warning}" for warning in source.warnings]
        if not name.startswith("estimate"):
            rates.add(source.input_rate)
    signals, cut = trim(signals, rate)
    mixture, *others = signals.values()
    voices = torch.stack(others[speakers:]) if estimates else mixture.new_zeros(0)
    return Signals(mixture, torch.stack(others[:speakers]), voices, warnings + ([cut] if cut else []))
