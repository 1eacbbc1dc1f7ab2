"""Optimisers: AdamW for all parameters (the paper), or Muon for the matrices within the stages."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.recipe import Recipe

MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz quintic
_ITERATIONS = 5


class Muon(Optimizer):
    """Muon (Jordan et al. 2024) for parameters with two or more axes, on any device.

    A kernel (out, in, taps ...) counts as a matrix (out, in x taps ...). torch's own Muon takes matrices only and
    always orthogonalises in bfloat16: on a CPU without bfloat16 units 5.4 s a step, 0.18 s in float32 (1.6 M
    parameters).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes one step along the orthogonalised gradients, with Nesterov momentum."""
        loss = closure() if closure else None
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(kernel)
                average = state["momentum_buffer"].lerp_(kernel.grad, 1 - MOMENTUM)
                matrix = kernel.grad.lerp(average, MOMENTUM).flatten(1)
                length = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                kernel.mul_(1 - group["lr"] * group["weight_decay"])
                kernel.add_(orthogonalise(matrix).view_as(kernel), alpha=-length * group["lr"])
        return loss


def orthogonalise(matrix: Tensor) -> Tensor:
    """Returns the matrix with singular values near 1, by Newton-Schulz; in float32 on a CPU, else in bfloat16."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).to(torch.float32 if matrix.device.type == "cpu" else torch.bfloat16)
    x = x / x.norm().clamp(min=1e-7)  # all singular values at most 1
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(matrix.dtype)


def within_stages(name: str, parameter: nn.Parameter) -> bool:
    """Returns True for the matrices and kernels of Separator, Splitter and Reconstructor."""
    return parameter.dim() > 1 and name.split(".")[0] in ("separator", "splitter", "reconstructor")


def build_optimizers(network: TISDiSS, recipe: Recipe) -> list[Optimizer]:
    """Builds AdamW, and Muon if the recipe has it; `set_rates` sets the learning rates of each step."""
    named = list(network.named_parameters())
    muon = [p for name, p in named if recipe.muon_learning_rate and within_stages(name, p)]
    adamw = [p for name, p in named if not (recipe.muon_learning_rate and within_stages(name, p))]
    optimizers: list[Optimizer] = [
        AdamW(adamw, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True)
    ]
    if muon:
        optimizers.append(Muon(muon, {"lr": recipe.muon_learning_rate, "weight_decay": recipe.muon_weight_decay}))
    return optimizers


def set_rates(optimizers: list[Optimizer], recipe: Recipe, factor: float) -> None:
    """Sets each optimiser's learning rate to `factor` (0 to 1) times the recipe's."""
    rates = (recipe.learning_rate, recipe.muon_learning_rate)
    for optimizer, rate in zip(optimizers, rates, strict=False):  # without Muon there is one
        for group in optimizer.param_groups:
            group["lr"] = factor * rate
