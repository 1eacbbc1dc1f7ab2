"""Training steps: the network with its multi-loss, optimisers and moving averages of the weights (EMA)."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.fabric import Fabric
from tisdiss_cli.training.loss import MultiLoss, prepare
from tisdiss_cli.training.optimizers import build_optimizers, set_rates
from tisdiss_cli.training.recipe import Recipe


def warmed_up_decay(step: int, highest: float) -> float:
    """Returns the EMA decay after `step` steps: it rises to `highest`, so that the initial weights fade quickly.

    At 0 the average equals the current weights.
    """
    return min(highest, (1 + step) / (10 + step))


class Trainer:
    """Network, optimisers and moving averages, on the device and identical on all ranks."""

    def __init__(self, fabric: Fabric, network: TISDiSS, recipe: Recipe) -> None:
        self.fabric, self.network = fabric, network
        network.to(fabric.device)
        self.averages = [copy.deepcopy(network).requires_grad_(False) for _ in recipe.ema_decay]
        prepare(
            network,
            compile=recipe.compile,
            activation_checkpointing=recipe.activation_checkpointing,
            device=fabric.device,
        )
        self.optimizers = build_optimizers(network, recipe)
        multi_loss = MultiLoss(network, recipe.separator_loss, recipe.splitter_weight)
        self.model, *_ = fabric.setup(multi_loss, *self.optimizers)

    @torch.no_grad()
    def update_averages(self, step: int, decays: Sequence[float]) -> None:
        """Moves each average towards the current weights with its decay; `step` steps were taken before."""
        current = tuple(self.network.parameters())
        for average, decay in zip(self.averages, decays, strict=True):
            torch._foreach_lerp_(tuple(average.parameters()), current, 1 - warmed_up_decay(step, decay))

    def step(
        self, mixture: Tensor, references: Tensor, *, repeats: int, recipe: Recipe, factor: float, step: int
    ) -> tuple[Tensor, Tensor]:
        """Takes one optimiser step on `recipe.accumulate` batches, without waiting for the device.

        `factor` is the share of the recipe's learning rates, 0 to 1; `step` steps were taken before. Returns the loss
        in negative dB, and the gradient norm before clipping.
        """
        set_rates(self.optimizers, recipe, factor)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        losses, count = [], recipe.accumulate
        for number, (batch, sources) in enumerate(zip(mixture.chunk(count), references.chunk(count), strict=True), 1):
            with self.fabric.no_backward_sync(self.model, enabled=number < count):  # ranks synchronise once a step
                loss = self.model(batch, sources, repeats) / count
                self.fabric.backward(loss)
            losses.append(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.update_averages(step, recipe.ema_decay)
        return torch.stack(losses).sum(), norm

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {
            "network": self.network.state_dict(),
            "averages": [average.state_dict() for average in self.averages],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the state that `state` returned."""
        modules: list[Any] = [self.network, *self.averages, *self.optimizers]
        for module, stored in zip(modules, [state["network"], *state["averages"], *state["optimizers"]], strict=True):
            module.load_state_dict(stored)
