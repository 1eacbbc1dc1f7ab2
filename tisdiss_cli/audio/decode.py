"""Decoder of any sound file into blocks of samples, by PyAV (FFmpeg)."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.plane import AudioPlane
from av.audio.stream import AudioStream
from av.packet import Packet

from tisdiss_cli.audio.header import SLACK, Part, Window

# Only containers of sound: FFmpeg also takes playlists and scripts, which would open other files and addresses.
_FORMATS = (
    "aac,ac3,eac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,flac,flv,latm,loas,matroska,webm,mov,mp4,mp3,mlp,"
    "mpc,mpc8,mpeg,mpegts,mxf,nistsphere,oma,ogg,qcp,rm,shn,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
# Formats whose packets are found one by one, whatever lies between them.
_LOOSE = frozenset("aac ac3 eac3 amr amrnb amrwb dts dtshd latm loas mp3 mlp mpeg mpegts truehd".split())  # noqa: SIM905
# Formats whose header has the length of lossless sound.
_EXACT = frozenset("ape aiff au caf flac nistsphere tak tta voc w64 wav wv".split())  # noqa: SIM905
# Formats whose demuxer ends silently at damage, but whose header has the length of the longest track.
_WHOLE = ("mov", "matroska", "ogg")
# Formats whose length FFmpeg derives from the file's size: a truncated one ends within a packet.
_FITTED = ("caf", "voc", "w64")

_BLOCK = 1 << 15  # least frames of a block, except the last
_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}  # FFmpeg's types as NumPy's
_SUBTYPES = {"u8": "PCM_U8", "s16": "PCM_16", "s32": "PCM_32", "s64": "DOUBLE", "flt": "FLOAT", "dbl": "DOUBLE"}
_LOSSLESS = ("pcm_", "flac", "alac", "wavpack", "tta", "ape", "tak", "shorten", "mlp", "truehd")
# Metadata need not be UTF-8: PyAV 19 keeps such bytes, and no longer has this option.
_METADATA: Any = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}


class DecodeError(Exception):
    """Reason why FFmpeg cannot decode; the text follows the file's name in a sentence."""


class Decoder:
    """Decoder of an audio track into blocks of samples.

    Attributes:
        samplerate, channels: rate in Hz and channels of the first samples.
        seconds: length by the header, or FFmpeg's guess; 0 if unknown.
        start: start of the track after that of the container, in seconds; 0 within SLACK.
        subtype: libsndfile's name of the sample type ("PCM_16"), or FFmpeg's codec name in capitals ("AAC").
        decoded: seconds decoded so far.
        gaps: (position, length) in seconds of missing packets, by timestamps.
        lost: position in seconds of each packet that could not be decoded.

    Args:
        path: the file.
        part: part of the file to read.
        track: audio track, from 1 on.
        partial: skip damaged packets instead of failing.

    Raises:
        DecodeError, OSError: here or while decoding.
    """

    def __init__(self, path: Path, part: Part, *, track: int = 1, partial: bool = False) -> None:
        av.logging.set_level(None)  # its log would interrupt ours
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": ""}
        if part.format:  # else FFmpeg probes a WAV for other codecs, slowly, and gives small packets
            options |= {"probesize": "32", "max_size": "8192"}
        self.decoded, self.gaps, self.lost = 0.0, list[tuple[float, float]](), list[float]()
        self._reached, self._expected = 0.0, -inf  # latest time of any packet; expected time of the track's next
        self._origin, self._corrupt = -1, False  # position of the first packet in bytes; last packet incomplete
        with ExitStack() as opened:
            self.file = Window(path, part)
            opened.callback(self.file.close)
            try:
                self.container = av.open(
                    self.file, "r", format=part.format or None, options=options, buffer_size=1 << 16, **_METADATA
                )
            except (av.FFmpegError, ValueError) as error:
                reason = _reason(error)
                raise DecodeError(f"is not a sound file for FFmpeg, or damaged or truncated: {reason}") from None
            opened.callback(self.container.close)
            self.stream = self._choose(track)
            names = set(self.container.format.name.split(","))
            self.format = self.container.format.name.partition(",")[0]
            self._frames = self._decode(lenient=partial or bool(names & _LOOSE))
            self._first = next(self._frames, None)
            self._describe()
            self.close = opened.pop_all().close

    def _choose(self, track: int) -> AudioStream:
        streams = self.container.streams
        tracks = list(streams.audio)
        if not tracks:
            kinds = sorted({stream.type for stream in streams if stream.type})
            raise DecodeError("has no audio track" + f": only {' and '.join(kinds)}" * bool(kinds))
        if not 1 <= track <= len(tracks):
            raise DecodeError(f"has {len(tracks)} audio track{'s' * (len(tracks) > 1)}: choose another --track")
        codec = tracks[track - 1].codec_context
        if codec is None:
            raise DecodeError("has audio of a codec that FFmpeg does not know")
        with suppress(UnicodeDecodeError):  # a tag may be a number
            if codec.codec_tag in ("enca", "drms", "aavd"):
                raise DecodeError("is encrypted and cannot be decoded without its key")
        try:
            codec.open(strict=False)
        except (av.FFmpegError, ValueError) as error:  # PyAV 19 crashes at anything else
            raise DecodeError(f"has audio that FFmpeg cannot decode: {_reason(error)}") from None
        return tracks[track - 1]

    def _describe(self) -> None:
        stream, first, whole = self.stream, self._first, (self.container.duration or 0) / 1e6
        self.samplerate = first.sample_rate if first else stream.codec_context.sample_rate
        self.channels = first.layout.nb_channels if first else stream.codec_context.channels
        codec = stream.codec_context.name.removesuffix("float")
        self._lossless = codec.startswith(_LOSSLESS)
        self.subtype = _subtype(codec, first) if self._lossless else codec.upper()
        self._length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        self._whole = whole if self.format in _WHOLE else 0.0
        self.seconds = self._length or whole
        later = (first.time or 0.0) - (self.container.start_time or 0) / 1e6 if first else 0.0
        self.start = later if later > SLACK else 0.0

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (rate, samples (n, channels) float32); rate and channels may change within a file."""
        rate, parts, length = self.samplerate, list[np.ndarray](), 0
        for frame in chain([self._first] if self._first else [], self._frames):
            array, rate_here = _samples(frame), frame.sample_rate
            joins = parts and (rate, parts[0].dtype, parts[0].shape[1]) == (rate_here, array.dtype, array.shape[1])
            if parts and (length >= _BLOCK or not joins):
                yield rate, _in_range(np.concatenate(parts))
                parts, length = [], 0
            rate = rate_here
            parts.append(array)
            length += len(array)
        if parts:
            yield rate, _in_range(np.concatenate(parts))

    def shortfall(self) -> float | None:
        """Returns the missing seconds by the header, negative for surplus, 0 within SLACK; None if unknown."""
        short = self._length - self.decoded - sum(length for _, length in self.gaps)
        exact = self._length and (
            self._has_length() if self.format == "mp3" else self._lossless and self.format in _EXACT
        )
        if not (exact and self._length) or abs(short) <= SLACK:
            short = 0.0
        if self._reached < 0.99 * self._whole - SLACK:
            short = max(short, self._whole - self._reached)
        return None if self._corrupt and self.format in _FITTED else short

    def _has_length(self) -> bool:
        """Returns whether an MP3's header has its length; else FFmpeg guesses by size and first bit rate."""
        guess = 8 * (self.file.size - self._origin) / (self.stream.codec_context.bit_rate or inf)
        return abs(guess - self._length) > 0.01 * self._length

    def _decode(self, *, lenient: bool) -> Iterator[AudioFrame]:
        decode = self.stream.codec_context.decode
        for packet in chain(self._demux(lenient=lenient), [None]):  # None flushes the decoder
            try:
                frames = decode(packet)
            except (av.FFmpegError, ValueError):
                if not lenient:
                    raise DecodeError(f"is damaged or truncated after {self.decoded:.2f} s") from None
                self.lost.append(self.decoded)
                continue
            for frame in frames:
                if samples := frame.samples:
                    self.decoded += samples / frame.sample_rate
                    yield frame

    def _demux(self, *, lenient: bool) -> Iterator[Packet]:
        """Yields the track's packets, and tracks the times of all packets."""
        packets, ours = self.container.demux(), self.stream.index
        units = [float(stream.time_base or 0) for stream in self.container.streams]  # seconds
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                if not lenient:
                    raise DecodeError(f"is damaged or truncated after {self.decoded:.2f} s: {_reason(error)}") from None
                self.lost.append(self.decoded)
                return
            except IndexError:  # at the end PyAV 18 looks for late tracks that it does not have
                return
            if packet is None:
                return
            index, time = packet.stream.index, packet.pts
            if time is not None:
                begin, end = time * units[index], (time + (packet.duration or 0)) * units[index]
                self._reached = max(self._reached, end)
                if index == ours:
                    self._note_times(begin, end)
            # An empty packet would flush the decoder: PyAV adds one per stream, and containers may have some.
            if index == ours and packet.size:
                self._corrupt = packet.is_corrupt
                if self._origin < 0:
                    self._origin = packet.pos or 0
                yield packet

    def _note_times(self, begin: float, end: float) -> None:
        """Notes the times of a packet of the track, and the gap before it."""
        if begin - self._expected > SLACK and self._expected > -inf:
            self.gaps.append((self.decoded, begin - self._expected))
        # Where the time goes back, as in joined files, it starts again.
        self._expected = end if begin < self._expected - 1 else max(self._expected, end)


def _samples(frame: AudioFrame) -> np.ndarray:
    """Returns a frame's samples (n, channels), of any type.

    Not by PyAV's `planes` or `to_ndarray`, which read beyond the last of 8 or more planes.
    """
    format, channels = frame.format, frame.layout.nb_channels
    dtype = _TYPES[format.name.removesuffix("p")]
    if not format.is_planar:
        return np.frombuffer(memoryview(AudioPlane(frame, 0)), dtype, frame.samples * channels).reshape(-1, channels)
    planes = [memoryview(AudioPlane(frame, index)) for index in range(channels)]
    return np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in planes], axis=1)


def _in_range(samples: np.ndarray) -> np.ndarray:
    """Returns samples as float32, full scale +-1."""
    floats = samples.astype(np.float32)
    if samples.dtype.kind != "f":
        floats -= 128.0 * (samples.dtype.kind == "u")
        floats *= 2.0 ** (1 - 8 * samples.itemsize)
    return floats


def _subtype(codec: str, frame: AudioFrame | None) -> str:
    kind = frame.format.name.removesuffix("p") if frame else ""
    # FFmpeg has no 24-bit samples: they are the upper bits of 32.
    if frame and kind == "s32" and "32" not in codec and not (_samples(frame) & 255).any():
        return "PCM_24"
    return _SUBTYPES.get(kind, "")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.rstrip(".")
