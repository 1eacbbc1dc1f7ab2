"""Every setting of a grid, measured; lines of time over repeats and curves of quality over time follow from that."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from tisdiss_cli.benchmark.against_naive import Comparison, FolderComparison, compare, compare_folder
from tisdiss_cli.benchmark.measure import Measurement, fit_line, matmul_ceiling, measure
from tisdiss_cli.benchmark.plots import Curve
from tisdiss_cli.devices import OutOfMemory, memory_guard
from tisdiss_cli.evaluation.results import smallest_within
from tisdiss_cli.separation.separator import Separator

log = logging.getLogger("tisdiss")


@dataclass(frozen=True)
class Grid:
    """What is measured: each precision's network on every shape of input, at each of the repeats."""

    separators: Sequence[Separator]  # one a precision
    repeats: Sequence[int]  # ascending
    batch_sizes: Sequence[int]
    audio_seconds: Sequence[float]
    against_naive: bool = False
    mixtures: Sequence[Path] = ()  # a folder's, for the comparison from files to files

    @property
    def rows(self) -> int:
        """How many measurements and comparisons of a setting there are to come."""
        shapes = len(self.separators) * len(self.batch_sizes) * len(self.audio_seconds)
        return shapes * len(self.repeats) * (1 + self.against_naive)


@dataclass
class Findings:
    """What a grid gave."""

    ceilings: dict[str, float | None] = field(default_factory=dict)  # by precision, from `matmul_ceiling`
    measurements: list[Measurement] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    folders: list[FolderComparison] = field(default_factory=list)


def run_grid(grid: Grid, on_row: Callable[[Measurement | Comparison], None]) -> Findings:
    """Measures every setting, then compares each with the naive network if that is wanted; `on_row` hears of each."""
    found = Findings({one.precision: matmul_ceiling(one) for one in grid.separators})
    shapes = list(product(grid.separators, grid.batch_sizes, grid.audio_seconds))
    for separator, batch, seconds in shapes:
        for measurement in measure(
            separator,
            grid.repeats,
            batch_size=batch,
            audio_seconds=seconds,
            ceiling=found.ceilings[separator.precision],
        ):
            found.measurements.append(measurement)
            on_row(measurement)
    if grid.against_naive:
        for separator, batch, seconds in shapes:
            for comparison in compare(separator, grid.repeats, batch_size=batch, audio_seconds=seconds):
                found.comparisons.append(comparison)
                on_row(comparison)
        for separator in grid.separators if grid.mixtures else ():
            try:
                with memory_guard(f"the folder in {separator.precision}"):
                    found.folders.append(compare_folder(separator, grid.mixtures, max(grid.repeats)))
            except OutOfMemory as error:
                log.error(f"not compared: {error}")
    return found


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
