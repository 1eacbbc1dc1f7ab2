"""The convolutions' own gradients, and attention by each of its kernels, against torch's in twice the precision."""

import pytest
import torch
import torch.nn.functional as F

from tests import naive
from tests.reference_cases import drawn_network, relative_error
from tisdiss_cli.model import cpu_kernels, locoformer, stages
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.cpu_kernels import attend, convolve

SHAPES = [((1, 4), (0, 3)), ((4, 1), (3, 0)), ((4, 1), (0, 0)), ((3, 3), (1, 1)), ((3, 5), (1, 2)), ((1, 1), (0, 0))]


@pytest.mark.parametrize(("inputs", "outputs", "block"), [(5, 7, 1024), (5, 7, 25), (7, 5, 25)])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("kernel", "padding"), SHAPES)
def test_all_gradients_are_those_of_a_convolution(monkeypatch, kernel, padding, channels_last, inputs, outputs, block):
    monkeypatch.setattr(cpu_kernels, "FEWEST_CHANNELS", 1)
    monkeypatch.setattr(cpu_kernels, "BLOCK", block)

    def gradients(dtype: torch.dtype, function) -> list[torch.Tensor]:
        torch.manual_seed(0)
        memory = torch.channels_last if channels_last else torch.contiguous_format
        x, weight, bias, target = (
            torch.randn(shape).to(dtype)
            for shape in ((3, inputs, 9, 11), (outputs, inputs, *kernel), (outputs,), (3, outputs, 1, 1))
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

    monkeypatch.setattr(cpu_kernels, "FEWEST_CHANNELS", 1)
    convolutions: list[torch.Size] = []
    ours = gradients()
    for module in (locoformer, stages):
        monkeypatch.setattr(module, "convolve", plain)
    theirs = gradients()
    assert {shape[2:] for shape in convolutions} == {(1, 4), (4, 1), (3, 3)}
    for name, gradient in ours.items():
        assert relative_error(gradient, theirs[name]) < 1e-3, name


SMALL = {"channels": 16, "ffn_hidden": 24, "attention_channels": 16, "heads": 2}


def softmax_attention(q, k, v):
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return weights @ v


@pytest.mark.parametrize("sequences", [65_535, 65_536, 2 * 65_535 + 1])
def test_attention_of_more_sequences_than_a_kernel_takes(sequences):
    q, k, v = torch.randn(3, sequences, 1, 3, 4)
    torch.testing.assert_close(attend(q, k, v), softmax_attention(q, k, v))


def test_no_kernel_is_given_more_sequences_than_it_takes(monkeypatch):
    """Along frequency every frame of every item is a sequence: 65,536 of them come from two minutes of a batch of 4."""
    given, kernel = [], torch.nn.functional.scaled_dot_product_attention

    def counting(q, k, v):
        given.append(len(q))
        return kernel(q, k, v)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    network = drawn_network(Config(**SMALL), "limit")
    mixture = torch.randn(2, 1500)
    with torch.no_grad():
        expected = network(mixture, 1)
        assert max(given) > 40
        given.clear()
        monkeypatch.setattr(cpu_kernels, "MOST_SEQUENCES", 17)
        actual = network(mixture, 1)
    assert max(given) == 17
    assert relative_error(actual, expected) < 1e-5
    assert relative_error(actual, naive.estimates(network, mixture, 1)[-1]) < 1e-4


# (N, heads, n, dim) as along frequency, where the first axis is the longer one, and as along time, where the second is.
@pytest.mark.parametrize("shape", [(40, 2, 13, 8), (2, 40, 29, 8), (1, 1, 300, 16), (3, 2, 1, 8)])
@pytest.mark.parametrize("weights", [1, 1000, 1_000_000])
@pytest.mark.parametrize("longest", [0, 1024])
def test_bf16_on_a_cpu_by_either_kernel_and_in_any_slices(monkeypatch, shape, weights, longest):
    monkeypatch.setattr(cpu_kernels, "MOST_WEIGHTS", weights)
    monkeypatch.setattr(cpu_kernels, "LONGEST_IN_PRODUCTS", longest)
    strided = torch.randn(3, shape[0], shape[2], shape[1], shape[3]).transpose(2, 3).bfloat16()
    target = torch.randn(shape)

    def value_and_gradients(function, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad((y * target.to(y.dtype)).sum(), leaves)]

    expected = value_and_gradients(softmax_attention, [part.double().requires_grad_() for part in strided])
    actual = value_and_gradients(attend, [part.detach().requires_grad_() for part in strided])
    with torch.no_grad():
        alone = attend(*strided)
    for ours, theirs in zip((alone, *actual), (expected[0], *expected), strict=True):
        if theirs.abs().amax() > 0:  # with one position, queries and keys change nothing
            assert relative_error(ours.double(), theirs) < 0.03
        else:
            assert ours.abs().amax() < 1e-6  # what rounding leaves


@torch.no_grad()
def test_no_slice_has_more_weights_than_asked_for(monkeypatch):
    sizes, softmax = [], torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, axis: sizes.append(x.numel()) or softmax(x, axis))
    monkeypatch.setattr(cpu_kernels, "MOST_WEIGHTS", 1000)
    for shape in ((40, 2, 13, 8), (2, 40, 13, 8)):
        sizes.clear()
        attend(*torch.randn(3, *shape).bfloat16())
        assert max(sizes) <= 1000 and sum(sizes) == 80 * 13 * 13
