"""Muon's steps against the singular value decomposition, and which parameters it moves."""

import pytest
import torch
from torch import nn

from tests.synthetic import TINY
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.optimizers import Muon, build_optimizers, set_rates
from tisdiss_cli.training.recipe import Recipe


@pytest.mark.parametrize("shape", [(6, 8), (12, 4, 3), (5, 3, 3, 3)])
def test_a_step_is_the_nearest_orthogonal_matrix(shape):
    """The first step goes along U V' of the gradient U S V'; Newton-Schulz leaves singular values near 1."""
    torch.manual_seed(0)
    before = torch.randn(shape)
    kernel = nn.Parameter(before.clone())
    kernel.grad = torch.randn(shape)
    u, _, v = torch.linalg.svd(kernel.grad.flatten(1), full_matrices=False)
    Muon([kernel], {"lr": 0.1, "weight_decay": 0.0}).step()
    moved = (before - kernel.detach()).flatten(1)
    values = (u.T @ moved @ v.T).diagonal() / 0.1 / max(1, moved.shape[0] / moved.shape[1]) ** 0.5
    assert (values > 0.5).all() and (values < 1.3).all()
    torch.testing.assert_close(u @ (u.T @ moved @ v.T).diagonal().diag() @ v, moved, atol=0.01, rtol=0)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_many_steps_are_torchs(decay):
    """torch's Muon on the matrices that the kernels are, but for its rounding to bfloat16."""
    torch.manual_seed(0)
    kernels = [nn.Parameter(torch.randn(shape)) for shape in ((6, 8), (12, 4, 3), (5, 3, 3, 3))]
    matrices = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    ours, theirs = (
        Muon(kernels, {"lr": 0.1, "weight_decay": decay}),
        torch.optim.Muon(matrices, lr=0.1, weight_decay=decay),
    )
    before = [matrix.detach().clone() for matrix in matrices]
    for _ in range(5):
        for kernel, matrix in zip(kernels, matrices, strict=True):
            kernel.grad = torch.randn_like(kernel)
            matrix.grad = kernel.grad.flatten(1)
        ours.step()
        theirs.step()
    for kernel, matrix, start in zip(kernels, matrices, before, strict=True):
        moved = matrix.detach() - start
        assert (kernel.detach().flatten(1) - matrix.detach()).norm() < 0.02 * moved.norm()


def test_every_parameter_has_one_optimizer():
    network = TISDiSS(Recipe(network=TINY).config)
    for rate in (0.0, 0.02):
        optimizers = build_optimizers(network, Recipe(network=TINY, muon_learning_rate=rate))
        before = [p.detach().clone() for p in network.parameters()]
        for p in network.parameters():
            p.grad = torch.randn_like(p)
        for optimizer in optimizers:
            optimizer.step()
        names = [name for name, _ in network.named_parameters()]
        still = [n for n, a, p in zip(names, before, network.parameters(), strict=True) if torch.equal(a, p)]
        assert not still and len(optimizers) == (2 if rate else 1)
        for optimizer in optimizers:
            optimizer.zero_grad()
        assert all(p.grad is None for p in network.parameters())


def test_the_rates_keep_their_proportion():
    recipe = Recipe(network=TINY, learning_rate=1e-3, muon_learning_rate=0.02)
    optimizers = build_optimizers(TISDiSS(recipe.config), recipe)
    set_rates(optimizers, recipe, 0.5)
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == pytest.approx([5e-4, 1e-2])


@pytest.mark.parametrize(("decay", "left_of_muons"), [(0.0, 1.0), (0.1, 0.998**2)])
def test_each_optimizer_decays_its_weights(decay, left_of_muons):
    """Without a gradient a weight shrinks by rate x decay a step (Loshchilov and Hutter 2019)."""
    rates = {"learning_rate": 0.01, "muon_learning_rate": 0.02}
    recipe = Recipe(network=TINY, **rates, weight_decay=0.5, muon_weight_decay=decay)
    network = TISDiSS(recipe.config)
    adamw, muon = build_optimizers(network, recipe)
    before = {id(p): p.detach().clone() for p in network.parameters()}
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    for _ in range(2):
        adamw.step()
        muon.step()
    for optimizer, left in ((adamw, 0.995**2), (muon, left_of_muons)):
        for p in optimizer.param_groups[0]["params"]:
            torch.testing.assert_close(p.detach(), left * before[id(p)])
