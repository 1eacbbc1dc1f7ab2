"""Training log: log.csv with a row every few steps, the metrics buffered for its next row, and the training curve."""

import csv
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tisdiss_cli.files import replacing
from tisdiss_cli.training.fabric import Fabric

log = logging.getLogger("tisdiss")

LOG = "log.csv"
CURVE = "curve.png"
_GROUPS = 100  # groups of neighbouring rows, averaged for the smoothed loss
_WORST = 5.0  # dB below the mixture; worse values of the first steps are cut off the plot


class MetricBuffer:
    """Loss and gradient norm of each step since the last row, left on the device until a row is due."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.pending: list[Tensor] = []  # (2,) each

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Adds a step of this rank, without waiting for the device."""
        self.pending.append(torch.stack((loss.detach(), norm.detach())))

    def reduce(self) -> int | None:
        """Averages the pending steps over all ranks.

        Returns the age in steps, from 1, of the first one that is not finite; None if all are finite.
        """
        if not self.pending:
            return None
        steps = torch.stack(self.pending)
        if self.fabric.world_size > 1:
            steps = torch.as_tensor(self.fabric.all_reduce(steps, reduce_op="mean"))
            self.pending = list(steps)
        bad = (~steps.isfinite()).any(dim=1).nonzero().flatten().tolist()
        return len(steps) - bad[0] if bad else None

    def pop_means(self) -> tuple[float, float]:
        """Returns mean loss and gradient norm of the pending steps, at least one, and empties the buffer."""
        loss, norm = torch.stack(self.pending).mean(dim=0).tolist()
        self.pending = []
        return loss, norm


class Log:
    """Writer of log.csv; a resumed run first drops the rows after its checkpoint."""

    def __init__(self, path: Path, repeats: int, step: int) -> None:
        """Opens the log at `step`; `repeats` is the largest number validated (column si_snri_0 is the Splitter's)."""
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
        """Writes one row, `seconds` into the run; columns without a value stay empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.header).writerow({"step": step, "minutes": f"{seconds / 60:.3f}", **values})

    def add_change(self, step: int, seconds: float, change: str) -> None:
        """Writes a recipe change that applies from `step` on, unless the log has it already."""
        if (step, change) not in self.changes:
            self.add(step, seconds, change=change)

    def add_validation(
        self, step: int, seconds: float, *, ema_decay: float, loss: float, si_snri: Sequence[float]
    ) -> None:
        """Writes the validation of the moving average with decay `ema_decay`."""
        gains = {f"si_snri_{repeat}": f"{value:.4f}" for repeat, value in enumerate(si_snri)}
        self.add(step, seconds, ema_decay=ema_decay, valid_loss=f"{loss:.5f}", **gains)


def read_log(path: Path) -> list[dict[str, str]]:
    """Returns the rows by column name, without a truncated last row; an empty list if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file, restval=None) if None not in row.values()]


def plot_curve(out: Path) -> None:
    """Draws `out`/curve.png from `out`/log.csv, if matplotlib is installed and there are rows.

    Shows the best moving average of each validation.
    """
    rows = read_log(out / LOG)
    losses = [(int(row["step"]), float(row["loss"])) for row in rows if row["loss"]]
    worst_first = sorted((row for row in rows if row["valid_loss"]), key=lambda row: -float(row["valid_loss"]))
    checks = sorted({row["step"]: row for row in worst_first}.values(), key=lambda row: int(row["step"]))
    if not losses or not find_spec("matplotlib"):
        return
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    groups = np.array_split(losses, min(_GROUPS, len(losses)))
    left.plot(*zip(*losses, strict=True), color="0.8", linewidth=0.8)
    left.plot(*np.transpose([group.mean(axis=0) for group in groups]), color="C0", label="training, smoothed")
    checked = [int(row["step"]) for row in checks]
    if checks:
        values = [float(row["valid_loss"]) for row in checks]
        left.plot(checked, values, "o-", color="C1", markersize=3, label="validation")
    left.set(xlabel="step", ylabel="multi-loss: negative SI-SNR (dB)", title="Loss")
    left.legend(frameon=False)
    names = [name for name in rows[0] if name.startswith("si_snri_") and any(row[name] for row in checks)]
    for index, name in enumerate(names):
        repeat = int(name.removeprefix("si_snri_"))
        label = "Splitter" if repeat == 0 else f"{repeat} repeat{'s' if repeat > 1 else ''}"
        points = [(step, float(row[name])) for step, row in zip(checked, checks, strict=True) if row[name]]
        colour = colormaps["viridis"](0.9 * index / max(1, len(names) - 1))
        right.plot(*zip(*points, strict=True), "o-", markersize=3, color=colour, label=label)
    right.set(xlabel="step", ylabel="SI-SNRi (dB)", title="Validation by repeats of the Reconstructor")
    if names:
        right.legend(frameon=False)
    else:
        right.text(0.5, 0.5, "no validation set", ha="center", va="center", transform=right.transAxes)
    if min(loss for _, loss in losses) < _WORST - 1:
        left.set_ylim(top=min(left.get_ylim()[1], _WORST))
    if checks and names and max(float(row[names[0]]) for row in checks) > 1 - _WORST:
        right.set_ylim(bottom=max(right.get_ylim()[0], -_WORST))
    changes = {int(row["step"]) for row in rows if row.get("change")}
    for axes in (left, right):
        for step in changes:
            axes.axvline(step, color="0.6", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        with replacing(out / CURVE) as part:
            figure.savefig(part, dpi=120, format="png")
    except OSError as error:  # a missing plot must not end a run
        log.warning(f"warning: {out / CURVE} could not be written ({error.strerror or error}); training continues")
