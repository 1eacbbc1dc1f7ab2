"""Grid of measured settings, and the lines of time and curves of quality that follow."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tisdiss_cli.benchmark.measure import Measurement, matmul_ceiling, measure
from tisdiss_cli.evaluation.results import Curve, Point, Summary
from tisdiss_cli.separation.separator import Separator


@dataclass(frozen=True)
class Fit:
    """Line time = a + b x repeats, in seconds, for one shape of input."""

    variant: str
    batch_size: int
    audio_seconds: float
    a: float
    b: float


@dataclass
class Findings:
    """Cost of every setting and, if a set was scored, its quality."""

    ceilings: dict[str, float | None] = field(default_factory=dict)  # by precision, from `matmul_ceiling`
    measurements: list[Measurement] = field(default_factory=list)
    scores: dict[str, list[Summary]] = field(default_factory=dict)  # by variant

    def fits(self) -> list[Fit]:
        """Returns the least-squares line for each shape of input with two or more measured settings."""
        found = []
        for cell in dict.fromkeys(one.cell for one in self.measurements):
            timed = {one.repeats: one.median for one in self.measurements if one.cell == cell and one.median}
            if len(timed) > 1:
                b, a = np.polyfit(list(timed), list(timed.values()), 1).tolist()
                found.append(Fit(*cell, a, b))
        return found

    def curves(self) -> list[Curve]:
        """Returns the curve of quality against time for each scored variant, on its first shape of input."""
        found = []
        for variant, summaries in self.scores.items():
            quality = {one.repeats: one.means["si_snri"].mean for one in summaries}
            cell = next((one.cell for one in self.measurements if one.variant == variant), None)
            timed = [one for one in self.measurements if one.cell == cell]
            if points := [Point(one.repeats, one.rtf, quality[one.repeats]) for one in timed if one.rtf is not None]:
                found.append(Curve(variant if len(self.scores) > 1 else "", points))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Returns all figures, for JSON."""
        return {
            "ceilings": self.ceilings,
            "results": [asdict(measurement) for measurement in self.measurements],
            "fits": [asdict(line) for line in self.fits()],
            "scores": {variant: [one.as_dict() for one in found] for variant, found in self.scores.items()},
            "curves": [{**asdict(curve), "marked": curve.marked} for curve in self.curves()],
        }


def run_grid(
    separators: Sequence[Separator],
    shapes: Iterable[tuple[int, float]],
    repeats: Sequence[int],
    on_row: Callable[[Measurement], None],
) -> Findings:
    """Measures ascending `repeats` on shapes (batch size, seconds of each mixture), in every variant.

    `on_row` gets each measurement at once.
    """
    found, shapes = Findings({one.precision: matmul_ceiling(one) for one in separators}), list(shapes)
    for separator in separators:
        ceiling = found.ceilings[separator.precision]
        for batch, seconds in shapes:
            for one in measure(separator, repeats, batch_size=batch, audio_seconds=seconds, ceiling=ceiling):
                found.measurements.append(one)
                on_row(one)
    return found
