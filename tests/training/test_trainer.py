"""A step: accumulated batches, moving averages."""

import pytest
import torch
from lightning_fabric import Fabric

from tests.synthetic import TINY
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.recipe import Recipe
from tisdiss_cli.training.trainer import Trainer, warmed_up_decay


def test_accumulated_batches_are_one_batch():
    """A step's loss, gradient and weights, up to rounding, whatever the parts that it is taken in."""
    torch.manual_seed(1)
    references = torch.randn(6, 2, 400)
    taken = []
    for count in (1, 3):
        torch.manual_seed(0)
        recipe = Recipe(network=TINY, batch_size=6 // count, accumulate=count, clip_norm=1e9)
        fabric = Fabric(accelerator="cpu", devices=1)
        fabric.launch()
        trainer = Trainer(fabric, TISDiSS(recipe.config), recipe)
        loss, norm = trainer.step(references.sum(1), references, repeats=2, recipe=recipe, factor=1.0, step=0)
        gradients = torch.cat([p.grad.flatten() for p in trainer.network.parameters()])
        taken.append((loss, norm, gradients))
    (loss, norm, expected), (again, length, gradients) = taken
    assert again.item() == pytest.approx(loss.item(), rel=1e-5) and length.item() == pytest.approx(
        norm.item(), rel=1e-3
    )
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-4 * float(norm))


def test_the_moving_average_soon_forgets_the_first_weights():
    """Of what it begins with, a ten-thousandth is left after forty steps; later a step counts as the recipe has it."""
    left = [1.0]
    for step in range(40):
        left.append(left[-1] * warmed_up_decay(step, 0.999))
    assert left[40] < 1e-4
    assert left == sorted(left, reverse=True) and left[1] > 0
    assert warmed_up_decay(10**6, 0.99) == 0.99
    decays = [warmed_up_decay(step, 0.99) for step in range(2000)]
    assert decays == sorted(decays) and max(decays) == 0.99


def test_averages_follow_the_weights():
    """Each with its own decay, at first a smaller one: 1 / 10 of it stays, then 2 / 11."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    recipe = Recipe(network=TINY, ema_decay=[0.0, 0.15, 0.9])
    trainer = Trainer(fabric, TISDiSS(recipe.config), recipe)
    before = next(trainer.network.parameters()).detach().clone()
    with torch.no_grad():
        next(trainer.network.parameters()).add_(1)
    trainer.update_averages(0, recipe.ema_decay)
    state = trainer.state()
    again = Trainer(fabric, TISDiSS(recipe.config), recipe)
    again.restore(state)
    for one in (trainer, again):
        with torch.no_grad():
            next(one.network.parameters()).add_(1)
        one.update_averages(1, recipe.ema_decay)
        for average, kept in zip(one.averages, (0.0, 0.15, 2 / 11), strict=True):
            first = 0.9 if kept else 1.0
            expected = before + kept * first + (1 - kept) * 2
            torch.testing.assert_close(next(average.parameters()), expected)
