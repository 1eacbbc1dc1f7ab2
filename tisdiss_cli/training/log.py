"""The CSV log of a run: what every few steps and every validation gave, and what was changed on the way."""

import csv
from collections.abc import Sequence
from pathlib import Path

LOG = "log.csv"


def columns(repeats: int) -> list[str]:
    """The header for validations at up to `repeats` repeats; si_snri_0 is the Splitter's output."""
    return [
        *["step", "minutes", "learning_rate", "loss", "gradient_norm", "mixture_seconds_per_second", "change"],
        *["ema_decay", "valid_loss"],
        *(f"si_snri_{repeat}" for repeat in range(repeats + 1)),
    ]


class Log:
    """Appends rows to `path`; a resumed run first drops the rows after its checkpoint."""

    def __init__(self, path: Path, repeats: int, step: int) -> None:
        self.path, self.header = path, columns(repeats)
        rows = [row for row in read_log(path) if int(row["step"]) <= step] if step else []
        self.changes = {(int(row["step"]), row["change"]) for row in rows if row.get("change")}
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.header)
            writer.writeheader()
            writer.writerows(rows)

    def add(self, **values: float | str) -> None:
        """Writes one row; columns without a value stay empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.header).writerow(values)

    def add_change(self, step: int, minutes: float, change: str) -> None:
        """Writes the row of a change of the recipe from `step` on, unless a run that stopped there has written it."""
        if (step, change) not in self.changes:
            self.add(step=step, minutes=f"{minutes:.3f}", change=change)

    def add_validation(
        self, step: int, minutes: float, *, ema_decay: float, loss: float, si_snri: Sequence[float]
    ) -> None:
        """Writes the row of a validation of the average with that decay."""
        gains = {f"si_snri_{repeat}": f"{value:.4f}" for repeat, value in enumerate(si_snri)}
        self.add(step=step, minutes=f"{minutes:.3f}", ema_decay=ema_decay, valid_loss=f"{loss:.5f}", **gains)


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows by column name; none if there is no file. A last row that was cut short is left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file, restval=None) if None not in row.values()]
