"""What `tisdiss separate` prints when it is done."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tisdiss_cli.commands.console import plain_console

if TYPE_CHECKING:
    from rich.table import Table

    from tisdiss_cli.commands.separate_asked import Run
    from tisdiss_cli.folder.record import Line

_ROWS = 30  # files listed one by one


def print_report(run: "Run") -> None:
    """A table of the inputs, of many only those with something to tell, and a sentence of the sums."""
    lines, elapsed = run.lines, run.elapsed
    console = plain_console() if sys.stdout.isatty() else plain_console(width=200)
    shown = lines if len(lines) <= _ROWS else [line for line in lines if line.reason or line.warnings]
    if shown:
        console.print(_table(shown))
    done, failed, seconds = run.sums()
    rate = f", {elapsed / seconds:.3f} times its length" if seconds else ""
    others = f", {run.left} left to another run" if run.left else ""
    console.print(
        f"{done} separated, {failed} failed, {run.done} done before{others}; "
        f"{seconds:.1f} s of audio in {elapsed:.1f} s{rate}"
    )


def _table(lines: "Sequence[Line]") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("input", "", "repeats", "audio", "time", ""):
        numbers = heading in ("repeats", "audio", "time")
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    for line in sorted(lines, key=lambda line: (line.input, line.channel or 0)):
        table.add_row(
            line.input if line.channel is None else f"{line.input}, channel {line.channel}",
            line.status,
            f"{line.repeats:g}" if line.repeats else "",
            f"{line.audio_seconds:.2f} s",
            f"{line.elapsed_seconds:.2f} s",
            line.reason or "; ".join(line.warnings),
        )
    return table
