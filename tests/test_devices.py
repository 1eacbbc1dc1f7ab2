"""What is set where a device and a precision are chosen, and every way to say that memory ran out."""

import platform
import subprocess
import sys
import threading

import pytest
import torch

from tests.cli import tisdiss
from tests.synthetic import write_recipe, write_speech
from tisdiss_cli.activity.tracker import ActivityTracker
from tisdiss_cli.devices import (
    OutOfMemory,
    choose_device,
    choose_precision,
    compute_in_one_thread,
    computing,
    memory_guard,
    ran_out,
)
from tisdiss_cli.errors import UserError
from tisdiss_cli.separation.separator import Separator
from tisdiss_cli.training.loss import MultiLoss

CPU = torch.device("cpu")
# As torch, CUDA, cuBLAS, cuDNN, MPS, the C library and C++ put it.
MESSAGES = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    "MPS backend out of memory (MPS allocated: 17.94 GB, other allocations: 200.00 MB)",
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
    "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried",
    "Cannot allocate memory",
    "std::bad_alloc",
]


@pytest.fixture
def settings():
    """Those of torch, put back."""
    attention = torch.backends.cuda.cudnn_sdp_enabled()
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.enable_cudnn_sdp(attention)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
def test_a_cuda_device_comes_without_cudnns_attention_and_without_tf32(monkeypatch, settings, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    torch.backends.cuda.enable_cudnn_sdp(True)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    assert choose_device(name).type == "cuda"
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("bf16", False), ("tf32", True)])
def test_tf32_is_on_where_it_is_asked_for_and_only_meanwhile(mini_weights, settings, precision, tf32):
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False  # torch's own defaults
    separator = Separator.load(mini_weights, "cpu", "fp32")
    separator.precision = precision
    seen = []
    separator.network.register_forward_hook(lambda *_: None)
    encoder = separator.network.encoder
    encoder.register_forward_hook(
        lambda *_: seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
    )
    separator.batch(torch.randn(1, 1000), 1)
    separator.run(torch.randn(1, 1000), separator_repeats=1)
    list(separator.refine(torch.randn(1000)))
    assert set(seen) == {(tf32, tf32)} and len(seen) == 3
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (True, False)


def test_precisions_are_named():
    assert choose_precision("tf32", torch.device("cuda"))[0] == "tf32"
    for name, device in (("fp16", CPU), ("tf32", CPU), ("tf32", torch.device("mps"))):
        with pytest.raises(UserError, match=name):
            choose_precision(name, device)


def test_the_context_ends_where_the_work_fails(settings):
    torch.backends.cudnn.allow_tf32 = True
    with pytest.raises(ZeroDivisionError), computing(CPU, "fp32"):
        assert not torch.backends.cudnn.allow_tf32
        _ = 1 / 0
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("message", MESSAGES)
def test_every_way_to_say_that_memory_ran_out(message):
    assert ran_out(RuntimeError(message))
    with pytest.raises(OutOfMemory, match="memory ran out on three apples"), memory_guard("three apples"):
        raise RuntimeError(message)


def test_classes_that_say_so_and_words_that_do_not():
    assert ran_out(MemoryError()) and ran_out(torch.OutOfMemoryError("no words"))
    others = [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: invalid configuration argument"),
        ValueError("out of memory"),
    ]
    assert not any(map(ran_out, others))
    with pytest.raises(RuntimeError, match="shapes"), memory_guard("three apples"):
        raise others[0]
    with pytest.raises(OutOfMemory, match="the inner"), memory_guard("the outer"), memory_guard("the inner"):
        raise MemoryError


def one_sentence(error: str) -> str:
    sentences = [line for line in error.splitlines() if line.startswith("tisdiss:") and "memory ran out" in line]
    assert "Traceback" not in error and len(sentences) == 1, error
    return sentences[0]


@pytest.mark.parametrize("message", ["CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"])
def test_each_command_says_it_in_one_sentence(monkeypatch, tmp_path, mini_weights, data, folder, message):
    def full(*_, **__):
        raise RuntimeError(message)

    monkeypatch.setattr("tisdiss_cli.model.network.TISDiSS.padded_estimates", full)
    common = ("--weights", mini_weights, "--device", "cpu", "--quiet")
    done = tisdiss("separate", folder, tmp_path / "voices", *common, status=1)
    assert "--device" in one_sentence(done.stderr)
    done = tisdiss("score", data, *common, status=1)
    assert "Traceback" not in done.stderr and done.stderr.count("memory ran out") == 3  # a sentence a file
    done = tisdiss("bench", *common, "--repeats", 1, "--seconds", 0.1)
    assert "Traceback" not in done.stderr and "memory" in done.stdout


def test_training_says_it_in_one_sentence_and_what_to_lower(monkeypatch, tmp_path, train):
    speech = write_speech(tmp_path / "speech")
    recipe = write_recipe(tmp_path / "recipe.toml", segment_seconds=0.03, batch_size=2, steps=3)
    forward, steps = MultiLoss.forward, []

    def full(self, *arguments):
        steps.append(arguments[0].shape)
        if len(steps) > 1:
            raise RuntimeError("CUDA error: out of memory")
        return forward(self, *arguments)

    monkeypatch.setattr(MultiLoss, "forward", full)
    status, _, error = train(speech, tmp_path / "out", "--recipe", recipe)
    sentence = one_sentence(error)
    assert status == 2 and "2 x 0.03 s" in sentence and "--batch-size" in sentence


def test_memory_that_runs_out_elsewhere_is_a_sentence_too(monkeypatch, mini_weights, data):
    monkeypatch.setattr("torch.nn.Module.to", lambda *_: (_ for _ in ()).throw(RuntimeError("CUDA out of memory")))
    done = tisdiss("score", data, "--weights", mini_weights, "--device", "cpu", status=1)
    assert "--device" in one_sentence(done.stderr)


@pytest.mark.usefixtures("two_threads")
def test_a_thread_that_computes_alone_leaves_the_others_theirs():
    before, seen = torch.__config__.parallel_info(), []

    def work():
        compute_in_one_thread()
        torch.randn(300, 300) @ torch.randn(300, 300)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    # parallel_info has the caller's OpenMP threads, and MKL's, which all threads share.
    assert seen == [1] and torch.__config__.parallel_info() == before


@pytest.mark.usefixtures("two_threads")
def test_what_reads_and_writes_beside_the_network_computes_in_one_thread(monkeypatch, mini_weights, data, tmp_path):
    seen, network = [], []
    push, compute = ActivityTracker.push, Separator.compute

    def listening(self, voices):
        seen.append(torch.get_num_threads())
        return push(self, voices)

    def running(self, *arguments):
        network.append(torch.get_num_threads())
        return compute(self, *arguments)

    monkeypatch.setattr(ActivityTracker, "push", listening)
    monkeypatch.setattr(Separator, "compute", running)
    tisdiss("separate", data / "mix", tmp_path / "out", "--weights", mini_weights, "--device", "cpu", "--batch-size", 1)
    assert seen and set(seen) == {1} and set(network) == {2}


def test_kept_memory_is_not_faulted_in_again():
    """By the system's own count, in a process of its own: what is kept stays kept."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("needs glibc")
    faults = """
import resource, sys, torch
from tisdiss_cli.devices import keep_memory
if sys.argv[1] == "keep":
    keep_memory(torch.device("cpu"))
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(3, 12_000_000)
before = count()
for _ in range(5):
    torch.ones(12_000_000)
print(count() - before)
"""
    kept, given = (
        int(subprocess.run([sys.executable, "-c", faults, word], capture_output=True, check=True).stdout)
        for word in ("keep", "not")
    )
    assert given > 5 * 12_000_000 * 4 / 2**21  # were every page a huge one
    assert kept < given / 10


@pytest.mark.parametrize(
    ("units", "chosen"), [({}, "fp32"), ({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16")]
)
def test_a_cpu_trains_in_bf16_where_it_has_units_for_it(monkeypatch, units, chosen):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False, "avx512_bf16": False, **units})
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu)[0] == chosen
    assert choose_precision("fp32", cpu)[0] == "fp32"
