"""A network that learns: its multi-loss, the optimisers that move it, and the moving average of its weights."""

from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.loss import MultiLoss, prepare
from tisdiss_cli.training.optimizers import build_optimizers, set_rates
from tisdiss_cli.training.recipe import Recipe


def decay_after(step: int, highest: float) -> float:
    """How much of the moving average stays in the step after `step` others: `highest` in the end, less at first.

    So the average soon forgets the initial weights, with which it begins.
    """
    return min(highest, (1 + step) / (10 + step))


class Learner:
    """Takes the steps; what it is made of is on the device, and of all ranks alike."""

    def __init__(self, fabric: Fabric, network: TISDiSS, recipe: Recipe) -> None:
        self.fabric, self.network = fabric, network
        self.average = AveragedModel(network.to(fabric.device))
        self.followed = False  # whether the average has taken a step
        prepare(
            network,
            compile=recipe.compile,
            activation_checkpointing=recipe.activation_checkpointing,
            device=fabric.device,
        )
        self.optimizers = build_optimizers(network, recipe)
        self.model, *_ = fabric.setup(MultiLoss(network, recipe.separator_loss), *self.optimizers)

    @torch.no_grad()
    def follow(self, step: int, highest: float) -> None:
        """Moves the average towards the current weights, which it is after the first time.

        What `AveragedModel` itself does reads its counter from the device, and waits for that.
        """
        average, current = tuple(self.averaged.parameters()), tuple(self.network.parameters())
        if self.followed:
            torch._foreach_lerp_(average, current, 1 - decay_after(step, highest))
        else:
            torch._foreach_copy_(average, current)
        self.average.n_averaged += 1
        self.followed = True

    def learn(
        self, mixture: Tensor, references: Tensor, *, repeats: int, recipe: Recipe, factor: float, step: int
    ) -> tuple[Tensor, Tensor]:
        """One step on a batch; nothing waits for the device.

        Args:
            mixture: (B, L).
            references: (B, S, L).
            repeats: of the Reconstructor.
            recipe: of this step.
            factor: share of the recipe's learning rates, 0 to 1.
            step: how many steps were taken before.

        Returns:
            The loss, negative dB, and the length of the gradient before it is clipped.
        """
        set_rates(self.optimizers, recipe, factor)
        loss = self.model(mixture, references, repeats).mean()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.fabric.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        if recipe.ema_decay:
            self.follow(step, recipe.ema_decay)
        return loss, norm

    @property
    def averaged(self) -> TISDiSS:
        """The network of the moving average."""
        return cast(TISDiSS, self.average.module)

    def take_latest(self) -> None:
        """Makes the latest weights the average: for a recipe that has no moving one."""
        self.averaged.load_state_dict(self.network.state_dict())

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.followed = bool(state["average"]["n_averaged"] > 0)
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
