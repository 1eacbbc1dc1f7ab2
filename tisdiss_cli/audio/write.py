"""One voice on its way to disk, by soundfile (libsndfile)."""

import os
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor

_BLOCK = 1 << 16  # frames converted at a time


class Writer:
    """One voice, streamed to disk: float32 while it grows, 16 bit in the end unless that would clip.

    OSError when the disk does not take it.
    """

    def __init__(self, path: Path, sample_rate: int, *, seconds: float) -> None:
        self.path, self.sample_rate = path, sample_rate
        # A WAV file ends at 4 GiB; RF64 is the same with wider sizes.
        self.container = "RF64" if seconds * sample_rate * 4 > 4e9 else "WAV"
        self.peak, self.frames = 0.0, 0
        self.file = _checked(soundfile.SoundFile, _name(path), "w", sample_rate, 1, "FLOAT", format=self.container)

    def write(self, x: Tensor) -> None:
        """Appends samples (n,), float32."""
        if x.shape[0]:
            self.peak = max(self.peak, float(x.abs().max()))
            self.frames += x.shape[0]
            _checked(self.file.write, x.numpy())

    def close(self) -> None:
        """Ends the file, so that it is whole on disk."""
        _checked(self.file.close)

    @property
    def clips(self) -> bool:
        """Whether 16 bit could not hold what was written."""
        return not -32768 <= round(self.peak * 32768) <= 32767

    def convert(self, path: Path, format: str) -> None:
        """Writes the closed file again, as 16 bit "wav" or "flac"."""
        with (
            soundfile.SoundFile(_name(self.path)) as voice,
            _checked(
                soundfile.SoundFile, _name(path), "w", self.sample_rate, 1, "PCM_16", format=format.upper()
            ) as out,
        ):
            for block in voice.blocks(_BLOCK, dtype="float32"):
                _checked(out.write, np.rint(block * 32768.0).astype(np.int16))


def _name(path: Path) -> str | bytes:
    """As soundfile takes it: bytes, for a name need not be UTF-8, except on Windows."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def _checked(call, *args, **kwargs):  # noqa: ANN001, ANN002, ANN003, ANN202  as the wrapped call
    """soundfile's ways to say that a write failed, as OSError."""
    try:
        return call(*args, **kwargs)
    except (soundfile.LibsndfileError, AssertionError) as error:
        reason = getattr(error, "error_string", "") or "the disk took fewer samples than were written"
        raise OSError(str(reason).rstrip(".")) from None
