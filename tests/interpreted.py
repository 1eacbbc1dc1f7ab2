"""The Triton kernels in Triton's interpreter, on a CPU. `test_fused` runs this in a process of its own:

TRITON_INTERPRET=1 python -m pytest -n 0 tests/interpreted.py
"""

import copy
import os
import sys

import pytest
import torch
from torch import library

from tests.reference_cases import drawn_network, load_case, reference_network, relative_error
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.config import Config
from tisdiss_cli.separation.separator import Separator

assert os.environ.get("TRITON_INTERPRET") == "1"  # before triton is imported, or it would look for a card
SMALL = {"channels": 12, "ffn_hidden": 10, "attention_channels": 8, "heads": 2, "norm_groups": 3}
SMALL |= {"n_fft": 32, "hop_length": 16}
KINDS = [torch.float32, torch.bfloat16]
ROUNDING = {torch.float32: 2**-20, torch.bfloat16: 2**-7}  # the interpreter cuts off what a card rounds


@pytest.fixture
def fused():
    from tisdiss_cli.model import fused

    return fused


def used(fused, network):
    """A copy of the network, or of a part of it, that runs the kernels."""
    network = copy.deepcopy(network)
    fused.use(network)
    return network


def layouts(rows: int, columns: int, kind: torch.dtype) -> dict[str, torch.Tensor]:
    """(..., columns) in several memory layouts, `rows` of them in each."""
    grid = torch.randn(2, columns, 3, rows).to(kind)
    return {
        "rows": torch.randn(rows, columns).to(kind),
        "channels last": grid.to(memory_format=torch.channels_last).permute(0, 2, 3, 1),
        "channels first": grid.permute(0, 2, 3, 1),
        "part": torch.randn(2, rows, 4, columns).to(kind)[:, :, 1:3],
        "columns apart": torch.randn(columns, rows).to(kind).T,
    }


def test_without_the_switch_nothing_of_it_is_imported():
    assert Separator.load(None, "cpu", "fp32").separate(torch.randn(1000), repeats=1).shape == (2, 1000)
    assert "tisdiss_cli.model.fused" not in sys.modules


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 130), (7, 5), (150, 12)])
def test_bias_and_swiglu(fused, kind, rows, width):
    bias = torch.randn(2 * width)
    for name, y in layouts(rows, 2 * width, kind).items():
        value, gate = y.double()[..., :width] + bias[:width].double(), y.double()[..., width:] + bias[width:].double()
        expected = value * gate / (1 + (-gate).exp())
        actual = fused.gated(y, bias)
        assert actual.dtype == kind and actual.is_contiguous(), name
        torch.testing.assert_close(actual.double(), expected, rtol=ROUNDING[kind], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize(("rows", "groups", "width"), [(1, 1, 1), (1, 3, 5), (41, 4, 32), (150, 3, 7)])
def test_the_norms_division(fused, kind, wanted, rows, groups, width):
    for name, x in layouts(rows, groups * width, kind).items():
        expected = torch.empty(x.shape, dtype=torch.float64)
        for group in range(groups):
            part = slice(group * width, (group + 1) * width)
            root_mean_square = x[..., part].double().square().mean(-1, keepdim=True).sqrt()
            expected[..., part] = x[..., part].double() / (root_mean_square + 0.25)
        actual = fused.divided(x, groups, 0.25, wanted)
        assert actual.dtype == wanted and actual.is_contiguous(), name
        torch.testing.assert_close(actual.double(), expected, rtol=ROUNDING[wanted], atol=1e-6)


def test_rows_beyond_what_32_bits_count(fused):
    """Three rows, 2**30 elements apart: of that memory only what is touched is ever there."""
    try:
        memory = torch.empty(2**31 + 12, dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip("no 4 GiB of addresses")
    far = memory.as_strided((3, 12), (2**30, 1))
    near = torch.randn(3, 12).bfloat16()
    far.copy_(near)
    bias = torch.randn(12)
    assert torch.equal(fused.gated(far, bias), fused.gated(near, bias))
    assert torch.equal(fused.divided(far, 3, 1e-5, torch.float32), fused.divided(near, 3, 1e-5, torch.float32))


def test_nothing_in_nothing_out(fused):
    assert fused.gated(torch.empty(0, 3, 8), torch.zeros(8)).shape == (0, 3, 4)
    assert fused.divided(torch.empty(2, 0, 8), 2, 0.1, torch.bfloat16).shape == (2, 0, 8)


def test_the_published_outputs(fused, monkeypatch):
    monkeypatch.setattr(fused, "_TILE", 2**18)  # the interpreter's time goes by programs
    case, arrays = load_case("small_re1x3")
    network, repeats = reference_network("small_re1x3"), min(case["repeats"])
    mixture = torch.from_numpy(arrays["mixture"][:1])
    with torch.inference_mode():
        actual, expected = used(fused, network)(mixture, repeats), network(mixture, repeats)
    assert not torch.equal(actual, expected)  # the kernels were at work
    assert relative_error(actual, expected) < 1e-5
    assert relative_error(actual, arrays[f"estimate_repeats{repeats}"][:1]) < 1e-4


def test_a_network_of_three_speakers_computes_the_same(fused):
    """In bf16: it is no farther from float32's outcome than rounding takes the eager network too."""
    eager = drawn_network(Config(**SMALL, speakers=3), "fused")
    kernels = used(fused, eager)
    mixture = torch.randn(1, 200)
    with torch.inference_mode():
        expected = eager(mixture, 1, 1)
        assert 0 < relative_error(kernels(mixture, 1, 1), expected) < 1e-5
        with torch.autocast("cpu", torch.bfloat16):
            rounding = relative_error(eager(mixture, 1, 1), expected)
            assert 0 < relative_error(kernels(mixture, 1, 1), expected) < 2 * rounding < 0.2


def test_where_gradients_are_wanted_the_network_goes_its_own_way(fused):
    network = drawn_network(Config(**SMALL), "gradients")
    mixture, outcomes = torch.randn(1, 100), []
    for one in (network, used(fused, network)):
        one(mixture, 1).square().sum().backward()
        outcomes.append([parameter.grad for parameter in one.parameters() if parameter.grad is not None])
    assert len(outcomes[0]) > 40
    for expected, actual in zip(*outcomes, strict=True):
        assert torch.equal(actual, expected)


def test_compiled_for_every_length_at_once(fused):
    """A feed-forward is one graph, in which each kernel is one operation; no length is compiled again."""
    eager = drawn_network(Config(**SMALL), "compiled").separator.layers[0].frame
    compiled, graphs = used(fused, eager), []
    compiled.ffn_pre.compile(backend=lambda graph, _: graphs.append(graph) or graph, dynamic=True, fullgraph=True)
    with torch.inference_mode():
        for frames, bins in ((5, 17), (6, 17), (9, 9)):
            x = torch.randn(2, frames, bins, SMALL["channels"])
            actual, expected = (path.ffn_pre(x, path.ffn_pre_norm, "frame") for path in (compiled, eager))
            assert relative_error(actual, expected) < 1e-5
    assert len(graphs) == 1
    assert sum("tisdiss" in str(node.target) for node in graphs[0].graph.nodes) == 2


def test_the_operations_are_what_the_compiler_is_told(fused):
    for y in layouts(5, 8, torch.bfloat16).values():
        for op, arguments in ((fused._gated_op, (torch.randn(8),)), (fused._divided_op, (2, 0.1, torch.float32))):
            library.opcheck(op, (y, *arguments), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_kernels_that_cannot_be_made_are_one_sentence(fused):
    with pytest.raises(UserError, match=r"^--triton: its kernels cannot be made here \(.+\): leave it out$"):
        fused.make_ready(torch.device("cuda"), torch.float32)
