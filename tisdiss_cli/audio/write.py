"""One voice on its way to disk, by soundfile (libsndfile): the formats, and how finely they hold a voice."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import log10, sqrt
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor

from tisdiss_cli.audio.read import AudioError
from tisdiss_cli.files import WINDOWS

FORMATS = ("wav", "flac", "ogg", "opus", "mp3", "aiff", "w64")
SUBTYPES = ("auto", "16", "24", "32", "float")
LOSSY = {"ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III")}
_RATES = {  # Hz, where libsndfile takes no others
    "opus": (8000, 12_000, 16_000, 24_000, 48_000),
    "mp3": (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
}
_FINE_DB = 40.0  # rounding lies at least so far below a voice
_BYTES = {"16": 2, "24": 3, "32": 4, "float": 4}
_BLOCK = 1 << 16  # frames converted at a time


def choices(format: str) -> tuple[str, ...]:
    """Returns the subtypes that a format can hold, `auto` first; a lossy one has no other."""
    return ("auto",) if format in LOSSY else ("auto", "16", "24") if format == "flac" else SUBTYPES


def check_rate(format: str, sample_rate: int) -> None:
    """Raises AudioError unless the format takes that rate, in Hz."""
    rates = _RATES.get(format, (sample_rate,))
    if sample_rate not in rates:
        listed = ", ".join(map(str, rates[:-1])) + f" or {rates[-1]}"
        raise AudioError(f"--format {format} holds {listed} Hz, not {sample_rate}: choose another --format")


def least_subtype(source_subtype: str) -> str:
    """Returns what holds all that a file of libsndfile's subtype holds: "16", "24" or "float".

    "16" for lossy and unknown ones; 32-bit integers ask for float, as voices are computed in it.
    """
    return "float" if source_subtype in ("FLOAT", "DOUBLE", "PCM_32") else "24" if source_subtype == "PCM_24" else "16"


class Writer:
    """One voice, streamed to disk as float32 while it grows; `convert` makes of it what is wanted.

    OSError when the disk does not take it.
    """

    def __init__(self, path: Path, sample_rate: int) -> None:
        self.path, self.sample_rate = path, sample_rate
        self.peak, self.frames, self.energy = 0.0, 0, 0.0
        # W64 has no limit of length that anyone meets.
        with _checked(path):
            self.file = soundfile.SoundFile(as_sndfile(path), "w", sample_rate, 1, "FLOAT", format="W64")

    def write(self, x: Tensor) -> None:
        """Appends samples (n,), float32."""
        if x.shape[0]:
            self.peak = max(self.peak, float(x.abs().max()))
            self.energy += float(x.double().square().sum())
            self.frames += x.shape[0]
            with _checked(self.path):
                self.file.write(x.numpy())

    def close(self) -> None:
        """Ends the file, so that it is whole on disk."""
        with _checked(self.path):
            self.file.close()

    def clips(self, subtype: str) -> bool:
        """Tells if a subtype could not hold what was written."""
        return subtype != "float" and round(self.peak * 2.0 ** (int(subtype) - 1)) > 2 ** (int(subtype) - 1) - 1

    def coarse(self, subtype: str) -> bool:
        """Tells if a subtype's rounding would lie less than 40 dB below the voice's RMS; silence is never coarse."""
        if subtype == "float" or not self.energy:
            return False
        noise = 2.0 ** (1 - int(subtype)) / sqrt(12)  # RMS of rounding to steps of that height
        return 10 * log10(self.energy / self.frames) - 20 * log10(noise) < _FINE_DB

    def convert(self, path: Path, format: str, subtype: str) -> None:
        """Writes the closed file again, as a format has it: "16", "24", "32" or "float", or lossy ("auto")."""
        container, encoding = LOSSY.get(format) or (
            container_for(format, self.frames * _BYTES[subtype]),
            "FLOAT" if subtype == "float" else f"PCM_{subtype}",
        )
        with (
            _checked(path),
            soundfile.SoundFile(as_sndfile(self.path)) as voice,
            soundfile.SoundFile(as_sndfile(path), "w", self.sample_rate, 1, encoding, format=container) as out,
        ):
            for block in voice.blocks(_BLOCK, dtype="float32"):
                out.write(block if subtype in ("auto", "float") else _as_integers(block, int(subtype)))


def choose_subtype(writers: Sequence[Writer], format: str, least: str) -> str:
    """Returns the first of 16, 24 and float from `least` on that neither clips nor is coarse for any of the voices.

    Where the format ends before float, what it ends with; "auto" for lossy ones.
    """
    if format in LOSSY:
        return "auto"
    ladder = [subtype for subtype in ("16", "24", "float") if subtype in choices(format)]
    for subtype in ladder[ladder.index(least) if least in ladder else -1 :]:
        if not any(writer.clips(subtype) or writer.coarse(subtype) for writer in writers):
            return subtype
    return ladder[-1]


def container_for(format: str, size: int) -> str:
    """Returns libsndfile's name of the file that holds so many bytes of samples: a WAV ends at 4 GiB, RF64 goes on.

    AudioError for an AIFF of that size.
    """
    if size <= 4e9 or format not in ("wav", "aiff"):
        return format.upper()
    if format == "aiff":
        raise AudioError("an AIFF ends at 4 GiB, and a voice is longer: use --format w64 or wav")
    return "RF64"


def _as_integers(block: np.ndarray, bits: int) -> np.ndarray:
    """Returns samples in +-1 rounded to so many bits, the upper ones of an integer that soundfile takes."""
    steps = np.rint(block.astype(np.float64) * 2.0 ** (bits - 1))
    return steps.astype(np.int16) if bits == 16 else (steps * 2.0 ** (32 - bits)).astype(np.int32)


def as_sndfile(path: Path) -> str | bytes:
    """Returns a path as soundfile takes it: bytes, for a name need not be UTF-8, except on Windows."""
    return str(path) if WINDOWS else os.fsencode(path)


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    """Turns soundfile's ways to say that a file cannot be written into OSError."""
    try:
        yield
    except (soundfile.LibsndfileError, AssertionError) as error:
        # libsndfile does not tell why: where a file that is of no use any more cannot be made longer, the system does.
        with path.open("ab") as file:
            file.write(bytes(_BLOCK))
            file.flush()
            os.fsync(file.fileno())
        reason = getattr(error, "error_string", "") or "the disk took fewer samples than were written"
        raise OSError(str(reason).rstrip(".")) from None
