"""What a first minute on a CUDA card must show. The same tests run on a CPU where there is anything to see there.

python -m pytest -m cuda tests/test_cuda.py
"""

import json
import signal
import time
import warnings

import numpy as np
import pytest
import soundfile
import torch
from lightning_fabric import Fabric

from tests.cli import start, tisdiss
from tests.reference_cases import drawn_network, load_case, reference_network, relative_error
from tests.synthetic import RATE, TINY, losses, write_recipe, write_rooms, write_speech
from tisdiss_cli.benchmark.measure import count_macs
from tisdiss_cli.data.dynamic_mixing import generator
from tisdiss_cli.devices import choose_device
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.cpu_kernels import attend
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import WeightFile, save_weights
from tisdiss_cli.separation.early_exit import Auto
from tisdiss_cli.separation.separator import Separator
from tisdiss_cli.training.data import load_data
from tisdiss_cli.training.recipe import Recipe
from tisdiss_cli.training.trainer import Trainer

SMALL = "small_re1x3"
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request) -> str:
    """A card, or the CPU on which these tests are known to work."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(scope="module")
def reference_weights(tmp_path_factory):
    """A published case's network as a weight file."""
    network = reference_network(SMALL)
    path = tmp_path_factory.mktemp("weights") / "reference.safetensors"
    save_weights(path, network.config, network.state_dict(), info={"auto_threshold_db": 200.0})
    return path


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    """With rooms and noise, and everything else that a step may have."""
    folder = tmp_path / "noise"
    folder.mkdir()
    soundfile.write(folder / "0.wav", 0.1 * np.random.default_rng(0).standard_normal(4000), RATE)
    return Recipe(
        network=TINY,
        segment_seconds=0.06,
        batch_size=3,
        turn_taking=0.5,
        rirs=str(write_rooms(tmp_path / "rooms")),
        noise=str(folder),
        learning_rate=1e-4,
        ema_decay=0.9,
    )


def fabric_of(device: str) -> Fabric:
    fabric = Fabric(accelerator=device, devices=1)
    fabric.launch()
    return fabric


def seeded(config: Config, device: str, precision: str, tmp_path) -> Separator:
    """A network of any size whose weights are in no file."""
    torch.manual_seed(0)
    return Separator(TISDiSS(config), WeightFile(tmp_path / "none", config), choose_device(device), precision)


def published(separator: Separator, mixture: np.ndarray, repeats: int) -> torch.Tensor:
    """The network alone, at the separator's settings: `batch` does more to a mixture."""
    with torch.inference_mode(), separator.autocast():
        return separator.network(torch.from_numpy(mixture).to(separator.device), repeats).cpu()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 5e-2)])
def test_a_loaded_separator_computes_the_published_function(reference_weights, device, precision, tolerance):
    case, arrays = load_case(SMALL)
    separator = Separator.load(reference_weights, device, precision)
    # A CPU without units for bf16 takes its time.
    for repeats in case["repeats"] if (device, precision) != ("cpu", "bf16") else case["repeats"][:1]:
        voices = published(separator, arrays["mixture"], repeats)
        assert relative_error(voices, arrays[f"estimate_repeats{repeats}"]) < tolerance
    assert device == "cpu" or not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.cuda
@needs_card
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 5e-2)])
def test_the_released_network_on_a_card(tmp_path, precision, tolerance):
    case, arrays = load_case("released")
    network = reference_network("released")
    save_weights(tmp_path / "released.safetensors", network.config, network.state_dict(), info={})
    separator = Separator.load(tmp_path / "released.safetensors", "cuda", precision)
    repeats = max(case["repeats"])
    voices = published(separator, arrays["mixture"], repeats)
    assert relative_error(voices, arrays[f"estimate_repeats{repeats}"]) < tolerance


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_it_computes_the_same_at_any_length(tmp_path, device, precision):
    if device == "cpu":
        pytest.skip("what is compiled for a CPU: test_separate, and test_locoformer at bf16")
    network = drawn_network(Config(**TINY), "compiled")
    save_weights(tmp_path / "w.safetensors", network.config, network.state_dict())
    separator = Separator.load(tmp_path / "w.safetensors", device, precision)
    mixtures = [torch.randn(2, samples) for samples in (600, 911)]
    expected = [separator.batch(mixture, 2).cpu() for mixture in mixtures]
    separator.compile("inductor")
    for mixture, voices in zip(mixtures, expected, strict=True):
        assert relative_error(separator.batch(mixture, 2).cpu(), voices) < (1e-4 if precision == "fp32" else 5e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sequences", [65_535, 65_536, 70_000])
def test_attention_of_more_sequences_than_a_kernel_takes(device, dtype, sequences):
    q, k, v = (x.transpose(1, 2) for x in torch.randn(3, sequences, 5, 2, 8, device=device).to(dtype).unbind())
    weights = (q.float() @ k.float().transpose(-1, -2) / 8**0.5).softmax(-1)
    torch.testing.assert_close(attend(q, k, v).float(), weights @ v.float(), atol=3e-2, rtol=3e-2)


def test_a_batch_of_long_mixtures(device, tmp_path):
    """65,536 frames and more in a batch, which was a kernel's end."""
    config = Config(channels=4, ffn_hidden=4, attention_channels=4, heads=1, norm_groups=1, n_fft=16, hop_length=8)
    separator = seeded(config, device, "fp32", tmp_path)
    mixture = torch.randn(1700, 8 * 40)
    assert 1700 * (40 + 1) > 65_535
    whole = separator.batch(mixture, 1).cpu()
    assert relative_error(whole[1600:], separator.batch(mixture[1600:], 1).cpu()) < 1e-2


@pytest.mark.cuda
@needs_card
def test_memory_that_runs_out_ends_in_a_smaller_batch(tmp_path, said):
    separator = seeded(Config(), "cuda", "bf16", tmp_path)
    mixtures = torch.randn(8, 4 * 8000)
    torch.cuda.reset_peak_memory_stats()
    whole, _ = separator.run(mixtures, 1)
    fraction = 0.6 * torch.cuda.max_memory_allocated() / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(fraction)
    try:
        halves, _ = separator.run(mixtures, 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(said) == 1 and "memory ran out at 8 chunks" in said[0]
    assert relative_error(halves, whole) < 5e-2


def test_score_gives_what_a_cpu_gives(reference_weights, device, data, tmp_path):
    found = {}
    for name in {"cpu", device}:
        options = ("--weights", reference_weights, "--device", name, "--precision", "fp32", "--repeats", "1-2")
        tisdiss("score", data, *options, "--json", tmp_path / f"{name}.json", "--workers", 0, "--quiet")
        results = json.loads((tmp_path / f"{name}.json").read_text())["results"]
        found[name] = [entry["si_snri"]["mean"] for entry in results]
    assert len(found[device]) == 2 and found[device] == pytest.approx(found["cpu"], abs=0.02)


def test_auto_waits_once_a_repeat_and_uses_what_a_cpu_uses(reference_weights, device):
    mixtures = torch.randn(4, 3000)
    separator = Separator.load(reference_weights, device, "fp32")
    found, used = separator.run(mixtures, Auto(200.0, 5))
    expected, expected_used = Separator.load(reference_weights, "cpu", "fp32").run(mixtures, Auto(200.0, 5))
    assert used == expected_used == [5] * 4 and relative_error(found, expected) < 1e-3
    if device == "cuda":
        on_card = mixtures.cuda()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as waits:
                warnings.simplefilter("always")
                separator.run(on_card, Auto(200.0, 5))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert sum("synchronizing" in str(wait.message) for wait in waits) <= 5 + 1  # and the voices


def test_bench_measures_and_counts_what_a_cpu_counts(reference_weights, device, tmp_path):
    options = ("--weights", reference_weights, "--device", device, "--seconds", 0.5, "--batch-size", "1,2")
    precisions = "fp32,bf16,tf32" if device == "cuda" else "fp32"
    tisdiss("bench", *options, "--repeats", "1-2", "--precision", precisions, "--json", tmp_path / "bench.json")
    content = json.loads((tmp_path / "bench.json").read_text())
    assert len(content["results"]) == 4 * len(precisions.split(",")) and all(
        row["median"] > 0 and row["memory"] for row in content["results"]
    )
    counted = count_macs(Separator.load(reference_weights, "cpu", "fp32"), 4000, [1, 2])
    for row in content["results"]:
        assert row["macs"] == row["batch_size"] * counted[row["repeats"]]


def test_mixtures_are_drawn_with_rooms_and_noise(recipe, tmp_path, device):
    data = load_data(write_speech(tmp_path / "speech", speakers=3), recipe).to(torch.device(device))
    kind = torch.device(device)
    mixture, references = data.draw(4, 2, recipe.segment_samples, generator(kind, 0, 0))
    again, _ = data.draw(4, 2, recipe.segment_samples, generator(kind, 0, 0))
    other, _ = data.draw(4, 2, recipe.segment_samples, generator(kind, 0, 1))
    assert mixture.shape == (4, recipe.segment_samples) and references.shape == (4, 2, recipe.segment_samples)
    assert mixture.device.type == references.device.type == device
    assert torch.isfinite(mixture).all() and (mixture.std(-1) > 0).all() and (references.std(-1) > 0).any()
    assert torch.equal(mixture, again) and not torch.equal(mixture, other)
    assert not torch.allclose(mixture, references.sum(1))  # reverberant and noisy


def test_three_steps_are_the_cpus(recipe, tmp_path, device):
    data = load_data(write_speech(tmp_path / "speech"), recipe)
    drawn = [data.draw(3, 2, recipe.segment_samples, generator(torch.device("cpu"), 0, step)) for step in range(3)]
    outcomes = []
    for kind in ("cpu", device):
        torch.manual_seed(0)
        trainer = Trainer(fabric_of(kind), TISDiSS(recipe.config), recipe)
        taken = [
            trainer.step(*(part.to(kind) for part in batch), repeats=2, recipe=recipe, factor=1.0, step=step)
            for step, batch in enumerate(drawn)
        ]
        outcomes.append([float(value.detach()) for pair in taken for value in pair])
    assert outcomes[1] == pytest.approx(outcomes[0], rel=5e-3)
    assert outcomes[1][:2] == pytest.approx(outcomes[0][:2], rel=1e-3)  # before any rounding could grow


@pytest.mark.cuda
@needs_card
@pytest.mark.parametrize("changes", [{}, {"muon_learning_rate": 0.01}, {"activation_checkpointing": True}])
def test_a_step_does_not_wait(recipe, tmp_path, changes):
    recipe = Recipe.from_dict({**recipe.to_dict(), **changes})
    cuda = torch.device("cuda", 0)
    data = load_data(write_speech(tmp_path / "speech", speakers=3), recipe).to(cuda)
    trainer = Trainer(fabric_of("cuda"), TISDiSS(recipe.config), recipe)

    def step(number: int) -> None:
        batch = data.draw(3, 2, recipe.segment_samples, generator(cuda, 0, number))
        trainer.step(*batch, repeats=2, recipe=recipe, factor=1.0, step=number)

    for number in range(2):  # libraries and optimisers begin
        step(number)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(2, 5):
            step(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@needs_card
def test_training_stops_at_a_term_and_goes_on(tmp_path):
    """Known to work on a CPU, where tests/end_to_end/test_train.py has more of it in less time."""
    device = "cuda"
    speech, out = write_speech(tmp_path / "speech"), tmp_path / "out"
    recipe = write_recipe(tmp_path / "recipe.toml", segment_seconds=0.03, batch_size=1, log_steps=1, steps=100_000)
    process = start("train", speech, out, "--recipe", recipe, "--device", device)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "log.csv").exists() and len((out / "log.csv").read_text().splitlines()) > 5:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "go on with --resume" in error, error
    stopped = len(losses(out))
    process = start("train", speech, out, "--resume", "--device", device)
    while time.monotonic() < deadline and process.poll() is None and len(losses(out)) < stopped + 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, error
    steps = [int(row["step"]) for row in losses(out) if row["loss"]]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > stopped


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_processes_train_on_two_cards(tmp_path):
    recipe = write_recipe(tmp_path / "recipe.toml", segment_seconds=0.03, batch_size=1, log_steps=1, steps=3)
    speech = write_speech(tmp_path / "speech")
    process = start("train", speech, tmp_path / "out", "--recipe", recipe, "--device", "cuda", "--devices", 2)
    _, error = process.communicate(timeout=180)
    assert process.returncode == 0, error
    assert [row["step"] for row in losses(tmp_path / "out") if row["loss"]] == ["1", "2", "3"]


@pytest.mark.cuda
@needs_card
def test_two_processes_share_a_card(folder, tmp_path, reference_weights):
    command = ("--weights", reference_weights, "--repeats", 1, "--precision", "fp32", "--quiet", "--device")
    both = [start("separate", folder, tmp_path / f"out{n}", *command, "cuda") for n in range(2)]
    for process in both:
        _, error = process.communicate(timeout=180)
        assert process.returncode == 0, error
    tisdiss("separate", folder, tmp_path / "cpu", *command, "cpu")
    for path in (tmp_path / "cpu").rglob("*.wav"):
        expected, _ = soundfile.read(path)
        for number in range(2):
            voice, _ = soundfile.read(tmp_path / f"out{number}" / path.relative_to(tmp_path / "cpu"))
            assert np.abs(voice - expected).max() < 1e-3
