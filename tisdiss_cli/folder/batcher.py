"""Which chunks the network hears together: a rule of their order alone, without threads and without a clock."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)
Item = TypeVar("Item")


class Batcher(Generic[Kind, Item]):
    """Gathers items of one kind into batches.

    A batch is due once it is full, or once too many items wait: then the kind whose first item has waited longest
    goes as it is. Items of a kind keep their order, and the same items in the same order give the same batches.

    Args:
        size: the most items of a batch.
        most_waiting: with so many items waiting a batch is due; at least `size`.
    """

    def __init__(self, size: int, *, most_waiting: int) -> None:
        if not 1 <= size <= most_waiting:
            raise ValueError(f"1 <= size ({size}) <= most_waiting ({most_waiting}) must hold")
        self.size, self.most_waiting = size, most_waiting
        self.waiting = 0
        self._groups: dict[Kind, list[Item]] = {}  # the kind that has waited longest comes first

    def add(self, kind: Kind, item: Item) -> list[list[Item]]:
        """Takes an item; returns the batches that are due now."""
        group = self._groups.setdefault(kind, [])
        group.append(item)
        self.waiting += 1
        if len(group) == self.size:
            return [self._take(kind)]
        if self.waiting == self.most_waiting:
            return [self._take(next(iter(self._groups)))]
        return []

    def finish(self) -> list[list[Item]]:
        """The batches of all that still waits."""
        return [self._take(kind) for kind in list(self._groups)]

    def _take(self, kind: Kind) -> list[Item]:
        batch = self._groups.pop(kind)
        self.waiting -= len(batch)
        return batch
