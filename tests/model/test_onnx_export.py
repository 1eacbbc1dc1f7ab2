"""ONNX models, separated by the example's numpy and onnxruntime alone, against the reference outputs and torch."""

import runpy
import sys

import numpy as np
import pytest
import soundfile
import torch

from tests.cli import ROOT, tisdiss
from tests.reference_cases import relative_error, strided_case
from tisdiss_cli.model.weights import save_weights

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
EXAMPLE = ROOT / "examples" / "onnx" / "separate.py"


def export(folder, network, repeats: int):
    """The session of a network's model, by the command."""
    weights, model = folder / "weights.safetensors", folder / "model.onnx"
    save_weights(weights, network.config, network.state_dict())
    printed = tisdiss("weights", "export", weights, model, "--repeats", repeats).stdout
    assert str(model) in printed
    return onnxruntime.InferenceSession(model)


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A reference case of the bundled weights' kind, with a mask and a strided Encoder: its network and its model."""
    network, _ = strided_case("strided_mask_f2")
    return network, export(tmp_path_factory.mktemp("exported"), network, 1)


def test_reference_outputs_come_out_without_torch(exported, example):
    network, session = exported
    _, arrays = strided_case("strided_mask_f2")
    shape = network.config.n_fft, network.config.hop_length
    for samples in (4096, 5248):
        expected = arrays[f"estimate_reconstructor1_{samples}"]
        for mixture, voices in zip(arrays[f"mixture_{samples}"].numpy(), expected, strict=True):
            scale = mixture.std(ddof=1)
            (spectra,) = session.run(None, {"spectrum": example["stft"](mixture / scale, *shape)[None]})
            found = np.stack([example["istft"](voice, *shape, samples) for voice in spectra[0]]) * scale
            assert relative_error(torch.from_numpy(found), voices) < 1e-4


@pytest.mark.parametrize("samples", [1, 100, 8000, 20_001])
def test_any_length_is_separated_as_by_torch(exported, example, samples):
    network, session = exported
    mixture = 0.1 + torch.randn(samples)
    with torch.inference_mode():
        expected = network.separate(mixture[None], 1)[0]
    found = torch.from_numpy(example["separate"](session, mixture.numpy().astype(np.float64)))
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-4 * max(float(expected.abs().max()), 1e-6)


def test_mixtures_of_a_batch_are_separated_as_each_by_itself(exported):
    network, session = exported
    spectra = torch.randn(3, 40, network.config.bins, 2).numpy()
    (together,) = session.run(None, {"spectrum": spectra})
    for spectrum, voices in zip(spectra, together, strict=True):
        (alone,) = session.run(None, {"spectrum": spectrum[None]})
        assert relative_error(torch.from_numpy(voices), alone[0]) < 1e-4


def test_a_model_says_what_a_caller_needs(exported):
    network, session = exported
    config, facts = network.config, session.get_modelmeta().custom_metadata_map
    for name in ("sample_rate", "n_fft", "hop_length", "speakers"):
        assert int(facts[name]) == getattr(config, name)
    assert (facts["repeats"], facts["name"]) == ("1", "weights")
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert given.name == "spectrum" and taken.name == "voices"
    assert given.shape[2:] == [config.bins, 2] and all(isinstance(size, str) for size in given.shape[:2])


def test_the_example_writes_the_voices_of_a_file(exported, tmp_path, monkeypatch):
    network, session = exported
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path: session)
    soundfile.write(tmp_path / "call.wav", np.random.default_rng(0).normal(0, 0.1, (4000, 2)), 8000, subtype="FLOAT")
    arguments = ["", str(tmp_path / "model.onnx"), str(tmp_path / "call.wav"), str(tmp_path / "voices")]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    mixture = torch.from_numpy(soundfile.read(tmp_path / "call.wav", dtype="float32")[0].mean(1))
    with torch.inference_mode():
        expected = network.separate(mixture[None], 1)[0]
    for number, voice in enumerate(expected, 1):
        found, rate = soundfile.read(tmp_path / "voices" / f"call_s{number}.wav")
        assert rate == 8000 and relative_error(torch.from_numpy(found), voice) < 1e-4


def test_what_is_refused(tmp_path, mini_weights, monkeypatch):
    refused = tisdiss("weights", "export", mini_weights, tmp_path / "model.pt", status=2)
    assert "must end in .onnx" in refused.stderr
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused = tisdiss("weights", "export", mini_weights, tmp_path / "model.onnx", status=2)
    assert "pip install 'tisdiss[onnx]'" in refused.stderr and not (tmp_path / "model.onnx").exists()


def test_a_model_that_computes_something_else_is_not_kept(exported, tmp_path, mini_weights, monkeypatch):
    network, session = exported
    other = onnx.load(session._model_path)  # of other weights
    monkeypatch.setattr("tisdiss_cli.model.onnx_export._export", lambda *given: other)
    save_weights(
        tmp_path / "weights.safetensors", network.config, {k: 1.1 * v for k, v in network.state_dict().items()}
    )
    where = tmp_path / "out" / "model.onnx"
    where.parent.mkdir()
    refused = tisdiss("weights", "export", tmp_path / "weights.safetensors", where, "--repeats", 1, status=2)
    assert "differs" in refused.stderr and not list(where.parent.iterdir())
