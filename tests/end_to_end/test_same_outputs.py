"""Voices are never written over another's: within a run, and from one run to the next."""

import os
import shutil
from pathlib import Path

import pytest
import soundfile

from tests.cli import tisdiss
from tests.folders import RATE, contents, records, speech_like
from tisdiss_cli.folder import naming
from tisdiss_cli.folder.jobs import plan_jobs
from tisdiss_cli.folder.naming import find_collisions
from tisdiss_cli.folder.settings import Options


def recording(path: Path, seed: int, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(os.fsencode(path), speech_like(seconds, seed), RATE)
    return path


@pytest.fixture
def separate(tmp_path, mini_weights):
    """The command into one OUT: what it printed."""

    def run(source: Path, *options: object, status: int = 0):
        command = ("separate", source, tmp_path / "out", "--weights", mini_weights, "--device", "cpu", *options)
        return tisdiss(*command, status=status)

    return run


def voices_of(path: Path, tmp_path: Path, mini_weights: Path) -> list[bytes]:
    alone = tmp_path / "alone"
    tisdiss("separate", path, alone, "--weights", mini_weights, "--device", "cpu", "--overwrite", "--quiet")
    return [(alone / f"{path.stem}_s{number}.wav").read_bytes() for number in (1, 2)]


# Within a run -----------------------------------------------------------------------------------


def test_names_that_differ_in_case_or_accents_are_both_done_where_the_disk_holds_both(tmp_path, separate):
    names = ["a.wav", "A.wav", "sub/x.wav", "Sub/x.wav", "\u00e9.wav", "e\u0301.wav"]
    for seed, name in enumerate(names):
        recording(tmp_path / "in" / name, seed)
    if len({os.stat(tmp_path / "in" / name).st_ino for name in names}) < len(names):
        pytest.skip("this disk takes such names for one")
    separate(tmp_path / "in")
    lines = records(tmp_path / "out")
    assert set(lines) == set(names) and {line["status"] for line in lines.values()} == {"done"}
    written = contents(tmp_path / "out")
    assert len(written) == len(set(written.values())) == 2 * len(names)
    assert {"a_s1.wav", "A_s1.wav", "Sub/x_s2.wav"} <= set(written)


def test_a_disk_that_takes_them_for_one_refuses_that_pair_alone(tmp_path, monkeypatch):
    """Such a disk is played by one whose probe folder knows small letters only."""
    monkeypatch.setattr(naming, "Path", lambda folder, *names: Path(folder, *(name.lower() for name in names)))
    inputs = [tmp_path / name for name in ("b.wav", "c.wav", "B.wav")]
    reasons = find_collisions(inputs, [[f"{path.stem}_s1.wav"] for path in inputs], tmp_path / "not" / "yet")
    assert set(reasons) == {0, 2}
    for reason in reasons.values():
        assert str(inputs[0]) in reason and str(inputs[2]) in reason
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_would_be_the_same_files_fail_alone(tmp_path, separate):
    names = ["a.wav", "a.flac", "a_wav.aiff", "good.wav", "call.wav", "call_s2.wav/deep/x.wav", "tisdiss.jsonl/y.wav"]
    for seed, name in enumerate(names):
        recording(tmp_path / "in" / name, seed)
    run = separate(tmp_path / "in", status=1)
    lines = records(tmp_path / "out")
    failed = {name: line["reason"] for name, line in lines.items() if line["status"] == "failed"}
    others = {
        "a.wav": "in/a_wav.aiff",
        "a_wav.aiff": "in/a.wav",
        "call.wav": "in/call_s2.wav/deep/x.wav",
        "tisdiss.jsonl/y.wav": "out/tisdiss.jsonl",
    }
    assert set(failed) == set(others)
    for name, other in others.items():
        assert f"in/{name}" in failed[name] and other in failed[name]
        assert " ".join(failed[name].split())[-30:] in " ".join(run.stdout.split())
    assert set(contents(tmp_path / "out")) == {
        output for name in set(names) - set(others) for output in lines[name]["outputs"]
    }
    run = separate(tmp_path / "in", "--dry-run")
    assert all(reason in run.stderr for reason in failed.values())
    assert "0 to separate, 3 done already, 4 refused" in run.stderr


# From one run to the next -----------------------------------------------------------------------


@pytest.mark.parametrize("single", [False, True])
def test_another_folders_voices_are_not_replaced(tmp_path, mini_weights, separate, single):
    for seed, name in enumerate(("day1/call.wav", "day2/call.wav", "day2/other.wav")):
        recording(tmp_path / name, seed)
    first, second = (tmp_path / day / "call.wav" if single else tmp_path / day for day in ("day1", "day2"))
    separate(first)
    before = contents(tmp_path / "out")
    for _ in range(2):
        run = separate(second, "--quiet", status=1)
        (sentence,) = run.stderr.splitlines()
        assert str(tmp_path / "day1/call.wav") in sentence and str(tmp_path / "day2/call.wav") in sentence
        assert "--overwrite" in sentence
        assert before.items() <= contents(tmp_path / "out").items()
    assert single or "other_s1.wav" in contents(tmp_path / "out")
    assert "1 done before" in separate(first).stdout  # its line has survived the other's failure
    separate(second, "--overwrite")
    after = contents(tmp_path / "out")
    assert [after[f"call_s{number}.wav"] for number in (1, 2)] == voices_of(
        tmp_path / "day2/call.wav", tmp_path, mini_weights
    )
    separate(first, "--quiet", status=1)
    assert contents(tmp_path / "out") == after


def test_a_folder_that_was_moved_or_copied_goes_on(tmp_path, separate):
    recording(tmp_path / "day1/sub/call.wav", 0)
    separate(tmp_path / "day1")
    (tmp_path / "day1").rename(tmp_path / "archive")
    assert "1 done before" in separate(tmp_path / "archive").stdout
    shutil.copytree(tmp_path / "archive", tmp_path / "copy")  # with its times
    assert "1 done before" in separate(tmp_path / "copy").stdout
    (tmp_path / "link").symlink_to(tmp_path / "archive")
    assert "1 done before" in separate(tmp_path / "link").stdout


def test_size_and_time_alone_do_not_make_two_recordings_one(tmp_path, separate):
    """As files unpacked from an archive may have them."""
    for day in (1, 2):
        os.utime(recording(tmp_path / f"day{day}" / "call.wav", day), ns=(10**18, 10**18))
    separate(tmp_path / "day1")
    before = contents(tmp_path / "out")
    assert "day1/call.wav" in separate(tmp_path / "day2", "--quiet", status=1).stderr
    assert contents(tmp_path / "out") == before


def test_an_input_that_was_edited_in_place_is_done_again(tmp_path, mini_weights, separate):
    call = recording(tmp_path / "day1/call.wav", 0)
    separate(tmp_path / "day1")
    recording(call, 1, seconds=0.2)
    separate(tmp_path / "day1")
    assert [contents(tmp_path / "out")[f"call_s{n}.wav"] for n in (1, 2)] == voices_of(call, tmp_path, mini_weights)


def test_a_failed_attempt_leaves_no_line_that_says_done(tmp_path, separate):
    """What was there before may have been replaced in part."""
    call = recording(tmp_path / "day1/call.wav", 0)
    separate(call)
    whole, time = call.read_bytes(), call.stat().st_mtime_ns
    call.write_bytes(b"broken")
    separate(call, status=1)
    call.write_bytes(whole)
    os.utime(call, ns=(time, time))
    assert "1 separated" in separate(call).stdout


def test_a_linked_folder_is_entered_once_and_out_may_not_lie_in_it(tmp_path, mini_weights, separate):
    recording(tmp_path / "in" / "a.wav", 0)
    recording(tmp_path / "elsewhere" / "deep" / "b.wav", 1)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "in")
    separate(tmp_path / "in")
    assert set(records(tmp_path / "out")) == {"a.wav", "link/deep/b.wav"}
    inside = tmp_path / "elsewhere" / "out"
    run = tisdiss("separate", tmp_path / "in", inside, "--weights", mini_weights, "--device", "cpu", status=2)
    assert "inside" in run.stderr and not inside.exists()
    assert plan_jobs(tmp_path / "in", Options(out=tmp_path / "out"), 2)
