"""The convolutions' own gradient of the weights, against that of torch in twice the precision."""

import pytest
import torch
import torch.nn.functional as F

from tests.reference_cases import drawn_network, relative_error
from tisdiss_cli.model import locoformer, stages
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.convolution import convolve

SHAPES = [((1, 4), (0, 3)), ((4, 1), (3, 0)), ((4, 1), (0, 0)), ((3, 3), (1, 1)), ((3, 5), (1, 2)), ((1, 1), (0, 0))]


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("kernel", "padding"), SHAPES)
def test_all_gradients_are_those_of_a_convolution(monkeypatch, kernel, padding, channels_last):
    monkeypatch.setattr("tisdiss_cli.model.convolution.FEWEST_CHANNELS", 1)

    def gradients(dtype: torch.dtype, function) -> list[torch.Tensor]:
        torch.manual_seed(0)
        memory = torch.channels_last if channels_last else torch.contiguous_format
        x, weight, bias, target = (
            torch.randn(shape).to(dtype) for shape in ((3, 5, 9, 11), (7, 5, *kernel), (7,), (3, 7, 1, 1))
        )
        x = x.contiguous(memory_format=memory)
        leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
        y = function(x, weight, bias, padding)
        (y * target).square().sum().backward()
        return [y.detach(), *(leaf.grad for leaf in leaves)]

    ours = gradients(torch.float32, convolve)
    expected = gradients(torch.float64, lambda x, w, b, padding: F.conv2d(x, w, b, padding=padding))
    for value, wanted in zip(ours, expected, strict=True):
        assert value.shape == wanted.shape
        assert relative_error(value.double(), wanted) < 1e-5


@pytest.mark.parametrize(("kernel", "padding"), SHAPES)
def test_all_gradients_in_bf16(kernel, padding):
    """As training computes them: the parameters in float32, the products in bf16."""
    shapes = ((3, 5, 9, 11), (7, 5, *kernel), (7,), (3, 7, 1, 1))
    x, weight, bias, target = (torch.randn(shape).bfloat16().float() for shape in shapes)

    def gradients(dtype: torch.dtype, function, autocast: bool) -> list[torch.Tensor]:
        leaves = [tensor.to(dtype).clone().requires_grad_() for tensor in (x, weight, bias)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = function(*leaves, padding)
        (y.to(dtype) * target.to(dtype)).square().sum().backward()
        return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    ours = gradients(torch.float32, convolve, autocast=True)
    plain = gradients(torch.float64, lambda x, w, b, padding: F.conv2d(x, w, b, padding=padding), autocast=False)
    assert ours[0].dtype == torch.bfloat16 and all(value.dtype == torch.float32 for value in ours[1:])
    for value, wanted in zip(ours, plain, strict=True):
        assert relative_error(value.double(), wanted) < 0.02


def test_a_network_learns_by_the_gradients_of_torch(monkeypatch):
    small = {"channels": 16, "ffn_hidden": 24, "attention_channels": 16, "heads": 2}
    mixture = torch.randn(2, 800)

    def gradients() -> dict[str, torch.Tensor]:
        network = drawn_network(Config(**small, reconstructor_repeats=2), "learns")
        loss = sum(estimate.waveforms().square().mean() for estimate in network.estimates(mixture, 2))
        loss.backward()
        return {name: parameter.grad for name, parameter in network.named_parameters()}

    def plain(x, weight, bias, padding=(0, 0)):
        convolutions.append(weight.shape)
        return F.conv2d(x, weight, bias, padding=padding)

    monkeypatch.setattr("tisdiss_cli.model.convolution.FEWEST_CHANNELS", 1)
    convolutions: list[torch.Size] = []
    ours = gradients()
    for module in (locoformer, stages):
        monkeypatch.setattr(module, "convolve", plain)
    theirs = gradients()
    assert {shape[2:] for shape in convolutions} == {(1, 4), (4, 1), (3, 3)}
    for name, gradient in ours.items():
        assert relative_error(gradient, theirs[name]) < 1e-3, name
