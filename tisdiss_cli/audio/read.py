"""A sound file as a stream of mono blocks at a given rate.

Everything streams: no file, however long, is ever held whole, except by `read`.
"""

import logging
from collections.abc import Iterator
from copy import copy
from fractions import Fraction
from math import ceil
from pathlib import Path
from stat import S_ISREG

import numpy as np
import torch
from torch import Tensor

from tisdiss_cli.audio.channels import Survey, chosen
from tisdiss_cli.audio.decode import DecodeError, Decoder
from tisdiss_cli.audio.header import Part, find_parts
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.errors import UserError

RATES = (1_000, 768_000)  # Hz; a header with another is damaged
MOST_CHANNELS = 64
_PARTIAL = "`tisdiss separate --partial` takes those"

log = logging.getLogger("tisdiss")


class AudioError(UserError):
    """A sound file that cannot be used; the sentence names it and the reason."""


class Source:
    """A sound file as a stream of mono float32 blocks at a given rate.

    A WAV whose header promises up to 0.1 s more than it holds, or less, or nothing at all (written to a pipe, or the
    recorder died), is read to its end, with a warning. WAV files joined end to end are read one after the other.

    Attributes:
        input_rate, channels: the file's own, Hz, at its begin.
        subtype, start: as `Decoder` has them.
        seconds: its length as its header has it; 0 where it has none.
        frames: read so far, at the file's rate.
        warnings: what a user should know of it, sentences without the file's name; grows while streaming.

    Args:
        path: the file.
        sample_rate: to resample to, Hz.
        track: which audio track of a container, from 1 on; None: the first.
        partial: take what there is of a truncated or damaged file, with a warning.
        wanted: the channels that are averaged, from 1 on; () for all.

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
    ) -> None:
        self.path, self.sample_rate, self.frames = path, sample_rate, 0
        self.track, self.partial, self.wanted = track, partial, wanted
        self.warnings: list[str] = []
        self.parts = self._find_parts()
        self.file = self._open(self.parts[0])
        self.input_rate, self.channels, self.subtype = self.file.samplerate, self.file.channels, self.file.subtype
        self.start, self.survey = self.file.start, Survey(wanted, self.input_rate)
        others = ((part.end - part.start) / part.byte_rate for part in self.parts[1:] if part.byte_rate)
        self.seconds = self.file.seconds + sum(others)
        notes = dict.fromkeys(part.note for part in self.parts if part.note and not part.cut)
        self.warnings += [f"{note}: all that is there is taken" for note in notes]
        if len(self.parts) > 1:
            self.warnings.append(f"it is {len(self.parts)} recordings joined end to end: all of them are taken")
        if self.start:
            self.warnings.append(f"its sound begins {self.start:.2f} s after its video or another of its tracks")

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
        """Returns (n,) of (n, channels); before it averages several, after a pass over the whole file."""
        if not self.survey.tallies and len(chosen(self.wanted, block.shape[1])) > 1:
            other = copy(self)
            other.warnings, other.file = [], self._open(self.parts[0])
            for _, first in other._all_blocks():
                self.survey.push(first)
            self.warnings += self.survey.decide()
        return self.survey.mix(block)

    def _find_parts(self) -> list[Part]:
        path = self.path
        try:
            status = path.stat()
            if not S_ISREG(status.st_mode):
                raise AudioError(f"{path} is no regular file: record it to one first")
            if status.st_size == 0:
                raise AudioError(f"{path} is empty (0 bytes)")
            return find_parts(path)
        except OSError as error:
            raise AudioError(f"{path} cannot be read: {error.strerror or error}") from None

    def _open(self, part: Part) -> Decoder:
        if part.cut and not self.partial:
            raise AudioError(f"{self.path} is truncated: its header announces more than it holds; {_PARTIAL}")
        try:
            file = Decoder(self.path, part, track=self.track or 1, partial=self.partial)
        except OSError as error:
            raise AudioError(f"{self.path} cannot be read: {error.strerror or error}") from None
        except DecodeError as error:
            raise AudioError(f"{self.path} {error}") from None
        try:
            self._check(file.samplerate, file.channels)
        except AudioError:
            file.close()
            raise
        return file

    def _check(self, rate: int, channels: int) -> None:
        if not RATES[0] <= rate <= RATES[1]:
            raise AudioError(f"{self.path} has a rate of {rate} Hz: it must be {RATES[0]} to {RATES[1]} Hz")
        if not 1 <= channels <= MOST_CHANNELS:
            raise AudioError(f"{self.path} has {channels} channels: it must be 1 to {MOST_CHANNELS}")
        if missing := [number for number in self.wanted if number > channels]:
            has = "one channel" if channels == 1 else f"{channels} channels"
            raise AudioError(f"{self.path} has {has}, no channel {missing[0]}: choose another with --channels")

    def _all_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (rate, samples (n, channels)) of one part after the other; warnings on the way."""
        kind, at = (self.input_rate, self.channels), 0.0
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
            except (DecodeError, OSError) as error:
                reason = error if isinstance(error, DecodeError) else f"cannot be read to its end: {error}"
                if not self.partial:
                    raise AudioError(f"{self.path} {reason}") from None
                self.warnings.append(f"it {reason}: what comes before is taken")
            finally:
                file.close()
            self._compare(file, part)
            at += seconds

    def _compare(self, file: Decoder, part: Part) -> None:
        """Tells what is lost or missing of a part, and what is more than was promised."""
        if file.lost:
            count = "a packet" if len(file.lost) == 1 else f"{len(file.lost)} packets"
            self.warnings.append(f"{count} could not be decoded, the first at {file.lost[0]:.2f} s: left out")
        if file.gaps:
            missing, at = sum(length for _, length in file.gaps), file.gaps[0][0]
            self.warnings.append(f"{missing:.2f} s are missing by its timestamps, the first at {at:.2f} s")
        held, short = file.decoded, file.shortfall()
        if part.cut:
            short = part.missing / part.byte_rate if part.byte_rate else None
        if short is None or short > 0:
            sentence = f"damaged or truncated: it holds {held:.2f} s" + (f" of {held + short:.2f} s" if short else "")
            if not self.partial:
                raise AudioError(f"{self.path} is {sentence}; {_PARTIAL}")
            self.warnings.append(f"it is {sentence}, which are taken")
        elif short < 0:
            self.warnings.append(
                f"its header announces {held + short:.2f} s, it holds {held:.2f} s: all of it is taken"
            )


def probe(path: Path, track: int | None = None, partial: bool = False) -> Source:
    """Returns a source that is closed already, for what the file's header says of it; AudioError as `Source`."""
    source = Source(path, RATES[0], track=track, partial=partial)
    source.close()
    return source


def announced_seconds(path: Path, track: int | None = None) -> float:
    """Returns a file's length by its header, in seconds; 0 where that cannot be read: `Source` has the reason."""
    try:
        return probe(path, track, partial=True).seconds
    except AudioError:
        return 0.0


def read(path: Path, sample_rate: int) -> Tensor:
    """Returns a whole file (L,), mono, at `sample_rate`, and logs its warnings; AudioError as `Source`."""
    source = Source(path, sample_rate)
    waveform = torch.cat(list(source.blocks()))
    for warning in source.warnings:
        log.warning(f"{path}: {warning}")
    return waveform
