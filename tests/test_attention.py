"""Attention of any number of sequences, by each of its kernels, against a softmax in twice the precision."""

import pytest
import torch

from tests import naive
from tests.reference_cases import drawn_network, relative_error
from tisdiss_cli.model import attention
from tisdiss_cli.model.attention import attend
from tisdiss_cli.model.config import Config

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
        monkeypatch.setattr(attention, "MOST_SEQUENCES", 17)
        actual = network(mixture, 1)
    assert max(given) == 17
    assert relative_error(actual, expected) < 1e-5
    assert relative_error(actual, naive.estimates(network, mixture, 1)[-1]) < 1e-4


# (N, heads, n, dim) as along frequency, where the first axis is the longer one, and as along time, where the second is.
@pytest.mark.parametrize("shape", [(40, 2, 13, 8), (2, 40, 29, 8), (1, 1, 300, 16), (3, 2, 1, 8)])
@pytest.mark.parametrize("weights", [1, 1000, 1_000_000])
@pytest.mark.parametrize("longest", [0, 1024])
def test_bf16_on_a_cpu_by_either_kernel_and_in_any_slices(monkeypatch, shape, weights, longest):
    monkeypatch.setattr(attention, "MOST_WEIGHTS", weights)
    monkeypatch.setattr(attention, "LONGEST_IN_PRODUCTS", longest)
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
    monkeypatch.setattr(attention, "MOST_WEIGHTS", 1000)
    for shape in ((40, 2, 13, 8), (2, 40, 13, 8)):
        sizes.clear()
        attend(*torch.randn(3, *shape).bfloat16())
        assert max(sizes) <= 1000 and sum(sizes) == 80 * 13 * 13
