"""Separates one recording with numpy, soundfile and onnxruntime alone: python separate.py model.onnx call.wav voices/

The model comes from `tisdiss weights export`. The recording must have the model's rate and fit into memory whole.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile


def stft(x: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Returns the spectrum (T, F, 2) of x (n,): centred frames under a periodic Hann window, the ends reflected."""
    padded = np.pad(x, n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    found = np.fft.rfft(frames * hann(n_fft))
    return np.stack((found.real, found.imag), axis=-1).astype(np.float32)


def istft(spectrum: np.ndarray, n_fft: int, hop: int, length: int) -> np.ndarray:
    """Returns the waveform (length,) of a spectrum (T, F, 2): overlap-add over the sum of the squared windows."""
    frames = np.fft.irfft(spectrum[..., 0] + 1j * spectrum[..., 1], n_fft) * hann(n_fft)
    total, weight = np.zeros((2, n_fft + hop * (len(frames) - 1)))
    for index, frame in enumerate(frames):
        total[index * hop :][:n_fft] += frame
        weight[index * hop :][:n_fft] += hann(n_fft) ** 2
    return (total / np.maximum(weight, 1e-9))[n_fft // 2 :][:length]


def hann(size: int) -> np.ndarray:
    """Returns the periodic Hann window (size,)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def separate(session: onnxruntime.InferenceSession, mixture: np.ndarray) -> np.ndarray:
    """Returns the voices (S, n) of a mixture (n,) at the model's rate."""
    facts = session.get_modelmeta().custom_metadata_map
    n_fft, hop = int(facts["n_fft"]), int(facts["hop_length"])
    heard = mixture - mixture.mean()
    heard = np.pad(heard, (0, -(-max(len(heard), n_fft // 2 + 1) // hop) * hop - len(heard)))
    scale = heard.std(ddof=1) or 1.0
    (spectra,) = session.run(None, {"spectrum": stft(heard / scale, n_fft, hop)[None]})
    return np.stack([istft(voice, n_fft, hop, len(mixture)) for voice in spectra[0]]) * scale


if __name__ == "__main__":
    model, recording, out = onnxruntime.InferenceSession(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    samples, rate = soundfile.read(recording, always_2d=True)
    if rate != int(model.get_modelmeta().custom_metadata_map["sample_rate"]):
        sys.exit(f"{recording} has {rate} Hz: resample it to the model's rate first")
    out.mkdir(parents=True, exist_ok=True)
    for number, voice in enumerate(separate(model, samples.mean(axis=1)), 1):
        soundfile.write(out / f"{recording.stem}_s{number}.wav", voice, rate, subtype="FLOAT")
