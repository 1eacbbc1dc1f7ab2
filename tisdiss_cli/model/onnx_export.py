"""ONNX export of the stages between the STFT and its inverse, in real numbers, at a fixed number of repeats."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import writing
from tisdiss_cli.libraries import require
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import WeightFile

OPSET = 20
CLOSE = 1e-4  # largest difference between onnxruntime and torch, relative to the largest value
_LENGTHS = (2, 63, 251)  # frames at which they are compared


class Spectra(nn.Module):
    """Module from a mixture's spectrum (B, T, F, 2), at unit standard deviation, to its voices' (B, S, T, F, 2)."""

    def __init__(self, network: TISDiSS, repeats: int, separator_repeats: int) -> None:
        super().__init__()
        self.network, self.repeats, self.separator_repeats = network, repeats, separator_repeats

    def forward(self, spectrum: Tensor) -> Tensor:
        """Maps (B, T, F, 2) -> (B, S, T, F, 2)."""
        for *_, x in self.network.outputs(spectrum, self.repeats, self.separator_repeats):  # noqa: B007
            pass
        return self.network.decoder.spectra(x, spectrum)


def export_onnx(
    path: Path, network: TISDiSS, weights: WeightFile, *, repeats: int, separator_repeats: int | None = None
) -> float:
    """Writes a network as an ONNX model for any number and length of mixtures, whole or not at all.

    The model's metadata holds rate, STFT, window, scale and shapes for its caller.

    Args:
        path: the model's file.
        network: in evaluation mode, float32, on the CPU.
        weights: the network's metadata.
        repeats: repeats of the Reconstructor.
        separator_repeats: repeats of the Separator. Default: as trained.

    Returns:
        The largest difference between onnxruntime and torch at three lengths, relative to the largest value.

    Raises:
        UserError: a package is missing, the model cannot be written, or its output differs from torch's.
    """
    packages = ("onnx", "onnxruntime", "onnxscript")  # torch's exporter needs the last
    onnx, onnxruntime, _ = (require(package, "an export needs", "onnx") for package in packages)
    config = network.config
    spectra = Spectra(network, repeats, separator_repeats or config.separator_repeats).eval()
    model = _export(spectra, config.bins)
    facts = {
        "name": weights.name,
        "weights_sha256": weights.digest,
        "repeats": repeats,
        "separator_repeats": spectra.separator_repeats,
        "speakers": config.speakers,
        "sample_rate": config.sample_rate,
        "n_fft": config.n_fft,
        "hop_length": config.hop_length,
        "window": "hann, periodic; frames are centred, the ends reflected",
        "scale": "the waveform without its mean, over its standard deviation; the voices times it again",
        "input": "spectrum: float32 (mixtures, frames, n_fft / 2 + 1, real and imaginary part)",
        "output": "voices: float32 (mixtures, speakers, frames, n_fft / 2 + 1, real and imaginary part)",
    }
    onnx.helper.set_model_props(model, {name: str(value) for name, value in facts.items()})
    with writing(path) as part:
        onnx.save(model, part)
        session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
        difference = max(_difference(spectra, session, frames, config.bins) for frames in _LENGTHS)
        if not difference < CLOSE:
            raise UserError(f"{path} was not written: onnxruntime differs from torch by {difference:.1e}")
    return difference


def _export(spectra: Spectra, bins: int) -> Any:
    """Returns onnx's model of `spectra`."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # mutes notes about optional packages
    sizes = {0: torch.export.Dim("mixtures"), 1: torch.export.Dim("frames")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            spectra,
            (torch.randn(2, 63, bins, 2),),
            dynamo=True,
            dynamic_shapes={"spectrum": sizes},
            input_names=["spectrum"],
            output_names=["voices"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _difference(spectra: Spectra, session: Any, frames: int, bins: int) -> float:
    spectrum = torch.randn(1, frames, bins, 2, generator=torch.Generator().manual_seed(frames))
    with torch.inference_mode():
        expected = spectra(spectrum)
    found = torch.from_numpy(session.run(None, {"spectrum": spectrum.numpy()})[0])
    return float((found - expected).abs().max() / expected.abs().max())
