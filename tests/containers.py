"""A sound that codecs keep well, and files of it, encoded by PyAV."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np


def melody(rate: int, seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Harmonics below 1.5 kHz that glide and swell, so that no two moments are alike: (n,) float32."""
    generator = np.random.default_rng(seed)
    at = np.arange(round(rate * seconds)) / rate
    sound = np.zeros_like(at)
    for _ in range(6):
        low, swell, phase = generator.uniform(200, 1300), generator.uniform(1, 4), generator.uniform(0, 6)
        sound += np.sin(2 * np.pi * (low * at + 30 * at**2) + phase) * (0.6 + 0.4 * np.sin(swell * at * 6 + phase))
    return (sound / 12).astype(np.float32)


def encode(
    path: Path,
    tracks: Sequence[np.ndarray],
    rate: int,
    codec: str,
    *,
    format: str | None = None,
    video: bool = False,
    bit_rate: int = 128_000,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes tracks (n,) or (n, channels) of full scale +-1 by FFmpeg's encoder; its file name says which container."""
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        picture = container.add_stream("mpeg4", rate=10) if video else None
        layouts = ["mono" if track.ndim == 1 else "stereo" for track in tracks]
        streams = [container.add_stream(codec, rate=rate, layout=layout) for layout in layouts]
        if picture:
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
            for number in range(20):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), format="rgb24")
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        for stream, track, layout in zip(streams, tracks, layouts, strict=True):
            stream.bit_rate = bit_rate
            if codec in ("wavpack", "tta"):  # 8 bit is the first of what they take
                stream.format = "s16p" if codec == "wavpack" else "s16"
            resampler = av.AudioResampler(stream.format.name, layout, rate, frame_size=stream.frame_size or 1024)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(np.atleast_2d(track.T)), "fltp", layout)
            frame.sample_rate, frame.pts = rate, 0
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(stream.encode(piece))
            container.mux(stream.encode(None))
    return path


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
