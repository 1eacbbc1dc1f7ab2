"""Best permutation of sources, and its lead over the next."""

from collections.abc import Mapping
from itertools import permutations
from math import inf

from torch import Tensor

Order = tuple[int, ...]


def best_permutation(pairs: Tensor, bonus: Mapping[Order, float] | None = None) -> tuple[Order, float]:
    """Returns the permutation with the greatest sum of `pairs` (S, S), and its lead over the next; inf for S = 1.

    Entry s of the permutation is the column for row s; of equal permutations the first is taken. `bonus` is added to
    the sums of the permutations that it names.
    """
    rows, bonus = range(pairs.shape[0]), bonus or {}
    values = pairs.tolist()
    scores = {
        order: sum(values[row][order[row]] for row in rows) + bonus.get(order, 0.0) for order in permutations(rows)
    }
    best = max(scores, key=scores.__getitem__)
    return best, scores[best] - max((score for order, score in scores.items() if order != best), default=-inf)
