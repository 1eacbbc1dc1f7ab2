"""What `tisdiss bench` prints: its tables, and its rows as sentences while it runs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from tisdiss_cli.benchmark.against_naive import Comparison, FolderComparison
    from tisdiss_cli.benchmark.measure import Measurement
    from tisdiss_cli.evaluation.results import Summary


def in_words(row: "Measurement | Comparison") -> str:
    """A setting and what it took, or the two networks took, as soon as that is known."""
    batch = f"{row.batch_size} x " if row.batch_size > 1 else ""
    setting = f"{row.precision}, {batch}{row.audio_seconds:g} s, repeats {row.repeats}"
    seconds = getattr(row, "median", None) or getattr(row, "seconds", None)
    if seconds is None:
        return f"{setting}: out of memory"
    naive = f", the naive network {duration(row.naive_seconds)}" if hasattr(row, "naive_seconds") else ""
    return f"{setting}: {duration(seconds)}{naive}"


def bench_table(measurements: "list[Measurement]", scored: "dict[str, list[Summary]]") -> "Table":
    """A row for each setting; columns that say the same everywhere are left out."""
    from rich.table import Table

    grid = {
        "precision": [m.precision for m in measurements],
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
            summary = next((one for one in scored[m.precision] if one.repeats == m.repeats), None)
            cells.append(f"{summary.means['si_snri'].mean:.2f} dB" if summary else "")
        table.add_row(*cells)
        if row + 1 < len(measurements) and m.cell != measurements[row + 1].cell:
            table.add_section()
    return table


def comparison_table(compared: "list[Comparison]", folders: "list[FolderComparison]") -> "Table":
    """Ours and the naive network's side by side, a row for each setting and each folder."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    headings = ("precision", "audio", "repeats", "ours", "naive", "ratio", "rel. error", "SI-SNR", "memory", "naive")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for c in compared:
        audio = f"{c.audio_seconds:g} s" if c.batch_size == 1 else f"{c.batch_size} x {c.audio_seconds:g} s"
        if c.seconds is None:
            table.add_row(c.precision, audio, str(c.repeats), "out of memory")
            continue
        memory = [f"{value / 2**20:,.0f} MiB" if value else "" for value in (c.memory, c.naive_memory)]
        agreement = [f"{c.relative_error:.1e}", f"{c.si_snr:.1f} dB"]
        times = [duration(c.seconds), duration(c.naive_seconds), f"{c.ratio:.2f} x"]
        table.add_row(c.precision, audio, str(c.repeats), *times, *agreement, *memory)
    for f in folders:
        audio = f"{f.files} files, {f.audio_seconds:.0f} s"
        table.add_row(
            f.precision, audio, str(f.repeats), duration(f.seconds), duration(f.naive_seconds), f"{f.ratio:.2f} x"
        )
    return table


def duration(seconds: float | None) -> str:
    """ "1.07 s" or "70.1 ms"; nothing where nothing was measured."""
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if abs(seconds) >= 1 else f"{seconds * 1e3:.1f} ms"


def si(value: float) -> str:
    """With a metric prefix and a space, "1.5 G"; the unit follows."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.0f} "
