"""Draws mixtures, what `tisdiss separate` makes of them at several repeats, and their references.

    python examples/spectrograms.py examples/mixtures 01_kok_hm_psi_kok_bf_isabella -o spectrograms.jpg

DATA is a set as `tisdiss score` takes it; the names are files of its folder of mixtures. Needs matplotlib.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from tisdiss_cli import Separator
from tisdiss_cli.audio.read import read
from tisdiss_cli.data.datasets import find_dataset
from tisdiss_cli.separation.permutation import best_permutation
from tisdiss_cli.separation.si_snr import si_snr

N_FFT, HOP = 256, 64
RANGE = 70  # dB shown


def level(x: torch.Tensor) -> torch.Tensor:
    """(L,) -> (F, T) in dB."""
    spectrum = torch.stft(x, N_FFT, HOP, window=torch.hann_window(N_FFT), return_complex=True)
    return 20 * spectrum.abs().clamp_min(1e-6).log10()


def main() -> None:
    """Two rows a mixture, one for each speaker: mixture, repeats, reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("-o", "--out", type=Path, default=Path("spectrograms.jpg"))
    parser.add_argument("--weights", default=None)
    parser.add_argument("--repeats", default="1,2,4")
    arguments = parser.parse_args()
    depths = [int(part) for part in arguments.repeats.split(",")]
    separator = Separator.load(arguments.weights, device="cpu")
    rate = separator.sample_rate
    items = {item.id: item for item in find_dataset(arguments.data).items}
    figure, axes = plt.subplots(
        2 * len(arguments.names),
        len(depths) + 2,
        figsize=(2.6 * (len(depths) + 2), 3.4 * len(arguments.names)),
        sharex="row",
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for number, name in enumerate(arguments.names):
        mixture = read(items[name].mixture, rate)
        references = torch.stack([read(path, rate) for path in items[name].references])
        before = si_snr(mixture.expand_as(references), references)
        top = float(level(mixture).max())
        estimates = list(separator.refine(mixture, repeats=max(depths)))
        for speaker, row in enumerate(axes[2 * number : 2 * number + 2]):
            pictures = [("mixture", mixture)]
            for depth in depths:
                voices = estimates[depth - 1]
                pairs = si_snr(voices[None], references[:, None])  # (references, voices)
                order, _ = best_permutation(pairs)
                gain = float(pairs[speaker, order[speaker]] - before[speaker])
                pictures.append((f"{depth} repeat{'s' * (depth > 1)}: {gain:+.1f} dB", voices[order[speaker]]))
            pictures.append((f"speaker {speaker + 1} alone", references[speaker]))
            for axis, (title, samples) in zip(row, pictures, strict=True):
                axis.imshow(
                    level(samples),
                    origin="lower",
                    aspect="auto",
                    extent=(0, len(samples) / rate, 0, rate / 2000),
                    vmin=top - RANGE,
                    vmax=top,
                    cmap="magma",
                )
                axis.set_title(title, fontsize=9)
            row[0].set_ylabel("kHz")
    for axis in axes[-1]:
        axis.set_xlabel("s")
    figure.savefig(arguments.out, dpi=110)
    print(arguments.out)


if __name__ == "__main__":
    main()
