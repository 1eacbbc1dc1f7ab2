"""The picture of a run: loss and validation SI-SNRi by repeats, drawn from its log."""

import logging
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tisdiss_cli.files import replacing
from tisdiss_cli.training import log

CURVE = "curve.png"
_GROUPS = 100
_WORST = 5.0  # dB below the mixture; the first steps' values beyond it would flatten the rest


def plot_curve(out: Path) -> None:
    """Draws `out`/curve.png from `out`/log.csv; nothing without matplotlib or rows.

    Of several moving averages the best of each validation is drawn.
    """
    rows = log.read_log(out / log.LOG)
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
        known = [(step, float(row[name])) for step, row in zip(checked, checks, strict=True) if row[name]]
        colour = colormaps["viridis"](0.9 * index / max(1, len(names) - 1))
        right.plot(*zip(*known, strict=True), "o-", markersize=3, color=colour, label=label)
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
    except OSError as error:  # a picture is no reason to end a run
        logging.getLogger("tisdiss").warning(f"warning: {out / CURVE} is not drawn: {error.strerror or error}")
