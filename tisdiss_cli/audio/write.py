"""Writer of voices by soundfile (libsndfile): formats, subtypes, and clipping."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
_RATES = {  # Hz; the only rates of some formats
    "opus": (8000, 12_000, 16_000, 24_000, 48_000),
    "mp3": (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
}
# Most channels. The lossy formats take more for loudspeakers: Vorbis reorders them, Opus filters one as a subwoofer.
_CHANNELS = {"flac": 8, **dict.fromkeys(LOSSY, 2)}
_FINE_DB = 40.0  # least level of a voice above its rounding
_BYTES = {"16": 2, "24": 3, "32": 4, "float": 4}
_BLOCK = 1 << 16  # frames converted at a time


def choices(format: str) -> tuple[str, ...]:
    """Returns the subtypes of a format, `auto` first; lossy formats have no other."""
    return ("auto",) if format in LOSSY else ("auto", "16", "24") if format == "flac" else SUBTYPES


def check_rate(format: str, sample_rate: int) -> None:
    """Raises AudioError unless the format allows that rate in Hz."""
    rates = _RATES.get(format, (sample_rate,))
    if sample_rate not in rates:
        listed = ", ".join(map(str, rates[:-1])) + f" or {rates[-1]}"
        raise AudioError(f"--format {format} allows {listed} Hz, not {sample_rate}: choose another --format")


def check_channels(format: str, voices: int) -> None:
    """Raises AudioError unless a file of the format can have a channel for each voice."""
    if voices > (most := _CHANNELS.get(format, voices)):
        raise AudioError(f"--format {format} allows {most} channels, not {voices}: choose wav, or --layout files")


def least_subtype(source_subtype: str) -> str:
    """Returns the least of "16", "24" and "float" with the precision of libsndfile's subtype.

    "16" for lossy and unknown subtypes; "float" for 32-bit integers, as voices are computed in float.
    """
    return "float" if source_subtype in ("FLOAT", "DOUBLE", "PCM_32") else "24" if source_subtype == "PCM_24" else "16"


class Writer:
    """Writer of one voice, streamed to disk as float32; `convert` writes the final file. OSError of the disk."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        self.path, self.sample_rate = path, sample_rate
        self.peak, self.frames, self.energy = 0.0, 0, 0.0
        # W64 has no practical limit of length.
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
        """Closes the file, so that it is whole on disk."""
        with _checked(self.path):
            self.file.close()

    def clips(self, subtype: str) -> bool:
        """Returns whether a subtype would clip the voice."""
        return subtype != "float" and round(self.peak * 2.0 ** (int(subtype) - 1)) > 2 ** (int(subtype) - 1) - 1

    def coarse(self, subtype: str) -> bool:
        """Returns whether a subtype's rounding is less than 40 dB below the voice's RMS; silence is never coarse."""
        if subtype == "float" or not self.energy:
            return False
        noise = 2.0 ** (1 - int(subtype)) / sqrt(12)  # RMS of rounding to steps of that height
        return 10 * log10(self.energy / self.frames) - 20 * log10(noise) < _FINE_DB


def convert(writers: Sequence[Writer], path: Path, format: str, subtype: str) -> None:
    """Writes closed voices of one length, each as a channel, as "16", "24", "32", "float", or lossy ("auto")."""
    rate, size = writers[0].sample_rate, sum(writer.frames for writer in writers) * _BYTES.get(subtype, 0)
    container, encoding = LOSSY.get(format) or (
        container_for(format, size),
        "FLOAT" if subtype == "float" else f"PCM_{subtype}",
    )
    with _checked(path), ExitStack() as stack:
        opened = (soundfile.SoundFile(as_sndfile(writer.path)) for writer in writers)
        voices = [stack.enter_context(voice).blocks(_BLOCK, dtype="float32") for voice in opened]
        out = soundfile.SoundFile(as_sndfile(path), "w", rate, len(voices), encoding, format=container)
        stack.enter_context(out)
        for channels in zip(*voices, strict=True):
            block = np.stack(channels, axis=1)
            out.write(block if subtype in ("auto", "float") else _as_integers(block, int(subtype)))


def split_channels(path: Path, targets: Sequence[Path]) -> None:
    """Writes each channel of a file as a WAV of 16 bit to listen to; samples above full scale clip."""
    with soundfile.SoundFile(as_sndfile(path)) as file, ExitStack() as stack:
        opened = (
            soundfile.SoundFile(as_sndfile(one), "w", file.samplerate, 1, "PCM_16", format="WAV") for one in targets
        )
        outs = [stack.enter_context(out) for out in opened]
        for block in file.blocks(_BLOCK, dtype="float32", always_2d=True):
            for out, channel in zip(outs, block.T, strict=True):
                out.write(channel)


def choose_subtype(writers: Sequence[Writer], format: str, least: str) -> str:
    """Returns the first of 16, 24 and float, from `least` on, that neither clips nor is coarse for any voice.

    The format's last one if there is none; "auto" for lossy formats.
    """
    if format in LOSSY:
        return "auto"
    ladder = [subtype for subtype in ("16", "24", "float") if subtype in choices(format)]
    for subtype in ladder[ladder.index(least) if least in ladder else -1 :]:
        if not any(writer.clips(subtype) or writer.coarse(subtype) for writer in writers):
            return subtype
    return ladder[-1]


def container_for(format: str, size: int) -> str:
    """Returns libsndfile's container for that many bytes of samples: RF64 for a WAV above 4 GiB.

    AudioError for such an AIFF.
    """
    if size <= 4e9 or format not in ("wav", "aiff"):
        return format.upper()
    if format == "aiff":
        raise AudioError("a voice is longer than an AIFF's 4 GiB: use --format w64 or wav")
    return "RF64"


def _as_integers(block: np.ndarray, bits: int) -> np.ndarray:
    """Returns samples in +-1 rounded to `bits`, the upper bits of an integer for soundfile."""
    steps = np.rint(block.astype(np.float64) * 2.0 ** (bits - 1))
    return steps.astype(np.int16) if bits == 16 else (steps * 2.0 ** (32 - bits)).astype(np.int32)


def as_sndfile(path: Path) -> str | bytes:
    """Returns a path for soundfile: bytes, as names need not be UTF-8, except on Windows."""
    return str(path) if WINDOWS else os.fsencode(path)


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    """Turns soundfile's errors about writing into OSError."""
    try:
        yield
    except (soundfile.LibsndfileError, AssertionError) as error:
        # libsndfile does not say why: extending the useless file makes the system say it.
        with path.open("ab") as file:
            file.write(bytes(_BLOCK))
            file.flush()
            os.fsync(file.fileno())
        reason = getattr(error, "error_string", "") or "the disk took fewer samples than were written"
        raise OSError(str(reason).rstrip(".")) from None
