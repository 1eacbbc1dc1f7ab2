"""Plots of quality against time, and of the cost of each setting."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import writing
from tisdiss_cli.libraries import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tisdiss_cli.benchmark.measure import Measurement
    from tisdiss_cli.evaluation.results import Curve


def check_plot(path: Path) -> None:
    """Raises UserError unless the file's format is known and matplotlib is installed."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot {path}: the name must end in .png or .svg")
    require("matplotlib", "--plot needs", "plot")


def draw(curves: "list[Curve]", path: Path, title: str) -> None:
    """Plots the curves into a .png or .svg file."""
    figure = _figure(7)
    axes = figure.add_subplot()
    for curve in curves:
        x, y = [point.rtf for point in curve.points], [point.si_snri for point in curve.points]
        (line,) = axes.plot(x, y, "o-", markersize=5, label=curve.name)
        for point in curve.points:
            marked = point.repeats == curve.marked
            at, above = (point.rtf, point.si_snri), (0, 11 if marked else 7)
            axes.annotate(str(point.repeats), at, above, textcoords="offset points", ha="center", fontsize=8)
            if marked:
                label = f"{curve.name} --repeats {point.repeats}, the smallest within 0.1 dB of the best".strip()
                ring = axes.plot(*at, "o", markersize=14, markeredgewidth=1.5, color=line.get_color(), label=label)
                ring[0].set_markerfacecolor("none")
    axes.set_xlabel("real-time factor (network seconds for a second of audio)")
    axes.set_ylabel("SI-SNRi (dB)")
    axes.set_title(title, fontsize=10)
    axes.set_xlim(left=0)
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8, frameon=False)
    _save(figure, path)


def draw_cost(measurements: "Sequence[Measurement]", path: Path, title: str) -> None:
    """Plots time against repeats into a .png or .svg file: axes per batch size, a line per variant and length."""
    _save(cost_figure(measurements, title), path)


def cost_figure(measurements: "Sequence[Measurement]", title: str) -> "Figure":
    """Returns the figure of `draw_cost`."""
    timed = [one for one in measurements if one.rtf is not None]
    batches = sorted({one.batch_size for one in timed})
    figure = _figure(3 + 3 * max(1, len(batches)))
    fields = figure.subplots(1, max(1, len(batches)), sharey=True, squeeze=False)[0]
    for axes, batch in zip(fields, batches, strict=False):
        for cell in sorted({one.cell for one in timed if one.batch_size == batch}):
            rows = sorted((one.repeats, one.rtf) for one in timed if one.cell == cell and one.rtf is not None)
            axes.plot(*zip(*rows, strict=True), "o-", markersize=5, label=f"{cell[2]:g} s, {cell[0]}")
        axes.set_title(f"batch {batch}", fontsize=10)
        axes.set_xlabel("repeats")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(loc="best", fontsize=8, frameon=False, title="length of a mixture", title_fontsize=8)
    fields[0].set_ylim(bottom=0)  # shared, and last, as lines would still move the top
    fields[0].set_ylabel("real-time factor (network s for 1 s of audio)")
    figure.suptitle(title, fontsize=10)
    return figure


def _figure(width: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, 4.5), layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    with writing(path) as part:
        figure.savefig(part, dpi=150, format=path.suffix[1:])
