"""A sound that codecs keep well, and files of it, encoded by PyAV."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition


def melody(rate: int, seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Harmonics below 1.5 kHz that glide and swell, so that no two moments are alike: (n,) float32."""
    generator = np.random.default_rng(seed)
    at = np.arange(round(rate * seconds)) / rate
    sound = np.zeros_like(at)
    for _ in range(6):
        low, swell, phase = generator.uniform(200, 1300), generator.uniform(1, 4), generator.uniform(0, 6)
        sound += np.sin(2 * np.pi * (low * at + 30 * at**2) + phase) * (0.6 + 0.4 * np.sin(swell * at * 6 + phase))
    return (sound / 12).astype(np.float32)


LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


def encode(
    path: Path,
    tracks: Sequence[np.ndarray],
    rate: int,
    codec: str,
    *,
    format: str | None = None,
    streams: str | None = None,
    chapters: bool = False,
    sample_format: str | None = None,
    bit_rate: int = 128_000,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    later: float = 0.0,
) -> Path:
    """Writes tracks (n,) or (n, channels) of full scale +-1 by FFmpeg's encoder; its file name says which container.

    Args:
        streams: in their order: "a" the next track, "v" two seconds of video, "c" a cover; without it, the tracks.
        sample_format: FFmpeg's name, of those that the encoder takes; None: its first.
        later: seconds from the container's beginning to the tracks'.
    """
    if sample_format is None and codec in ("wavpack", "tta"):  # 8 bit is the first of what they take
        sample_format = "s16p" if codec == "wavpack" else "s16"
    waiting = list(tracks)
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        container.metadata.update(metadata or {})
        if chapters:
            times = [
                {"id": at, "start": at, "end": at + 1, "time_base": Fraction(1), "metadata": {}} for at in range(2)
            ]
            container.set_chapters(times)
        added = [(kind, _add(container, kind, waiting, rate, codec)) for kind in streams or "a" * len(tracks)]
        waiting = list(tracks)
        for kind, stream in added:
            if kind == "a":
                stream.bit_rate = bit_rate
                stream.format = sample_format or stream.format.name
        container.start_encoding()
        for kind, stream in added:
            for frame in (
                _sound(stream, waiting.pop(0), rate, later) if kind == "a" else _pictures(20 if kind == "v" else 1)
            ):
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def _add(container, kind: str, waiting: list[np.ndarray], rate: int, codec: str):
    if kind == "a":
        channels = waiting.pop(0)[:1].size
        return container.add_stream(codec, rate=rate, layout=LAYOUTS.get(channels, f"{channels} channels"))
    picture = container.add_stream("mpeg4" if kind == "v" else "mjpeg", rate=10)
    picture.width = picture.height = 64
    picture.pix_fmt = "yuv420p" if kind == "v" else "yuvj420p"
    if kind == "c":
        picture.disposition = Disposition.attached_pic
    return picture


def _sound(stream, track: np.ndarray, rate: int, later: float):
    layout = stream.layout.name
    resampler = av.AudioResampler(stream.format.name, layout, rate, frame_size=stream.frame_size or 1024)
    # Packed, as PyAV's planes of 8 and more channels end where memory does.
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(track).reshape(1, -1), "flt", layout)
    frame.sample_rate, frame.pts = rate, round(later * rate)
    return [*resampler.resample(frame), *resampler.resample(None)]


def _pictures(count: int):
    for number in range(count):
        yield av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), format="rgb24")


def si_snr(estimate: np.ndarray, reference: np.ndarray) -> float:
    length = min(len(estimate), len(reference))
    x, y = estimate[:length].astype(np.float64), reference[:length].astype(np.float64)
    target = (x @ y) / (y @ y) * y
    return float(10 * np.log10((target @ target) / ((x - target) @ (x - target) + 1e-20)))


def lag(estimate: np.ndarray, reference: np.ndarray) -> int:
    """How many samples later the estimate has the same."""
    size = len(estimate) + len(reference)
    product = np.fft.rfft(estimate, size) * np.conj(np.fft.rfft(reference, size))
    peak = int(np.fft.irfft(product, size).argmax())
    return peak if peak < size // 2 else peak - size
