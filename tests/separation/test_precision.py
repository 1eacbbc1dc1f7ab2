"""`--precision auto`: what it takes follows from the device's units and from what is known of the weights."""

import json

import pytest
import torch

from tests.cli import tisdiss
from tests.reference_cases import drawn_network
from tests.synthetic import TINY
from tisdiss_cli.devices import choose_precision
from tisdiss_cli.evaluation.calibrate import fixed_mixture, measure_agreement
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.weights import AGREEMENT, read_info, save_weights
from tisdiss_cli.separation.separator import Separator
from tisdiss_cli.separation.si_snr import si_snr


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize(
    ("units", "agreement", "taken"),
    [(True, None, "bf16"), (True, 38.1, "bf16"), (True, 30.0, "bf16"), (True, 29.9, "fp32"), (False, 38.1, "fp32")],
)
def test_auto_is_one_rule_on_every_device(monkeypatch, kind, units, agreement, taken):
    monkeypatch.setattr("tisdiss_cli.devices.computes_in_bf16", lambda device: units)
    precision, why = choose_precision("auto", torch.device(kind), agreement)
    assert precision == taken
    assert ("no bf16 units" in why) == (not units) and ("29.9 dB" in why) == (units and agreement == 29.9)


@pytest.fixture
def units(monkeypatch):
    """A CPU with units for bf16, whatever this one has."""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": False, "avx512_bf16": True})


@pytest.mark.parametrize(
    ("facts", "precision"),
    [
        ({"training": {"steps": 1}}, "bf16"),
        ({"imported_from": "model.pth", AGREEMENT: 41.5}, "bf16"),
        ({"imported_from": "model.pth", AGREEMENT: 17.0}, "fp32"),
        ({"training": {"steps": 1}, AGREEMENT: 17.0}, "fp32"),
        ({}, "bf16"),
    ],
)
def test_a_separator_takes_what_its_weights_keep_in(tmp_path, units, facts, precision):
    network, path = drawn_network(Config(**TINY), "auto"), tmp_path / "w.safetensors"
    save_weights(path, network.config, network.state_dict(), info=facts)
    separator = Separator.load(path, "cpu")
    assert separator.precision == precision and "bf16" in separator.precision_why
    for asked in ("fp32", "bf16"):
        assert Separator.load(path, "cpu", asked).precision == asked


def test_the_agreement_is_si_snr_of_the_worst_voice(tmp_path):
    network = drawn_network(Config(**TINY), "agreement")
    (found,) = measure_agreement(network.config, network.state_dict()).values()
    mixture = fixed_mixture(network.config)
    with torch.no_grad():
        exact = network.separate(mixture)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network.separate(mixture)
    assert found == pytest.approx(float(si_snr(rounded[0], exact[0]).min()), abs=0.02)
    assert 10 < found < 60
    again = measure_agreement(network.config, network.state_dict())
    assert again == {AGREEMENT: found}
    save_weights(tmp_path / "w.safetensors", network.config, network.state_dict(), info=again)
    assert read_info(tmp_path / "w.safetensors").bf16_agreement_db == found


def test_the_fixed_mixture_is_two_sounds_and_always_the_same():
    eight, sixteen = fixed_mixture(Config()), fixed_mixture(Config(sample_rate=16000))
    assert torch.equal(eight, fixed_mixture(Config())) and sixteen.shape[1] == 2 * eight.shape[1]
    assert eight.std() > 0.1 and torch.isfinite(eight).all()


def test_the_record_says_why(monkeypatch, folder, tmp_path, mini_weights):
    monkeypatch.setattr("tisdiss_cli.devices.computes_in_bf16", lambda device: False)
    options = ("--weights", mini_weights, "--repeats", 1, "--quiet", "--device", "cpu")
    for asked, word in ((("--precision", "auto"), "units"), (("--precision", "fp32"), "requested")):
        out = tmp_path / word
        tisdiss("separate", folder / "a.wav", out, *options, *asked)
        (line,) = map(json.loads, (out / "tisdiss.jsonl").read_text().splitlines())
        assert line["settings"]["precision"] == "fp32" and word in line["precision_why"]
    # Which of the two was said is no setting: the run is done under either.
    tisdiss("separate", folder / "a.wav", tmp_path / "units", *options, "--precision", "fp32")
    assert len((tmp_path / "units" / "tisdiss.jsonl").read_text().splitlines()) == 1
