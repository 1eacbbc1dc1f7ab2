"""Whatever is wrong with an input, an option or a place is one sentence, and the other inputs are done."""

import os
import re
import warnings
from pathlib import Path

import pytest
import soundfile

from tests.cli import tisdiss
from tests.folders import RATE, records, speech_like
from tisdiss_cli.commands.console import advance, audio_bar, start_logging
from tisdiss_cli.commands.options import parse_repeats
from tisdiss_cli.folder.outputs import VoiceFiles
from tisdiss_cli.folder.record import Record


@pytest.fixture
def call(tmp_path) -> Path:
    soundfile.write(tmp_path / "call.wav", speech_like(0.2, 0), RATE)
    return tmp_path / "call.wav"


@pytest.fixture
def run(mini_weights):
    def command(source: object, out: object, *options: object, status: int = 0):
        done = tisdiss("separate", source, out, "--weights", mini_weights, "--device", "cpu", *options, status=status)
        assert "Traceback" not in done.stderr and "Warning" not in done.stderr
        return done

    return command


# The bar ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("announced", [0.0, -1.0, 0.001, 1.0, 3.0, 1e9, float("nan"), float("inf")])
@pytest.mark.parametrize("steps", [[], [0.0], [0.0004, 0.0004], [1.0, 1.0, 1.0], [1.4], [3.0001], [float("nan"), 2.0]])
def test_the_bar_copes_with_any_total(capfd, announced, steps):
    start_logging()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with audio_bar(announced) as shown:
            shown.mininterval = shown.miniters = 0
            for seconds in steps:
                advance(shown, seconds, "note")
                shown.refresh()
    said = capfd.readouterr().err
    heard = sum(seconds for seconds in steps if seconds == seconds)
    assert f"{heard:.1f}" in said.split("\r")[-1]
    assert not any(word in said for word in ("Warning", "nan", "inf", "None"))


def test_recordings_of_no_length_each_get_their_line(tmp_path, run):
    source = tmp_path / "in"
    source.mkdir()
    (source / "empty.wav").touch()
    (source / "text.wav").write_text("no sound at all\n" * 9)
    soundfile.write(source / "none.wav", speech_like(0, 0), RATE)
    for options in ((), ("--budget", "9s")):
        run(source, tmp_path / "out", *options, status=1)
        assert {name: line["status"] for name, line in records(tmp_path / "out").items()} == dict.fromkeys(
            ("empty.wav", "none.wav", "text.wav"), "failed"
        )
    soundfile.write(source / "one.wav", speech_like(1 / RATE, 0), RATE)
    run(source, tmp_path / "out", status=1)
    assert records(tmp_path / "out")["one.wav"]["status"] == "done"


@pytest.mark.parametrize("announced", [0.0, 0.1, 1.7, float("nan"), float("inf")])
def test_more_or_less_audio_than_was_announced(tmp_path, run, call, monkeypatch, announced):
    soundfile.write(call, speech_like(2.0, 0), RATE)
    monkeypatch.setattr("tisdiss_cli.folder.run.read_header", lambda *arguments: (announced, 1))
    done = run(call, tmp_path / "out", "--chunk", 0.5)
    assert "2.0 s of audio" in done.stdout
    assert records(tmp_path / "out")["call.wav"]["audio_seconds"] == 2.0


# Single inputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["__init__", "push", "finish"])
def test_an_error_that_nobody_foresaw_fails_its_input_alone(tmp_path, run, monkeypatch, method):
    source, original = tmp_path / "in", getattr(VoiceFiles, method)
    source.mkdir()
    for seed, name in enumerate("abc"):
        soundfile.write(source / f"{name}.wav", speech_like(0.2, seed), RATE)

    def failing(voices, *arguments, **options):
        job = arguments[0] if method == "__init__" else voices.job
        if job.input == "b.wav":
            raise RuntimeError("out of cheese")
        return original(voices, *arguments, **options)

    monkeypatch.setattr(VoiceFiles, method, failing)
    run(source, tmp_path / "out", status=1)
    lines = records(tmp_path / "out")
    assert [lines[f"{name}.wav"]["status"] for name in "abc"] == ["done", "failed", "done"]
    assert "out of cheese" in lines["b.wav"]["reason"] and str(source / "b.wav") in lines["b.wav"]["reason"]


def test_a_file_that_is_gone_when_its_turn_comes(tmp_path, run, monkeypatch):
    source = tmp_path / "in"
    source.mkdir()
    for seed, name in enumerate("ab"):
        soundfile.write(source / f"{name}.wav", speech_like(0.2, seed), RATE)
    prepare = Record.prepare
    monkeypatch.setattr(Record, "prepare", lambda record: ((source / "a.wav").unlink(), prepare(record)))
    run(source, tmp_path / "out", status=1)
    assert {name: line["status"] for name, line in records(tmp_path / "out").items()} == {
        "a.wav": "failed",
        "b.wav": "done",
    }


def test_outputs_that_cannot_be_fail_before_the_work_and_alone(tmp_path, run):
    source, out = tmp_path / "in", tmp_path / "out"
    names = ["good.wav", "is_folder.wav", "sub/under_file.wav", "x" * 250 + ".wav"]
    for seed, name in enumerate(names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(source / name, speech_like(0.2, seed), RATE)
    (out / "is_folder_s2.wav").mkdir(parents=True)
    (out / "sub").write_text("a file")
    for options in ((), ("--overwrite",)):
        run(source, out, *options, status=1)
        lines = records(out)
        assert [lines[name]["status"] for name in names] == ["done", "failed", "failed", "failed"]
        for name, word in zip(names[1:], ("folder", "file", "long"), strict=True):
            assert word in lines[name]["reason"] and lines[name]["audio_seconds"] == 0
        assert sorted(os.listdir(out)) == sorted(
            ["good_s1.wav", "good_s2.wav", "is_folder_s2.wav", "sub", "tisdiss.jsonl"]
        )


def test_pipes_and_devices_are_left_out_or_told(tmp_path, run, call):
    os.mkfifo(tmp_path / "x.wav")
    run(tmp_path, tmp_path.parent / f"{tmp_path.name}-out")
    assert set(records(tmp_path.parent / f"{tmp_path.name}-out")) == {"call.wav"}
    for source, word in ((tmp_path / "x.wav", "a pipe"), ("/dev/null", "a device"), ("/dev/zero", "a device")):
        (sentence,) = run(source, tmp_path / "out", status=2).stderr.splitlines()
        assert word in sentence and str(source) in sentence


def test_kinds_that_nothing_reads_are_counted_and_named(tmp_path, run):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a.aup3", "b.AUP3", "c.mid", "notes.txt", ".hidden.mid"):
        (source / name).touch()
    soundfile.write(source / "call.wav", speech_like(0.1, 0), RATE)
    done = run(source, tmp_path / "out")
    assert "left out: 2 .aup3, 1 .mid" in done.stderr
    assert "left out" not in run(source, tmp_path / "out", "--quiet").stderr


# Places -----------------------------------------------------------------------------------------


def test_places_of_any_spelling(tmp_path, run, call, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    monkeypatch.setenv("HOME", str(tmp_path))
    for source, out in (("../../call.wav", "../o1/"), ("~/call.wav", "~/o2"), (f"{call.parent}/a/../call.wav", "./o3")):
        run(source, out)
    for out in ("a/o1", "o2", "a/b/o3"):
        assert records(tmp_path / out)["call.wav"]["path"] == os.path.realpath(call)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "c.wav", speech_like(0.1, 0), RATE)
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    for source, out in (("~/in", "~/in/"), ("../../alias", "../../in/out"), ("~/in", "../../alias/x")):
        assert "inside" in run(source, out, status=2).stderr
    for arguments in (("", "out"), (call, ""), ("", "")):
        assert "empty" in run(*arguments, status=2).stderr
    for source, out in (("y" * 300, "out"), (call, "y" * 300), (call, call / "x"), (call / "x", "out")):
        assert len(run(source, out, status=2).stderr.splitlines()) == 1


def test_a_record_that_is_none(tmp_path, run, call, monkeypatch):
    record = tmp_path / "out" / "tisdiss.jsonl"
    record.mkdir(parents=True)
    assert str(record) in run(call, tmp_path / "out", status=2).stderr
    record.rmdir()
    os.mkfifo(record)
    assert str(record) in run(call, tmp_path / "out", status=2).stderr
    record.unlink()
    junk = (
        b'\x00\xff\n[1, 2]\n7\n{"input": 3, "status": "done"}\n{"input": "call.wav", "status": "done", "outputs": 5}\n'
    )
    record.write_bytes(junk + b"[" * 100_000 + b"\n" + os.urandom(1 << 17) + b'{"input": "call.w')
    assert "no readable line" in run(call, tmp_path / "out").stderr
    assert "1 done before" in run(call, tmp_path / "out").stdout
    assert record.read_bytes().startswith(junk)

    original = Path.open

    def refused(path, *arguments, **options):
        if path == record:
            raise PermissionError(13, "Permission denied")
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    (sentence,) = run(call, tmp_path / "out", status=2).stderr.splitlines()
    assert str(record) in sentence and "Permission denied" in sentence


def test_out_that_takes_nothing_ends_before_the_work(tmp_path, run, call, monkeypatch):
    (tmp_path / "out").mkdir()
    original = Path.open

    def refused(path, mode="r", *arguments, **options):
        if "a" in mode:
            raise PermissionError(13, "Permission denied")
        return original(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr(VoiceFiles, "__init__", lambda *arguments, **options: pytest.fail("worked for nothing"))
    (sentence,) = run(call, tmp_path / "out", "--quiet", status=1).stderr.splitlines()
    assert "Permission denied" in sentence and "space" not in sentence


# Options ----------------------------------------------------------------------------------------


def test_repeats_have_the_same_bounds_everywhere(tmp_path, call, mini_weights):
    commands = [
        ("separate", call, tmp_path / "out", "--repeats"),
        ("separate", call, tmp_path / "out", "--max-repeats"),
        ("separate", call, tmp_path / "out", "--separator-repeats"),
        ("score", tmp_path, "--repeats"),
        ("score", tmp_path, "--separator-repeats"),
        ("bench", "--repeats"),
        ("weights", "calibrate", mini_weights, tmp_path, "--max-repeats"),
        ("train", tmp_path, tmp_path / "run", "--repeats"),
    ]
    for command in commands:
        sentences = set()
        for value in (0, 1001, 10**30):
            (sentence,) = tisdiss(*command, value, status=2).stderr.splitlines()
            sentences.add(sentence.replace(str(value), "N").replace("1N01", "1001"))
            assert re.search("(at most|1 to) 1000", sentence) or f"Invalid value for '{command[-1]}'" in sentence, (
                command
            )
        assert len(sentences) <= 2, sentences
    assert parse_repeats("1000") == [1000] and parse_repeats("999-1000,3") == [3, 999, 1000]
    assert not (tmp_path / "out").exists() and not (tmp_path / "run").exists()
