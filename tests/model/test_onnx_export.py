"""ONNX models, separated by the example's numpy and onnxruntime alone, against the published outputs and torch."""

import runpy
import sys

import numpy as np
import pytest
import soundfile
import torch

from tests.cli import ROOT, tisdiss
from tests.reference_cases import drawn_network, load_case, reference_network, relative_error
from tisdiss_cli.model.config import Config
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
def published(tmp_path_factory):
    return export(tmp_path_factory.mktemp("published"), reference_network("small_re1x3"), 1)


@pytest.fixture(scope="module")
def masking(tmp_path_factory):
    """Of the bundled weights' kind: a mask, and an Encoder with a stride."""
    small = {"channels": 8, "ffn_hidden": 8, "attention_channels": 8, "heads": 1, "separator_repeats": 1}
    network = drawn_network(Config(**small, n_fft=256, hop_length=128, encoder_stride=(1, 2), output="mask"), "masks")
    return network, export(tmp_path_factory.mktemp("masking"), network, 1)


def test_published_outputs_come_out_without_torch(published, example):
    config, (_, arrays) = reference_network("small_re1x3").config, load_case("small_re1x3")
    shape = config.n_fft, config.hop_length
    for mixture, expected in zip(arrays["mixture"], arrays["estimate_repeats1"], strict=True):
        scale = mixture.std(ddof=1)
        (spectra,) = published.run(None, {"spectrum": example["stft"](mixture / scale, *shape)[None]})
        found = np.stack([example["istft"](voice, *shape, len(mixture)) for voice in spectra[0]]) * scale
        assert relative_error(torch.from_numpy(found), expected) < 1e-4


@pytest.mark.parametrize("samples", [1, 100, 8000, 20_001])
def test_any_length_is_separated_as_by_torch(masking, example, samples):
    network, session = masking
    mixture = 0.1 + torch.randn(samples)
    with torch.inference_mode():
        expected = network.separate(mixture[None], 1)[0]
    found = torch.from_numpy(example["separate"](session, mixture.numpy().astype(np.float64)))
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-4 * max(float(expected.abs().max()), 1e-6)


def test_mixtures_of_a_batch_are_separated_as_each_by_itself(masking):
    network, session = masking
    spectra = torch.randn(3, 40, network.config.bins, 2).numpy()
    (together,) = session.run(None, {"spectrum": spectra})
    for spectrum, voices in zip(spectra, together, strict=True):
        (alone,) = session.run(None, {"spectrum": spectrum[None]})
        assert relative_error(torch.from_numpy(voices), alone[0]) < 1e-4


def test_a_model_says_what_a_caller_needs(published):
    config, facts = reference_network("small_re1x3").config, published.get_modelmeta().custom_metadata_map
    for name in ("sample_rate", "n_fft", "hop_length", "speakers"):
        assert int(facts[name]) == getattr(config, name)
    assert (facts["repeats"], facts["name"]) == ("1", "weights")
    (given,), (taken,) = published.get_inputs(), published.get_outputs()
    assert given.name == "spectrum" and taken.name == "voices"
    assert given.shape[2:] == [config.bins, 2] and all(isinstance(size, str) for size in given.shape[:2])


def test_the_example_writes_the_voices_of_a_file(masking, tmp_path, monkeypatch):
    network, session = masking
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


def test_a_model_that_computes_something_else_is_not_kept(masking, tmp_path, mini_weights, monkeypatch):
    network, session = masking
    other = onnx.load(session._model_path)  # of other weights
    monkeypatch.setattr("tisdiss_cli.model.onnx_export._export", lambda *given: other)
    save_weights(
        tmp_path / "weights.safetensors", network.config, {k: 1.1 * v for k, v in network.state_dict().items()}
    )
    where = tmp_path / "out" / "model.onnx"
    where.parent.mkdir()
    refused = tisdiss("weights", "export", tmp_path / "weights.safetensors", where, "--repeats", 1, status=2)
    assert "differs" in refused.stderr and not list(where.parent.iterdir())
