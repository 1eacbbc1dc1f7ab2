"""The Triton kernels: in Triton's interpreter, made for cards that are not here, and refused where they cannot be."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from tests.cli import ROOT, tisdiss
from tisdiss_cli.devices import check_triton
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.settings import choose_settings
from tisdiss_cli.separation.separator import Separator

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is missing (torch brings it on Linux)")


@needs_triton
def test_in_the_interpreter():
    """In a process of its own: triton reads the variable as it is imported, and other tests may have done that."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "tests/interpreted.py"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_triton
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_made_for_a_card_without_one(tmp_path, monkeypatch, kind):
    """Down to the card's own code, by the signatures that the released network's calls have."""
    import triton
    from triton.backends import backends
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from tisdiss_cli.model import fused

    if "nvidia" not in backends:
        pytest.skip("a triton for other cards")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes, tiles = dict.fromkeys(("rows", "lines", "width", "row_stride"), "i32"), ("HEIGHT", "COLUMNS", "GROUPS")
    kinds = {"y": f"*{kind}", "x": "*fp32", "bias": "*fp32", "out": f"*{kind}", "eps": "fp32", **sizes}
    for kernel, values in (
        (fused._gated_kernel, {"column_stride": 1, "HEIGHT": 16, "COLUMNS": 128}),
        (fused._divided_kernel, {"column_stride": 1, "GROUPS": 4, "HEIGHT": 64, "COLUMNS": 32}),
    ):
        signature = {
            name: "constexpr" if name in (*tiles, "column_stride") else kinds[name] for name in kernel.arg_names
        }
        constants = {(kernel.arg_names.index(name),): value for name, value in values.items()}
        made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
        assert made.asm["cubin"]


@pytest.mark.parametrize("command", ["separate", "bench", "score"])
def test_refused_on_a_cpu(command, data, mini_weights, tmp_path):
    places = {"separate": (data, tmp_path / "out"), "bench": (), "score": (data,)}[command]
    run = tisdiss(command, *places, "--weights", mini_weights, "--device", "cpu", "--triton", status=2)
    assert run.stderr.strip().endswith("--triton is for CUDA devices, and this one is cpu: leave it out")
    assert not (tmp_path / "out").exists()


def test_the_record_says_so(mini_weights):
    """As the rounding differs: a run resumes only under the same."""
    separator = Separator.load(mini_weights, "cpu", "fp32")
    assert "triton" not in choose_settings(separator).recorded
    separator.triton = True
    assert choose_settings(separator).recorded["triton"] is True


def test_refused_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"^--triton: triton, which comes with torch on Linux, is missing"):
        check_triton(torch.device("cuda"))
