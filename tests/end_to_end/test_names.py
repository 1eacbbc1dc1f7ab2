"""Files may be called anything: what a name holds is shown, recorded and read back, and never does anything."""

import io
import json
import logging
import os
import sys
import unicodedata
from pathlib import Path
from unittest import mock

import pytest
import soundfile

from tests.cli import tisdiss
from tests.folders import RATE, speech_like
from tisdiss_cli.__main__ import main
from tisdiss_cli.files import dump_json

NAMES = [
    b"no utf-8 \xff\xfe\xe9",
    b"two\nlines",
    b"\x1b[31mred\x1b[0m \x1b[2J",
    b"back\rto\x08\x07\x00"[:-1],
    "next\x85line\u2028\u2029".encode(),
    "\u202egpj".encode(),
    b"[/b] [red] [link=x]".replace(b"/", b""),
    b":smile: {0} %s %(message)s",
    "\U0001f468\u200d\U0001f469 日本 é e\u0301".encode(),
    b"-rf",
    b"  ",
    b"x" * 245,
]


@pytest.fixture
def oddly_named(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    soundfile.write(tmp_path / "one.wav", speech_like(0.1, 0), RATE)
    for name in NAMES:
        Path(os.fsdecode(os.fsencode(source) + b"/" + name + b".wav")).write_bytes((tmp_path / "one.wav").read_bytes())
    return source


def run(encoding: str, *arguments: object) -> tuple[int, str, str]:
    """The command with streams of that encoding; the exit status and what they got."""
    out, error = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    argv = ["tisdiss", *map(str, arguments)]
    with mock.patch.multiple(sys, argv=argv, stdout=out, stderr=error), pytest.raises(SystemExit) as end:
        main()
    for stream in (out, error):
        stream.flush()
    return end.value.code or 0, *(stream.buffer.getvalue().decode(encoding) for stream in (out, error))


def harmless(text: str) -> bool:
    """Whether it only prints and ends lines; a bar's returns aside."""
    controls = {letter for letter in text if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp", "Cs")}
    return controls <= {"\n", "\r", "\u200d"}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_of_any_bytes_go_from_end_to_end(oddly_named, tmp_path, mini_weights, encoding):
    options = (oddly_named, tmp_path / "out", "--weights", mini_weights, "--device", "cpu")
    status, out, error = run(encoding, "separate", *options, "--dry-run")
    assert status == 0 and len(out.splitlines()) == len(NAMES)
    assert harmless(out + error)
    status, out, error = run(encoding, "separate", *options)
    assert status == 0
    assert harmless(out + error) and "\r" not in out
    assert f"{len(NAMES)} separated, 0 failed" in out
    lines = [json.loads(row) for row in (tmp_path / "out" / "tisdiss.jsonl").read_bytes().split(b"\n")[:-1]]
    assert {os.fsencode(line["input"]) for line in lines} == {name + b".wav" for name in NAMES}
    assert {os.fsencode(Path(line["path"]).name) for line in lines} == {name + b".wav" for name in NAMES}
    for line in lines:
        for output in line["outputs"]:
            with (tmp_path / "out" / output).open("rb") as voice:
                assert soundfile.info(voice).frames == RATE // 10
    status, out, _ = run(encoding, "separate", *options)
    assert status == 0 and f"{len(NAMES)} done before" in out


def test_a_failure_is_one_line_whatever_the_name_holds(oddly_named, tmp_path, mini_weights):
    for path in oddly_named.iterdir():
        path.write_bytes(b"no sound")
    options = (oddly_named, tmp_path / "out", "--weights", mini_weights, "--device", "cpu", "--quiet")
    for encoding in ("utf-8", "ascii"):
        status, out, error = run(encoding, "separate", *options)
        assert (status, out) == (1, "")
        assert len(error.splitlines()) == len(NAMES)
        assert all(line.startswith("tisdiss: ") and harmless(line) for line in error.splitlines())


def test_folders_of_any_name_hold_voices(tmp_path, mini_weights):
    source, out = (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n" + name)) for name in (b"in", b"out"))
    source.mkdir()
    soundfile.write(os.fsencode(source / "a.wav"), speech_like(0.1, 0), RATE)
    tisdiss("separate", source, out, "--weights", mini_weights, "--device", "cpu")
    assert {path.name for path in out.iterdir()} == {"a_s1.wav", "a_s2.wav", "tisdiss.jsonl"}


@pytest.mark.parametrize("argument", ["[/b]", "[red]x[/red]", ":smile:", "\x1b[31m", "a\nb", "\udcff"])
@pytest.mark.parametrize(
    "command",
    [
        ("separate", "{}", "out"),
        ("separate", "a.wav", "out", "--device", "{}"),
        ("separate", "a.wav", "out", "--repeats", "{}"),
        ("separate", "a.wav", "out", "--batch-size", "{}"),
        ("separate", "a.wav", "out", "--format", "{}"),
        ("separate", "a.wav", "out", "--budget", "{}"),
        ("separate", "a.wav", "out", "--{}"),
        ("separate", "a.wav", "{}", "out"),
        ("score", "{}"),
        ("{}",),
    ],
)
def test_an_argument_is_never_markup(tmp_path, monkeypatch, mini_weights, argument, command):
    soundfile.write(tmp_path / "a.wav", speech_like(0.1, 0), RATE)
    monkeypatch.chdir(tmp_path)
    arguments = [part.replace("{}", argument) for part in command]
    status, out, error = run("ascii", *arguments)
    assert (status, out) == (2, "")
    assert harmless(error)
    if argument.isprintable() and "--batch-size" not in command:
        assert argument in error


def test_json_gives_back_what_it_was_given():
    for name in [*map(os.fsdecode, NAMES), "plain é"]:
        for indent in (None, 2):
            text = dump_json({"name": name, name: [1.5]}, indent)
            assert json.loads(text.encode("utf-8")) == {"name": name, name: [1.5]}
            assert indent or len(text.splitlines()) == 1
    assert "plain é" in dump_json("plain é")
    with pytest.raises(ValueError):
        dump_json({"mean": float("nan")})


def test_a_sentence_that_cannot_be_written_is_no_traceback(capfd):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    with mock.patch.object(sys, "stderr", Full()), mock.patch.object(sys, "argv", ["tisdiss", "separate", "", ""]):
        with pytest.raises(SystemExit) as end:
            main()
        logging.getLogger("tisdiss").error("one more")
    assert end.value.code == 2
    assert "Logging error" not in "".join(capfd.readouterr())
