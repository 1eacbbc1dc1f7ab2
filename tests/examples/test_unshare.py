"""Repeats that become layers of their own compute what they did."""

import runpy
import sys

import pytest
import torch

from tests.cli import ROOT
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import load_weights, save_weights


@pytest.mark.parametrize("reinjection", [True, False])
@pytest.mark.parametrize(("layers", "repeats"), [(1, 2), (2, 3), (1, 1)])
def test_unshared_repeats_give_the_same_voices(tmp_path, monkeypatch, layers, repeats, reinjection):
    config = Config(
        channels=8,
        ffn_hidden=8,
        attention_channels=8,
        heads=1,
        separator_layers=layers,
        separator_repeats=repeats,
        separator_reinjection=reinjection,
    )
    network = TISDiSS(config).eval()
    save_weights(tmp_path / "shared.safetensors", config, network.state_dict())
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "shared.safetensors"), str(tmp_path / "own.safetensors")])
    runpy.run_path(str(ROOT / "examples" / "unshare.py"), run_name="__main__")
    own = load_weights(tmp_path / "own.safetensors")
    assert own.config.separator_repeats == 1 and own.config.separator_layers == layers * repeats
    assert own.parameter_count > network.parameter_count or repeats == 1
    mixture = torch.randn(1, 2000)
    with torch.no_grad():
        assert torch.equal(own(mixture, 2), network(mixture, 2))
