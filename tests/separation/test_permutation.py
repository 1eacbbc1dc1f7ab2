"""The best permutation and its lead, against every other one."""

from itertools import permutations
from math import inf

import pytest
import torch

from tisdiss_cli.separation.permutation import best_permutation


def test_the_best_of_three_is_the_greatest_sum_and_leads_by_what_the_next_lacks():
    pairs = torch.tensor([[5.0, 9.0, 0.0], [8.0, 7.0, 1.0], [6.0, 6.0, 2.0]])
    assert best_permutation(pairs) == ((1, 0, 2), 3.0)  # 9 + 8 + 2 against 9 + 1 + 6
    assert best_permutation(pairs, {(0, 1, 2): 4.5, (2, 1, 0): 5.5}) == ((1, 0, 2), 0.5)
    assert best_permutation(pairs, {(0, 1, 2): 6.0}) == ((0, 1, 2), 1.0)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_best_of_any_is_that_of_a_loop(count):
    for _ in range(20):
        pairs = torch.randn(count, count, dtype=torch.float64)
        sums = {order: float(pairs[range(count), order].sum()) for order in permutations(range(count))}
        first, second = sorted(sums.values(), reverse=True)[:2]
        order, lead = best_permutation(pairs)
        assert sums[order] == first and lead == pytest.approx(first - second)


def test_where_nothing_tells_the_order_stays():
    assert best_permutation(torch.zeros(3, 3)) == ((0, 1, 2), 0.0)
    assert best_permutation(torch.zeros(1, 1)) == ((0,), inf)
