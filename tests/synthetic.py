"""Speech that is none, noise in bands that even a tiny network separates; recipes for it, and their logs."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch

RATE = 8000
TINY = {
    "channels": 8,
    "ffn_hidden": 8,
    "attention_channels": 8,
    "heads": 1,
    "norm_groups": 1,
    "n_fft": 32,
    "hop_length": 16,
    "reconstructor_repeats": 2,
}


def band_noise(low: float, high: float, samples: int, seed: int) -> np.ndarray:
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / RATE)
    noise = np.fft.irfft(spectrum * ((frequency > low) & (frequency < high)), samples)
    return 0.5 * noise / np.abs(noise).max()


def band(x: torch.Tensor) -> torch.Tensor:
    """Returns which of four equal bands has the most energy: (..., L) -> (...)."""
    spectrum = torch.fft.rfft(x).abs().square()[..., : x.shape[-1] // 2 // 4 * 4]
    return spectrum.unflatten(-1, (4, -1)).sum(-1).argmax(-1)


def write_speech(root: Path, speakers: int = 2, utterances: int = 3, samples: int = 4000) -> Path:
    """`root`/spk0/u0.wav, ...: speaker k has the k-th of equal bands, with a gap between two."""
    width = 4000 / speakers
    for speaker in range(speakers):
        folder = root / f"spk{speaker}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(utterances):
            low = speaker * width + 100
            noise = band_noise(low, low + width - 300, samples + 300 * number, 100 * speaker + number)
            soundfile.write(folder / f"u{number}.wav", noise, RATE)
    return root


def write_mixtures(root: Path, count: int = 3, samples: int = 2400, folders: str = "mix s1 s2") -> Path:
    """Fixed mixtures of two bands under the given folder names, mixture first."""
    names = folders.split()
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        width = 4000 / (len(names) - 1)
        bands = [(k * width + 100, (k + 1) * width - 200) for k in range(len(names) - 1)]
        sources = [0.6 * band_noise(*band, samples, 1000 * number + k) for k, band in enumerate(bands)]
        for name, signal in zip(names, [sum(sources), *sources], strict=True):
            soundfile.write(root / name / f"{number}.wav", signal, RATE)
    return root


def write_rooms(root: Path, taps: Sequence[float] = (0.5, -0.4, 0.3, 0.2)) -> Path:
    """Two rooms of two responses: silence, a direct path, and one reflection at 50, 60, ... samples."""
    for index, tap in enumerate(taps):
        response = np.zeros(200)
        response[20], response[70 + 10 * index] = 0.8, 0.8 * tap
        (root / f"room{index // 2}").mkdir(parents=True, exist_ok=True)
        soundfile.write(root / f"room{index // 2}" / f"{index}.wav", response, RATE, subtype="FLOAT")
    return root


def write_recipe(path: Path, network: dict = TINY, **values: object) -> Path:
    """A recipe file."""
    write = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path.write_text(
        "\n".join([*write, "[network]", *(f"{key} = {json.dumps(value)}" for key, value in network.items())])
    )
    return path


def losses(out: Path) -> list[dict[str, str]]:
    """A run's log but for its times: what another run may have to repeat."""
    with (out / "log.csv").open() as file:
        return [
            {key: value for key, value in row.items() if key not in ("minutes", "mixture_seconds_per_second")}
            for row in csv.DictReader(file)
        ]
