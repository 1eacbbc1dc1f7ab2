"""`tisdiss score` on files that cannot be scored, are too short for a metric, or have any name; other tools' names."""

import csv
import json
import os

import numpy as np
import pytest
import soundfile

from tests.cli import tisdiss
from tests.mixtures import RATE, voices, write
from tisdiss_cli.data.datasets import find_dataset
from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.estimates import find_estimates
from tisdiss_cli.evaluation.evaluate import evaluate
from tisdiss_cli.evaluation.results import ScoreTable

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTH = 900


def write_items(root, ids="abc", length=LENGTH):
    """Mixtures, references and estimates below `root`, small ones."""
    for seed, id in enumerate(ids):
        s1, s2 = voices(seed, length)
        for name, samples in (("mix", s1 + s2), ("s1", s1), ("s2", s2)):
            write(root / "data" / name / f"{id}.wav", samples)
        leak = 0.1 * voices(100 + seed, length)
        for number, samples in enumerate((s1, s2), 1):
            write(root / "out" / f"{id}_s{number}.wav", samples + leak[number - 1])
    return root / "data", root / "out"


def scores(outcome):
    return {row.id: (row.si_snri, row.sdri) for row in outcome.rows}


def poison(path, kind):
    samples = soundfile.read(path)[0]
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "folder":
        path.unlink()
        path.symlink_to(path.parent / "nowhere.wav")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "no samples":
        write(path, samples[:0])
    elif kind == "nan":
        samples[7] = np.nan
        write(path, samples)
    elif kind == "longer":
        write(path, np.concatenate((samples, samples)))


@pytest.mark.parametrize("kind", ["empty", "text", "folder", "cut", "no samples", "nan", "longer"])
def test_bad_files_are_not_scored_and_harm_no_other(tmp_path, kind):
    """The very first estimate, a mixture, and the last reference."""
    data, out = write_items(tmp_path, "abcd")
    for path in (out / "a_s1.wav", data / "mix" / "b.wav", data / "s2" / "d.wav"):
        poison(path, kind)
    outcome = evaluate(find_dataset(data), estimates=out)
    assert [sentence[:3] for sentence in outcome.failed] == ["a: ", "b: ", "d: "]
    assert not any("\n" in sentence for sentence in outcome.failed)
    (row,) = outcome.rows
    write_items(tmp_path / "whole", "abcd")
    for name in ("a", "b", "d"):
        for path in (tmp_path / "whole").rglob(f"{name}*.wav"):
            path.unlink()
    assert scores(evaluate(find_dataset(tmp_path / "whole" / "data"), estimates=tmp_path / "whole" / "out")) == {
        "c": (row.si_snri, row.sdri)
    }


def test_an_estimate_at_another_rate_is_resampled_wherever_it_stands(tmp_path):
    data, out = write_items(tmp_path)
    time = np.arange(LENGTH) / RATE
    tones = [np.hanning(LENGTH) * np.sin(2 * np.pi * f * time) for f in (200, 450)]
    for name, samples in (("mix", sum(tones)), ("s1", tones[0]), ("s2", tones[1])):
        write(data / name / "a.wav", samples)
    fine = np.arange(2 * LENGTH) / RATE / 2
    for number, frequency in ((1, 200), (2, 450)):
        envelope = 0.5 - 0.5 * np.cos(2 * np.pi * fine * RATE / (LENGTH - 1))
        write(out / f"a_s{number}.wav", envelope * np.sin(2 * np.pi * frequency * fine), 2 * RATE)
    outcome = evaluate(find_dataset(data), estimates=out)
    assert not outcome.failed and outcome.settings["sample_rate"] == RATE  # the two others'
    assert scores(outcome)["a"][0] > 20


def test_nothing_readable_is_a_reason_for_each_file(tmp_path):
    data, out = write_items(tmp_path)
    for path in out.iterdir():
        path.write_bytes(b"")
    outcome = evaluate(find_dataset(data), estimates=out)
    assert not outcome.rows and [sentence[:3] for sentence in outcome.failed] == ["a: ", "b: ", "c: "]


def test_silence_is_no_improvement(tmp_path):
    data, out = write_items(tmp_path)
    write(data / "mix" / "a.wav", np.zeros(LENGTH))
    write(data / "s1" / "b.wav", np.zeros(LENGTH))
    write(data / "s2" / "b.wav", np.full(LENGTH, 0.1))
    outcome = evaluate(find_dataset(data), estimates=out)
    assert [row.id for row in outcome.rows] == ["c"]
    assert "the mixture is silent" in outcome.failed[0] and "every reference is silent" in outcome.failed[1]


@pytest.mark.parametrize("length", [160, 800, 3000])
def test_too_short_for_stoi_is_scored_without(tmp_path, length):
    """pystoi raises an error of NumPy's on the shortest, and makes 1e-5 of the others."""
    pytest.importorskip("pystoi")
    data, out = write_items(tmp_path, "ab", 8000)
    write_items(tmp_path, "c", length)
    dataset, sheet = find_dataset(data), tmp_path / "scores.csv"
    outcome = evaluate(dataset, estimates=out, stoi=True, table=ScoreTable(sheet))
    assert not outcome.failed
    by_id = {row.id: row for row in outcome.rows}
    assert by_id["c"].stoi is None and np.isfinite(by_id["c"].si_snri)
    (remark,) = outcome.warnings
    assert remark.startswith("c: ") and "without STOI" in remark
    assert outcome.results[0].means["stoi"].mean == pytest.approx((by_id["a"].stoi + by_id["b"].stoi) / 2)
    assert outcome.results[0].files == 3
    with sheet.open(newline="") as file:
        assert [row["stoi"] != "" for row in csv.DictReader(file)] == [True, True, False]
    again = evaluate(dataset, estimates=out, stoi=True, table=ScoreTable(sheet))
    assert again.resumed == 3 and again.warnings == outcome.warnings


def test_too_short_or_silent_for_pesq_is_scored_without(tmp_path):
    pytest.importorskip("pesq")
    data, out = write_items(tmp_path, "ab", 8000)
    write_items(tmp_path, "c", 1500)
    write(out / "b_s2.wav", np.zeros(8000))
    outcome = evaluate(find_dataset(data), estimates=out, pesq=True)
    assert not outcome.failed
    assert [row.pesq is None for row in outcome.rows] == [False, True, True]
    assert outcome.results[0].means["pesq"].mean == outcome.rows[0].pesq
    assert sum("without PESQ" in sentence for sentence in outcome.warnings) == 2


ODD = [b"caf\xe9", b"\xff\xfe", b'with, comma "and" quotes', b"two\nlines\r", b" [/b] [red]", "naïve ☃".encode()]


def test_names_of_any_bytes_come_back_the_same(tmp_path):
    ids = [os.fsdecode(name) for name in ODD]
    data, out = write_items(tmp_path, ids)
    sheet, report = tmp_path / "scores.csv", tmp_path / os.fsdecode(b"r\xe9port.json")
    options = ("--estimates", out, "--csv", sheet, "--json", report, "--workers", 0)
    first = tisdiss("score", data, *options)
    assert {row.id for row in ScoreTable(sheet).rows} == set(ids)
    before = sheet.read_bytes()
    for name in ODD[:2]:
        assert name in before  # as it is on the disk
    again = tisdiss("score", data, *options)
    assert "6 files were scored before" in again.stderr and sheet.read_bytes() == before
    assert first.stdout == again.stdout
    assert json.loads(report.read_text(encoding="utf-8"))["results"][0]["files"] == 6
    (data / "mix" / f"{ids[0]}.wav").write_bytes(b"")
    tisdiss("score", data, *options, status=1)
    assert json.loads(report.read_text(encoding="utf-8"))["failed"][0].startswith(ids[0])


NAMES = {
    "{id}_s{n}": 1,
    "s{n}/{id}": 1,
    "{id}_est{n}": 0,
    "{id}_{n}": 0,
    "{id}-{n}": 1,
    "spk{n}/{id}": 0,
    "{id}/s{n}": 1,
    "{id}_spk{n}": 1,
    "mix/{id}_est{n}": 1,
}


@pytest.mark.parametrize("pattern", NAMES)
def test_other_tools_names_are_found(tmp_path, pattern, said):
    ids, first = ("a", "a_1", "sub/b"), NAMES[pattern]
    wanted = {id: [tmp_path / "out" / f"{pattern.format(id=id, n=first + k)}.flac" for k in (0, 1)] for id in ids}
    of_the_set = [tmp_path / "data" / name / f"{id}.wav" for id in ids for name in ("mix", "s1", "s2")]
    for path in (*of_the_set, *wanted["a"], *wanted["a_1"], *wanted["sub/b"]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = find_estimates(tmp_path / "out", find_dataset(tmp_path / "data"))
    assert {id: list(paths) for id, paths in found.items()} == wanted
    assert f"named {pattern}, counted from {first}" in said[0]


def test_a_pattern_of_ones_own(tmp_path):
    data, out = write_items(tmp_path)
    for id in "abc":
        for number in (1, 2):
            (out / f"{id}_s{number}.wav").rename(out / f"voice{number:02}of-{id}.wav")
    with pytest.raises(UserError, match=r"a_s1, s1/a, .*for example voice01of-a\.wav.*--pattern"):
        evaluate(find_dataset(data), estimates=out)
    for pattern in ("voice{n:02}of-{id}", "voice{n:02}of-{id}.wav"):
        assert len(evaluate(find_dataset(data), estimates=out, pattern=pattern).rows) == 3
    for pattern in ("{id}", "s{n}", "{id}_{m}", "{id}_{}", "{id_{n}", "{id}_{n:q}", "/x/{id}_{n}", "{id.x}{n}", ""):
        with pytest.raises(UserError, match="--pattern"):
            evaluate(find_dataset(data), estimates=out, pattern=pattern)
    (error,) = tisdiss("score", data, "--pattern", "{id}_{n}", status=2).stderr.splitlines()
    assert "--estimates" in error or "name their folder" in error


def test_of_two_patterns_the_one_that_fits_more_is_taken_and_then_the_first(tmp_path):
    data, out = write_items(tmp_path)
    for id in "abc":
        for number in (1, 2):
            write(out / f"{id}_est{number}.wav", np.ones(LENGTH))
    dataset = find_dataset(data)
    assert {path.stem for path in find_estimates(out, dataset)["a"]} == {"a_s1", "a_s2"}
    (out / "b_s2.wav").unlink()
    assert {path.stem for path in find_estimates(out, dataset)["a"]} == {"a_est1", "a_est2"}


def test_numbers_from_0_are_never_taken_in_part(tmp_path):
    data, out = write_items(tmp_path)
    for id in "abc":
        write(out / f"{id}_s0.wav", np.ones(LENGTH))
    outcome = evaluate(find_dataset(data), estimates=out)
    assert not outcome.rows and all("3 estimates for 2 references" in sentence for sentence in outcome.failed)


def test_scores_of_another_program_or_file_are_never_written_over(tmp_path):
    data, out = write_items(tmp_path, "a")
    for content in (b"id,repeats\na,1\n", b"\xff\x00\x01binary", b'{"json": 1}\n', b"\xef\xbb\xbfid;repeats\n"):
        sheet = tmp_path / "sheet.csv"
        sheet.write_bytes(content)
        run = tisdiss("score", data, "--estimates", out, "--csv", sheet, status=2)
        assert str(sheet) in run.stderr and run.stderr.splitlines()[-1].startswith("tisdiss: ")
        assert sheet.read_bytes() == content
    both = ("--csv", tmp_path / "x", "--json", tmp_path / "x")
    assert "same file" in tisdiss("score", data, "--estimates", out, *both, status=2).stderr


def test_lines_that_are_torn_or_damaged_are_scored_again(tmp_path):
    data, out = write_items(tmp_path)
    dataset, path = find_dataset(data), tmp_path / "scores.csv"
    whole = scores(evaluate(dataset, estimates=out, table=ScoreTable(path)))
    header, a, b, *_ = path.read_text().splitlines()
    for damaged in (
        f"{header}\n{a}\n{b[: len(b) // 2]}",
        f"{header}\n{a}\n{b.replace('1 2', 'nan,' * 30)}\n",
        f'{header}\n{a}\n"{b}',
        f"{header}\n{a}\n\n\0\0\0\0\0",
    ):
        path.write_text(damaged)
        again = evaluate(dataset, estimates=out, table=ScoreTable(path))
        assert again.resumed == 1 and scores(again).keys() == whole.keys()
        for id, values in whole.items():
            assert scores(again)[id] == pytest.approx(values, abs=1e-5)
