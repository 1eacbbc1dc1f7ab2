"""Tables and sentences that `tisdiss bench` prints."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from tisdiss_cli.benchmark.grid import Findings, Fit
    from tisdiss_cli.benchmark.measure import Measurement


def as_sentence(row: "Measurement") -> str:
    """Returns a setting and its time as a sentence."""
    batch = f"{row.batch_size} x " if row.batch_size > 1 else ""
    took = "out of memory" if row.median is None else duration(row.median)
    return f"{row.variant}, {batch}{row.audio_seconds:g} s, repeats {row.repeats}: {took}"


def fit_as_formula(line: "Fit") -> str:
    """Returns the fitted line of time over repeats as a formula."""
    shape = f"{line.variant}, batch {line.batch_size}, {line.audio_seconds:g} s"
    return f"time = {duration(line.a)} + {duration(line.b)} x repeats   ({shape})"


def bench_table(found: "Findings") -> "Table":
    """Returns the table of all settings, without the columns that are the same in each row."""
    from rich.table import Table

    measurements, scored = found.measurements, found.scores
    grid = {
        "variant": [m.variant for m in measurements],
        "batch": [str(m.batch_size) for m in measurements],
        "audio": [f"{m.audio_seconds:g} s" for m in measurements],
    }
    grid = {heading: cells for heading, cells in grid.items() if len(set(cells)) > 1}
    table = Table(box=None, pad_edge=False)
    headings = [*grid, "repeats", "median", "quartiles", "RTF", "x real", "memory", "MAC", "FLOP/s", "of peak"]
    for heading in [*headings, *(["SI-SNRi"] if scored else [])]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row, m in enumerate(measurements):
        cells = [column[row] for column in grid.values()] + [str(m.repeats)]
        if m.median is None or m.rtf is None:
            cells += ["out of memory", *[""] * 7]
        else:
            memory = f"{m.memory / 2**20:,.0f} MiB" if m.memory else ""
            cells += [
                duration(m.median),
                f"{duration(m.lower)} - {duration(m.upper)}",
                f"{m.rtf:.4f}",
                f"{1 / m.rtf:.1f}",
            ]
            cells += [memory, *("" if value is None else si(value) for value in (m.macs, m.flops))]
            cells.append("" if m.of_ceiling is None else f"{m.of_ceiling:.0%}")
        if scored:
            summary = next((one for one in scored[m.variant] if one.repeats == m.repeats), None)
            cells.append(f"{summary.means['si_snri'].mean:.2f} dB" if summary else "")
        table.add_row(*cells)
        if row + 1 < len(measurements) and m.cell != measurements[row + 1].cell:
            table.add_section()
    return table


def duration(seconds: float | None) -> str:
    """Returns "1.07 s" or "70.1 ms"; "" for None."""
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if abs(seconds) >= 1 else f"{seconds * 1e3:.1f} ms"


def si(value: float) -> str:
    """Returns a number with a metric prefix and a space, "1.5 G"; the unit follows."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.0f} "
