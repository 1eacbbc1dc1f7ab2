"""Optimisers: AdamW of all parameters (the paper), or Muon of the matrices within the stages."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.recipe import Recipe

MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose iteration brings all singular values near 1
_ITERATIONS = 5


class Muon(Optimizer):
    """Muon (Jordan et al. 2024), as torch has it, for parameters of any number of axes and on any device.

    A kernel (out, in, taps ...) is the matrix (out, in x taps ...) of the linear map that it is. torch's own takes
    matrices only, and orthogonalises in bfloat16, which on a CPU without units for it takes longer than the whole
    training step (5.4 s against 0.18 s in float32 for 1.6 M parameters).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes one step along the orthogonalised gradients, with Nesterov's momentum."""
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
                kernel.add_(orthogonalised(matrix).view_as(kernel), alpha=-length * group["lr"])
        return loss


def orthogonalised(matrix: Tensor) -> Tensor:
    """Returns the matrix with its singular values brought near 1, by Newton-Schulz; float32 on a CPU, else bfloat16."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).to(torch.float32 if matrix.device.type == "cpu" else torch.bfloat16)
    x = x / x.norm().clamp(min=1e-7)  # all singular values at most 1
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(matrix.dtype)


def within_stages(name: str, parameter: nn.Parameter) -> bool:
    """Tells if a parameter maps features to features: no vector, Encoder, Decoder or per-channel factor."""
    return parameter.dim() > 1 and name.split(".")[0] in ("separator", "splitter", "reconstructor")


def build_optimizers(network: TISDiSS, recipe: Recipe) -> list[Optimizer]:
    """Builds the optimisers of all parameters, AdamW's first; `set_rates` gives them their rates."""
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
    """Sets the learning rates of the next step: `factor`, 0 to 1, of what the recipe has for each optimiser."""
    rates = (recipe.learning_rate, recipe.muon_learning_rate)
    for optimizer, rate in zip(optimizers, rates, strict=False):  # without Muon there is one
        for group in optimizer.param_groups:
            group["lr"] = factor * rate
