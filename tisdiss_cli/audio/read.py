"""A sound file as a stream of mono blocks at a given rate, by soundfile (libsndfile).

Everything streams: no file, however long, is ever held whole, except by `read`.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.errors import UserError

_BLOCK = 1 << 16  # frames read at a time


class AudioError(UserError):
    """A sound file that cannot be used; the sentence names it and the reason."""


def _reason(error: Exception) -> str:
    return getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")


class Source:
    """A sound file as a stream of mono float32 blocks at a given rate.

    Attributes:
        input_rate: the file's own rate, Hz.
        seconds: its length as its header has it.
        frames: frames read so far, at the file's rate.

    Raises:
        AudioError: here or while streaming, when the file is missing, empty, no sound file, damaged,
            shorter than its header says, or has NaN or infinite samples.
    """

    def __init__(self, path: Path, sample_rate: int) -> None:
        self.path, self.sample_rate, self.frames = path, sample_rate, 0
        try:
            size = path.stat().st_size
            with path.open("rb"):
                pass
        except OSError as error:
            raise AudioError(f"{path} cannot be read: {error.strerror or error}") from None
        if size == 0:
            raise AudioError(f"{path} is empty (0 bytes)")
        try:
            self.file = soundfile.SoundFile(os.fsencode(path))
        except (soundfile.LibsndfileError, TypeError) as error:
            reason = _reason(error)
            raise AudioError(f"{path} is no sound file that libsndfile can read: {reason}") from None
        self.input_rate = self.file.samplerate
        self.seconds = self.file.frames / self.input_rate
        if _cut_short(self.path, self.file.extra_info):
            self.file.close()
            raise AudioError(f"{path} is truncated: its header announces more samples than it holds")

    def blocks(self) -> Iterator[Tensor]:
        """Yields (n,) float32 tensors, channels averaged, resampled; closes the file at the end."""
        resampler = Resampler(self.input_rate, self.sample_rate)
        with self.file:
            while True:
                try:
                    block = self.file.read(_BLOCK, dtype="float32", always_2d=True)
                except (soundfile.LibsndfileError, OSError) as error:
                    reason = _reason(error)
                    at = self.frames / self.input_rate
                    raise AudioError(f"{self.path} is damaged or truncated after {at:.2f} s: {reason}") from None
                if not len(block):
                    break
                bad = ~np.isfinite(block).all(axis=1)
                if bad.any():
                    at = (self.frames + int(bad.argmax())) / self.input_rate
                    raise AudioError(f"{self.path} has NaN or infinite samples, the first at {at:.3f} s")
                self.frames += len(block)
                yield resampler.push(torch.from_numpy(block.mean(axis=1)))
        if self.frames == 0:
            raise AudioError(f"{self.path} has no samples")
        # An MP3's length is an estimate unless its header has it: a small difference is no damage.
        slack = 0.02 * self.file.frames if self.file.format == "MP3" else 0
        if self.frames < self.file.frames - slack:
            raise AudioError(
                f"{self.path} is truncated: it holds {self.frames / self.input_rate:.2f} s of {self.seconds:.2f} s"
            )
        yield resampler.finish()


def announced_seconds(path: Path) -> float:
    """A file's length by its header, in seconds; 0 where that cannot be read: `Source` has the reason."""
    try:
        return soundfile.info(os.fsencode(path)).duration
    except (soundfile.LibsndfileError, OSError, TypeError, ZeroDivisionError):
        return 0.0


def _cut_short(path: Path, log: str) -> bool:
    """Whether libsndfile's log of the header, or an Ogg file's last page, shows that data is missing."""
    for declared, found in re.findall(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", log, re.M):
        # Recorders that stream write a size near 2^31 or 2^32 and mean "unknown".
        if int(found) < int(declared) < 0x7FFF0000:
            return True
    if path.suffix.lower() in (".ogg", ".oga", ".opus"):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - (1 << 17)))
            tail = file.read()
        page = tail.rfind(b"OggS")
        return page >= 0 and tail[page + 5 : page + 6] < b"\x04"  # no end-of-stream flag
    return False


def read(path: Path, sample_rate: int) -> Tensor:
    """A whole file (L,), mono, at `sample_rate`; AudioError as `Source`."""
    return torch.cat(list(Source(path, sample_rate).blocks()))
