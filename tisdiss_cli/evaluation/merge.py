"""Sheets of scores that several processes have written, each of its share, as one."""

import re
from pathlib import Path

from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.results import Row, Sheet


def part_of(path: Path, name: str) -> Path:
    """Where a share's rows go: `scores.csv` of "3-of-8" is `scores.3-of-8.csv`."""
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


def merge_sheets(path: Path) -> tuple[list[Row], int]:
    """Writes the rows of all of a sheet's parts, and its own, to it; returns them and the number of shares.

    Of an id that several have, the rows of the newest file count.

    Raises:
        UserError: there are no parts, or one is no sheet of scores.
    """
    pattern = re.compile(rf"{re.escape(path.stem)}\.(\d+)-of-(\d+){re.escape(path.suffix)}")
    parts = {part: int(found[2]) for part in path.parent.iterdir() if (found := pattern.fullmatch(part.name))}
    if not parts:
        raise UserError(f"--merge: {path.parent} has no parts of {path.name}, like {part_of(path, '1-of-8').name}")
    newest = sorted(parts, key=lambda part: part.stat().st_mtime_ns)
    merged = Sheet(path)
    for part in newest:
        merged.rows += Sheet(part).rows
    keys = {row.id: row.key for row in merged.rows}
    merged.rows.sort(key=lambda row: (row.id, row.repeats or 0))
    merged.keep(keys)
    return merged.rows, parts[newest[-1]]
