"""What follows from the measurements of a grid of settings: lines of time over repeats, curves of quality over time."""

from collections.abc import Sequence
from dataclasses import dataclass

from tisdiss_cli.benchmark.measure import Measurement, fit_line
from tisdiss_cli.benchmark.plots import Curve
from tisdiss_cli.evaluation.results import smallest_within


@dataclass(frozen=True)
class Fit:
    """time = a + b x repeats, in seconds, for one shape of input."""

    precision: str
    batch_size: int
    audio_seconds: float
    a: float
    b: float


def fits(measurements: Sequence[Measurement]) -> list[Fit]:
    """A line for each shape of input that was measured at two settings or more."""
    found = []
    for cell in dict.fromkeys(one.cell for one in measurements):
        timed = {one.repeats: one.median for one in measurements if one.cell == cell and one.median is not None}
        if len(timed) > 1:
            found.append(Fit(*cell, *fit_line(list(timed), list(timed.values()))))
    return found


def curve(measurements: Sequence[Measurement], precision: str, quality: dict[int, float]) -> Curve | None:
    """Quality, in dB for each repeats, against time on the precision's first shape of input; None if none was timed."""
    cell = next((one.cell for one in measurements if one.precision == precision), None)
    rtf = {one.repeats: one.rtf for one in measurements if one.cell == cell and one.rtf is not None}
    if not rtf:
        return None
    reached = {repeats: quality[repeats] for repeats in rtf}
    return Curve(precision, list(rtf), list(rtf.values()), list(reached.values()), smallest_within(reached))
