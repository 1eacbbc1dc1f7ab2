"""The paths' pieces: turns without complex numbers, slices of what is too large."""

import pytest
import torch

from tests.reference_cases import drawn_network, relative_error
from tisdiss_cli.model import locoformer
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.locoformer import rotary_angles, rotate, rotate_in_parts, sliced

SMALL = {"channels": 16, "ffn_hidden": 24, "attention_channels": 16, "heads": 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turns_with_and_without_complex_numbers_are_the_same(dtype):
    x = torch.randn(2, 300, 3, 8).to(dtype)
    angles = rotary_angles(300, 8, x.device)[:, None]
    # A turn by the angle is a product with a 2 x 2 matrix.
    matrix = torch.stack((angles.cos(), -angles.sin(), angles.sin(), angles.cos()), -1).unflatten(-1, (2, 2)).double()
    expected = (matrix @ x.double().unflatten(-1, (4, 2))[..., None]).flatten(-3)
    for turned in (rotate(x, angles), rotate_in_parts(x, angles)):
        assert turned.dtype == torch.float32
        torch.testing.assert_close(turned.double(), expected, atol=1e-6, rtol=1e-6)


def test_what_is_compiled_has_no_complex_number_and_the_eager_result():
    """No graph of a path may hold one: the compiler has no code for complex products (fp32: test_separate)."""
    network = drawn_network(Config(**SMALL, reconstructor_repeats=1), "compiled")
    mixture, kinds = torch.randn(2, 600), set()

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        for node in graph.graph.nodes:
            if isinstance(value := node.meta.get("example_value"), torch.Tensor):
                kinds.add(value.dtype)
        return graph

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = network(mixture)
        for module in network.reconstructor.modules():  # all kinds of a path
            if isinstance(module, locoformer.SpectralPath | locoformer.SpeakerPath):
                module.compile(backend=backend, dynamic=True, fullgraph=True)
        compiled = network(mixture)
    assert torch.float32 in kinds and not any(kind.is_complex for kind in kinds)
    assert relative_error(compiled, expected) < 0.02


def test_slices_are_no_larger_than_asked_for_and_exact(monkeypatch):
    monkeypatch.setattr(locoformer, "MOST_ELEMENTS", 1000)
    sizes = []

    def seven_times(part):
        sizes.append(part.numel() * 7)
        return part.cumsum(0)

    x = torch.randn(3, 50, 2)
    assert torch.equal(sliced(seven_times, x, 1, 7 * x.numel()), x.cumsum(0))
    assert len(sizes) > 1 and max(sizes) <= 1000
    sizes.clear()
    sliced(seven_times, x[:, :20], 1, 7 * 120)
    assert len(sizes) == 1


@torch.no_grad()
def test_a_cpu_runs_in_slices_that_it_need_not_ask_the_system_for(monkeypatch):
    network, mixture, sizes = drawn_network(Config(**SMALL), "slices"), torch.randn(2, 1500), []
    forward = locoformer.FeedForward.forward
    expected = network(mixture, 1)
    monkeypatch.setattr(
        locoformer.FeedForward, "forward", lambda self, x, *rest: sizes.append(x.numel()) or forward(self, x, *rest)
    )
    network(mixture, 1)
    assert max(sizes) == 4 * 24 * 65 * 16 and len(sizes) == 12  # two voices of two mixtures, whole
    sizes.clear()
    monkeypatch.setattr(locoformer, "MOST_ELEMENTS_ON_CPU", 60_000)
    actual = network(mixture, 1)
    assert max(sizes) * 48 / 16 <= 60_000 and len(sizes) > 30  # 48 hidden channels for 16
    assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize("differences", [{}, {"speakers": 3, "path_order": "tf"}, {"encoder_stride": [1, 2]}])
def test_a_network_in_slices_computes_and_learns_the_same(monkeypatch, differences):
    network = drawn_network(Config(**SMALL, **differences), "slices")
    mixture, counted = torch.randn(2, 1000), []

    def outcome():
        network.zero_grad()
        estimate = network(mixture, 1)
        estimate.square().sum().backward()
        return [estimate.detach(), *(parameter.grad.clone() for parameter in network.parameters())]

    expected = outcome()
    chunk = torch.Tensor.chunk
    monkeypatch.setattr(locoformer, "MOST_ELEMENTS", 20_000)
    monkeypatch.setattr(torch.Tensor, "chunk", lambda x, n, dim=0: counted.append((n, dim)) or chunk(x, n, dim))
    sliced_outcome = outcome()
    assert {dim for n, dim in counted if n > 2} >= {1, 2}  # slices of frames and of bins
    assert relative_error(sliced_outcome[0], expected[0]) < 1e-5
    for actual, whole in zip(sliced_outcome[1:], expected[1:], strict=True):
        assert relative_error(actual, whole) < 1e-3  # sums of many terms that nearly cancel
