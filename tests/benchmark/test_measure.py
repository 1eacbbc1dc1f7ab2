"""Counts against the paper's figures, timing and memory against what was really done, curves against their data."""

import json
import random
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.cli import ROOT, tisdiss
from tisdiss_cli.benchmark.grid import Findings
from tisdiss_cli.benchmark.measure import Measurement, count_macs, measure, peak_memory, time_runs
from tisdiss_cli.benchmark.plots import check_plot, cost_figure, draw, draw_cost
from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.results import Curve, Point
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import WeightFile
from tisdiss_cli.separation.separator import Separator

CPU = torch.device("cpu")


def separator(config: Config, tmp_path) -> Separator:
    return Separator(TISDiSS(config), WeightFile(tmp_path / "none.safetensors", config), CPU, "fp32")


def test_macs_are_the_published_models(tmp_path):
    """Per time-frequency bin: 2.6 M a Separator repeat (two), 2.4 M the Splitter, 6.6 M a Reconstructor repeat."""
    released, samples = separator(Config(), tmp_path), 63 * 64
    bins = (samples // 64 + 1) * 65
    macs = count_macs(released, samples, [1, 2])
    assert macs[1] / bins == pytest.approx((2 * 2.6 + 2.4 + 6.6) * 1e6, rel=0.04)  # ends of sequences cost a little
    assert (macs[2] - macs[1]) / bins == pytest.approx(6.6e6, rel=0.04)


def test_macs_do_not_depend_on_what_else_is_decoded(tmp_path):
    small = separator(Config(channels=16, ffn_hidden=24, attention_channels=16), tmp_path)
    together = count_macs(small, 2000, [1, 2, 4])
    for repeats, macs in together.items():
        assert count_macs(small, 2000, [repeats]) == {repeats: macs}
    assert together[4] - together[2] == 2 * (together[2] - together[1])


def test_fused_attention_is_counted_as_if_written_out(tmp_path):
    small = separator(Config(channels=16, ffn_hidden=24, attention_channels=16), tmp_path)
    fused = count_macs(small, 2000, [1, 2])
    with sdpa_kernel(SDPBackend.MATH):
        assert count_macs(small, 2000, [1, 2]) == fused


def test_a_measurement_of_a_network_that_takes_as_long_as_it_says(tmp_path, monkeypatch):
    """Two mixtures of a quarter of a second, and a network that sleeps a twentieth of a second a repeat."""
    small = separator(Config(channels=8, ffn_hidden=8, attention_channels=8, heads=2, norm_groups=2), tmp_path)
    monkeypatch.setattr(small, "batch", lambda mixtures, repeats: time.sleep(repeats / 20))
    (alone,) = measure(small, [2], batch_size=1, audio_seconds=0.25, ceiling=1e9, min_seconds=0.01)
    once, twice = measure(small, [1, 2], batch_size=2, audio_seconds=0.25, ceiling=1e9, min_seconds=0.01)
    for m, seconds in ((alone, 0.1), (once, 0.05), (twice, 0.1)):
        assert m.lower <= m.median <= m.upper and m.runs >= 3
        # A sleep is never too short; a busy machine may make it longer, hence the wide bound above.
        assert seconds <= m.median < 3 * seconds
        assert seconds / (m.batch_size * 0.25) <= m.rtf < 3 * seconds / (m.batch_size * 0.25)
    assert twice.macs == 2 * alone.macs > once.macs  # of the whole batch
    # Twice the mixtures in the same time is twice the rate, but for what the machine adds to a sleep.
    assert twice.flops / alone.flops == pytest.approx(2, rel=0.5)
    assert twice.of_ceiling / alone.of_ceiling == pytest.approx(2, rel=0.5) and 2 * twice.macs / 0.3 < twice.flops


def test_timing_runs_again_and_again():
    runs, began = [], time.perf_counter()
    times = time_runs(lambda: runs.append(sum(range(20000))), CPU, min_seconds=0.02)
    assert len(times) >= 3 and len(runs) == len(times) + 1
    assert 0 < sum(times) < time.perf_counter() - began > 0.02  # a busy machine may take a core between two runs


def test_peak_memory_sees_what_was_freed():
    if not sys.platform.startswith("linux"):
        pytest.skip("the high-water mark starts anew on Linux only")
    low = peak_memory(lambda: None, CPU)
    high = peak_memory(lambda: np.ones(25_000_000).sum(), CPU)
    assert high - low > 190e6
    assert peak_memory(lambda: None, CPU) < high - 100e6


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), MemoryError()])
def test_a_setting_without_memory_is_left_out_and_the_others_go_on(tmp_path, monkeypatch, error):
    small = separator(Config(channels=8, ffn_hidden=8, attention_channels=8, heads=2, norm_groups=2), tmp_path)
    batch = small.batch

    def short(mixture: torch.Tensor, repeats: int) -> torch.Tensor:
        if repeats == 2:
            raise error
        return batch(mixture, repeats)

    monkeypatch.setattr(small, "batch", short)
    first, second, third = measure(small, [1, 2, 3], batch_size=1, audio_seconds=0.1, ceiling=1e9, min_seconds=0.01)
    assert first.median and third.median and second.repeats == 2 and second.median is None


def timed(precision: str, batch: int, seconds: float, repeats: int, took: float | None) -> Measurement:
    """A setting that took so many seconds; None: memory ran out."""
    rtf = None if took is None else took / seconds / batch
    runs = None if took is None else 3
    return Measurement(precision, batch, seconds, repeats, took, took, took, runs, rtf, *[None] * 4)


def test_the_fit_is_the_line():
    rows = [timed("fp32", 1, 4.0, repeats, 0.5 + 0.2 * repeats) for repeats in (1, 2, 4, 8)]
    others = [timed("bf16", 1, 4.0, 1, 0.3), timed("fp32", 2, 4.0, 1, 1.0), timed("fp32", 2, 4.0, 2, None)]
    (line,) = Findings(measurements=rows + others).fits()
    assert (line.variant, line.batch_size, line.audio_seconds) == ("fp32", 1, 4.0)
    assert (line.a, line.b) == pytest.approx((0.5, 0.2))


CURVE = Curve("fp32", [Point(k, 0.1 * k, dB) for k, dB in enumerate((10.0, 14.0, 15.95, 16.0), 1)])


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_plot_is_written(tmp_path, suffix):
    path = tmp_path / f"curve{suffix}"
    check_plot(path)
    draw([CURVE, Curve("bf16", [Point(1, 0.05, 9.9), Point(2, 0.1, 13.9)])], path, "title")
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    with pytest.raises(UserError, match=r"\.png or \.svg"):
        check_plot(tmp_path / "curve.gif")


def test_the_picture_of_the_cost_has_every_setting_that_could_be_timed(tmp_path):
    cells = [("fp32", batch, seconds) for batch in (1, 4) for seconds in (1.0, 10.0)]
    rows = [timed(*cell, repeats, 0.1 * repeats * cell[2]) for cell in cells for repeats in (1, 2, 3)]
    mixed = random.Random(0).sample(rows, len(rows))
    figure = cost_figure([replace(mixed[0], rtf=None), *mixed[1:]], "title")
    drawn = []
    for axes in figure.axes:
        bottom, top = axes.get_ylim()
        for line in axes.lines:
            drawn += line.get_ydata().tolist()
            assert list(line.get_xdata()) == sorted(line.get_xdata())
            assert bottom == 0 and max(line.get_ydata()) <= top
    assert sorted(drawn) == sorted(row.rtf for row in mixed[1:])
    for kept in (rows, []):
        draw_cost(kept, tmp_path / "cost.png", "title")


def test_the_command_measures_scores_and_draws(data, weights, tmp_path):
    report, plot = tmp_path / "bench.json", tmp_path / "curve.svg"
    options = ["--weights", weights, "--device", "cpu", "--precision", "fp32", "--repeats", "1-2"]
    options += ["--seconds", "0.2,0.4"]
    done = tisdiss("bench", *options, "--data", data, "--json", report, "--plot", plot)
    assert "time =" in done.stdout and "RTF" in done.stdout and plot.exists()
    content = json.loads(report.read_text())
    assert [(row["audio_seconds"], row["repeats"]) for row in content["results"]] == [
        (s, k) for s in (0.2, 0.4) for k in (1, 2)
    ]
    assert len(content["fits"]) == 2 and content["ceilings"]["fp32"] > 0
    assert content["machine"]["device"] == "cpu" and content["settings"]["weights"] == "mini"
    (curve,) = content["curves"]
    points = curve["points"]
    assert [one["si_snri"] for one in points] == [entry["si_snri"]["mean"] for entry in content["scores"]["fp32"]]
    assert [one["rtf"] for one in points] == [row["rtf"] for row in content["results"][:2]]


def test_shifts_cost_their_number_and_have_a_curve_each(data, weights, tmp_path):
    report = tmp_path / "bench.json"
    options = ["--weights", weights, "--device", "cpu", "--precision", "fp32", "--repeats", "1-2", "--seconds", "0.2"]
    options += ["--shifts", "1,3"]
    tisdiss("bench", *options, "--data", data, "--json", report)
    content = json.loads(report.read_text())
    macs = {(row["variant"], row["repeats"]): row["macs"] for row in content["results"]}
    assert len(macs) == 4
    for repeats in (1, 2):  # three passes, and a matrix product for each order of two voices
        assert macs["fp32, 3 shifts", repeats] == pytest.approx(3 * macs["fp32", repeats], rel=0.2)
    assert [curve["name"] for curve in content["curves"]] == ["fp32", "fp32, 3 shifts"]
    options = ["--weights", weights, "--device", "cpu", "--precision", "fp32", "--repeats", "1-2", "--shifts", 3]
    tisdiss("score", data, *options, "--json", tmp_path / "score.json")
    scored = json.loads((tmp_path / "score.json").read_text())
    assert scored["settings"]["shifts"] == 3
    assert [row["si_snri"] for row in scored["results"]] == [
        pytest.approx(row["si_snri"], abs=1e-3) for row in content["scores"]["fp32, 3 shifts"]
    ]


def test_the_script_compares_with_the_naive_network(weights):
    command = [sys.executable, ROOT / "scripts" / "against-naive", "--weights", weights, "--device", "cpu"]
    done = subprocess.run([*command, "--repeats", "1", "2", "--seconds", "0.2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()[1:]
    assert len(rows) == 2
    for row in rows:
        ratio, error = row.split()[10:12]
        assert float(ratio) > 0 and 0 < float(error) < 1e-4
        assert float(row.split(" dB")[0].split()[-1]) > 80


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seconds", "a"], "--seconds a"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--plot", "x.gif"], "--plot x.gif"),
        (["--precision", "fp32,fp16"], "fp16"),
        (["--precision", "fp32,fp32"], "--precision fp32,fp32: name each once"),
        (["--repeats", "0"], "--repeats 0"),
    ],
)
def test_mistakes_are_one_sentence(weights, options, said):
    done = tisdiss("bench", "--weights", weights, *options, status=2)
    (line,) = done.stderr.strip().splitlines()
    assert said in line
