"""`--repeats auto`, `--rtf` and `--budget`: repeats chosen by the signal, or by the clock."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torchmetrics.functional.audio import scale_invariant_signal_noise_ratio

from tests.cli import tisdiss
from tests.folders import records
from tests.reference_cases import reference_network
from tisdiss_cli.data.datasets import find_dataset
from tisdiss_cli.evaluation.calibrate import ALLOWED_LOSS, Trace, choose_threshold, trace
from tisdiss_cli.evaluation.results import smallest_within
from tisdiss_cli.folder.pace import Pace
from tisdiss_cli.folder.settings import parse_duration
from tisdiss_cli.model.weights import load_weights, read_info, save_weights
from tisdiss_cli.separation.early_exit import Auto, UntilQuality, similarity, stop_early
from tisdiss_cli.separation.quality import QualityModel, describe
from tisdiss_cli.separation.separator import Separator


def test_similarity_is_si_snr_of_the_source_that_changed_most():
    torch.manual_seed(0)
    older = torch.randn(4, 2, 1000)
    newer = older + torch.randn(4, 2, 1) * torch.randn(4, 2, 1000)
    expected = scale_invariant_signal_noise_ratio(newer.double(), older.double()).amin(-1)
    torch.testing.assert_close(similarity(newer, older).double(), expected, rtol=0, atol=1e-3)


def test_silence_and_equal_estimates_have_settled():
    x = torch.randn(1, 2, 100)
    assert similarity(torch.zeros(1, 2, 100), torch.zeros(1, 2, 100)) == 100
    assert similarity(x, x) == 100
    assert similarity(x, 2 * x) == 100


@torch.inference_mode()
def test_each_item_stops_by_itself_at_the_naive_place():
    network = reference_network("small_re1x3")
    torch.manual_seed(0)
    mixtures = torch.randn(3, 1500) * torch.linspace(0.2, 3, 1500).sin()
    fixed = [network(mixtures, repeats) for repeats in range(7)]
    near = torch.stack([similarity(newer, older) for older, newer in itertools.pairwise(fixed)])
    values = near[1:4].flatten().sort().values
    threshold = float(values[4:6].mean())  # between two, so that no rounding decides
    voices, used = stop_early(network.estimates(mixtures, 6), Auto(threshold, 6), mixtures)
    for item in range(3):
        reached = [repeat for repeat in range(1, 7) if near[repeat - 1, item] >= threshold]
        assert used[item] == (reached[0] if reached else 6)
        torch.testing.assert_close(voices[item], fixed[used[item]][item])
        one = mixtures[item : item + 1]
        alone, alone_used = stop_early(network.estimates(one, 6), Auto(threshold, 6), one)
        assert alone_used == [used[item]]
        torch.testing.assert_close(alone[0], voices[item], rtol=1e-3, atol=1e-4)
    assert stop_early(network.estimates(mixtures, 6), Auto(-100.0, 6), mixtures)[1] == [1, 1, 1]
    assert stop_early(network.estimates(mixtures, 2), Auto(101.0, 2), mixtures)[1] == [2, 2, 2]


@torch.inference_mode()
def test_each_item_stops_where_its_quality_is_first_predicted():
    network, random = reference_network("small_re1x3"), torch.Generator().manual_seed(1)
    mixtures = torch.randn(3, 1500, generator=random) * torch.linspace(0.2, 3, 1500).sin()
    mixtures = torch.cat((mixtures, torch.zeros(1, 1500)))  # of silence nothing is predicted: one repeat
    weights = torch.randn(7, generator=random).tolist()
    model = QualityModel([0.0] * 7, [1.0] * 7, weights, 0.0, -1.0, 1.0, 0.9, 1.0, 100)
    fixed = [network(mixtures, repeats) for repeats in range(1, 6)]
    told = [[model.predict(describe(mixtures[i], voices[i])) for i in range(3)] for voices in fixed]
    middle = sorted(value for repeat in told for value in repeat)[7:9]
    least = sum(middle) / 2  # between two, so that no rounding decides
    voices, used = stop_early(network.estimates(mixtures, 5), UntilQuality(model, least, 5), mixtures)
    for item in range(3):
        reached = [repeat for repeat, values in enumerate(told, 1) if values[item] >= least]
        assert used[item] == (reached[0] if reached else 5)
        torch.testing.assert_close(voices[item], fixed[used[item] - 1][item])
    assert used[3] == 1 and len(set(used[:3])) > 1


def test_the_threshold_is_the_smallest_that_loses_little():
    generator = np.random.default_rng(0)
    traces = [
        Trace(list(np.cumsum(generator.uniform(0, 3, 6) / 2 ** np.arange(6))), sorted(generator.uniform(5, 50, 6)))
        for _ in range(30)
    ]

    def outcome(threshold: float) -> float:
        kept = []
        for one in traces:
            index = 0
            while index < 5 and one.similarity_db[index] < threshold:
                index += 1
            kept.append(one.si_snri[index])
        return float(np.mean(kept))

    choice = choose_threshold(traces)
    goal = max(np.mean([one.si_snri for one in traces], axis=0)) - ALLOWED_LOSS
    assert choice.si_snri == pytest.approx(outcome(choice.threshold_db))
    assert outcome(choice.threshold_db) >= goal > outcome(choice.threshold_db - 1)


def test_a_pace_takes_what_fits_and_replans(said):
    pace = Pace(fixed=0.1, each=0.05, most=8)
    pace.limit(100.0, rtf=0.31)
    assert pace.chosen == 4  # 0.1 + 4 x 0.05 = 0.3
    for _ in range(20):
        pace.report(4, 1.0, 0.3)
    assert pace.choose() == 4
    for _ in range(20):
        pace.report(4, 1.0, 0.6)  # the machine turns out half as fast
    assert pace.choose() == 1
    assert len(said) == 1
    pace.limit(100.0, budget=1e9)
    assert pace.choose() == 8
    pace.limit(100.0, rtf=0.01)
    assert pace.choose() == 1


def test_a_budget_is_spent_as_time_goes_by_and_audio_is_done(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("tisdiss_cli.folder.pace.time", SimpleNamespace(perf_counter=lambda: now.seconds))
    pace = Pace(fixed=0.1, each=0.1, most=8)
    pace.limit(100.0, budget=50.0)  # half a second of work for each of audio
    assert pace.chosen == 4
    for _ in range(50):
        now.seconds += 0.5
        pace.report(4, 1.0, 0.5)
    assert pace.choose() == 4  # half of the audio, in half of the time
    now.seconds += 12.5  # of other work
    assert pace.choose() == 1  # a quarter of a second is left for each


def test_durations():
    assert [parse_duration(text) for text in ("90", "90s", "10m", "1.5h", "1h30m")] == [90, 90, 600, 5400, 5400]
    for text in ("", "0", "soon", "-3m", "m"):
        with pytest.raises(ValueError, match="--budget"):
            parse_duration(text)


@pytest.fixture
def mixtures(tmp_path):
    """A WSJ0-2mix-like folder of two mixtures."""
    generator = np.random.default_rng(0)
    for folder in ("mix", "s1", "s2"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for name in ("a.wav", "b.wav"):
        sources = generator.standard_normal((2, 4000)) * 0.05
        for folder, signal in zip(("mix", "s1", "s2"), (sources.sum(0), *sources), strict=True):
            soundfile.write(tmp_path / "data" / folder / name, signal, 8000)
    return tmp_path / "data"


def test_calibration_leaves_out_what_cannot_be_read(mixtures, mini_weights, said):
    separator = Separator.load(mini_weights, "cpu", "fp32")
    whole = trace(separator, find_dataset(mixtures), most=2)
    assert len(whole) == 2 and not said
    (mixtures / "s2" / "b.wav").write_bytes(b"RIFF")
    assert trace(separator, find_dataset(mixtures), most=2) == whole[:1]
    assert len(said) == 1 and "b.wav" in said[0]
    soundfile.write(mixtures / "s2" / "b.wav", np.full(1000, 0.1), 8000)  # far shorter than its mixture
    assert trace(separator, find_dataset(mixtures), most=2) == whole[:1]
    assert len(said) == 2 and "samples longer" in said[1]


def test_the_commands(monkeypatch, mixtures, tmp_path, mini_weights):
    monkeypatch.setenv("TISDISS_PRECISION", "fp32")  # as `calibrate` computes
    source, weights = mixtures / "mix", tmp_path / "calibrated.safetensors"
    run = tisdiss("separate", source, tmp_path / "no", "--weights", mini_weights, "--repeats", "auto", status=2)
    assert "calibrate" in run.stderr
    tisdiss("weights", "calibrate", mini_weights, mixtures, "--out", weights, "--max-repeats", 3)
    threshold = read_info(weights).info["auto_threshold_db"]
    scores = tmp_path / "scores.json"
    tisdiss("score", mixtures, "--weights", weights, "--repeats", "1-3", "--json", scores)
    gains = {entry["repeats"]: entry["si_snri"]["mean"] for entry in json.loads(scores.read_text())["results"]}
    default = min(repeats for repeats, gain in gains.items() if gain >= max(gains.values()) - 0.1)
    assert read_info(weights).info["repeats"] == Separator.load(weights, "cpu").default_repeats == default
    assert f"{threshold:g}" in tisdiss("weights", "info", weights).stdout

    auto = ("--weights", weights, "--repeats", "auto", "--max-repeats", 3)
    tisdiss("separate", source, tmp_path / "auto", *auto)
    lines = [json.loads(line) for line in (tmp_path / "auto" / "tisdiss.jsonl").read_text().splitlines()]
    for line in lines:
        assert 1 <= line["repeats"] <= 3
        fixed = tmp_path / f"fixed{line['repeats']}"
        tisdiss("separate", source, fixed, "--weights", weights, "--repeats", line["repeats"], "--quiet")
        for output in line["outputs"]:
            assert (tmp_path / "auto" / output).read_bytes() == (fixed / output).read_bytes()

    for option, value, chosen in (("--rtf", 1000, 2), ("--rtf", 1e-6, 1), ("--budget", "1h", 2)):
        out = tmp_path / f"{option}{value}"
        run = tisdiss("separate", source, out, "--weights", weights, option, value)
        assert f"{chosen} repeat" in run.stderr
        lines = [json.loads(line) for line in (out / "tisdiss.jsonl").read_text().splitlines()]
        assert {line["repeats"] for line in lines} == {chosen}
    for wrong in (("--rtf", 0), ("--budget", "x"), ("--rtf", 1, "--repeats", 2), ("--max-repeats", 0)):
        tisdiss("separate", source, tmp_path / "no", "--weights", weights, *wrong, status=2)
    assert not (tmp_path / "no").exists()


def test_refined_until_the_quality_is_predicted(folder, tmp_path, mini_weights):
    """A model that says 4 dB of everything: less is there after a repeat, more after all that are allowed."""
    run = ("--device", "cpu", "--weights")
    model = QualityModel([0.0] * 7, [1.0] * 7, [0.0] * 7, 4.0, -3.0, 2.0, 0.8, 1.0, 100)
    config, state = read_info(mini_weights).config, load_weights(mini_weights).state_dict()
    save_weights(able := tmp_path / "able.safetensors", config, state, info={"quality": model.facts()})
    for least, options, expected in ((3, (), 1), (5, ("--max-repeats", 3), 3), (5, ("--repeats", "auto"), 8)):
        out = tmp_path / f"{least}{expected}"
        tisdiss("separate", folder, out, *run, able, "--quality", least, *options)
        lines = records(out).values()
        assert lines and {line["repeats"] for line in lines} == {expected}
        assert all(f"{least} dB" in line["settings"]["repeats"] for line in lines)
        again = tisdiss("separate", folder, out, *run, able, "--quality", least, *options)
        assert f"{len(lines)} done before" in again.stdout
    for wrong in (("--repeats", 2), ("--rtf", 1), ("--budget", "1m")):
        assert (
            "--quality"
            in tisdiss("separate", folder, tmp_path / "no", *run, able, "--quality", 3, *wrong, status=2).stderr
        )
    unable = tisdiss("separate", folder, tmp_path / "no", *run, mini_weights, "--quality", 3, status=2)
    assert "tisdiss weights calibrate" in unable.stderr
    assert "nan" in tisdiss("separate", folder, tmp_path / "no", *run, able, "--quality", "nan", status=2).stderr


def test_the_smallest_setting_within_a_tenth_of_a_decibel():
    assert smallest_within({1: 10.0, 2: 14.0, 3: 14.95, 4: 15.0, 8: 14.9}) == 3
    assert smallest_within({1: 10.0, 2: 12.0}) == 2
    assert smallest_within({5: 3.0}) == 5
