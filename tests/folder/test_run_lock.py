"""The lock of OUT: who may write there, and inputs that were on their way when a run died."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
from filelock import FileLock

from tests.cli import ROOT, start, tisdiss
from tests.folders import contents, records, separate
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder import run_lock
from tisdiss_cli.folder.jobs import plan_jobs
from tisdiss_cli.folder.outputs import VoiceFiles
from tisdiss_cli.folder.run_lock import PARTS, RunLock, at_work
from tisdiss_cli.folder.settings import Options
from tisdiss_cli.folder.shards import Shard


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def holder(out: Path, shard: str = "None") -> subprocess.Popen:
    """A process that holds the lock until it is killed."""
    script = (
        "import time; from pathlib import Path; from tisdiss_cli.folder.run_lock import RunLock\n"
        "from tisdiss_cli.folder.shards import Shard\n"
        f"lock = RunLock(Path({str(out)!r}), {shard}); print('held', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_says_who_is_at_work_and_does_nothing(many, out, options):
    with RunLock(out):
        (sentence,) = tisdiss("separate", many, out, *options, status=2).stderr.splitlines()
        assert f"process {os.getpid()}" in sentence and "wait for it" in sentence
        assert not list(out.rglob("*.wav")) and not list(out.glob("*.jsonl"))
        assert "20 to separate" in tisdiss("separate", many, out, *options, "--dry-run").stderr
    assert not (out / PARTS).exists()
    tisdiss("separate", many, out, *options)
    assert len(contents(out)) == 40 and not (out / PARTS).exists()


@pytest.mark.parametrize(
    ("one", "other", "free"),
    [
        (None, None, False),
        (None, Shard(1, 2), False),
        (Shard(1, 2), None, False),
        (Shard(1, 2), Shard(1, 2), False),
        (Shard(1, 2), Shard(2, 2), True),
        (Shard(1, 2), Shard(1, 3), False),
        (Shard(1, 2), Shard(2, 3), False),  # which have inputs in common, whatever their numbers
        (Shard(7, 8), Shard(8, 8), True),
    ],
)
def test_shards_of_one_count_alone_are_disjoint(out, one, other, free):
    with RunLock(out, one):
        if free:
            RunLock(out, other).release()
        else:
            with pytest.raises(UserError, match=str(one or "process")):
                RunLock(out, other)
        assert [who.shard for who in at_work(out)] == [str(one or "")]
    assert at_work(out) == [] and not (out / PARTS).exists()


def test_a_killed_run_is_gone_at_once_and_a_stopped_one_is_not(out):
    process = holder(out)
    process.send_signal(signal.SIGSTOP)
    assert [who.process for who in at_work(out)] == [process.pid]
    with pytest.raises(UserError, match=f"process {process.pid}"):
        RunLock(out)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert at_work(out) == []
    RunLock(out).release()
    assert not (out / PARTS).exists()


def test_what_another_shard_left_stays_until_somebody_does_it(out):
    process = holder(out, "Shard(2, 3)")
    (out / PARTS / "2-of-3" / "abc").mkdir()
    (out / PARTS / "2-of-3" / "abc" / "s1.part").write_bytes(b"half")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    RunLock(out, Shard(1, 3)).release()
    assert (out / PARTS / "2-of-3" / "abc" / "s1.part").exists()
    with RunLock(out) as lock:
        assert set(lock.interrupted) == {"abc"}
        assert not list(out.rglob("*.part"))  # what is half done takes no room
    assert (out / PARTS / "2-of-3" / "abc").exists() and not (out / PARTS / "all").exists()
    with RunLock(out, Shard(2, 3)) as lock:
        assert set(lock.interrupted) == {"abc"}
        shutil.rmtree(out / PARTS / "2-of-3" / "abc")
    assert not (out / PARTS).exists()


def test_a_disk_that_keeps_no_locks_is_told_once(many, out, options, monkeypatch):
    def none(lock: FileLock, *arguments: object, **more: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_lock.FileLock, "acquire", none)
    loud = [option for option in options if option != "--quiet"]
    run = tisdiss("separate", many, out, *loud)
    assert [str(out) in line for line in run.stderr.splitlines() if "keeps no locks" in line] == [True]
    assert len(contents(out)) == 40 and not (out / PARTS).exists()
    assert at_work(out) == []


def test_an_out_that_takes_nothing_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / PARTS).write_text("a file")
    with pytest.raises(UserError, match="cannot be written to"):
        RunLock(tmp_path / "out")


def test_an_input_that_kills_its_process_does_not_bar_the_way(many, out, options, monkeypatch):
    """Of those that were on their way each comes by itself, the one that was begun last at the very end."""
    poison, names = "0/00.wav", {job.input for job in plan_jobs(many, Options(out=out), 2)}

    def kill() -> None:
        script = (
            "import os, signal, sys; from tisdiss_cli.folder.outputs import VoiceFiles\n"
            "push = VoiceFiles.push\n"
            "def deadly(self, *chunk):\n"
            f"    if self.job.input == {poison!r}: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    push(self, *chunk)\n"
            "VoiceFiles.push = deadly\n"
            "from tisdiss_cli.__main__ import main; main()"
        )
        arguments = ["separate", str(many), str(out), *map(str, options)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, capture_output=True)
        assert done.returncode == -signal.SIGKILL

    kill()
    begun = {path.name for path in (out / PARTS / "all").iterdir() if path.is_dir()}
    assert begun and len(records(out) if (out / "tisdiss.jsonl").exists() else ()) < 19
    kill()
    kill()
    assert set(records(out)) == names - {poison}
    assert len([path for path in (out / PARTS / "all").iterdir() if path.is_dir()]) == 1
    tisdiss("separate", many, out, *options)
    assert set(records(out)) == names and not (out / PARTS).exists()


def test_killed_between_the_names_and_the_record_the_outputs_are_still_ours(many, out, options):
    """Whoever comes in between, for another shard or with other inputs."""
    tisdiss("separate", many, out, *options)
    whole = contents(out)
    job = plan_jobs(many, Options(out=out), 2)[0]
    record = out / "tisdiss.jsonl"
    rows = [row for row in record.read_text().splitlines(keepends=True) if json.loads(row)["input"] != job.input]
    record.write_text("".join(rows))
    (out / PARTS / "all" / job.key).mkdir(parents=True)
    tisdiss("separate", many / "1", out, "--name", "other/{stem}{voice}", *options)
    shutil.rmtree(out / "other")
    tisdiss("separate", many, out, *options)
    assert contents(out) == whole
    assert records(out)[job.input]["status"] == "done"
    assert not (out / PARTS).exists()


def test_a_record_that_takes_no_more_leaves_the_outputs_ours(many, out, options, monkeypatch):
    append, count = run_lock.RunLock.clear, []

    def full(record: object, line: object) -> None:
        count.append(line)
        raise run_module.RecordError("the disk is full")

    import tisdiss_cli.folder.record as run_module

    monkeypatch.setattr(run_module.Record, "append", full)
    run = tisdiss("separate", many, out, *options, status=1)
    assert "the disk is full" in run.stderr and len(count) == 1 and append is run_lock.RunLock.clear
    monkeypatch.undo()
    tisdiss("separate", many, out, *options)  # not: exists and is not from this folder's runs
    assert len(records(out)) == 20 and not (out / PARTS).exists()


@pytest.mark.parametrize("error", [soundfile.LibsndfileError(4), OSError(5, "Input/output error"), RuntimeError("so")])
def test_a_write_error_is_one_inputs_own(many, tmp_path, mini_weights, monkeypatch, error):
    push = VoiceFiles.push

    def fail(voices, *chunk):
        if voices.job.input == "1/03.wav":
            raise error
        push(voices, *chunk)

    monkeypatch.setattr(VoiceFiles, "push", fail)
    lines = separate(many, tmp_path / "out", mini_weights)
    assert [name for name, line in lines.items() if line["status"] == "failed"] == ["1/03.wav"]
    assert len(lines) == 20
    assert not (tmp_path / "out" / PARTS).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing_half_done(many, out, options, number):
    process = start("separate", many, out, *options)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (out / "tisdiss.jsonl").exists():
        time.sleep(0.005)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number and error.splitlines()[-1].endswith("where this one ended")
    assert not (out / PARTS).exists()
