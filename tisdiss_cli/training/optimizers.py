"""Which optimiser moves which parameter: AdamW all of them (the paper), or Muon the matrices within the stages."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.recipe import Recipe


class KernelMuon(Muon):
    """torch's Muon (Jordan et al. 2024) for parameters of any number of axes.

    A kernel (out, in, taps ...) is the matrix (out, in x taps ...) of the linear map that it is. The
    matrices share the parameters' memory, so whatever loads or averages the network's state still holds.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], **options: Any) -> None:
        self.kernels = list(parameters)
        super().__init__([nn.Parameter(kernel.detach().flatten(1)) for kernel in self.kernels], **options)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step along the orthogonalised gradients."""
        for kernel, matrix in zip(self.kernels, self.param_groups[0]["params"], strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients, the kernels' own too."""
        super().zero_grad(set_to_none)
        for kernel in self.kernels:
            kernel.grad = None


def within_stages(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter maps features to features: neither a vector, nor Encoder, Decoder or a per-channel factor."""
    return parameter.dim() > 1 and name.split(".")[0] in ("separator", "splitter", "reconstructor")


def build_optimizers(network: TISDiSS, recipe: Recipe) -> list[Optimizer]:
    """Optimisers of all parameters. Each group's `share` is its learning rate over the recipe's `learning_rate`."""
    named = list(network.named_parameters())
    muon = [p for name, p in named if recipe.muon_learning_rate and within_stages(name, p)]
    adamw = [p for name, p in named if not (recipe.muon_learning_rate and within_stages(name, p))]
    optimizers: list[Optimizer] = [
        AdamW(adamw, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True)
    ]
    optimizers[0].param_groups[0]["share"] = 1.0
    if muon:
        optimizers.append(KernelMuon(muon, lr=recipe.muon_learning_rate, weight_decay=0.0))
        optimizers[1].param_groups[0]["share"] = recipe.muon_learning_rate / recipe.learning_rate
    return optimizers


def set_rate(optimizers: list[Optimizer], rate: float) -> None:
    """Sets the learning rate of the next step: `rate` where AdamW rules, Muon's in proportion."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
