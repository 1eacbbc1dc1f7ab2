"""Several inputs and lists of them: each is done once, under a name that depends on itself and not on the others."""

import io
import json
import os
import random
import sys
from types import SimpleNamespace

import pytest
import soundfile

from tests.cli import tisdiss
from tests.folders import RATE, contents, records, speech_like
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.inputs import list_inputs

FILES = ("calls/a.wav", "calls/sub/b.wav", "calls/sub/c d.wav", "calls/sub/b.flac", "else where/a.wav")


@pytest.fixture
def tree(tmp_path):
    for seed, name in enumerate(FILES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, speech_like(0.2, seed), RATE)
    return tmp_path


@pytest.fixture
def separate(tree, mini_weights):
    def run(*arguments, status=0):
        return tisdiss("separate", *arguments, "--weights", mini_weights, "--device", "cpu", status=status)

    return run


def names(tree, content: bytes | str, name: str = "calls/list") -> dict[str, str]:
    """What a list's inputs are called, by their paths below the tree."""
    content = content.encode() if isinstance(content, str) else content
    (tree / name).write_bytes(content)
    found = list_inputs([], tree / "out", str(tree / name))
    return {os.path.relpath(one.place, tree): one.name for one in found}


WANTED = {"calls/a.wav": "a.wav", "calls/sub/c d.wav": "sub/c d.wav"}


@pytest.mark.parametrize(
    "content",
    [
        "a.wav\nsub/c d.wav\n",
        "a.wav\n\nsub/c d.wav",
        "a.wav\r\nsub/c d.wav\r\n",
        "\ufeffa.wav\nsub/c d.wav\n",
        "a.wav\0sub/c d.wav\0",
        "./a.wav\nsub/../sub/c d.wav\na.wav\n",
        '{"audio_filepath": "a.wav", "duration": 0.2}\n{"audio_filepath": "sub/c d.wav"}\n',
        '{"path": "a.wav"}\n{"path": "sub/c d.wav"}',
    ],
)
def test_every_form_of_a_list(tree, content):
    assert names(tree, content) == WANTED


def test_absolute_paths_are_as_relative_ones(tree):
    assert names(tree, "\n".join(str(tree / path) for path in WANTED)) == WANTED


def test_a_kaldi_list(tree):
    assert names(tree, "one a.wav\ntwo   sub/c d.wav\n", "calls/wav.scp") == WANTED
    assert names(tree, "".join(f"{n} {tree / path}\n" for n, path in enumerate(WANTED)), "calls/wav.scp") == WANTED
    for content, hint in (
        ("one sox a.wav -t wav - |\n", "line 1: one .* commands are not run"),
        ("one a.wav\ntwo cat b |\n", "line 2: two .* commands are not run"),
        ("one a.wav\nb.wav\n", "line 2: b.wav is not"),
    ):
        with pytest.raises(UserError, match=hint):
            names(tree, content, "calls/wav.scp")


def test_plain_paths_with_spaces_are_no_kaldi_list(tree):
    assert names(tree, "sub/c d.wav\n") == {"calls/sub/c d.wav": "sub/c d.wav"}
    assert names(tree, "one a.wav\n") == {"calls/one a.wav": "one a.wav"}
    assert names(tree, "not there.wav\nnor this.wav\n") == {f"calls/{n}": n for n in ("not there.wav", "nor this.wav")}


def test_a_name_of_any_bytes(tree):
    for raw in (b"\xff\xfe.wav", b"tab\tand [b].wav", " é \u2028.wav".encode(), b"{x.wav"):
        assert names(tree, b"a.wav\n" + raw + b"\n")[f"calls/{os.fsdecode(raw)}"] == os.fsdecode(raw)
    assert names(tree, json.dumps({"path": "a\nb\udcff.wav"})) == {"calls/a\nb\udcff.wav": "a\nb\udcff.wav"}


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("", "no inputs"),
        ("\n \n", "no inputs"),
        ('{"audio_filepath": "a.wav"}\nb.wav\n', "line 2"),
        ('{"text": "hello"}\n', "audio_filepath or path"),
        ('{"path": 3}\n', "audio_filepath or path"),
        ("a.wav\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_what_is_no_list(tree, content, hint):
    with pytest.raises(UserError, match=hint):
        names(tree, content)
    assert not (tree / "out").exists()


def test_a_list_that_cannot_be_read(tree, separate):
    assert "list" in separate("--files-from", tree / "list", tree / "out", status=2).stderr
    assert "directory" in separate("--files-from", tree, tree / "out", status=2).stderr.lower()


def test_standard_input_begins_at_the_working_directory(tree, separate, monkeypatch):
    monkeypatch.chdir(tree / "calls")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"sub/b.wav\na.wav\n")))
    separate("--files-from", "-", tree / "out")
    assert set(records(tree / "out")) == {"a.wav", "sub/b.wav"}


def test_a_list_is_called_as_its_folder_is(tree, separate):
    """Whatever else it holds: a part of the folder, in any order, has the names and the voices of the whole."""
    separate(tree / "calls", tree / "whole")
    paths = ["sub/b.wav", "a.wav", "sub/c d.wav"]
    (tree / "calls" / "list").write_text("\n".join(paths))
    separate("--files-from", tree / "calls/list", tree / "out")
    whole = contents(tree / "whole")
    part = contents(tree / "out")
    assert len(part) == 6 and part.items() <= whole.items()
    assert "3 done already" in separate("--files-from", tree / "calls/list", tree / "whole", "--dry-run").stderr


def test_another_order_and_a_longer_list_redo_nothing(tree, separate):
    everything = [os.path.relpath(tree / name, tree / "calls") for name in FILES]
    done: dict[str, int] = {}
    for length in range(1, len(everything) + 1):
        listed = everything[:length]
        random.Random(length).shuffle(listed)
        (tree / "calls" / "list").write_text("\n".join(listed))
        separate("--files-from", tree / "calls/list", tree / "out")
        now = {path: (tree / "out" / path).stat().st_mtime_ns for path in contents(tree / "out")}
        assert done.items() <= now.items() and len(now) == 2 * length
        done = now
    assert len((tree / "out/tisdiss.jsonl").read_text().splitlines()) == len(FILES)


def test_a_missing_file_fails_alone(tree, separate):
    (tree / "list").write_text("calls/a.wav\ngone.wav\ncalls\nelse where/a.wav\n")
    run = separate("--files-from", tree / "list", tree / "out", status=1)
    found = records(tree / "out")
    assert {name: line["status"] for name, line in found.items()} == {
        "calls/a.wav": "done",
        "gone.wav": "failed",
        "calls": "failed",
        "else where/a.wav": "done",
    }
    assert str(tree / "gone.wav") in found["gone.wav"]["reason"] and "2 failed" in run.stdout


def test_files_and_folders_together(tree, separate):
    separate(tree / "else where/a.wav", tree / "calls/sub", tree / "out")
    assert set(contents(tree / "out")) == {
        f"{name}_s{voice}.wav" for name in ("a", "b_wav", "b_flac", "c d") for voice in (1, 2)
    }


def test_names_of_two_in_that_meet_fail_alone(tree, separate):
    for place in ("x", "y"):
        (tree / place / "same").mkdir(parents=True)
        soundfile.write(tree / place / "same/a.wav", speech_like(0.2, 7), RATE)
    run = separate(*(tree / p / "same/a.wav" for p in "xy"), tree / "calls/sub/b.wav", tree / "out", status=1)
    assert {"b_s1.wav", "b_s2.wav"} == set(contents(tree / "out"))
    assert run.stdout.count("--name") == 2


def test_an_input_given_twice_is_done_once(tree, separate):
    for sources in (("calls/sub/b.wav", "calls"), ("calls", "calls/sub", "calls")):
        run = separate(*(tree / source for source in sources), tree / "out", "--dry-run")
        assert "4 to separate" in run.stderr
        assert "sub/b.wav -> sub/b_wav_s1.wav" in run.stdout


def test_single_files_in_a_loop_keep_to_the_owner(tree, separate):
    separate(tree / "calls/a.wav", tree / "out")
    before = contents(tree / "out")
    run = separate(tree / "else where/a.wav", tree / "out", status=1)
    assert "holds the voices of" in run.stdout and contents(tree / "out") == before


def test_an_input_is_never_replaced(tree, separate):
    soundfile.write(tree / "calls/a_s1.wav", speech_like(0.2, 9), RATE)
    (tree / "calls/list").write_text("a.wav\na_s1.wav\n")
    before = (tree / "calls/a_s1.wav").read_bytes()
    run = separate("--files-from", tree / "calls/list", tree / "calls", "--overwrite", status=1)
    assert "is an input itself" in run.stdout and (tree / "calls/a_s1.wav").read_bytes() == before


def test_out_is_the_last(tree, separate):
    assert "OUT is missing" in separate(tree / "calls", status=2).stderr
    assert "does not exist" in separate(tree / "calls/a.wav", tree / "nothing", tree / "out", status=2).stderr
    assert "OUT" in separate(tree / "calls/sub/b.wav", tree / "calls/a.wav", status=2).stderr
    assert "inside" in separate(tree / "else where", tree / "calls", tree / "calls/out", status=2).stderr
    assert not (tree / "out").exists()
