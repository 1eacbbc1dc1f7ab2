"""Draws validation SI-SNRi against hours of mixtures, over the logs of trainings that went on from each other.

    python examples/by_hours.py log.csv=6 log_2.csv=6:900 log_3.csv=12 --before 2.13 --repeats 1 -o by_hours.jpg

A log is followed by the seconds of mixtures in a step (processes x batch size x segment) and, after a colon, by the
step whose weights the next one began with, where that is not the last. `--before` is the hours before the first. Prints
what the best so far gained for each doubling of the hours, by least squares. Needs matplotlib.
"""

import argparse
import csv
from itertools import accumulate
from math import inf, log2
from pathlib import Path
from statistics import linear_regression

import matplotlib.pyplot as plt


def main() -> None:
    """A line for each log, where it was followed as far as it was taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", metavar="LOG=SECONDS[:STEP]")
    parser.add_argument("--before", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, default=Path("by_hours.jpg"))
    arguments = parser.parse_args()
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    points, hours = [], arguments.before
    for said in arguments.logs:
        name, _, rest = said.rpartition("=")
        seconds, _, step = rest.partition(":")
        part = validations(Path(name), float(seconds), hours, arguments.repeats, int(step or 10**9))
        hours = part[-1][0]
        axis.plot(*zip(*part, strict=True), marker="o", markersize=3, label=Path(name).name)
        points += part
    axis.set(xlabel="hours of mixtures", ylabel="validation SI-SNRi in dB", xscale="log")
    ticks = [tick for power in range(10) for tick in (2**power, 3 * 2**power) if points[0][0] <= tick <= hours]
    axis.set_xticks(ticks, [f"{tick} h" for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(arguments.out, dpi=110)
    best = list(accumulate((gain for _, gain in points), max))
    slope = linear_regression([log2(at) for at, _ in points], best).slope
    print(f"{hours:.1f} h, at best {best[-1]:.2f} dB; {slope:.2f} dB for each doubling of the hours")


def validations(path: Path, seconds: float, before: float, repeats: int, last: int) -> list[tuple[float, float]]:
    """(hours, dB) of each validation up to the step `last`, of the best of a step's averages."""
    best: dict[int, float] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            step, gain = int(row["step"]), row[f"si_snri_{repeats}"]
            if gain and step <= last:
                best[step] = max(float(gain), best.get(step, -inf))
    return [(before + step * seconds / 3600, gain) for step, gain in best.items()]


if __name__ == "__main__":
    main()
