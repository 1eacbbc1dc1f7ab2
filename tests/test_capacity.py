"""How much audio a device takes at a time: the released network's figures, and what memory affords."""

import pytest
import torch

from tests.reference_cases import relative_error
from tisdiss_cli.model import locoformer
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.locoformer import SpeakerPath
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.separation import engine as module
from tisdiss_cli.separation.engine import affordable_seconds, bins_per_second, bytes_per_second, most_seconds
from tisdiss_cli.separation.separator import Separator

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


@pytest.fixture
def separator(mini_weights):
    return Separator.load(mini_weights, "cpu", "fp32")


def test_the_batch_is_what_a_device_affords(separator, monkeypatch):
    plan, rate = separator.plan(8.0), bytes_per_second(separator.config, "fp32")
    assert separator.default_batch(plan) == 1
    for chunks, batch in ((0.5, 1), (3, 3), (5.5, 5), (1000, 16)):
        monkeypatch.setattr(module, "free_bytes", lambda device, n=chunks: round(n * 8.0 * rate / 0.8) + 1000)
        another = Separator(separator.network, separator.weights, torch.device("cpu"), "fp32")
        another.device = torch.device("cuda")  # is only asked for its name
        assert another.default_batch(plan) == batch


def test_no_more_than_is_affordable_runs_at_a_time(separator, monkeypatch):
    whole, _ = separator.run(torch.randn(7, 4000, generator=torch.Generator().manual_seed(0)), 1)
    sizes, batch = [], separator.batch
    monkeypatch.setattr(separator, "batch", lambda x, *rest: sizes.append(x.shape[0]) or batch(x, *rest))
    separator.affordable_seconds = 1.7  # of the network's 8 kHz: three chunks of half a second
    parts, used = separator.run(torch.randn(7, 4000, generator=torch.Generator().manual_seed(0)), 1)
    assert sizes == [3, 3, 1] and used == [1] * 7
    assert relative_error(parts, whole) < 1e-2  # seeded, the network blows rounding up
    sizes.clear()
    separator.run(torch.randn(2, 24_000), 1)  # one chunk is never too long
    assert sizes == [1, 1]
