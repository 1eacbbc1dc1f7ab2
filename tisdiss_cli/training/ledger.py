"""What the steps since the last row of the log gave, left on the device until a row is due."""

import torch
from lightning_fabric import Fabric
from torch import Tensor


class Ledger:
    """Loss and gradient norm of each pending step; taking them down does not wait for the device."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.pending: list[Tensor] = []  # (2,) each

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Takes down a step of this rank."""
        self.pending.append(torch.stack((loss.detach(), norm.detach())))

    def settle(self) -> int | None:
        """Turns the pending steps into means over all ranks, known to each; returns how many steps ago, from 1, the
        first was that is not finite, if any."""
        if not self.pending:
            return None
        steps = torch.stack(self.pending)
        if self.fabric.world_size > 1:
            steps = torch.as_tensor(self.fabric.all_reduce(steps, reduce_op="mean"))
            self.pending = list(steps)
        bad = (~steps.isfinite()).any(dim=1).nonzero().flatten().tolist()
        return len(steps) - bad[0] if bad else None

    def close(self) -> tuple[float, float]:
        """Mean loss and gradient norm of the pending steps, which are at least one; none is pending afterwards."""
        loss, norm = torch.stack(self.pending).mean(dim=0).tolist()
        self.pending = []
        return loss, norm

    def state(self) -> Tensor:
        """The pending steps for a checkpoint, (n, 2), on the CPU."""
        return torch.stack(self.pending).cpu() if self.pending else torch.zeros(0, 2)

    def restore(self, state: Tensor) -> None:
        """Takes them back."""
        self.pending = list(state.to(self.fabric.device))
