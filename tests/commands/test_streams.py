"""Results go where the user points: through links, to devices, to nobody; and the work is done all the same."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import soundfile

from tests.cli import ROOT
from tests.folders import RATE, records, speech_like
from tisdiss_cli.commands.options import check_output, write_json
from tisdiss_cli.errors import UserError
from tisdiss_cli.files import replacing, why_unwritable


def shell(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """A shell runs the script, in which $T is the command and $1, $2, ... the arguments; its last line is a status."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "T": f"{sys.executable} -m tisdiss_cli", **environment}
    command = ["bash", "-c", script, "bash", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_nobody_need_read_what_is_printed():
    """One process after the other, of commands that need no torch: whoever closes a stream sees a plain exit status."""
    for script, unbuffered, status in (
        ("$T --version | true; exit ${PIPESTATUS[0]}", "1", 0),
        ("$T --help 2>&1 | head -1 >/dev/null; exit ${PIPESTATUS[0]}", "", 0),
        ("$T --version >&-", "", 0),
        ("$T separate nowhere out >&- 2>&-", "", 2),
        ("$T separate nowhere out 2>/dev/full", "", 2),
        ("$T --version >/dev/full", "1", 1),
        ("$T --version >/dev/full", "", 1),
    ):
        done = shell(script, PYTHONUNBUFFERED=unbuffered)
        assert done.returncode == status, script
        assert "Traceback" not in done.stderr and "Exception" not in done.stderr, script
    assert done.stderr == "tisdiss: the results could not be printed: No space left on device\n"


def test_the_work_is_done_with_every_stream_closed(tmp_path, mini_weights):
    """A closed stream's number must not become a voice's: what is printed would stand in the sound."""
    soundfile.write(tmp_path / "a.wav", speech_like(0.5, 0), RATE)
    done = shell("cd $1; $T separate a.wav out --weights $2 --device cpu <&- >&- 2>&-", tmp_path, mini_weights)
    assert done.returncode == 0
    (line,) = records(tmp_path / "out").values()
    assert line["status"] == "done"
    assert [soundfile.info(tmp_path / "out" / output).frames for output in line["outputs"]] == [RATE // 2] * 2


def test_a_regular_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with path.open() as reader:
        with replacing(path) as part:
            part.write_text("new")
            assert path.read_text() == "old"
        assert reader.read() == "old"  # a reader keeps the file it opened
    assert path.read_text() == "new"
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "store").mkdir()
    real, link, chain = tmp_path / "store" / "real.json", tmp_path / "link.json", tmp_path / "chain.json"
    link.symlink_to("store/real.json")
    chain.symlink_to(link)
    for path in (link, chain):  # dangling, then not
        assert why_unwritable(path) is None
        write_json(path, {"from": path.name})
        assert link.is_symlink() and chain.is_symlink()
        assert real.is_file() and not real.is_symlink()
        assert path.name in real.read_text()
    assert os.listdir(tmp_path / "store") == ["real.json"]
    nowhere = tmp_path / "nowhere.json"
    nowhere.symlink_to("gone/real.json")
    with pytest.raises(UserError, match="folder that exists"):
        check_output("--json", nowhere)


def test_a_pipe_and_a_device_stay_what_they_are(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for path in (pipe, link):
        reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
        reader.start()
        check_output("--json", path)
        write_json(path, {"to": path.name})
        reader.join(timeout=10)
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert path.name in read.pop()
    null = tmp_path / "null"
    null.symlink_to(os.devnull)
    write_json(null, {})
    assert null.is_symlink() and stat.S_ISCHR(os.stat(os.devnull).st_mode)
    with pytest.raises(UserError, match="cannot be written"):
        write_json(Path("/dev/full"), {})
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_stdout_as_a_file_gets_the_results_in_their_order(tmp_path, name):
    """`--json /dev/stdout > all.txt`: neither replaced nor begun anew, by what was printed before or comes after."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    script = "import sys; from pathlib import Path; from tisdiss_cli.commands.options import check_output, write_json\n"
    script += "path = Path(sys.argv[1]); print('before'); check_output('--json', path); write_json(path, {'a': 1})\n"
    script += "print('after')"
    target, all_of_it = tmp_path / name, tmp_path / "all.txt"
    all_of_it.write_text("first\n")
    for mode, kept in (("w", ""), ("a", 'before\n{\n  "format": 1,\n  "a": 1\n}\nafter\n')):
        with all_of_it.open(mode) as out:
            subprocess.run([sys.executable, "-c", script, target], cwd=ROOT, stdout=out, check=True)
        assert all_of_it.read_text() == kept + 'before\n{\n  "format": 1,\n  "a": 1\n}\nafter\n'
    assert (tmp_path / "link").is_symlink() and os.path.islink("/dev/stdout")


def test_long_names_and_folders_that_cannot_hold_a_file(tmp_path):
    long = tmp_path / ("x" * 250 + ".json")
    write_json(long, {})
    assert os.listdir(tmp_path) == [long.name]
    for path in (tmp_path, tmp_path / "gone" / "a.json", tmp_path / ("x" * 300), long / "a.json"):
        with pytest.raises(UserError, match="--json"):
            check_output("--json", path)
