"""Sound files: find them, stream them in at the network's rate, stream voices out without clipping.

Files go through soundfile (libsndfile), resampling through torchaudio. Everything streams: no file,
however long, is ever held whole, except by `read`.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from tisdiss_cli.errors import UserError

_NAMES = "wav wave flac ogg oga opus mp3 aiff aif aifc au snd caf w64 rf64 voc nist sph"
EXTENSIONS = frozenset(f".{name}" for name in _NAMES.split())
_BLOCK = 1 << 16  # frames read at a time


class AudioError(UserError):
    """A sound file that cannot be used; the sentence names it and the reason."""


def find(root: Path) -> list[Path]:
    """Sound files under a folder, by extension, recursively, in a stable order; hidden ones are left out."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not path.is_dir()
    )


def _reason(error: Exception) -> str:
    return getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")


class Resampler:
    """torchaudio's band-limited resampling, block by block; the blocks join to what the whole would give.

    A long windowed sinc (torchaudio's "kaiser best" settings): flat to about 0.9 of the lower Nyquist
    frequency. Rates with no small common ratio are approximated to within one part in a million.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        ratio = Fraction(from_rate, to_rate)
        if ratio.numerator * ratio.denominator > 1 << 22:  # the kernel table would not fit
            ratio = ratio.limit_denominator(1000)
        self.down, self.up = ratio.numerator, ratio.denominator
        self.transform = torchaudio.transforms.Resample(
            self.down,
            self.up,
            resampling_method="sinc_interp_kaiser",
            lowpass_filter_width=64,
            rolloff=0.9475937167399596,
            beta=14.769656459379492,
        )
        # Input that an output sample depends on, each side, as a whole number of periods of the ratio.
        reach = 64 / 0.94 * max(1.0, self.down / self.up) + self.down
        self.context = -(-int(reach + 1) // self.down) * self.down
        self.buffer = torch.zeros(self.context)
        self.received = self.sent = 0

    def push(self, x: Tensor) -> Tensor:
        """The output samples (m,) that the input so far, and this block (n,), settle."""
        if self.down == self.up:
            return x
        self.received += x.shape[-1]
        return self._advance(torch.cat((self.buffer, x)))

    def finish(self) -> Tensor:
        """The rest; in all, ceil(n * to_rate / from_rate) samples come out."""
        if self.down == self.up:
            return torch.zeros(0)
        total = -(-self.received * self.up // self.down)
        rest = self._advance(torch.cat((self.buffer, torch.zeros(self.context + self.down))))
        return rest[: rest.shape[0] - (self.sent - total)]

    def _advance(self, buffered: Tensor) -> Tensor:
        periods = (buffered.shape[0] - 2 * self.context) // self.down
        if periods <= 0:
            self.buffer = buffered
            return torch.zeros(0)
        used = 2 * self.context + periods * self.down
        skip = self.context // self.down * self.up
        y = self.transform(buffered[:used])[skip : skip + periods * self.up]
        self.buffer = buffered[periods * self.down :].clone()
        self.sent += y.shape[0]
        return y


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
            self.file = soundfile.SoundFile(path)
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
        return soundfile.info(path).duration
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


class Writer:
    """One voice, streamed to disk: float32 while it grows, 16 bit in the end unless that would clip.

    OSError when the disk does not take it.
    """

    def __init__(self, path: Path, sample_rate: int, *, seconds: float) -> None:
        self.path, self.sample_rate = path, sample_rate
        # A WAV file ends at 4 GiB; RF64 is the same with wider sizes.
        self.container = "RF64" if seconds * sample_rate * 4 > 4e9 else "WAV"
        self.peak, self.frames = 0.0, 0
        self.file = _checked(soundfile.SoundFile, path, "w", sample_rate, 1, "FLOAT", format=self.container)

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
            soundfile.SoundFile(self.path) as voice,
            _checked(soundfile.SoundFile, path, "w", self.sample_rate, 1, "PCM_16", format=format.upper()) as out,
        ):
            for block in voice.blocks(_BLOCK, dtype="float32"):
                _checked(out.write, np.rint(block * 32768.0).astype(np.int16))


def _checked(call, *args, **kwargs):  # noqa: ANN001, ANN002, ANN003, ANN202  as the wrapped call
    """soundfile's ways to say that a write failed, as OSError."""
    try:
        return call(*args, **kwargs)
    except (soundfile.LibsndfileError, AssertionError) as error:
        reason = getattr(error, "error_string", "") or "the disk took fewer samples than were written"
        raise OSError(str(reason).rstrip(".")) from None
