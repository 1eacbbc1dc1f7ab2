"""Means of `tisdiss score --csv` for groups of mixtures, as a Markdown table.

    tisdiss score DATA --repeats 1-4 --csv scores.csv
    python examples/by_group.py scores.csv DATA/meta.csv --column kind

The second file is a table with a row for each mixture: its `id`, and the column to group by.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean


def main() -> None:
    """Rows are repeats; columns are the groups and all mixtures together, SI-SNRi/SDRi in dB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path)
    parser.add_argument("groups", type=Path)
    parser.add_argument("--column", default="kind")
    arguments = parser.parse_args()
    with arguments.groups.open(newline="") as file:
        group_of = {row["id"]: row[arguments.column] for row in csv.DictReader(file)}
    cells: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    with arguments.scores.open(newline="") as file:
        for row in csv.DictReader(file):
            values = float(row["si_snri"]), float(row["sdri"])
            for group in (group_of[row["id"]], "all"):
                cells[int(row["repeats"]), group].append(values)
    depths = sorted({repeats for repeats, _ in cells})
    groups = [*sorted({group for _, group in cells} - {"all"}), "all"]
    counts = [f"{group} ({len(cells[depths[0], group])})" for group in groups]
    print("| repeats |", " | ".join(counts), "|")
    print("| --- |" + " --- |" * len(groups))
    for repeats in depths:
        means = [[mean(column) for column in zip(*cells[repeats, group], strict=True)] for group in groups]
        print(f"| {repeats} |", " | ".join(f"{a:.2f} / {b:.2f}" for a, b in means), "|")


if __name__ == "__main__":
    main()
