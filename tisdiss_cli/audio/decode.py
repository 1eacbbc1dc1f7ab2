"""Any sound file as blocks of samples, by PyAV (FFmpeg)."""

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

# Only what holds sound itself: FFmpeg also takes playlists and scripts, which would open other files and addresses.
_FORMATS = (
    "aac,ac3,eac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,flac,flv,latm,loas,matroska,webm,mov,mp4,mp3,mlp,"
    "mpc,mpc8,mpeg,mpegts,mxf,nistsphere,oma,ogg,qcp,rm,shn,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
# Each of their packets is found by itself, in whatever stands between them.
_LOOSE = frozenset("aac ac3 eac3 amr amrnb amrwb dts dtshd latm loas mp3 mlp mpeg mpegts truehd".split())  # noqa: SIM905
# Their header has the length of lossless sound.
_EXACT = frozenset("ape aiff au caf flac nistsphere tak tta voc w64 wav wv".split())  # noqa: SIM905
# Their demuxer ends without a word where they are damaged, but their header has the length of the longest track.
_WHOLE = ("mov", "matroska", "ogg")
# FFmpeg fits their length to the file's size: what shows that one is cut is that it ends within a packet.
_FITTED = ("caf", "voc", "w64")

_BLOCK = 1 << 15  # frames given at a time, at least
_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}  # FFmpeg's, in NumPy's words
_SUBTYPES = {"u8": "PCM_U8", "s16": "PCM_16", "s32": "PCM_32", "s64": "DOUBLE", "flt": "FLOAT", "dbl": "DOUBLE"}
_LOSSLESS = ("pcm_", "flac", "alac", "wavpack", "tta", "ape", "tak", "shorten", "mlp", "truehd")
# Metadata need not be UTF-8: PyAV 19 keeps such bytes by itself, and has no option for it any more.
_METADATA: Any = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}


class DecodeError(Exception):
    """A reason why FFmpeg cannot go on; the text follows the file's name in a sentence."""


class Decoder:
    """An audio track as blocks of samples.

    Attributes:
        samplerate, channels: Hz, of the first samples.
        seconds: the length as a header has it, or as FFmpeg guesses; 0: unknown.
        start: when the track begins after the container does, in seconds; 0 within SLACK.
        subtype: libsndfile's name of the samples' type ("PCM_16"), or FFmpeg's of the codec in capitals ("AAC").
        decoded: seconds so far.
        gaps: (place, length), in seconds, where packets are missing by the time that the next one has.
        lost: the place, in seconds, of each packet that could not be decoded and was left out.

    Args:
        path: the file.
        part: of it.
        track: of the audio tracks, from 1 on.
        partial: leave out what is damaged instead of failing there.

    Raises:
        DecodeError, OSError: here or while decoding.
    """

    def __init__(self, path: Path, part: Part, *, track: int = 1, partial: bool = False) -> None:
        av.logging.set_level(None)  # its lines would come in between ours
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": ""}
        if part.format:  # else FFmpeg searches a WAV for other codecs, longer than it reads, and gives small packets
            options |= {"probesize": "32", "max_size": "8192"}
        self.decoded, self.gaps, self.lost = 0.0, list[tuple[float, float]](), list[float]()
        self._reached, self._expected = 0.0, -inf  # latest time of any packet; when the track's next one should begin
        self._origin, self._corrupt = -1, False  # first packet's place, in bytes; whether the last one is incomplete
        with ExitStack() as opened:
            self.file = Window(path, part)
            opened.callback(self.file.close)
            try:
                self.container = av.open(
                    self.file, "r", format=part.format or None, options=options, buffer_size=1 << 16, **_METADATA
                )
            except (av.FFmpegError, ValueError) as error:
                reason = _reason(error)
                raise DecodeError(f"is no sound file that FFmpeg can read, or damaged or truncated: {reason}") from None
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
            raise DecodeError("has no sound" + f": only {' and '.join(kinds)}" * bool(kinds))
        if not 1 <= track <= len(tracks):
            raise DecodeError(f"has {len(tracks)} audio track{'s' * (len(tracks) > 1)}, no track {track}: see --track")
        codec = tracks[track - 1].codec_context
        if codec is None:
            raise DecodeError("has sound of a codec that FFmpeg does not know")
        with suppress(UnicodeDecodeError):  # a tag may be a number
            if codec.codec_tag in ("enca", "drms", "aavd"):
                raise DecodeError("is encrypted: it takes a key to decode")
        try:
            codec.open(strict=False)
        except (av.FFmpegError, ValueError) as error:  # PyAV 19 crashes where anything else is asked of it
            raise DecodeError(f"has sound that FFmpeg cannot decode: {_reason(error)}") from None
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
        """Yields (rate, samples (n, channels) float32); both may change on the way."""
        rate, parts, length = self.samplerate, list[np.ndarray](), 0
        for frame in chain([self._first] if self._first else [], self._frames):
            array, rate_here = _samples(frame), frame.sample_rate
            alike = parts and (rate, parts[0].dtype, parts[0].shape[1]) == (rate_here, array.dtype, array.shape[1])
            if parts and (length >= _BLOCK or not alike):
                yield rate, _in_range(np.concatenate(parts))
                parts, length = [], 0
            rate = rate_here
            parts.append(array)
            length += len(array)
        if parts:
            yield rate, _in_range(np.concatenate(parts))

    def shortfall(self) -> float | None:
        """Returns the seconds that were promised and did not come; negative for more than promised, 0 within slack.

        None: the end is missing, nobody knows how much.
        """
        short = self._length - self.decoded - sum(length for _, length in self.gaps)
        told = self._length and (self._told() if self.format == "mp3" else self._lossless and self.format in _EXACT)
        if not told or abs(short) <= SLACK:
            short = 0.0
        if self._reached < 0.99 * self._whole - SLACK:
            short = max(short, self._whole - self._reached)
        return None if self._corrupt and self.format in _FITTED else short

    def _told(self) -> bool:
        """Tells if an MP3's header has its length: else FFmpeg guesses, by the size and the first frames' bit rate."""
        guess = 8 * (self.file.size - self._origin) / (self.stream.codec_context.bit_rate or inf)
        return abs(guess - self._length) > 0.01 * self._length

    def _decode(self, *, lenient: bool) -> Iterator[AudioFrame]:
        decode = self.stream.codec_context.decode
        for packet in chain(self._demux(lenient=lenient), [None]):  # None: all that the decoder has kept back
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
        """Yields the track's packets, and follows the times of all."""
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
            except IndexError:  # at the end PyAV 18 looks for tracks that appeared on the way, which it does not have
                return
            if packet is None:
                return
            index, time = packet.stream.index, packet.pts
            if time is not None:
                begin, end = time * units[index], (time + (packet.duration or 0)) * units[index]
                self._reached = max(self._reached, end)
                if index == ours:
                    self._follow(begin, end)
            # An empty packet would end the decoder: PyAV adds one for each stream, and containers may hold some.
            if index == ours and packet.size:
                self._corrupt = packet.is_corrupt
                if self._origin < 0:
                    self._origin = packet.pos or 0
                yield packet

    def _follow(self, begin: float, end: float) -> None:
        """Takes note of the times of a packet of the track, and of the gap before it."""
        if begin - self._expected > SLACK and self._expected > -inf:
            self.gaps.append((self.decoded, begin - self._expected))
        # Where the time goes back, as in what was joined, it begins anew.
        self._expected = end if begin < self._expected - 1 else max(self._expected, end)


def _samples(frame: AudioFrame) -> np.ndarray:
    """Returns (n, channels) of any of FFmpeg's types of samples.

    Not by PyAV's `planes` or `to_ndarray`: behind the last of 8, or of many more, they look for another one.
    """
    format, channels = frame.format, frame.layout.nb_channels
    dtype = _TYPES[format.name.removesuffix("p")]
    if not format.is_planar:
        return np.frombuffer(memoryview(AudioPlane(frame, 0)), dtype, frame.samples * channels).reshape(-1, channels)
    planes = [memoryview(AudioPlane(frame, index)) for index in range(channels)]
    return np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in planes], axis=1)


def _in_range(samples: np.ndarray) -> np.ndarray:
    """Returns float32, full scale +-1."""
    floats = samples.astype(np.float32)
    if samples.dtype.kind != "f":
        floats -= 128.0 * (samples.dtype.kind == "u")
        floats *= 2.0 ** (1 - 8 * samples.itemsize)
    return floats


def _subtype(codec: str, frame: AudioFrame | None) -> str:
    kind = frame.format.name.removesuffix("p") if frame else ""
    # FFmpeg has no samples of 24 bits: they are the upper ones of 32.
    if frame and kind == "s32" and "32" not in codec and not (_samples(frame) & 255).any():
        return "PCM_24"
    return _SUBTYPES.get(kind, "")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.rstrip(".")
