"""Joins each speaker's recordings to longer ones, to make long mixtures of.

    python examples/join_speech.py speech/valid joined --seconds 32
    tisdiss mix joined sets/long --count 40

SPEECH has a folder for each speaker, and so has OUT: the recordings in order, one after the other, cut every N
seconds; what is left at the end, shorter than that, is left out, and so is a speaker with too little. --rest keeps it.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile

from tisdiss_cli.data.corpus import find_speakers


def main() -> None:
    """Writes flac files of the rate of the speaker's first recording; all must have the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=32.0)
    parser.add_argument("--rest", action="store_true", help="Keep what is left at the end of each speaker.")
    arguments = parser.parse_args()
    for speaker, paths in find_speakers(arguments.speech, 1).items():
        parts, rates = zip(*(soundfile.read(path, dtype="float32") for path in paths), strict=True)
        if len(set(rates)) > 1:
            parser.error(f"{arguments.speech}: the recordings of {speaker} differ in sample rate: resample them first")
        whole, size = np.concatenate(parts), round(arguments.seconds * rates[0])
        folder = arguments.out / speaker
        for number in range((len(whole) + (size - 1) * arguments.rest) // size):
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / f"{number + 1:03}.flac", whole[number * size : (number + 1) * size], rates[0])


if __name__ == "__main__":
    main()
