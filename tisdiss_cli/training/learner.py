"""A network that learns: its multi-loss, the optimisers that move it, and the moving averages of its weights."""

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


def decay_after(step: int, highest: float) -> float:
    """Returns a moving average's share that stays in the step after `step` others: `highest` at last, less at first.

    So the average soon forgets the initial weights, with which it begins. At 0 it is the weights themselves.
    """
    return min(highest, (1 + step) / (10 + step))


class Learner:
    """Takes the steps; what it is made of is on the device, and of all ranks alike."""

    def __init__(self, fabric: Fabric, network: TISDiSS, recipe: Recipe) -> None:
        self.fabric, self.network = fabric, network
        network.to(fabric.device)
        # Of as many horizons as the recipe has, each evaluated as it is.
        self.averages = [copy.deepcopy(network).requires_grad_(False) for _ in recipe.ema_decay]
        prepare(
            network,
            compile=recipe.compile,
            activation_checkpointing=recipe.activation_checkpointing,
            device=fabric.device,
        )
        self.optimizers = build_optimizers(network, recipe)
        multi_loss = MultiLoss(network, recipe.separator_loss, recipe.loss, recipe.splitter_weight)
        self.model, *_ = fabric.setup(multi_loss, *self.optimizers)

    @torch.no_grad()
    def follow(self, step: int, decays: Sequence[float]) -> None:
        """Moves the averages, each with its decay, towards the current weights, after `step` steps before this one."""
        current = tuple(self.network.parameters())
        for average, decay in zip(self.averages, decays, strict=True):
            torch._foreach_lerp_(tuple(average.parameters()), current, 1 - decay_after(step, decay))

    def learn(
        self, mixture: Tensor, references: Tensor, *, repeats: int, recipe: Recipe, factor: float, step: int
    ) -> tuple[Tensor, Tensor]:
        """Takes one step on `recipe.accumulate` batches, one after the other; nothing waits for the device.

        `step` others were taken before; `factor` is the share of the recipe's learning rates, 0 to 1.

        Returns:
            The loss, negative dB, and the length of the gradient before it is clipped.
        """
        set_rates(self.optimizers, recipe, factor)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        losses, count = [], recipe.accumulate
        for number, (part, sources) in enumerate(zip(mixture.chunk(count), references.chunk(count), strict=True), 1):
            with self.fabric.no_backward_sync(self.model, enabled=number < count):  # ranks meet once a step
                loss = self.model(part, sources, repeats) / count
                self.fabric.backward(loss)
            losses.append(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.follow(step, recipe.ema_decay)
        return torch.stack(losses).sum(), norm

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds of it."""
        return {
            "network": self.network.state_dict(),
            "averages": [average.state_dict() for average in self.averages],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        parts: list[Any] = [self.network, *self.averages, *self.optimizers]
        for part, stored in zip(parts, [state["network"], *state["averages"], *state["optimizers"]], strict=True):
            part.load_state_dict(stored)
