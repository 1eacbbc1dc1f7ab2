"""HTML pages of separate, score and bench."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tisdiss_cli.commands.bench_tables import bench_table, fit_as_formula
from tisdiss_cli.commands.console import bar, log
from tisdiss_cli.libraries import require

if TYPE_CHECKING:
    from rich.table import Table

    from tisdiss_cli.benchmark.grid import Findings
    from tisdiss_cli.evaluation.evaluate import Evaluation


def check_pictures() -> None:
    """Raises UserError before the work, rather than after it, if a report's pictures cannot be drawn."""
    require("matplotlib", "the report's pictures need", "plot")


def run_page(out: Path, *, most: int = 24, **options: Path | None) -> Path:
    """Writes the page of a run in OUT, under a progress bar; returns its path."""
    from tisdiss_cli.report.run import write_report

    with bar(unit="file", desc="drawing", leave=False) as shown:
        return write_report(out, most=most, start=shown.reset, advance=shown.update, **options)


def score_page(path: Path, outcome: "Evaluation", table: "Table") -> None:
    """Writes the page of a scored set."""
    from tisdiss_cli.evaluation.results import Curve, Point
    from tisdiss_cli.report.scores import write_scores

    results, settings = outcome.results, outcome.settings
    timed = [
        Point(one.repeats, one.rtf, one.means["si_snri"].mean)
        for one in results
        if one.repeats is not None and one.rtf is not None
    ]
    curves = [Curve("", timed)] if timed else []
    marked = [index for index, one in enumerate(results) if curves and one.repeats == curves[0].marked]
    notes = ["bold: the smallest setting within 0.1 dB of the best"] if len(timed) > 1 else []
    names = ("weights", "layout", "precision", "device", "estimates")
    write_scores(
        path,
        title=Path(str(settings["data"])).absolute().name,
        sentence="SI-SNRi of each file under each setting, worst first.",
        facts={"files": results[0].files, **{name: settings[name] for name in names if settings.get(name)}},
        tables=[_as_printed(table, marked, notes)],
        curves=curves,
        files={"": outcome.rows},
    )
    log.info(f"wrote {path}")


def bench_page(
    path: Path, found: "Findings", scored: "Mapping[str, Evaluation]", title: str, facts: Mapping[str, object]
) -> None:
    """Writes the page of every setting's cost, and its quality if a set was scored."""
    from tisdiss_cli.report.scores import write_scores

    write_scores(
        path,
        title=title,
        sentence="Time, memory and arithmetic of every setting" + (", and what it gives." if scored else "."),
        facts=facts,
        tables=[_as_printed(bench_table(found), [], list(map(fit_as_formula, found.fits())))],
        curves=found.curves(),
        files={name if len(scored) > 1 else "": outcome.rows for name, outcome in scored.items()},
    )
    log.info(f"wrote {path}")


def _as_printed(table: "Table", marked: list[int], notes: list[str]) -> dict[str, object]:
    rows = zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)
    headings = [str(column.header) for column in table.columns]
    return {"headings": headings, "rows": list(rows), "marked": marked, "notes": notes}
