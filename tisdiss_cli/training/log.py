"""The log of a run: losses of the steps since its last row, and log.csv with a row for every few steps."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.training.fabric import Fabric

LOG = "log.csv"


class Losses:
    """Loss and gradient norm of each step since the last row, left on the device until a row is due."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.pending: list[Tensor] = []  # (2,) each

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Takes down a step of this rank, without waiting for the device."""
        self.pending.append(torch.stack((loss.detach(), norm.detach())))

    def settle(self) -> int | None:
        """Turns the pending steps into means over all ranks, known to each.

        Returns how many steps ago, from 1, the first was that is not finite; None if there is none.
        """
        if not self.pending:
            return None
        steps = torch.stack(self.pending)
        if self.fabric.world_size > 1:
            steps = torch.as_tensor(self.fabric.all_reduce(steps, reduce_op="mean"))
            self.pending = list(steps)
        bad = (~steps.isfinite()).any(dim=1).nonzero().flatten().tolist()
        return len(steps) - bad[0] if bad else None

    def close(self) -> tuple[float, float]:
        """Returns mean loss and gradient norm of the pending steps, at least one; none is pending afterwards."""
        loss, norm = torch.stack(self.pending).mean(dim=0).tolist()
        self.pending = []
        return loss, norm


class Log:
    """Appends rows to `path`; a resumed run first drops the rows after its checkpoint."""

    def __init__(self, path: Path, repeats: int, step: int) -> None:
        """Takes the most repeats of a validation, of which si_snri_0 is the Splitter's, and the step to go on from."""
        self.path, rows = path, [row for row in read_log(path) if int(row["step"]) <= step] if step else []
        self.header = [
            *["step", "minutes", "learning_rate", "loss", "gradient_norm", "mixture_seconds_per_second", "change"],
            *["ema_decay", "valid_loss", *(f"si_snri_{repeat}" for repeat in range(repeats + 1))],
        ]
        self.changes = {(int(row["step"]), row["change"]) for row in rows if row.get("change")}
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.header)
            writer.writeheader()
            writer.writerows(rows)

    def add(self, step: int, seconds: float, **values: float | str) -> None:
        """Writes one row, of `seconds` into the run; columns without a value stay empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.header).writerow({"step": step, "minutes": f"{seconds / 60:.3f}", **values})

    def add_change(self, step: int, seconds: float, change: str) -> None:
        """Writes the row of a change of the recipe from `step` on, unless a run that stopped there has written it."""
        if (step, change) not in self.changes:
            self.add(step, seconds, change=change)

    def add_validation(
        self, step: int, seconds: float, *, ema_decay: float, loss: float, si_snri: Sequence[float]
    ) -> None:
        """Writes the row of a validation of the average with that decay."""
        gains = {f"si_snri_{repeat}": f"{value:.4f}" for repeat, value in enumerate(si_snri)}
        self.add(step, seconds, ema_decay=ema_decay, valid_loss=f"{loss:.5f}", **gains)


def read_log(path: Path) -> list[dict[str, str]]:
    """Reads the rows by column name; none if there is no file. A last row that was cut short is left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file, restval=None) if None not in row.values()]
