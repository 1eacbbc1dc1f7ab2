"""The mean of the best weights."""

import torch

from tisdiss_cli.training.export import Best


def test_the_mean_of_the_best():
    best, values = Best(3), [5.0, 1.0, 4.0, 2.0, 3.0, 6.0]
    for value in values:
        best.add(-value, {"w": torch.tensor([value]), "n": torch.tensor([2.0])})
    assert best.losses == [-6, -5, -4]
    assert best.mean()["w"].item() == 5 and best.mean()["n"].item() == 2
    last = Best(1)
    live = torch.zeros(1)
    assert last.add(0.0, {"w": live}) and not last.add(1.0, {"w": live})
    live.add_(1)
    assert last.mean()["w"].item() == 0  # a copy
    assert last.add(0.0, {"w": live}) and last.mean()["w"].item() == 1
