"""Page of score's and bench's tables: quality against time, two settings compared by file, the worst files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tisdiss_cli.evaluation.results import Curve, Row
from tisdiss_cli.report.page import write_page

_SCRIPTS = ("shared.js", "table.js", "charts.js", "scores.js")


def write_scores(
    path: Path,
    *,
    title: str,
    sentence: str,
    facts: Mapping[str, object],
    tables: Sequence[Mapping[str, object]],
    curves: Sequence[Curve],
    files: Mapping[str, Sequence[Row]],
) -> None:
    """Writes the page; UserError if it cannot be written.

    Args:
        path: the page.
        title, sentence, facts: its head.
        tables: below the head: `headings`, `rows` of text, indices of `marked` rows, and `notes` below.
        curves: quality against time.
        files: rows of scores, by the names of the curves.
    """
    values: dict[str, dict[str, float]] = {}  # by setting, then by file
    remarks: dict[str, str] = {}
    for name, rows in files.items():
        for row in sorted(rows, key=lambda row: row.repeats or 0):
            label = "estimates" if row.repeats is None else f"{row.repeats} repeat{'s' * (row.repeats != 1)}"
            values.setdefault(f"{name} {label}".strip(), {})[row.id] = round(row.si_snri, 3)
            remarks[row.id] = row.warnings or remarks.get(row.id, "")
    settings = list(values)
    data: dict[str, Any] = {
        "sentence": sentence,
        "facts": [[name, str(value)] for name, value in facts.items()],
        "settings": settings,
        "pair": {"first": 0, "second": max(0, len(settings) - 1)},
        "curves": [
            {
                "name": curve.name,
                "marked": str(curve.marked),
                "points": [{"label": str(point.repeats), "x": point.rtf, "y": point.si_snri} for point in curve.points],
            }
            for curve in curves
        ],
        "rows": [[id, [values[setting].get(id) for setting in settings], remarks[id]] for id in remarks],
    }
    write_page(path, "scores.html", scripts=_SCRIPTS, data=data, title=title, tables=tables)
