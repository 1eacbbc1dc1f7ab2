"""`separate --json`: a program that calls it reads stdout, all of it, as JSON."""

import json

import pytest
import soundfile

from tests.cli import tisdiss
from tests.folders import RATE, contents, speech_like
from tisdiss_cli.folder.pipeline import Pipeline

FAILED = {"gone\udcff.wav", "bad.wav"}


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "in").mkdir()
    for seed, name in enumerate("ab"):
        soundfile.write(tmp_path / "in" / f"{name}.wav", speech_like(0.5, seed), RATE)
    (tmp_path / "in" / "bad.wav").write_bytes(b"no sound")
    (tmp_path / "in" / "list").write_bytes(b"a.wav\ngone\xff.wav\nbad.wav\nb.wav\n")
    return tmp_path


@pytest.fixture
def separate(tree, mini_weights):
    def run(*arguments, status=0):
        options = ("--weights", mini_weights, "--device", "cpu", "--files-from", tree / "in/list", "--json")
        return tisdiss("separate", *options, *arguments, tree / "out", status=status).stdout

    return run


@pytest.mark.parametrize("options", [(), ("--quiet",), ("--report",)])
def test_one_document(tree, separate, options):
    found = json.loads(separate(*options, status=1))
    assert (found["done"], found["failed"], found["done_before"], found["stopped"]) == (2, 2, 0, False)
    assert found["audio_seconds"] == pytest.approx(1.0) and found["audio_hours"] == pytest.approx(1 / 3600)
    assert found["elapsed_seconds"] > 0
    assert {failure["input"] for failure in found["failures"]} == FAILED
    assert all(failure["input"].rstrip(".wav")[:3] in failure["reason"] for failure in found["failures"])
    again = json.loads(separate(*options, status=1))
    assert (again["done"], again["failed"], again["done_before"]) == (0, 2, 2)
    assert again["real_time_factor"] is None


def test_nothing_to_do_is_a_document_too(tree, separate):
    (tree / "in/list").write_text("a.wav\n")
    separate()
    found = json.loads(separate())
    assert (found["done"], found["failed"], found["done_before"], found["failures"]) == (0, 0, 1, [])


def test_a_plan_in_lines_is_what_is_then_done(tree, separate):
    options = ("--name", "s{voice}/{stem}", "--format", "flac", "--segments", "rttm", "--repeats", "1")
    plan = [json.loads(line) for line in separate("--dry-run", *options).splitlines()]
    assert not (tree / "out").exists()
    assert plan[-1]["to_do"] == 4 and plan[-1]["settings"]["repeats"] == 1
    assert {job["input"]: job["audio_seconds"] for job in plan[:-1] if job["input"] not in FAILED} == {
        "a.wav": pytest.approx(0.5),
        "b.wav": pytest.approx(0.5),
    }
    separate(*options, status=1)
    promised = [name for job in plan[:-1] for name in job["outputs"] + job["segments"] if job["input"] not in FAILED]
    assert len(promised) == 6 and all((tree / "out" / name).is_file() for name in promised)
    (tree / "out/s1/a.flac").unlink()
    (tree / "in/list").write_text("b.wav\na.wav\n")
    plan = [json.loads(line) for line in separate("--dry-run", *options).splitlines()]
    assert [job["input"] for job in plan[:-1]] == ["a.wav"] and plan[-1]["done_before"] == 1


def test_what_is_refused_is_in_the_plan(tree, separate):
    (tree / "out").mkdir()
    (tree / "out/a_s2.wav").write_text("mine")
    lines = [json.loads(line) for line in separate("--dry-run").splitlines()]
    (refused,) = [line for line in lines if line.get("status") == "refused"]
    assert refused["input"] == "a.wav" and "--overwrite" in refused["reason"]


def test_a_run_that_is_stopped_tells_what_it_did(tree, separate, monkeypatch):
    whole = Pipeline.run

    def stopped(self, jobs):
        yield from whole(self, jobs[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "run", stopped)
    found = json.loads(separate(status=130))
    assert found["stopped"] and found["done"] == 1 and found["elapsed_seconds"] > 0
    assert len(contents(tree / "out")) == 2


def test_usage_errors_leave_stdout_empty(tree, separate):
    assert separate("--chunk", "-1", status=2) == ""
    assert separate("--name", "x", status=2) == ""


def test_in_words_the_plan_tells_every_setting_too(tree, mini_weights):
    """What the record will hold of the settings, and what is not the default among them."""
    options = ("--weights", mini_weights, "--device", "cpu", "--channels", "1,2", "--chunk", 3, "--format", "flac")
    said = tisdiss("separate", *options, "--dry-run", tree / "in", tree / "out").stderr.splitlines()[-1]
    for name, value in (("channels", "1 2"), ("chunk seconds", "3.0"), ("format", "flac"), ("repeats", "2")):
        assert f"{name} {value}" in said
