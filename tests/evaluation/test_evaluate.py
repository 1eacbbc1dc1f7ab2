"""Sets scored in one pass: against a pass for each setting, across interruptions, over estimates made elsewhere."""

import csv
import json

import numpy as np
import pytest
import soundfile
import torch

from tests.cli import start, tisdiss
from tests.mixtures import RATE, voices, write
from tisdiss_cli.commands.options import parse_repeats
from tisdiss_cli.data.datasets import find_dataset
from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.evaluate import evaluate
from tisdiss_cli.evaluation.metrics import LIMIT, score
from tisdiss_cli.evaluation.results import Mean, Row, ScoreTable
from tisdiss_cli.separation.separator import Separator

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def separator(weights):
    return Separator.load(weights, "cpu", "fp32")


def values(rows: list[Row]) -> dict:
    return {(row.id, row.repeats): (row.si_snri, row.sdri, row.si_snr, row.sdr, row.permutation) for row in rows}


def test_one_pass_gives_what_a_pass_for_each_setting_gives(data, separator, monkeypatch):
    passes = []
    estimates = separator.network.estimates
    monkeypatch.setattr(separator.network, "estimates", lambda *args: passes.append(args[1]) or estimates(*args))
    dataset = find_dataset(data)
    outcome = evaluate(dataset, separator, [1, 2, 4])
    assert passes == [4, 4, 4]
    monkeypatch.undo()

    assert [row.repeats for row in outcome.rows] == [1, 2, 4] * 3
    for row in outcome.rows:
        signals = [
            torch.from_numpy(soundfile.read(data / folder / f"{row.id}.wav")[0]) for folder in ("mix", "s1", "s2")
        ]
        with torch.inference_mode():
            centred = (signals[0] - signals[0].mean()).float()
            whole = torch.nn.functional.pad(centred, (0, -len(centred) % separator.config.hop_length))
            voices = separator.network(whole[None], row.repeats)[0, :, : len(signals[0])]
        (alone,) = score(signals[0].float(), torch.stack(signals[1:]), [voices], sample_rate=RATE)
        assert (row.si_snri, row.sdri) == pytest.approx((alone.si_snri, alone.sdri), abs=1e-3)
    assert [summary.repeats for summary in outcome.results] == [1, 2, 4]
    summary = outcome.results[1]
    assert summary.files == 3 and summary.rtf > 0
    mean = np.mean([row.si_snri for row in outcome.rows if row.repeats == 2])
    assert summary.means["si_snri"].mean == pytest.approx(mean)


def test_low_precision_is_nearly_the_same(data, weights, separator):
    dataset = find_dataset(data)
    exact, rounded = (evaluate(dataset, one, [1, 2]) for one in (separator, Separator.load(weights, "cpu", "bf16")))
    assert not rounded.failed
    for one, other in zip(exact.rows, rounded.rows, strict=True):
        assert one.sdr == pytest.approx(other.sdr, abs=1.0) and one.sdr != other.sdr


def test_a_stopped_run_goes_on_where_it_ended(data, separator, tmp_path, said):
    dataset = find_dataset(data)
    whole = evaluate(dataset, separator, [1, 2])

    def stop() -> None:
        raise KeyboardInterrupt

    path = tmp_path / "scores.csv"
    with pytest.raises(KeyboardInterrupt):
        evaluate(dataset, separator, [1, 2], table=ScoreTable(path), advance=stop)
    assert {row.id for row in ScoreTable(path).rows} == {"a"}
    with path.open("a") as file:
        file.write("b,1,3.0")  # as a kill in the middle of a write leaves it

    resumed = evaluate(dataset, separator, [1, 2], table=ScoreTable(path))
    assert resumed.resumed == 1
    assert [(row.id, row.repeats) for row in ScoreTable(path).rows] == [(name, k) for name in "abc" for k in (1, 2)]
    for key, numbers in values(resumed.rows).items():
        assert numbers[:4] == pytest.approx(values(whole.rows)[key][:4], abs=1e-5)

    deeper = evaluate(dataset, separator, [2, 3], table=ScoreTable(path))  # 1 and 2 are there, 3 is new
    assert {summary.repeats for summary in deeper.results} == {2, 3} and deeper.resumed == 0
    assert len(ScoreTable(path).rows) == 9

    write(data / "s1" / "b.wav", voices(9)[0])  # another reference: its rows count no more
    changed = evaluate(dataset, separator, [1], table=ScoreTable(path))
    assert changed.resumed == 2 and "3 rows" in said[0]
    assert {(row.id, row.repeats) for row in ScoreTable(path).rows if row.id == "b"} == {("b", 1)}


@pytest.mark.parametrize("pattern", ["{id}_s{n}.wav", "s{n}/{id}.flac", "mix/{id}_s{n}.wav"])
def test_estimates_made_elsewhere(data, tmp_path, pattern):
    out = tmp_path / "out"
    for id in "abc":
        for n, source in ((1, "s2"), (2, "s1")):
            samples, _ = soundfile.read(data / source / f"{id}.wav")
            write(out / pattern.format(id=id, n=n), 0.5 * samples)
    outcome = evaluate(find_dataset(data), estimates=out)
    assert not outcome.failed and [row.permutation for row in outcome.rows] == ["2 1"] * 3
    (summary,) = outcome.results
    assert summary.repeats is None and summary.rtf is None and summary.files == 3
    assert summary.means["si_snr"].mean > 60  # 16-bit FLAC, the others are perfect
    if pattern.endswith("wav"):
        assert summary.means["sdr"] == Mean(LIMIT, 0.0)


def test_lengths_rates_and_gaps_of_estimates(data, tmp_path):
    out = tmp_path / "out"
    for id, change in (("a", slice(0, 3990)), ("b", slice(0, 3000))):
        for n in (1, 2):
            samples, _ = soundfile.read(data / f"s{n}" / f"{id}.wav")
            write(out / f"{id}_s{n}.wav", samples[change])
    (data / "mix" / "c.wav").write_bytes(b"no sound")
    write(data / "mix" / "d.wav", voices(5)[0])
    outcome = evaluate(find_dataset(data), estimates=out)
    assert [row.id for row in outcome.rows] == ["a"]
    assert outcome.rows[0].seconds == 3990 / RATE and "10 samples longer" in outcome.warnings[0]
    assert len(outcome.failed) == 2
    assert "b: the mixture is 1000 samples longer than estimate 1" in outcome.failed[0]
    assert "c: there are 0 estimates for 2 references" in outcome.failed[1]
    assert outcome.missing == ["d: no file in s1, s2"]


def test_other_rates_are_resampled_and_said_once(data, separator, said):
    time = np.arange(16000) / 16000
    for id in "ab":
        s1, s2 = 0.1 * np.sin(2 * np.pi * 440 * time**2), 0.1 * np.sin(2 * np.pi * 3000 * np.sqrt(time))
        for folder, samples in (("mix", s1 + s2), ("s1", s1), ("s2", s2)):
            write(data / folder / f"{id}.wav", samples, 16000)
    outcome = evaluate(find_dataset(data), separator, [1])
    assert len(said) == 1 and "16000 Hz" in said[0] and "8000 Hz" in said[0]
    assert not outcome.failed and [row.seconds for row in outcome.rows] == [1.0, 1.0, 0.5]


def test_bad_files_do_not_stop_the_run(data, separator):
    (data / "s2" / "a.wav").write_bytes(b"RIFF")
    write(data / "s1" / "b.wav", np.zeros(4000))
    write(data / "s2" / "b.wav", np.zeros(4000))
    outcome = evaluate(find_dataset(data), separator, [1])
    assert [row.id for row in outcome.rows] == ["c"] and outcome.results[0].files == 1
    assert "s2/a.wav" in outcome.failed[0] and "b: every reference is silent" in outcome.failed[1]


def test_settings_that_do_not_fit_are_refused(data, separator):
    for samples in ("mix", "s1"):
        (data / "s3").mkdir(exist_ok=True)
        for path in (data / samples).iterdir():
            (data / "s3" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"3 references, the weights separate 2"):
        evaluate(find_dataset(data), separator)
    with pytest.raises(UserError, match="--estimates"):
        evaluate(find_dataset(data), estimates=data / "s1")


def test_worker_processes_score_the_same(data, weights, tmp_path):
    """The command, in a process of its own, with one worker; and what it prints and writes."""
    table, report = tmp_path / "scores.csv", tmp_path / "scores.json"
    command = ["score", data, "--weights", weights, "--workers", "1", "--device", "cpu"]
    command += ["--repeats", "1-2", "--csv", table, "--json", report]
    process = start(*command, env={"OMP_NUM_THREADS": "1"})
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "SI-SNRi" in out and "3 mixtures" in error

    here = values(evaluate(find_dataset(data), Separator.load(weights, "cpu"), [1, 2]).rows)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        assert float(row["sdri"]) == pytest.approx(here[row["id"], int(row["repeats"])][1], abs=1e-3)
    content = json.loads(report.read_text())
    assert {"settings", "versions", "results"} <= set(content) and content["settings"]["layout"] == "WSJ0-2mix"
    for entry in content["results"]:
        assert {"mean", "ci95"} == set(entry["si_snri"]) and entry["files"] == 3


def test_a_mixture_without_memory_is_not_scored_and_the_others_are(data, separator, monkeypatch):
    write(data / "mix" / "b.wav", np.tile(soundfile.read(data / "mix" / "b.wav")[0], 3)[:10000])
    for source in ("s1", "s2"):
        write(data / source / "b.wav", np.resize(soundfile.read(data / source / "b.wav")[0], 10000))
    enough = separator.network.padded_estimates

    def little_memory(mixture, *args, **kwargs):
        if mixture.shape[-1] > 8000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return enough(mixture, *args, **kwargs)

    monkeypatch.setattr(separator.network, "padded_estimates", little_memory)
    outcome = evaluate(find_dataset(data), separator, [1])
    assert [row.id for row in outcome.rows] == ["a", "c"]
    (sentence,) = outcome.failed
    assert sentence.startswith("b: memory ran out")


def test_repeats_are_numbers_ranges_and_lists():
    assert parse_repeats("4") == [4]
    assert parse_repeats("1-8") == list(range(1, 9))
    assert parse_repeats("6, 1,2-3,2") == [1, 2, 3, 6]
    for text in ("", "0", "3-1", "1-", "a", "-2", "1.5", "1,,2", "1-100000"):
        with pytest.raises(UserError, match="--repeats"):
            parse_repeats(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--repeats", "8-1"], "--repeats 8-1"),
        (["--repeats", "2", "--estimates", "."], "--estimates"),
        (["--csv", "nowhere/scores.csv"], "nowhere"),
        (["--mixture", "mixes"], "mixes"),
    ],
)
def test_mistakes_are_one_sentence(data, options, said):
    (line,) = tisdiss("score", data, *options, status=2).stderr.strip().splitlines()
    assert said in line
