"""What a device is given at a time, against what the network makes of it."""

import pytest
import torch

from tisdiss_cli.model import locoformer
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.locoformer import SpeakerPath
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.separation.capacity import (
    MOST_SECONDS,
    affordable_seconds,
    bins_per_second,
    bytes_per_second,
    most_seconds,
    threads_of,
)

GB = 10**9
RELEASED = Config()


def test_the_released_networks_figures():
    assert bytes_per_second(RELEASED, "bf16") == pytest.approx(167e6, rel=0.01)
    assert bytes_per_second(RELEASED, "fp32") == pytest.approx(296e6, rel=0.01)
    assert bytes_per_second(RELEASED, "tf32") == bytes_per_second(RELEASED, "fp32")
    assert 64 <= most_seconds(RELEASED) < 65
    assert affordable_seconds(RELEASED, "bf16", None) == affordable_seconds(RELEASED, "bf16", 80 * GB) < 65
    assert 8 < affordable_seconds(RELEASED, "fp32", 4 * GB) < 4 * GB / 296e6


@pytest.mark.parametrize(
    "differences",
    [{}, {"n_fft": 256, "hop_length": 128}, {"encoder_stride": (1, 2)}, {"encoder_stride": (2, 3), "speakers": 3}],
)
def test_what_is_reckoned_for_a_second_is_what_the_network_makes_of_one(differences, monkeypatch):
    config = Config(channels=8, ffn_hidden=12, attention_channels=8, heads=2, **differences)
    grids, largest = [], []

    def hook(network, inputs, output):
        grids.append(inputs[0].shape[2] * inputs[0].shape[3])

    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *a: largest.append(linear(*a).numel()) or linear(*a))
    network = TISDiSS(config)
    for layer in network.modules():
        if isinstance(layer, SpeakerPath):
            layer.register_forward_hook(hook)
    with torch.no_grad():
        network(torch.randn(1, 4 * config.sample_rate), 1)
    assert grids[0] == pytest.approx(4 * bins_per_second(config), rel=0.01)
    elements = locoformer.MOST_ELEMENTS / most_seconds(config)  # of the largest tensor of a second
    assert max(largest) == pytest.approx(4 * elements, rel=0.01)


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 30, 256])
@pytest.mark.parametrize("seconds", [0.01, 0.99, 1.5, 4.0, 8.0, 12.0, 12.1, 24.0, 60.0, 3600.0])
def test_no_core_is_given_twice_and_no_more_audio_than_memory_has_room_for(cores, seconds):
    each = threads_of(seconds, cores)
    at_once = cores // each
    assert each >= 1 and at_once >= 1
    assert each * at_once <= cores
    assert at_once == 1 or at_once * seconds <= max(MOST_SECONDS, seconds)
