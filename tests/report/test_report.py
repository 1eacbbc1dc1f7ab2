"""`tisdiss report`: what it reads, what it draws, and what it refuses."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli import start, tisdiss
from tests.mixtures import write_set
from tests.runs import HOSTILE, RATE, SETTINGS, add_channels, add_file, failed, line, tone, write, write_record
from tisdiss_cli.report.entries import read_entries, worst_first
from tisdiss_cli.report.run import choose
from tisdiss_cli.report.spectrograms import BANDS, COLUMNS, spectrogram

SCORES = "id,repeats,si_snri,sdri,si_snr,sdr,stoi,pesq,permutation,seconds,network_seconds,warnings,key"


def data(page: Path) -> dict:
    found = json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)[1]
    )
    if "fields" in found:
        found["files"] = [dict(zip(found["fields"], row, strict=True)) for row in found["rows"]]
    return found


def report(out: Path, *options: object) -> dict:
    """Runs the command, without pictures unless they are asked for; the page's data."""
    most = () if "--most" in options else ("--most", 0)
    return data(Path(tisdiss("report", out, *most, *options).stdout.strip()))


def test_the_last_line_of_an_input_counts_and_torn_ones_do_not(tmp_path):
    out = write_record(tmp_path / "out", [failed("a.wav", "it was broken"), line("b.wav"), line("a.wav", 3.0)])
    with (out / "tisdiss.jsonl").open("a") as file:
        file.write('{"input": "torn.w')
    write_record(tmp_path / "other", [line("c.wav")])
    (tmp_path / "other" / "tisdiss.jsonl").rename(out / "tisdiss.2-of-3.jsonl")
    entries = {entry.name: entry for entry in read_entries(out)}
    assert set(entries) == {"a.wav", "b.wav", "c.wav"}
    assert not entries["a.wav"].failed and entries["a.wav"].line.audio_seconds == 3.0


def test_fields_that_a_record_may_have_are_read_and_none_is_needed(tmp_path):
    full = {
        "path": "/somewhere/full.wav",
        "quality": {"si_snri": 7.25, "low": 5.0, "high": 9.0, "worst": {"from": 2.0, "to": 12.0}},
        "segments": ["full.TextGrid", "full.rttm"],
        "speech_seconds": [1.0, 2.0],
        "overlap_seconds": 0.25,
        "talkers": 2,
        "warnings": ["something"],
        "seams": [4.5, 12.0],
    }
    bare = {"input": "bare.wav", "status": "done", "path": "/somewhere/bare.wav"}
    out = write_record(tmp_path / "out", [line("full.wav", 20.0, **full), bare, line("odd.wav", talkers="two")])
    entries = {entry.name: entry for entry in read_entries(out)}
    one = entries["full.wav"]
    assert (one.mixture, one.si_snri, one.band) == (Path("/somewhere/full.wav"), 7.25, (5.0, 9.0)) and one.doubtful
    bare = entries["bare.wav"]
    assert bare.si_snri is None and not bare.doubtful
    assert "odd.wav" not in entries
    more = {file["name"]: file["more"] for file in report(out)["files"]}
    known = {"seams": [4.5, 12.0], "worst": [2.0, 12.0], "talkers": 2, "overlap": 0.25, "speech": 3.0}
    assert more == {"full.wav": known, "bare.wav": {}}


def test_of_two_recordings_of_one_name_that_counts_whose_voices_are_there(tmp_path):
    voices = ["a_s1.wav", "a_s2.wav"]
    out = write_record(
        tmp_path / "out",
        [
            line("a.wav", path="/day1/a.wav", outputs=voices),
            line("a.wav", 3.0, path="/day2/a.wav", outputs=voices),
            line("a.wav", path="/day3/a.wav", outputs=[], status="failed", reason="its voices would replace others"),
        ],
    )
    entries = {str(entry.mixture): entry for entry in read_entries(out)}
    assert set(entries) == {"/day2/a.wav", "/day3/a.wav"} and entries["/day2/a.wav"].line.audio_seconds == 3.0


def test_each_channel_of_a_mixture_has_its_line(tmp_path):
    lines = [line("a.wav", path="/in/a.wav", channel=n, outputs=[f"a_c{n}_s1.wav", f"a_c{n}_s2.wav"]) for n in (1, 2)]
    found = report(write_record(tmp_path / "out", lines), "--against", write_record(tmp_path / "two", lines[:1]))
    assert sorted((file["more"]["channel"], "other" in file["more"]) for file in found["files"]) == [
        (1, True),
        (2, False),
    ]


def test_channels_of_one_file_are_drawn_and_written_to_be_heard(tmp_path):
    """As voices in files of their own are: the pictures of both are the same."""
    root, drawn = tmp_path / "in", {}
    for kind, add in (("files", add_file), ("channels", add_channels)):
        out = write_record(tmp_path / kind, [add(root, tmp_path / kind, "a.wav")])
        (file,) = report(out, "--most", 1)["files"]
        drawn[kind] = {path.name: path.read_bytes() for path in (out / "report" / "index_files").glob("*.webp")}
        assert file["more"].get("voices") == (2 if kind == "channels" else None)
    assert len(drawn["files"]) == 3 and drawn["channels"] == drawn["files"]
    both, _ = soundfile.read(out / "a.wav", dtype="int16")
    for k in range(2):
        heard, rate = soundfile.read(out / "report" / "index_files" / f"0-{k + 1}.wav", dtype="int16")
        assert rate == RATE and np.array_equal(heard, both[:, k])
    report(
        out, "--most", 1, "--against", write_record(tmp_path / "two", [add_channels(root, tmp_path / "two", "a.wav")])
    )
    names = sorted(path.name for path in (out / "report" / "index_files").iterdir())
    assert names == sorted([f"0-{k}.webp" for k in range(5)] + [f"0-{k}.wav" for k in range(1, 5)])
    assert not list(report(out)["files"][0]["more"].keys() & {"pictures"})  # none of an earlier page are left
    assert not list((out / "report" / "index_files").iterdir())


def test_a_linked_mixture_is_found_where_it_is(tmp_path):
    add_file(tmp_path / "in", tmp_path / "out", "there.wav")
    one = line("sub/here.wav", path=str(tmp_path / "in" / "there.wav"))
    found = report(write_record(tmp_path / "out", [one]))
    assert (found["roots"], found["files"][0]["more"]["mixture"]) == (["../../in/"], "there.wav")
    assert found["files"][0]["here"] == 1


def test_worst_first(tmp_path):
    lines = [
        line("good.wav", quality={"si_snri": 12.0}),
        line("bad.wav", quality={"si_snri": -2.0}),
        failed("broken.wav", "it is broken"),
        line("doubtful.wav", quality={"si_snri": 5.0}, warnings=["something"]),
    ]
    names = [entry.name for entry in worst_first(read_entries(write_record(tmp_path / "a", lines)))]
    assert names == ["broken.wav", "bad.wav", "doubtful.wav", "good.wav"]
    for one in lines:
        one.pop("quality", None)
    names = [entry.name for entry in worst_first(read_entries(write_record(tmp_path / "b", lines)))]
    assert names == ["broken.wav", "doubtful.wav", "bad.wav", "good.wav"]


def test_pictures_are_of_the_worst_and_a_few_of_the_best(tmp_path):
    lines = [line(f"{k:02d}.wav", quality={"si_snri": k}, outputs=[f"{k}_s1.wav"]) for k in range(30)]
    entries = worst_first(read_entries(write_record(tmp_path, [*lines, failed("broken.wav", "no")])))
    chosen = [entries[index].name for index in choose(entries, 12)]
    assert chosen == [f"{k:02d}.wav" for k in (*range(10), 28, 29)]
    assert choose(entries, 0) == [] and len(choose(entries, 1000)) == 30


def test_true_scores_take_the_place_of_predicted_ones(tmp_path):
    out = write_record(
        tmp_path / "out",
        [line("mix/sub/a.wav", quality={"si_snri": 9.0}), line("mix/b.flac", repeats=4), line("mix/none.wav")],
    )
    rows = [("sub/a", 1, -7.0), ("sub/a", 2, -3.5), ("sub/a", 4, 8.0), ("b", "", 6.25)]
    cells = [f"{name},{repeats},{value},1,1,1,,,1 2,4.0,,,k" for name, repeats, value in rows]
    (tmp_path / "scores.csv").write_text("\n".join([SCORES, *cells]) + "\n")
    found = report(out, "--scores", tmp_path / "scores.csv")
    assert found["measure"] == "true"
    assert [(one["name"], one["sisnri"]) for one in found["files"]] == [
        ("mix/sub/a.wav", -3.5),
        ("mix/b.flac", 6.25),
        ("mix/none.wav", None),
    ]


def test_where_the_mixtures_are(tmp_path):
    recorded = add_file(tmp_path / "in", tmp_path / "out", "a.wav")
    out = write_record(tmp_path / "out", [recorded])
    assert report(out)["roots"] == ["../../in/"]
    write_record(out, [{**recorded, "path": str(tmp_path / "gone" / "a.wav")}])
    found = report(out)
    assert found["roots"] == ["../../gone/"] and found["files"][0]["here"] == 0b110
    for source in (tmp_path / "in", tmp_path / "in" / "a.wav"):
        found = report(out, "--in", source)
        assert found["roots"] == ["../../in/"] and found["files"][0]["here"] == 0b111
    (out / "a_s1.wav").unlink()
    assert report(out, "--in", tmp_path / "in")["files"][0]["here"] == 0b101


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_a_tone_is_where_its_frequency_is(tmp_path, rate):
    write(tmp_path / "x.wav", np.concatenate((tone(1, 1000, rate), 0 * tone(1, 0, rate))), rate)
    shown = min(rate, 16_000)
    levels = spectrogram(tmp_path / "x.wav", shown, 2.0)
    assert levels.shape[0] == BANDS and levels.shape[1] <= COLUMNS
    half = levels.shape[1] // 2
    middle = levels[:, half // 4 : half * 3 // 4]
    assert (abs(middle.argmax(axis=0) - 1000 / (shown / 2) * BANDS) <= 1.01).all()
    assert levels[:, half + half // 8 :].max() < middle.max() - 60


def test_long_files_are_scaled_down_and_lose_nothing_short(tmp_path):
    samples = np.zeros(RATE * 400, np.float32)
    at = 123.4
    samples[round(at * RATE)] = 1.0
    write(tmp_path / "x.wav", samples)
    levels = spectrogram(tmp_path / "x.wav", RATE, 400.0)
    assert levels.shape == (BANDS, COLUMNS)
    loud = np.flatnonzero(levels.max(axis=0) > levels.max() - 30)
    assert set(loud) <= {int(at / 400 * COLUMNS) + near for near in (-1, 0, 1)} and len(loud)


@pytest.mark.parametrize("samples", [1, 100, 256, 70_000])
def test_files_of_any_length_are_drawn(tmp_path, samples):
    write(tmp_path / "x.wav", tone(samples / RATE, 440))
    assert np.isfinite(spectrogram(tmp_path / "x.wav", RATE, samples / RATE)).all()
    assert np.isfinite(spectrogram(tmp_path / "x.wav", RATE, 0.0)).all()


def test_memory_does_not_grow_with_a_files_length(tmp_path):
    import tracemalloc

    peaks = []
    for seconds in (60, 600):
        soundfile.write(tmp_path / "x.wav", np.zeros(RATE * seconds, np.int16), RATE)
        tracemalloc.start()
        spectrogram(tmp_path / "x.wav", RATE, float(seconds))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_pictures_are_small_and_old_ones_go(tmp_path):
    lines = [add_file(tmp_path / "in", tmp_path / "out", f"{k}.wav", 2.0) for k in range(3)]
    out = write_record(tmp_path / "out", lines)
    found = report(out, "--most", 3)
    pictures = out / "report" / "index_files"
    assert sorted(path.name for path in pictures.iterdir()) == [
        f"{n}-{track}.webp" for n in range(3) for track in range(3)
    ]
    assert all(path.stat().st_size < 60_000 for path in pictures.iterdir())
    assert all(file["more"]["pictures"][1:] == [0, 1, 2] for file in found["files"])
    (out / "0_s1.wav").write_text("no sound")
    said = tisdiss("report", out, "--most", 1).stderr
    assert "0_s1.wav" in said and len(list(pictures.iterdir())) == 2


def test_another_runs_voices_are_brought_into_order(tmp_path):
    lines = [add_file(tmp_path / "in", tmp_path / "out", "a.wav", 2.0)]
    others = [add_file(tmp_path / "in", tmp_path / "two", "a.wav", 2.0, swapped=True, repeats=1)]
    out, two = write_record(tmp_path / "out", lines), write_record(tmp_path / "two", others)
    (file,) = report(out, "--against", two, "--most", 1)["files"]
    assert file["more"]["order"] == [1, 0] and file["more"]["other"]["repeats"] == 1
    write_record(two, [line("z.wav")])
    assert "no file in common" in tisdiss("report", out, "--against", two, "--most", 0, status=2).stderr


def test_a_file_takes_less_than_half_a_kilobyte_of_the_page(tmp_path):
    told = ["the speakers may be swapped from 31.5 s, 64.0 s on: the overlap is quiet, or the voices similar"]
    lines = [
        line(
            name := f"corpus/2024-03/session_{k:05d}/channel_1_recording_of_the_meeting.wav",
            outputs=[name.replace(".wav", f"_s{voice}.wav") for voice in (1, 2)],
            warnings=told,
            quality={"si_snri": k / 1000, "low": k / 1000 - 2.345, "high": k / 1000 + 2.345},
        )
        for k in range(1000)
    ]
    out = write_record(tmp_path / "out", lines)
    found = report(out)
    assert len(found["files"]) == 1000
    assert (out / "report" / "index.html").stat().st_size < 0.5e6


def test_no_name_is_markup(tmp_path):
    out = write_record(tmp_path / "<b>out", [line(name, warnings=[name]) for name in HOSTILE])
    raw = (out.parent / Path(tisdiss("report", out, "--most", 0).stdout.strip())).read_bytes()
    raw.decode("utf-8")
    assert b"<img" not in raw and raw.count(b"<script") == 2 and raw.count(b"</script") == 2
    assert b"<h1>&lt;b&gt;out</h1>" in raw
    assert {file["name"] for file in data(out / "report" / "index.html")["files"]} == set(HOSTILE)


def test_what_is_refused(tmp_path, monkeypatch):
    out = write_record(tmp_path / "out", [add_file(tmp_path / "in", tmp_path / "out", "a.wav", 1.0)])
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.csv").write_text("a,b\n")
    for words, options in (
        ("not a folder", [tmp_path / "nowhere"]),
        ("no record", [tmp_path / "empty"]),
        ("no record", [out, "--against", tmp_path / "empty"]),
        ("does not exist", [out, "--scores", tmp_path / "nowhere.csv"]),
        ("holds no scores", [out, "--scores", tmp_path / "no.csv"]),
        ("does not exist", [out, "--in", tmp_path / "nowhere"]),
        ("--most", [out, "--most", -1]),
        ("folder that exists", [out, "--html", tmp_path / "nowhere" / "x.html"]),
    ):
        assert words in tisdiss("report", *options, status=2).stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "tisdiss[plot]" in tisdiss("report", out, status=2).stderr
    assert not (out / "report").exists()
    assert len(report(out)["files"]) == 1


def test_settings_are_told(tmp_path):
    out = write_record(tmp_path / "out", [line("a.wav"), line("b.wav", settings={**SETTINGS, "repeats": 4})])
    found = report(out)
    assert [one["repeats"] for one in found["settings"]] == ["2", "4"]
    assert all(one["weights"] == "light" and "weights sha256" not in one for one in found["settings"])


def test_a_scored_set_becomes_a_page(tmp_path, weights):
    root = write_set(tmp_path / "data")
    page, sheet = tmp_path / "page.html", tmp_path / "scores.csv"
    options = ["--weights", weights, "--device", "cpu", "--repeats", "1,2", "--csv", sheet, "--workers", 0]
    tisdiss("score", root, *options, "--html", page, "--quiet")
    found = data(page)
    with sheet.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert found["settings"] == ["1 repeat", "2 repeats"]
    scores = {(id, setting): value for id, values, _ in found["rows"] for setting, value in enumerate(values, 1)}
    assert scores == {(row["id"], int(row["repeats"])): pytest.approx(float(row["si_snri"]), abs=1e-3) for row in rows}
    means = [np.mean([float(row["si_snri"]) for row in rows if row["repeats"] == str(n)]) for n in (1, 2)]
    (curve,) = found["curves"]
    assert [point["y"] for point in curve["points"]] == pytest.approx(means, abs=1e-4)
    assert "no scores" not in page.read_text() and "<td>2</td>" in page.read_text()
    assert "folder that exists" in tisdiss("score", root, "--html", tmp_path / "no" / "x.html", status=2).stderr


def test_a_bench_becomes_a_page(tmp_path, weights, monkeypatch):
    monkeypatch.setattr("tisdiss_cli.benchmark.grid.matmul_ceiling", lambda separator: 1e9)
    monkeypatch.setattr("tisdiss_cli.benchmark.measure.time_runs", lambda run, *_: [run() is None or 0.01] * 3)
    root, page = write_set(tmp_path / "data"), tmp_path / "page.html"
    options = ["--weights", weights, "--device", "cpu", "--repeats", "1,2", "--seconds", "0.1", "--quiet"]
    printed = tisdiss("bench", *options, "--precision", "fp32", "--data", root, "--html", page).stdout
    found = data(page)
    assert found["settings"] == ["1 repeat", "2 repeats"]
    assert len(found["curves"]) == 1 and len(found["rows"]) == 3
    sentences = [text for text in printed.splitlines() if text.startswith("time =")]
    assert len(sentences) == 1 and all(text in page.read_text() for text in sentences)


def test_separate_writes_the_report_at_its_end(folder, tmp_path, mini_weights, monkeypatch):
    (folder / "broken.wav").write_text("no sound")
    out = tmp_path / "out"
    options = [folder, out, "--weights", mini_weights, "--device", "cpu", "--report", "--quiet"]
    tisdiss("separate", *options, status=1)
    found = data(out / "report" / "index.html")
    files = {file["name"]: file for file in found["files"]}
    good = {"a.wav", "b.flac", "sub/a.wav", "sub/deep/c.ogg", "sub/d.wav", "e.wav"}
    assert set(files) == {"broken.wav", *good}
    assert all(files[name]["here"] == 0b111 and len(files[name]["more"]["pictures"]) == 4 for name in good)
    assert files["broken.wav"]["status"] == 2 and "broken.wav" in files["broken.wav"]["remarks"][0]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused = tisdiss("separate", folder, tmp_path / "two", "--weights", mini_weights, "--report", status=2)
    assert "tisdiss[plot]" in refused.stderr and not (tmp_path / "two").exists()


def test_pictures_are_drawn_in_silence_where_matplotlib_can_keep_nothing(tmp_path):
    out = write_record(tmp_path / "out", [add_file(tmp_path / "in", tmp_path / "out", "a.wav", 1.0)])
    drawing = start("report", out, "--quiet", env={"MPLCONFIGDIR": "/proc/none"})
    page, said = drawing.communicate()
    assert drawing.returncode == 0 and Path(page.strip()).is_file()
    assert said == ""
