"""Sound that libsndfile does not read, by PyAV (FFmpeg): phones' and meetings' containers and codecs, MP3, video."""

from collections.abc import Iterator
from io import RawIOBase
from itertools import chain
from math import inf
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.plane import AudioPlane
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from tisdiss_cli.audio.part import SLACK

# Only what holds sound itself: FFmpeg also takes playlists and scripts, which would open other files and addresses.
_FORMATS = (
    "aac,ac3,eac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,flac,flv,latm,loas,matroska,webm,mov,mp4,mp3,mlp,"
    "mpc,mpc8,mpeg,mpegts,mxf,oma,ogg,qcp,rm,shn,tak,truehd,tta,w64,wav,wv,xwma"
)
# Each of their packets is found by itself, in whatever stands between them.
_LOOSE = frozenset("aac ac3 eac3 amr amrnb amrwb dts dtshd latm loas mp3 mlp mpeg mpegts truehd".split())  # noqa: SIM905
# Their header has the length of the sound to the sample, or nearly.
_EXACT = frozenset("ape aiff au caf flac mov tak tta w64 wav wv".split())  # noqa: SIM905
# Their demuxer ends without a word where they are damaged, but their header has the length of the longest track.
_WHOLE = ("mov", "matroska", "ogg")

_BLOCK = 1 << 15  # frames given at a time, at least
_TYPES = {
    "u8": "u1",
    "s16": "i2",
    "s32": "i4",
    "s64": "i8",
    "flt": "f4",
    "dbl": "f8",
}  # FFmpeg's samples in NumPy's words
# Metadata need not be UTF-8: PyAV 19 keeps such bytes by itself, and has no option for it any more.
_METADATA: Any = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
_SUBTYPES = {"u8": "PCM_U8", "s16": "PCM_16", "s32": "PCM_32", "s64": "DOUBLE", "flt": "FLOAT", "dbl": "DOUBLE"}
_LOSSLESS = ("pcm_", "flac", "alac", "wavpack", "tta", "ape", "tak", "shorten", "mlp", "truehd")


class DecodeError(Exception):
    """What hinders FFmpeg; the text follows the file's name in a sentence."""


class Decoder:
    """An audio track as blocks of samples, named after soundfile.SoundFile where it means the same.

    Attributes:
        samplerate: Hz, of the first samples.
        channels: of the first samples.
        frames: as a header has it that is to be believed; None: unknown.
        seconds: as any header has it, or FFmpeg's guess; 0: unknown.
        format: FFmpeg's name of the container.
        subtype: libsndfile's name of the samples' type ("PCM_16"), or FFmpeg's of the codec in capitals ("AAC").
        decoded: seconds so far.
        packets: so far.
        gaps: (place, length), in seconds, where packets are missing by the time that the next one has.
        reached: the latest time so far, in seconds, of any packet of the container, of video as well.
        whole: the container's length in seconds by its header, to which `reached` comes near; 0: unknown.
        lost: the place, in seconds, of each packet that could not be decoded and was left out.

    Args:
        file: opened for reading, seekable.
        track: which of the audio tracks, from 1 on.
        lenient: leave out damaged packets instead of failing there.

    Raises:
        DecodeError: here or while decoding.
    """

    def __init__(self, file: RawIOBase, *, track: int = 1, lenient: bool = False) -> None:
        self.file = file
        av.logging.set_level(None)  # its lines would come in between ours
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": ""}
        try:
            self.container: InputContainer = av.open(file, "r", options=options, **_METADATA)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DecodeError(f"is no sound file that FFmpeg can read: {_reason(error)}") from None
        try:
            self._choose(track)
            self.lost: list[float] = []
            self.decoded, self.packets, self.reached = 0.0, 0, 0.0
            self.gaps: list[tuple[float, float]] = []
            self._expected: float | None = None  # when the next packet of ours should begin, seconds
            names = self.container.format.name.split(",")
            self.format = names[0]
            self.lenient = lenient or bool(_LOOSE & set(names))
            self._frames = self._decode()
            self._first = next(self._frames, None)
            self._describe()
        except BaseException:
            self.close()
            raise

    def _choose(self, track: int) -> None:
        streams = self.container.streams
        tracks: list[AudioStream] = list(streams.audio)
        if not tracks:
            kinds = sorted({stream.type for stream in streams if stream.type})
            raise DecodeError("has no sound" + f": only {' and '.join(kinds)}" * bool(kinds))
        if not 1 <= track <= len(tracks):
            raise DecodeError(f"has {len(tracks)} audio track{'s' * (len(tracks) > 1)}, no track {track}: see --track")
        self.stream = tracks[track - 1]
        context = self.stream.codec_context
        if context is None:
            raise DecodeError("has sound of a codec that FFmpeg does not know")
        if context.codec_tag in ("enca", "drms", "aavd"):
            raise DecodeError("is encrypted: it takes a key to decode")

    def _describe(self) -> None:
        stream, first = self.stream, self._first
        self.samplerate = first.sample_rate if first else stream.codec_context.sample_rate
        self.channels = first.layout.nb_channels if first else stream.codec_context.channels
        length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        self.seconds = length or (self.container.duration or 0) / 1e6
        self.whole = (self.container.duration or 0) / 1e6 if self.format in _WHOLE else 0.0
        exact = self.format in _EXACT and length > 0
        self.frames = round(length * self.samplerate) if exact else None
        name = stream.codec_context.name.removesuffix("float")
        kind = first.format.name.removesuffix("p") if first else ""
        self.subtype = _SUBTYPES.get(kind, "") if name.startswith(_LOSSLESS) else name.upper()

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (rate, samples (n, channels) float32); both may change on the way."""
        kind, parts, length = (0, 0), list[np.ndarray](), 0
        for frame in chain([self._first] if self._first else [], self._frames):
            samples = _samples(frame)
            if parts and ((frame.sample_rate, samples.shape[1]) != kind or length >= _BLOCK):
                yield kind[0], np.concatenate(parts)
                parts, length = [], 0
            kind = frame.sample_rate, samples.shape[1]
            parts.append(samples)
            length += len(samples)
        if parts:
            yield kind[0], np.concatenate(parts)

    def close(self) -> None:
        """Ends it, and closes the file."""
        self.container.close()
        self.file.close()

    def _decode(self) -> Iterator[AudioFrame]:
        for packet in chain(self._demux(), [None]):  # None: all that the decoder has kept back
            try:
                frames = self.stream.codec_context.decode(packet)
            except (av.FFmpegError, ValueError) as error:
                if "Decoder not found" in str(error) or isinstance(error, av.error.DecoderNotFoundError):
                    raise DecodeError("has sound of a codec that FFmpeg does not decode") from None
                if not self.lenient:
                    raise DecodeError(f"is damaged or truncated after {self.decoded:.2f} s") from None
                self.lost.append(self.decoded)
                continue
            self.packets += packet is not None
            for frame in frames:
                if frame.samples:
                    self.decoded += frame.samples / frame.sample_rate
                    yield frame

    def _demux(self) -> Iterator[Packet]:
        """Yields the track's packets, and follows the times of all."""
        packets = self.container.demux()
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                if not self.lenient:
                    raise DecodeError(f"is damaged or truncated after {self.decoded:.2f} s: {_reason(error)}") from None
                self.lost.append(self.decoded)
                return
            if packet is None:
                return
            ours = packet.stream.index == self.stream.index
            if packet.pts is not None and packet.time_base:
                self._follow(
                    float(packet.pts * packet.time_base), float((packet.duration or 0) * packet.time_base), ours
                )
            # An empty packet would end the decoder: PyAV adds one for each stream, and containers may hold some.
            if ours and packet.size:
                yield packet

    def _follow(self, begin: float, length: float, ours: bool) -> None:
        """Takes note of a packet's time, and of the gap before it if it is our track's."""
        self.reached = max(self.reached, begin + length)
        if not ours:
            return
        if self._expected is not None and begin - self._expected > SLACK:
            self.gaps.append((self.decoded, begin - self._expected))
        # Where the time goes back, as in what was joined, it begins anew.
        before = -inf if self._expected is None or begin < self._expected - 1 else self._expected
        self._expected = max(before, begin + length)


def _samples(frame: AudioFrame) -> np.ndarray:
    """Returns (n, channels) float32, full scale +-1, of any of FFmpeg's sample types."""
    kind, channels = frame.format.name.removesuffix("p"), frame.layout.nb_channels
    dtype, planar = np.dtype(_TYPES[kind]), frame.format.is_planar
    count = frame.samples if planar else frame.samples * channels
    # One by one, as PyAV's `planes` and `to_ndarray` look for more behind the last of 8 and of many more.
    planes = [memoryview(AudioPlane(frame, index)) for index in range(channels if planar else 1)]
    arrays = [np.frombuffer(plane, dtype, count) for plane in planes]
    array = np.stack(arrays, axis=1) if planar else arrays[0].reshape(-1, channels)
    if dtype.kind != "f":
        array = (array - 128.0 * (kind == "u8")) * 2.0 ** (1 - 8 * dtype.itemsize)
    return array.astype(np.float32)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.rstrip(".")
