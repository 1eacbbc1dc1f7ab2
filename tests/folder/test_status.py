"""`tisdiss status`: what is done, failed and missing, of shards and of several IN."""

import json
import os
from pathlib import Path

import pytest
import soundfile

from tests.cli import tisdiss
from tests.folders import RATE, speech_like
from tisdiss_cli.folder.run_lock import RunLock
from tisdiss_cli.folder.shards import array_expression, shard_of


def test_status_tells_what_is_done_failed_and_missing(many, tmp_path, options):
    (many / "0" / "bad.wav").write_text("no sound")
    out = tmp_path / "out"
    names = [path.relative_to(many).as_posix() for path in many.rglob("*.wav")]
    bad = shard_of("0/bad.wav", 8)
    asked = {bad, *(index for index in (1, 3, 4, 7))}
    for index in asked:
        tisdiss("separate", many, out, "--shard", f"{index}/8", *options, status=int(index == bad))
    mine = [name for name in names if shard_of(name, 8) in asked and name != "0/bad.wav"]
    gone_output = next(path for path in out.rglob("*_s2.wav"))
    gone_output.unlink()
    found = json.loads(tisdiss("status", out, "--json").stdout)
    assert (found["done"], found["failed"], found["missing"]) == (len(mine) - 1, 1, len(names) - len(mine))
    lost = gone_output.relative_to(out).as_posix().replace("_s2", "")
    seconds = sum(soundfile.info(many / name).duration for name in mine if name != lost)
    assert found["hours"] == pytest.approx(seconds / 3600, rel=1e-3)
    assert found["rtf"] > 0
    lacking = {shard_of(name, 8) for name in names if name not in mine or name == lost}
    assert found["shards"]["count"] == 8 and found["shards"]["lacking"] == array_expression(lacking)
    assert {each["shard"] for each in found["shards"]["each"] if each["failed"]} == {bad}
    text = tisdiss("status", out).stdout
    assert f"{len(mine) - 1} done, 1 failed" in text and array_expression(lacking) in text

    (many / "0" / "bad.wav").unlink()
    tisdiss("separate", many, out, *options)
    many.rename(tmp_path / "moved")
    run = tisdiss("status", out)
    assert "--inputs" in run.stderr and "unknown" in run.stdout
    found = json.loads(tisdiss("status", out, "--inputs", tmp_path / "moved", "--json").stdout)
    assert (found["done"], found["missing"], found["shards"]["lacking"]) == (20, 0, array_expression([bad]))
    with RunLock(out):
        assert f"process {os.getpid()}" in tisdiss("status", out).stdout


def test_status_of_what_is_none(tmp_path):
    for place, word in ((tmp_path / "nowhere", "not a folder"), (tmp_path, "no record")):
        assert word in tisdiss("status", place, status=2).stderr


def counted(out: Path, *arguments) -> tuple[int, int, int]:
    found = json.loads(tisdiss("status", out, *arguments, "--json").stdout)
    return found["done"], found["failed"], found["missing"]


@pytest.fixture
def calls(tmp_path) -> Path:
    """Two folders of one name, which have two inputs of one name, and files that nobody asks for."""
    for seed, name in enumerate(("a/calls/x.wav", "a/calls/p.wav", "b/calls/x.wav", "b/calls/q.wav", "other.wav")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, speech_like(0.2, seed), RATE)
    return tmp_path


def test_inputs_of_one_name_in_two_folders_are_two(calls, tmp_path, options):
    a, b, out = calls / "a" / "calls", calls / "b" / "calls", tmp_path / "out"
    tisdiss("separate", a, out, *options)
    assert counted(out) == (2, 0, 0)
    tisdiss("separate", b, out, *options, status=1)  # the voices of its x.wav would replace those of the other
    assert counted(out) == (3, 1, 0)
    tisdiss("separate", b, out, *options, "--name", "{stem} of b {voice}")
    assert counted(out) == (4, 0, 0)
    (b / "new.wav").write_bytes((b / "q.wav").read_bytes())
    assert counted(out) == (4, 0, 1)
    a.rename(tmp_path / "moved")
    assert counted(out) == (4, 0, 1)
    tisdiss("separate", tmp_path / "moved", out, *options)  # done already, elsewhere
    assert counted(out) == (4, 0, 1)


def test_of_several_in_and_of_a_list_only_what_was_asked_for_is_missing(calls, tmp_path, options):
    a, b = calls / "a" / "calls", calls / "b" / "calls"
    tisdiss("separate", a, b, tmp_path / "both", *options, status=1)
    assert counted(tmp_path / "both") == (2, 2, 0)  # two would be calls/x_s1.wav
    tisdiss("separate", a / "p.wav", b, tmp_path / "mixed", *options)
    assert counted(tmp_path / "mixed") == (3, 0, 0)
    (b / "new.wav").write_bytes((b / "q.wav").read_bytes())
    assert counted(tmp_path / "mixed") == (3, 0, 1)
    (calls / "list").write_text("a/calls/x.wav\nb/calls/x.wav\n")
    tisdiss("separate", "--files-from", calls / "list", tmp_path / "listed", *options)
    assert counted(tmp_path / "listed") == (2, 0, 0)
    (calls / "list").write_text("a/calls/x.wav\nb/calls/x.wav\nother.wav\n")
    assert counted(tmp_path / "listed") == (2, 0, 1)
    (calls / "list").unlink()
    assert "unknown" in tisdiss("status", tmp_path / "listed").stdout


def test_what_several_in_have_in_common_may_be_another_runs_in(calls, tmp_path_factory, options):
    out = tmp_path_factory.mktemp("elsewhere")
    tisdiss("separate", calls / "a", calls / "other.wav", out, *options)
    assert counted(out) == (3, 0, 0)
    (calls / "new.wav").write_bytes((calls / "other.wav").read_bytes())
    assert counted(out) == (3, 0, 0)
    tisdiss("separate", calls, out, *options, "--name", "again/{folder}/{stem}_{voice}")
    assert counted(out) == (6, 0, 0)
    (calls / "new too.wav").write_bytes((calls / "other.wav").read_bytes())
    assert counted(out) == (6, 0, 1)


def test_a_linked_in_and_a_linked_input_are_known_again(calls, tmp_path, options):
    (calls / "b" / "calls" / "link.wav").symlink_to(calls / "other.wav")
    (calls / "linked").symlink_to(calls / "b" / "calls")
    tisdiss("separate", calls / "linked", tmp_path / "out", *options)
    assert counted(tmp_path / "out") == (3, 0, 0)


def test_an_input_counts_as_it_was_separated_last(tmp_path, options):
    """A channel that failed by itself no longer counts once the whole input is done, and the reverse."""
    call = speech_like(1.0, 0, channels=2)
    call[4000:, 1] = 3e38  # finite, and its voices are not
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "call.wav", call, RATE, subtype="FLOAT")
    each = ("separate", tmp_path / "in", tmp_path / "out", *options, "--channels", "each")
    tisdiss(*each, status=1)
    assert counted(tmp_path / "out") == (0, 1, 0)
    tisdiss("separate", tmp_path / "in", tmp_path / "out", *options, "--channels", "1")
    assert counted(tmp_path / "out") == (1, 0, 0)
    tisdiss(*each, status=1)
    assert counted(tmp_path / "out") == (0, 1, 0)
