"""Several runs in one OUT: locks, claims, `--join`, and what is swept of those that were killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from tests.cli import ROOT, tisdiss
from tests.folders import contents, records, separate, united
from tisdiss_cli.folder import locks
from tisdiss_cli.folder.jobs import PARTS, plan_jobs
from tisdiss_cli.folder.locks import Facts, Presence, facts_of_this, gone, sweep
from tisdiss_cli.folder.record import Record
from tisdiss_cli.folder.run import FolderRun
from tisdiss_cli.folder.settings import Settings
from tisdiss_cli.folder.voices import VoiceFiles
from tisdiss_cli.separation.separator import Separator


def test_a_second_run_says_who_is_at_work_and_may_join(many, tmp_path, options):
    tisdiss("separate", many, tmp_path / "one", *options)
    out = tmp_path / "out"
    out.mkdir()
    jobs = plan_jobs(many, out, voices=2, extension="wav")
    facts = facts_of_this(source=str(many.resolve()), record="tisdiss.jsonl")
    with Presence(out, facts) as first:
        for job in jobs[:3]:
            assert first.claim(job)
        run = tisdiss("separate", many, out, *options, status=2)
        (sentence,) = run.stderr.splitlines()
        assert str(os.getpid()) in sentence and facts.host in sentence and "--join" in sentence
        assert not list(out.rglob("*.wav"))
        run = tisdiss("separate", many, out, *(option for option in options if option != "--quiet"), "--join")
        assert "17 separated" in run.stdout and "3 left" in run.stdout
        assert set(united(out)) == {job.input for job in jobs[3:]}
        assert not (out / "tisdiss.jsonl").exists()  # which is the first run's
        assert first.folder.is_dir()  # and not swept
    tisdiss("separate", many, out, *options)
    assert contents(out) == contents(tmp_path / "one")
    assert not (out / PARTS).exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_claim_is_whole_as_soon_as_it_is_there(many, tmp_path, monkeypatch, links):
    """A kill leaves no claim that nobody owns, for which the next run would wait; without hard links it is made too."""
    out = tmp_path / "out"
    job = plan_jobs(many, out, voices=2, extension="wav")[0]
    claim = out / PARTS / f"{job.key}.claim"

    def killed(source, target):
        if not links:
            raise PermissionError
        assert not claim.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", killed)
    with Presence(out) as presence:
        if links:
            with pytest.raises(KeyboardInterrupt):
                presence.claim(job)
            assert not claim.exists()
            monkeypatch.undo()
        assert presence.claim(job)
        assert json.loads(claim.read_text())["owner"] == presence.name


def test_other_shards_and_other_inputs_may_come_at_any_time(many, folder, tmp_path, options):
    out = tmp_path / "out"
    with Presence(_made(out), facts_of_this(source=str(many.resolve()), shard="1/2", record="tisdiss.1-of-2.jsonl")):
        tisdiss("separate", many, out, "--shard", "1/2", *options, status=2)
        tisdiss("separate", many, out, "--shard", "1/3", *options, status=2)
        tisdiss("separate", many, out, *options, status=2)
        tisdiss("separate", many, out, "--shard", "2/2", *options)
        tisdiss("separate", folder, out, *options)
    assert {path.name for path in out.glob("*.jsonl")} == {"tisdiss.jsonl", "tisdiss.2-of-2.jsonl"}


def _made(out: Path) -> Path:
    out.mkdir()
    return out


def test_runs_that_join_do_each_input_once(many, tmp_path, mini_weights):
    separate(many, tmp_path / "one", mini_weights, seconds=0.5)
    out = _made(tmp_path / "out")
    separators = [Separator.load(mini_weights, "cpu", "fp32") for _ in range(3)]
    jobs = plan_jobs(many, out, voices=2, extension="wav")
    settings = Settings(repeats=1, separator_repeats=1, plan=separators[0].plan(0.5), batch_size=1)
    left = Counter()

    def run(number: int) -> None:
        record = Record(out)
        record.write_to(f"tisdiss.{number}.jsonl", str(many))
        FolderRun(separators[number], jobs, out, settings, on_left=lambda job: left.update([number])).run(record)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [row for path in out.glob("tisdiss.*.jsonl") for row in path.read_text().splitlines()]
    assert len(lines) == len(jobs) == len(united(out))
    assert sum(left.values()) == 2 * len(jobs)
    assert contents(out) == contents(tmp_path / "one")
    assert not (out / PARTS).exists()


def test_what_another_has_done_meanwhile_is_not_done_again(many, tmp_path, mini_weights):
    """A record that was read before is read on where the files on disk are newer."""
    out = _made(tmp_path / "out")
    separator = Separator.load(mini_weights, "cpu", "fp32")
    jobs = plan_jobs(many, out, voices=2, extension="wav")
    settings = Settings(repeats=1, separator_repeats=1, plan=separator.plan(0.5), batch_size=1, recorded={"repeats": 1})
    with Presence(out) as slow:
        record = Record(out)
        record.write_to("tisdiss.slow.jsonl", str(many))
        FolderRun(separator, jobs[:5], out, settings).run(Record(out))
        lines, left = [], []
        FolderRun(separator, jobs[:7], out, settings, on_line=lines.append, on_left=left.append, presence=slow).run(
            record
        )
    assert [job.input for job in left] == [job.input for job in jobs[:5]]
    assert [line.input for line in lines] == [job.input for job in jobs[5:7]]


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


def _leave(out: Path, facts: Facts, silent: float = 0.0, key: str = "0123456789abcdef", outputs=()) -> str:
    """What a run leaves that was killed so many seconds ago."""
    parts = out / PARTS
    (parts / facts.name / key).mkdir(parents=True)
    (parts / facts.name / key / "s1.part").write_bytes(b"half")
    (parts / f"{key}.claim").write_text(json.dumps({"owner": facts.name, "outputs": list(outputs)}))
    (parts / f"{facts.name}.lock").touch()
    (parts / f"{facts.name}.json").write_text(json.dumps({**vars(facts), "from_a_later_version": 1}))
    for path in (parts / f"{facts.name}.json", parts / facts.name, parts / f"{key}.claim"):
        os.utime(path, (time.time() - silent,) * 2)
    return facts.name


def test_only_what_is_known_to_be_left_is_swept(tmp_path):
    here = facts_of_this()
    dead = _leave(tmp_path, Facts(here.host, 1, 1.0, here.boot), key="a" * 16)
    container = _leave(tmp_path, Facts("another-name", 1, 2.0, here.boot), key="b" * 16)
    away = _leave(tmp_path, Facts("elsewhere", 1, 3.0, "another"), silent=60, key="c" * 16)
    long_away = _leave(tmp_path, Facts("elsewhere", 1, 4.0, "another"), silent=3600, key="d" * 16)
    with Presence(tmp_path) as alive:
        others = {dead: True, container: True, away: False, long_away: True, alive.name: False}
        assert {name: gone(tmp_path, name) for name in others} == others
        assert {facts.name for facts in locks.at_work(tmp_path)} == {away, alive.name}
        sweep(tmp_path, ())
        assert {path.name for path in (tmp_path / PARTS).iterdir() if path.is_dir()} == {away, alive.name}
        assert {path.stem[0] for path in (tmp_path / PARTS).glob("*.claim")} == {"c"}
    sweep(tmp_path, (), known_gone=[away])
    assert not (tmp_path / PARTS).exists()


def test_a_killed_run_is_gone_at_once_and_a_stopped_one_is_not(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from tisdiss_cli.folder.locks import Presence\n"
        f"print(Presence(Path({str(tmp_path)!r})).name, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    name = process.stdout.readline().strip()
    process.send_signal(signal.SIGSTOP)
    assert not gone(tmp_path, name)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert gone(tmp_path, name)
    sweep(tmp_path, ())
    assert not (tmp_path / PARTS).exists()


def test_a_disk_without_locks_goes_by_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_try", lambda lock: None)
    here = facts_of_this()
    dead = _leave(tmp_path, Facts(here.host, 2**22 + 1, 1.0, here.boot))
    with Presence(tmp_path) as alive:
        assert gone(tmp_path, dead)
        assert not gone(tmp_path, alive.name)


def test_killed_between_the_names_and_the_record_the_outputs_are_still_ours(many, tmp_path, options):
    """Whoever sweeps in between, for another shard or of another host."""
    out = tmp_path / "out"
    tisdiss("separate", many, out, *options)
    whole = contents(out)
    job = plan_jobs(many, out, voices=2, extension="wav")[0]
    record = out / "tisdiss.jsonl"
    rows = [row for row in record.read_text().splitlines(keepends=True) if json.loads(row)["input"] != job.input]
    record.write_text("".join(rows))
    _leave(out, Facts(facts_of_this().host, 1, 1.0), key=job.key, outputs=job.outputs)
    sweep(out, Record(out).makers)
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    tisdiss("separate", many, out, *options)
    assert contents(out) == whole
    assert records(out)[job.input]["status"] == "done"
    assert not (out / PARTS).exists()


def test_a_run_killed_before_it_said_who_it_is_leaves_nothing(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    facts = replace(facts_of_this(), process=child.pid)
    (tmp_path / PARTS / facts.name).mkdir(parents=True)
    (tmp_path / PARTS / f"{facts.name}.lock").touch()
    mine = facts_of_this()
    (tmp_path / PARTS / mine.name).mkdir()  # of one that is about to say so
    sweep(tmp_path, ())
    assert [path.name for path in (tmp_path / PARTS).iterdir()] == [mine.name]
