"""How often `separate` takes two channels for one talker a side, on material made from a folder of speech.

    python examples/channel_rule.py SPEECH/test --pairs 200

SPEECH/test has a folder of recordings for each speaker. Prints the table of docs/separate.md.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from tisdiss_cli.audio.channels import Survey

RATE = 8000
Pair = tuple[np.ndarray, np.ndarray]
Stereo = Callable[[np.random.Generator, Pair], np.ndarray]


def talkers(root: Path, random: np.random.Generator, turns: bool) -> Pair:
    """Two speakers, about 15 s; at the same time, or one after the other with short overlaps."""
    speakers = random.choice(sorted(folder for folder in root.iterdir() if folder.is_dir()), 2, replace=False)
    length = 15 * RATE
    voices = []
    for number, speaker in enumerate(speakers):
        files = sorted(speaker.glob("*.flac"))
        clips = [soundfile.read(file)[0] for file in random.choice(files, 5)]
        voice = np.zeros(length)
        at = 0 if not turns or number == 0 else int(RATE * random.uniform(2, 5))
        for clip in clips:
            piece = clip[: int(RATE * random.uniform(2, 5)) if turns else len(clip)][: max(0, length - at)]
            voice[at : at + len(piece)] = piece
            at += len(piece) + int(RATE * (random.uniform(2, 5) if turns else random.uniform(0, 0.5)))
        voices.append(voice / max(1e-9, voice.std()) * 0.05 * 10 ** (random.uniform(-6, 6) / 20))
    return voices[0], voices[1]


def delayed(x: np.ndarray, seconds: float) -> np.ndarray:
    """(n,) later, at the same length."""
    shift = round(seconds * RATE)
    return np.concatenate((np.zeros(shift), x))[: len(x)]


def sides(crosstalk_db: float) -> Stereo:
    """One talker a side; what each microphone has of the other is later and duller."""

    def make(random: np.random.Generator, pair: Pair) -> np.ndarray:
        gain = 10 ** (crosstalk_db / 20)
        leaked = [gain * np.convolve(delayed(x, random.uniform(0, 0.01)), (0.5, 0.5))[: len(x)] for x in pair]
        return np.stack((pair[0] + leaked[1], pair[1] + leaked[0]), axis=1)

    return make


def mono(random: np.random.Generator, pair: Pair) -> np.ndarray:
    """The same on both sides, one up to 12 dB below."""
    both = pair[0] + pair[1]
    return np.stack((both, both * 10 ** (-random.uniform(0, 12) / 20)), axis=1)


def panned(widest_db: float) -> Stereo:
    """Each talker somewhere between the sides: a difference of levels and no other."""

    def make(random: np.random.Generator, pair: Pair) -> np.ndarray:
        differences = random.uniform(-widest_db, widest_db, 2)
        gains = [10 ** (np.array((d, -d)) / 40) for d in differences]
        return pair[0][:, None] * gains[0] + pair[1][:, None] * gains[1]

    return make


def spaced(random: np.random.Generator, pair: Pair) -> np.ndarray:
    """Two microphones apart: delays up to 3 ms, levels within 3 dB."""
    left = [delayed(x, random.uniform(0, 0.003)) for x in pair]
    right = [delayed(x, random.uniform(0, 0.003)) * 10 ** (random.uniform(-3, 3) / 20) for x in pair]
    return np.stack((sum(left), sum(right)), axis=1)


def reverberant(random: np.random.Generator, pair: Pair) -> np.ndarray:
    """As `spaced`, in a room: tails that share nothing, RT60 0.2 to 0.8 s, 0 to 10 dB below the direct sound."""
    out = np.zeros((len(pair[0]), 2))
    seconds = random.uniform(0.2, 0.8)
    time = np.arange(int(seconds * RATE)) / RATE
    for x in pair:
        for side in range(2):
            tail = random.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
            tail *= 10 ** (-random.uniform(0, 10) / 20) / np.linalg.norm(tail)
            tail[0] = 0
            response = np.concatenate(([10 ** (random.uniform(-1.5, 1.5) / 20)], tail))
            wet = np.fft.irfft(np.fft.rfft(x, 2 * len(x)) * np.fft.rfft(response, 2 * len(x)))[: len(x)]
            out[:, side] += delayed(wet, random.uniform(0, 0.003))
    return out


KINDS: list[tuple[str, bool, Stereo]] = [
    *((f"one talker a side, crosstalk at {db} dB", True, sides(db)) for db in (-40, -30, -20)),
    ("the same on both sides, one up to 12 dB below", False, mono),
    ("panned, up to 6 dB between the sides", False, panned(6)),
    ("panned, up to 12 dB between the sides", False, panned(12)),
    ("two microphones, up to 3 ms and 3 dB apart", False, spaced),
    ("the same in a room", False, reverberant),
]


def warned(stereo: np.ndarray, random: np.random.Generator) -> bool:
    """Whether `separate` would name --channels each; the microphones hiss 45 dB below the talkers."""
    survey = Survey((), RATE)
    survey.push(stereo + random.standard_normal(stereo.shape) * stereo.std() * 10 ** (-45 / 20))
    return any("each" in warning for warning in survey.decide())


def rows(root: Path, pairs: int) -> Iterator[str]:
    """Of the table, in Markdown."""
    for name, expected, make in KINDS:
        cells = []
        for turns in (False, True):
            random = np.random.default_rng(1)
            count = sum(warned(make(random, talkers(root, random, turns)), random) for _ in range(pairs))
            cells.append(f"{100 * (pairs - count if expected else count) / pairs:.1f} %")
        yield f"| {name} | {'yes' if expected else 'no'} | {cells[0]} | {cells[1]} |"


def main() -> None:
    """Rows are kinds of stereo, figures the pairs that the rule gets wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--pairs", type=int, default=200)
    arguments = parser.parse_args()
    print("| | warning wanted | wrong, both talk at once | wrong, they take turns |\n| --- | --- | --- | --- |")
    for row in rows(arguments.speech, arguments.pairs):
        print(row, flush=True)


if __name__ == "__main__":
    main()
