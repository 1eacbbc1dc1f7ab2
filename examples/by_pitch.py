"""Draws SI-SNRi against how far the two speakers of a mixture are apart in pitch, and prints the means as a table.

    tisdiss score DATA --repeats 1-4 --csv scores.csv
    python examples/by_pitch.py scores.csv DATA/meta.csv speakers.csv --repeats 2 -o by_pitch.jpg

The second file is a table with a row for each mixture: its `id`, and its speakers `spk1` and `spk2`; the third has a
row for each speaker: `id` and `median_f0_hz`. Needs matplotlib.
"""

import argparse
import csv
from itertools import pairwise
from math import inf, log2
from pathlib import Path
from statistics import mean

import matplotlib.pyplot as plt

EDGES = (0, 1, 2, 4, 6, 9, inf)  # semitones


def main() -> None:
    """A point for each mixture, and a step for the mean between two edges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path)
    parser.add_argument("mixtures", type=Path)
    parser.add_argument("speakers", type=Path)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, default=Path("by_pitch.jpg"))
    arguments = parser.parse_args()
    pitch = {row["id"]: float(row["median_f0_hz"]) for row in rows(arguments.speakers)}
    apart = {row["id"]: abs(12 * log2(pitch[row["spk1"]] / pitch[row["spk2"]])) for row in rows(arguments.mixtures)}
    scores = [row for row in rows(arguments.scores) if int(row["repeats"]) == arguments.repeats]
    points = [(apart[row["id"]], float(row["si_snri"])) for row in scores]
    furthest = max(distance for distance, _ in points)
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axis.scatter(*zip(*points, strict=True), s=12, alpha=0.6, label="a mixture")
    print("| semitones apart | mixtures | SI-SNRi |\n| --- | --- | --- |")
    for index, (low, high) in enumerate(pairwise(EDGES)):
        values = [gain for distance, gain in points if low <= distance < high]
        if not values:
            continue
        name = f"{low:g} to {high:g}" if high < inf else f"{low:g} and more"
        print(f"| {name} | {len(values)} | {mean(values):.2f} dB |")
        label = None if index else "mean"
        axis.plot((low, min(high, furthest)), [mean(values)] * 2, color="black", linewidth=2, label=label)
    axis.set(xlabel="semitones between the speakers' median pitches", ylabel="SI-SNRi in dB")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(arguments.out, dpi=110)


def rows(path: Path) -> list[dict[str, str]]:
    """Of a table with a header."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
