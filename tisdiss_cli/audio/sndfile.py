"""Sound by soundfile (libsndfile), of a whole file or of a part whose header it shall read otherwise."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from tisdiss_cli.audio.decode import DecodeError
from tisdiss_cli.audio.part import Part

_BLOCK = 1 << 16  # frames read at a time
_MOST_FRAMES = 1 << 48  # a header that has more means that it does not know


class Window(io.RawIOBase):
    """A part of a file as a file for reading, with some bytes replaced."""

    def __init__(self, path: Path, part: Part) -> None:
        self.file, self.part, self.at = path.open("rb"), part, 0
        self.length = part.end - part.start

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes from the part's begin."""
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file that is the part alone."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.length}[whence]
        self.at = max(0, base + offset)
        return self.at

    def readinto(self, buffer) -> int:  # noqa: ANN001  any writable buffer
        """Reads up to the part's end, whatever has been appended to the file since."""
        view = memoryview(buffer).cast("B")
        self.file.seek(self.part.start + self.at)
        count = self.file.readinto(view[: max(0, min(len(view), self.length - self.at))])
        for place, patch in self.part.patches.items():
            for index, byte in enumerate(patch, place - self.at):
                if 0 <= index < count:
                    view[index] = byte
        self.at += count
        return count

    def close(self) -> None:
        """Closes the file as well."""
        self.file.close()
        super().close()


class Sndfile:
    """A sound file by libsndfile; attributes and errors as `decode.Decoder`."""

    def __init__(self, path: Path, part: Part, *, whole: bool) -> None:
        self.window = None if whole and not part.patches else Window(path, part)
        # As bytes, for names that are no text; Windows has none such.
        name = self.window or (str(path) if os.name == "nt" else os.fsencode(path))
        try:
            self.file = soundfile.SoundFile(name)
        except (soundfile.LibsndfileError, TypeError) as error:
            self.close()
            raise DecodeError(_reason(error)) from None
        self.samplerate, self.channels, self.format = self.file.samplerate, self.file.channels, self.file.format
        self.subtype = self.file.subtype
        self.frames = self.file.frames if 0 <= self.file.frames < _MOST_FRAMES else None
        self.seconds = (self.frames or 0) / max(1, self.samplerate)
        self.lost: list[float] = []
        self.gaps: list[tuple[float, float]] = []
        self.packets = 0
        self.log = self.file.extra_info

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (rate, samples (n, channels) float32)."""
        at = 0
        while True:
            try:
                block = self.file.read(_BLOCK, dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, OSError) as error:
                reason = _reason(error)
                raise DecodeError(f"is damaged or truncated after {at / self.samplerate:.2f} s: {reason}") from None
            if not len(block):
                return
            at += len(block)
            yield self.samplerate, block

    def close(self) -> None:
        """Ends it."""
        if hasattr(self, "file"):
            self.file.close()
        if self.window:
            self.window.close()


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
