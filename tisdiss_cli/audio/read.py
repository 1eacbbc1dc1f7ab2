"""A sound file as a stream of mono blocks at a given rate.

libsndfile reads what it reads well (wav, flac, ogg, aiff, ...), FFmpeg all else (m4a, mp4, webm, wma, amr, mp3, ...)
and what libsndfile cannot open. Everything streams: no file, however long, is ever held whole, except by `read`.
"""

import logging
import re
from collections.abc import Iterator
from copy import copy
from fractions import Fraction
from math import ceil
from pathlib import Path
from stat import S_ISREG

import numpy as np
import torch
from torch import Tensor

from tisdiss_cli.audio.channels import ChannelError, Mix, Survey, chosen
from tisdiss_cli.audio.decode import DecodeError, Decoder
from tisdiss_cli.audio.part import SLACK, Part
from tisdiss_cli.audio.parts import find_parts
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.audio.sndfile import Sndfile, Window
from tisdiss_cli.errors import UserError

RATES = (1_000, 768_000)  # Hz; a header with another is damaged
MOST_CHANNELS = 64
# libsndfile stops early in an MP3 that lacks a Xing header or has more than that says, and knows none of the others.
_FOR_FFMPEG = ("mp3", "mp4", "matroska", "asf", "amr", "avi")

log = logging.getLogger("tisdiss")


class AudioError(UserError):
    """A sound file that cannot be used; the sentence names it and the reason."""


class Source:
    """A sound file as a stream of mono float32 blocks at a given rate.

    A file whose header promises up to 0.1 s more than it holds, or less, or nothing at all (written to a pipe, or the
    recorder died), is read to its end, with a warning. Recordings joined end to end are read one after the other.

    Attributes:
        input_rate: the file's own rate, Hz, at its begin.
        channels: at its begin.
        subtype: libsndfile's name of the type of its samples, or FFmpeg's of the codec in capitals.
        seconds: its length as its header has it; 0 where it has none.
        frames: frames read so far, at the file's rate.
        warnings: what a user should know of it, sentences without the file's name; grows while streaming.

    Args:
        path: the file.
        sample_rate: to resample to, Hz.
        track: which audio track of a container, from 1 on; None: the first.
        partial: take what there is of a truncated or damaged file, with a warning.
        wanted: the channels that are averaged, from 1 on; () for all.
        joined: look for recordings joined end to end; without it, only what the header says is told cheaply.

    Raises:
        AudioError: here or while streaming, when the file is missing, empty, no regular file, no sound file, damaged,
            shorter than its header says by more than 0.1 s, of absurd rate or number of channels, lacks a wanted
            channel, or has NaN or infinite samples.
    """

    def __init__(
        self,
        path: Path,
        sample_rate: int,
        *,
        track: int | None = None,
        partial: bool = False,
        wanted: tuple[int, ...] = (),
        joined: bool = True,
    ) -> None:
        self.path, self.sample_rate, self.frames = path, sample_rate, 0
        self.track, self.partial, self.wanted, self.joined = track, partial, wanted, joined
        self.warnings: list[str] = []
        self.mix: Mix | None = None
        self.parts = self._find_parts()
        self.file = self._open(self.parts[0])
        self.input_rate, self.channels, self.subtype = self.file.samplerate, self.file.channels, self.file.subtype
        self.seconds = self.file.seconds
        for part in self.parts[1:]:
            other = self._open(part)
            self.seconds += other.seconds
            other.close()
        notes = dict.fromkeys(part.note for part in self.parts if part.note and not part.cut)
        self.warnings += [f"{note}: all that is there is taken" for note in notes]
        if len(self.parts) > 1:
            self.warnings.append(f"it is {len(self.parts)} recordings joined end to end: all of them are taken")

    def blocks(self) -> Iterator[Tensor]:
        """Yields (n,) float32 tensors, channels averaged, resampled; closes the file at the end."""
        resampler, rate, frames = Resampler(self.input_rate, self.sample_rate), self.input_rate, Fraction()
        for rate_here, block in self._all_blocks():
            if rate_here != rate:  # on the way
                yield resampler.finish()
                resampler, rate = Resampler(rate_here, self.sample_rate), rate_here
            bad = ~np.isfinite(block).all(axis=1)
            if bad.any():
                at = self.frames / self.input_rate + int(bad.argmax()) / rate
                raise AudioError(f"{self.path} has NaN or infinite samples, the first at {at:.3f} s")
            frames += Fraction(len(block) * self.input_rate, rate)
            self.frames = ceil(frames)
            yield resampler.push(torch.from_numpy(self._mixed(block)))
        if self.frames == 0:
            raise AudioError(f"{self.path} has no samples")
        yield resampler.finish()

    def close(self) -> None:
        """Ends it early."""
        self.file.close()

    def _mixed(self, block: np.ndarray) -> np.ndarray:
        """(n, channels) -> (n,); the first time that several are to be averaged, after a pass over the whole file."""
        try:
            if not self.mix and len(chosen(self.wanted, block.shape[1])) > 1:
                survey, other = Survey(self.wanted, self.input_rate), copy(self)
                other.warnings, other.file = [], self._open(self.parts[0])
                for _, first in other._all_blocks():
                    survey.push(first)
                self.mix = survey.mix()
                self.warnings += self.mix.warnings
            return (self.mix or Mix(self.wanted))(block)
        except ChannelError as error:
            raise AudioError(f"{self.path} {error}") from None

    def _find_parts(self) -> list[Part]:
        path = self.path
        try:
            status = path.stat()
            if not S_ISREG(status.st_mode):
                raise AudioError(f"{path} is no regular file: record it to one first")
            if status.st_size == 0:
                raise AudioError(f"{path} is empty (0 bytes)")
            return find_parts(path, search=self.joined)
        except AudioError:
            raise
        except (OSError, ValueError) as error:  # ValueError: of a file that has just become empty
            raise AudioError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None

    def _open(self, part: Part) -> Sndfile | Decoder:
        try:
            file = self._reader(part)
        except OSError as error:
            raise AudioError(f"{self.path} cannot be read: {error.strerror or error}") from None
        except DecodeError as error:
            if part.missing:
                raise AudioError(f"{self.path} is truncated, and what there is of it cannot be decoded") from None
            raise AudioError(f"{self.path} {error}") from None
        try:
            self._check(file.samplerate, file.channels)
            if part.missing and not part.byte_rate and file.seconds:
                part.byte_rate = (part.end - part.start + part.missing) / file.seconds
            cut = part.cut or (isinstance(file, Sndfile) and not part.kind and _cut_short(file.log))
            if cut and not self.partial:
                raise AudioError(
                    f"{self.path} is truncated: its header announces more samples than it holds; "
                    "`tisdiss separate --partial` takes those"
                )
        except AudioError:
            file.close()
            raise
        return file

    def _reader(self, part: Part) -> Sndfile | Decoder:
        by_ffmpeg = part.kind in _FOR_FFMPEG or (self.track or 1) > 1
        if part.kind in ("flac", "ogg"):  # libsndfile gives nothing of a block that is damaged somewhere
            by_ffmpeg |= self.partial or (part.kind == "flac" and bool(part.note))
        reason = ""
        if not by_ffmpeg:
            try:
                file = Sndfile(self.path, part, whole=len(self.parts) == 1 and part.start == 0)
                if file.format != "MP3" and not file.subtype.startswith("MPEG"):
                    return file
                file.close()
            except DecodeError as error:
                reason = str(error)
        window = Window(self.path, part)
        try:
            return Decoder(window, track=self.track or 1, lenient=self.partial or bool(part.missing))
        except DecodeError as error:
            window.close()
            if reason and str(error).startswith("is no sound file"):
                raise DecodeError(f"is no sound file that libsndfile or FFmpeg can read: {reason}") from None
            raise

    def _check(self, rate: int, channels: int) -> None:
        if not RATES[0] <= rate <= RATES[1]:
            raise AudioError(f"{self.path} has a rate of {rate} Hz: it must be {RATES[0]} to {RATES[1]} Hz")
        if not 1 <= channels <= MOST_CHANNELS:
            raise AudioError(f"{self.path} has {channels} channels: it must be 1 to {MOST_CHANNELS}")

    def _all_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(rate, samples (n, channels)) of one part after the other; warnings on the way."""
        kind = self.input_rate, self.channels
        at = 0.0
        for number, part in enumerate(self.parts):
            file = self._open(part) if number else self.file
            seconds = 0.0
            try:
                for rate, block in file.blocks():
                    if (rate, block.shape[1]) != kind:
                        kind = rate, block.shape[1]
                        self._check(*kind)
                        self.warnings.append(f"from {at + seconds:.2f} s on it has {kind[0]} Hz, {kind[1]} channels")
                    seconds += len(block) / rate
                    yield rate, block
            except DecodeError as error:
                if not self.partial:
                    raise AudioError(f"{self.path} {error}") from None
                self.warnings.append(f"it {error}: what comes before is taken")
            finally:
                file.close()
            self._compare(file, part, seconds)
            at += seconds

    def _compare(self, file: Sndfile | Decoder, part: Part, seconds: float) -> None:
        """What a part held with what was promised of it."""
        if file.lost:
            count = "a packet" if len(file.lost) == 1 else f"{len(file.lost)} packets"
            self.warnings.append(f"{count} could not be decoded, the first at {file.lost[0]:.2f} s: left out")
        if file.gaps:
            missing, at = sum(length for _, length in file.gaps), file.gaps[0][0]
            self.warnings.append(f"{missing:.2f} s are missing by its timestamps, the first at {at:.2f} s")
        promised, slack = 0.0, SLACK
        if part.cut:
            if part.kind in ("mp4", "matroska"):
                promised = file.seconds
            elif part.kind in ("wav", "aiff", "au"):
                promised = seconds + part.missing / max(1.0, part.byte_rate)
        elif part.frames is not None and file.packets:
            promised = part.frames * seconds / file.packets
        elif file.frames is not None:
            promised = file.frames / file.samplerate
            slack += 0.01 * promised if isinstance(file, Decoder) and part.kind != "flac" else 0
        if isinstance(file, Decoder) and file.reached < 0.99 * file.whole - SLACK and not part.cut:
            promised = max(promised, seconds + file.whole - file.reached)
        if promised - seconds > slack or part.cut:
            held = f"it holds {seconds:.2f} s" + f" of {promised:.2f} s" * (promised > seconds)
            if not self.partial:
                raise AudioError(
                    f"{self.path} is damaged or truncated: {held}; `tisdiss separate --partial` takes those"
                )
            self.warnings.append(f"it is damaged or truncated: {held}, which are taken")
        elif part.frames is not None and seconds - promised > SLACK:
            self.warnings.append(f"its header announces {promised:.2f} s, it holds {seconds:.2f} s: all of it is taken")
        elif promised - seconds > 0.5 / file.samplerate and isinstance(file, Sndfile):
            self.warnings.append(f"its header announces {promised:.3f} s, it holds {seconds:.3f} s")


def announced_seconds(path: Path, track: int | None = None) -> float:
    """A file's length by its header, in seconds; 0 where that cannot be read: `Source` has the reason.

    Of flac, ogg and amr joined end to end the first alone: to find the others, all of the file would have to be read.
    """
    try:
        source = Source(path, RATES[0], track=track, partial=True, joined=False)
    except AudioError:
        return 0.0
    source.close()
    return source.seconds


def channel_count(path: Path, track: int | None = None) -> int:
    """How many channels a file has at its begin; AudioError as `Source`."""
    source = Source(path, RATES[0], track=track, partial=True, joined=False)
    source.close()
    return source.channels


def input_rate(path: Path) -> int:
    """A file's own rate, Hz; AudioError as `Source`."""
    source = Source(path, RATES[0], joined=False)
    source.close()
    return source.input_rate


def read(path: Path, sample_rate: int, warnings: list[str] | None = None) -> Tensor:
    """A whole file (L,), mono, at `sample_rate`; AudioError as `Source`.

    What a user should know of it is appended to `warnings`, with the file's name, or else logged.
    """
    source = Source(path, sample_rate)
    waveform = torch.cat(list(source.blocks()))
    for warning in source.warnings:
        if warnings is None:
            log.warning(f"{path}: {warning}")
        else:
            warnings.append(f"{path}: {warning}")
    return waveform


def _cut_short(log: str) -> bool:
    """Whether libsndfile's log of a header shows that data is missing."""
    for declared, found in re.findall(r"^\s*(?:data|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", log, re.M):
        # Recorders that stream write a size near 2^31 or 2^32 and mean "unknown".
        if int(found) < int(declared) < 0x7FFF0000:
            return True
    return False
