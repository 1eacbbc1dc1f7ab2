"""Source: a sound file as a stream of mono blocks at a given rate, in constant memory."""

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

RATES = (1_000, 768_000)  # Hz; a header with another rate is damaged
MOST_CHANNELS = 64
_PARTIAL = "`tisdiss separate --partial` separates what is there"

log = logging.getLogger("tisdiss")


class AudioError(UserError):
    """Sound file that cannot be used: one sentence with its name and the reason."""


class Source:
    """Sound file as a stream of mono float32 blocks at a given rate.

    A WAV is read to its end, with a warning, if its header promises up to 0.1 s too much, too little, or nothing
    (written to a pipe, or the recorder died). WAV files joined end to end are read one after the other.

    Attributes:
        input_rate, channels: rate in Hz and channels at the file's begin.
        subtype, start: as in `Decoder`.
        seconds: length by the header; 0 if it has none.
        frames: frames read so far, at the file's rate.
        warnings: warnings without the file's name; grows while streaming.

    Args:
        path: the file.
        sample_rate: output rate in Hz.
        track: audio track of a container, from 1 on. Default: the first.
        partial: read what a truncated or damaged file has, with a warning.
        selected: channels to average, from 1 on; () for all.

    Raises:
        AudioError: here or while streaming, if the file is missing, empty, not a regular file, not a sound file,
            damaged, more than 0.1 s shorter than its header says, has an absurd rate or number of channels, lacks a
            selected channel, or has NaN or infinite samples.
    """

    def __init__(
        self,
        path: Path,
        sample_rate: int,
        *,
        track: int | None = None,
        partial: bool = False,
        selected: tuple[int, ...] = (),
    ) -> None:
        self.path, self.sample_rate, self.frames = path, sample_rate, 0
        self.track, self.partial, self.selected = track, partial, selected
        self.warnings: list[str] = []
        self.parts = self._find_parts()
        self.file = self._open(self.parts[0])
        self.input_rate, self.channels, self.subtype = self.file.samplerate, self.file.channels, self.file.subtype
        self.start, self.survey = self.file.start, Survey(selected, self.input_rate)
        others = ((part.end - part.start) / part.byte_rate for part in self.parts[1:] if part.byte_rate)
        self.seconds = self.file.seconds + sum(others)
        notes = dict.fromkeys(part.note for part in self.parts if part.note and not part.truncated)
        self.warnings += [f"{note}: it is read to its end" for note in notes]
        if len(self.parts) > 1:
            self.warnings.append(f"it is {len(self.parts)} recordings joined end to end: all are read")
        if self.start:
            self.warnings.append(f"its sound begins {self.start:.2f} s after its video or another of its tracks")

    def blocks(self) -> Iterator[Tensor]:
        """Yields resampled mono blocks (n,) in float32; closes the file at the end."""
        resampler, rate, frames = Resampler(self.input_rate, self.sample_rate), self.input_rate, Fraction()
        for rate_here, block in self._all_blocks():
            if rate_here != rate:
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
        """Closes the file early."""
        self.file.close()

    def _mixed(self, block: np.ndarray) -> np.ndarray:
        """Returns a block (n, channels) as (n,); surveys the whole file before averaging channels."""
        if not self.survey.tallies and len(chosen(self.selected, block.shape[1])) > 1:
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
                raise AudioError(f"{path} is not a regular file: copy the sound to one first")
            if status.st_size == 0:
                raise AudioError(f"{path} is empty (0 bytes)")
            return find_parts(path)
        except OSError as error:
            raise AudioError(f"{path} cannot be read: {error.strerror or error}") from None

    def _open(self, part: Part) -> Decoder:
        if part.truncated and not self.partial:
            raise AudioError(f"{self.path} is truncated: its header promises more than it has; {_PARTIAL}")
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
        if missing := [number for number in self.selected if number > channels]:
            has = "one channel" if channels == 1 else f"{channels} channels"
            raise AudioError(f"{self.path} has {has}, no channel {missing[0]}: choose another with --channels")

    def _all_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (rate, samples (n, channels)) of one part after the other, and collects warnings."""
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
                self.warnings.append(f"it {reason}: the sound before that is used")
            finally:
                file.close()
            self._compare(file, part)
            at += seconds

    def _compare(self, file: Decoder, part: Part) -> None:
        """Warns about lost, missing and surplus sound of a part."""
        if file.lost:
            count = "a packet" if len(file.lost) == 1 else f"{len(file.lost)} packets"
            self.warnings.append(f"{count} could not be decoded, first at {file.lost[0]:.2f} s: left out")
        if file.gaps:
            missing, at = sum(length for _, length in file.gaps), file.gaps[0][0]
            self.warnings.append(f"{missing:.2f} s are missing by its timestamps, first at {at:.2f} s")
        length, short = file.decoded, file.shortfall()
        if part.truncated:
            short = part.missing / part.byte_rate if part.byte_rate else None
        if short is None or short > 0:
            sentence = f"damaged or truncated: it has {length:.2f} s" + (f" of {length + short:.2f} s" if short else "")
            if not self.partial:
                raise AudioError(f"{self.path} is {sentence}; {_PARTIAL}")
            self.warnings.append(f"it is {sentence}, which are used")
        elif short < 0:
            self.warnings.append(f"its header promises {length + short:.2f} s, it has {length:.2f} s: all is used")


def probe(path: Path, track: int | None = None, partial: bool = False) -> Source:
    """Returns a closed source, for the facts in the file's header; AudioError as in `Source`."""
    source = Source(path, RATES[0], track=track, partial=partial)
    source.close()
    return source


def read_header(path: Path, track: int | None = None) -> tuple[float, int]:
    """Returns a file's length in seconds and its channels, by its header; 0 and 1 if it cannot be read."""
    try:
        source = probe(path, track, partial=True)
    except AudioError:  # which is reported when it is read
        return 0.0, 1
    return source.seconds, source.channels


def read(path: Path, sample_rate: int) -> Tensor:
    """Returns a whole file as mono (L,) at `sample_rate`, and logs its warnings; AudioError as in `Source`."""
    source = Source(path, sample_rate)
    waveform = torch.cat(list(source.blocks()))
    for warning in source.warnings:
        log.warning(f"{path}: {warning}")
    return waveform
