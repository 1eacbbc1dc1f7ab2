"""A set of mixtures to score: bursts of noise, in the layout of WSJ0-2mix."""

import os
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(os.fsencode(path), samples, rate, subtype="FLOAT" if path.suffix == ".wav" else None)


def voices(seed: int, length: int = 4000) -> np.ndarray:
    """Two bursts of noise (2, length)."""
    generator = np.random.default_rng(seed)
    return 0.1 * generator.standard_normal((2, length)) * np.hanning(length) ** [[0.5], [2.0]]


def write_set(root: Path) -> Path:
    """Three mixtures with their references."""
    for seed, name in enumerate("abc"):
        s1, s2 = voices(seed)
        for folder, samples in (("mix", s1 + s2), ("s1", s1), ("s2", s2)):
            write(root / folder / f"{name}.wav", samples)
    return root
