"""All JSON that commands print or write is as docs/schema has it."""

import json

import pytest
from jsonschema import Draft202012Validator, ValidationError

from tests.cli import ROOT, tisdiss
from tests.mixtures import write_set

SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "docs" / "schema").iterdir()}


def check(name: str, *found: object) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert found
    for one in found:
        Draft202012Validator(SCHEMAS[name]).validate(one)


def lines(text: str) -> list:
    return [json.loads(line) for line in text.splitlines()]


def test_what_separate_prints_and_records(folder, tmp_path, mini_weights):
    (folder / "broken.wav").write_text("no sound")
    options = (folder, tmp_path / "out", "--weights", mini_weights, "--device", "cpu", "--segments", "json", "--json")
    check("plan", *lines(tisdiss("separate", *options, "--dry-run").stdout))
    done = tisdiss("separate", *options, "--progress", "json", "--channels", "each", status=1)
    check("separate", json.loads(done.stdout))
    events = lines(done.stderr)
    check("events", *events)
    assert {"planned", "progress", "input", "message"} >= {one["event"] for one in events}
    inputs = [one for one in events if one["event"] == "input"]
    record = lines((tmp_path / "out" / "tisdiss.jsonl").read_text())
    check("record", *record)
    assert [(one["input"], one["channel"]) for one in inputs] == [(one["input"], one["channel"]) for one in record]
    assert sum(one["status"] == "failed" for one in inputs) == 1 == json.loads(done.stdout)["failed"]
    progress = [one for one in events if one["event"] == "progress"]
    assert [one["audio_seconds"] for one in progress] == sorted(one["audio_seconds"] for one in progress)
    assert progress[-1]["audio_seconds"] == pytest.approx(json.loads(done.stdout)["audio_seconds"], abs=0.01)
    check("segments", *(json.loads(path.read_text()) for path in (tmp_path / "out").rglob("*.json")))
    check("status", json.loads(tisdiss("status", tmp_path / "out", "--json").stdout))
    check("status", json.loads(tisdiss("status", tmp_path / "out", "--shards", 2, "--json").stdout))
    refused = tisdiss("separate", *options[:-1], "--progress", "json", "--quiet", status=2)
    assert "--progress json" in refused.stderr
    stopped = tisdiss("separate", folder, folder / "in", "--progress", "json", status=2)
    check("events", *lines(stopped.stderr))


def test_what_the_other_commands_print_and_write(tmp_path, mini_weights):
    write_set(tmp_path / "set")
    options = ("--weights", mini_weights, "--device", "cpu", "--repeats", "1-2", "--json", tmp_path / "found.json")
    for command, data in (("score", [tmp_path / "set"]), ("bench", ["--seconds", "0.1", "--data", tmp_path / "set"])):
        tisdiss(command, *data, *options)
        check(command, json.loads((tmp_path / "found.json").read_text()))
    check("info", json.loads(tisdiss("info", "--json").stdout))
    check("weights-list", json.loads(tisdiss("weights", "list", "--json").stdout))


def test_a_field_that_is_not_told_of_is_none(folder, tmp_path, mini_weights):
    """So that what is validated above is all that there is."""
    listed = json.loads(tisdiss("weights", "list", "--json").stdout)
    listed["weights"][0]["colour"] = "red"
    with pytest.raises(ValidationError):
        check("weights-list", listed)
