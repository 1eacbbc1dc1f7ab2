"""One OUT, many writers: shards, locks, claims, records of several files, status."""

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
import yaml

from tests.cli import ROOT, start, tisdiss
from tests.folders import RATE, contents, records, separate, speech_like
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder import locks
from tisdiss_cli.folder.jobs import PARTS, plan_jobs
from tisdiss_cli.folder.locks import Facts, Presence, facts_of_this, gone, sweep
from tisdiss_cli.folder.record import Record
from tisdiss_cli.folder.run import FolderRun
from tisdiss_cli.folder.settings import Settings
from tisdiss_cli.folder.shards import Shard, array_expression, parse_shard, shard_of
from tisdiss_cli.folder.voices import VoiceFiles
from tisdiss_cli.separation.separator import Separator

ARRAY = {f"SLURM_ARRAY_TASK_{name}": value for name, value in (("MIN", "0"), ("MAX", "7"), ("COUNT", "8"))}


def united(out: Path) -> dict[str, dict]:
    """The newest line of every input, of all files of the record: by the lines' own times."""
    lines = [json.loads(row) for path in out.glob("tisdiss*.jsonl") for row in path.read_text().splitlines()]
    return {line["input"]: line for line in sorted(lines, key=lambda line: line["time"])}


def lasting(line: dict) -> dict:
    """What of a line is the same in every run."""
    return {key: value for key, value in line.items() if key not in ("time", "elapsed_seconds")}


@pytest.fixture
def options(mini_weights):
    return ("--weights", mini_weights, "--repeats", 1, "--chunk", 0.5, "--device", "cpu", "--quiet")


@pytest.fixture
def many(tmp_path) -> Path:
    """Twenty short recordings in two folders."""
    for index in range(20):
        path = tmp_path / "many" / f"{index % 2}" / f"{index:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, speech_like(0.2 + index / 50, index), RATE)
    return tmp_path / "many"


# Shards ---------------------------------------------------------------------------------------------


def test_a_shard_is_a_stable_share():
    names = [f"speaker{index % 30}/take {index}.wav" for index in range(4000)]
    for count in (1, 2, 8, 1000):
        shards = [Shard(index, count) for index in range(1, count + 1)]
        assert all(sum(shard.takes(name) for shard in shards) == 1 for name in names[: 40_000 // count])
    sizes = Counter(shard_of(name, 8) for name in names)
    assert set(sizes) == set(range(1, 9)) and all(400 < size < 600 for size in sizes.values())  # 500 ± 5 deviations
    # `printf sub/call.wav | sha256sum` begins with e6d62a7b43217e72, and that of the bytes a\xff.wav with
    # 6baafa6780f47bf7: a later version must not move what is half done.
    assert shard_of("sub/call.wav", 8) == 0xE6D62A7B43217E72 % 8 + 1 == 3
    assert shard_of(os.fsdecode(b"a\xff.wav"), 8) == 0x6BAAFA6780F47BF7 % 8 + 1 == 8


@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        ("3/8", {}, Shard(3, 8)),
        ("1/1", {}, Shard(1, 1)),
        ("slurm", {**ARRAY, "SLURM_ARRAY_TASK_ID": "0"}, Shard(1, 8)),
        ("slurm", {**ARRAY, "SLURM_ARRAY_TASK_ID": "7"}, Shard(8, 8)),
        (
            "slurm",
            {
                "SLURM_ARRAY_TASK_ID": "20",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_MAX": "40",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_STEP": "10",
            },
            Shard(2, 4),
        ),
        ("slurm/8", {"SLURM_ARRAY_TASK_ID": "5"}, Shard(5, 8)),
    ],
)
def test_shards_are_parsed(text, variables, expected):
    assert parse_shard(text, variables) == expected


@pytest.mark.parametrize(
    ("text", "variables", "word"),
    [
        ("0/8", {}, "first is 1"),
        ("9/8", {}, "not one of"),
        ("3", {}, "3/8"),
        ("-1/8", {}, "3/8"),
        ("3/0", {}, "not one of"),
        ("1.5/8", {}, "3/8"),
        ("٣/8", {}, "3/8"),
        ("slurm", {}, "is not set"),
        ("slurm", {"SLURM_ARRAY_TASK_ID": "x"}, "'x'"),
        # Again, some of a greater array: their number says nothing of it.
        (
            "slurm",
            {
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_MAX": "6",
                "SLURM_ARRAY_TASK_COUNT": "4",
            },
            "slurm/8",
        ),
        ("slurm/8", {"SLURM_ARRAY_TASK_ID": "0"}, "from 1"),
    ],
)
def test_what_is_no_shard_is_told(text, variables, word):
    with pytest.raises(UserError, match="--shard") as error:
        parse_shard(text, variables)
    assert word in str(error.value)


def test_an_array_expression_names_each_once():
    for indices in ([], [1], [1, 4, 5, 6], [2, 3, 9, 11, 12], range(1, 9)):
        text = array_expression(indices)
        expanded = [
            index
            for part in filter(None, text.split(","))
            for index in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
        ]
        assert expanded == sorted(indices)
    assert array_expression([6, 1, 5, 4]) == "1,4-6"


def test_eight_shards_killed_among_them_give_what_one_run_gives(many, tmp_path, options):
    tisdiss("separate", many, tmp_path / "one", *options)
    out = tmp_path / "out"
    kills = [start("separate", many, out, "--shard", f"{index}/8", *options) for index in (2, 5)]
    for process, index in zip(kills, (2, 5), strict=True):
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and not _begun(out, f"{index}/8"):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    for index in range(1, 9):
        tisdiss("separate", many, out, "--shard", f"{index}/8", *options)
    assert contents(out) == contents(tmp_path / "one")
    assert not (out / PARTS).exists()
    expected = {name: lasting(line) for name, line in records(tmp_path / "one").items()}
    assert {name: lasting(line) for name, line in united(out).items()} == expected
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    tisdiss("separate", many, out, *options)  # one run knows what the shards have done, and does nothing again
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")} == before


def _begun(out: Path, shard: str) -> bool:
    """Whether a shard's run has claimed something."""
    owners = {path.stem for path in (out / PARTS).glob("*.json") if f'"shard": "{shard}"' in _text(path)}
    return any(f'"{owner}"' in _text(claim) for owner in owners for claim in (out / PARTS).glob("*.claim"))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


# Several runs in one OUT ----------------------------------------------------------------------------


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


# Leftovers ------------------------------------------------------------------------------------------


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


# The record -----------------------------------------------------------------------------------------


def _row(input: str, time: float, status: str = "done", **more) -> str:
    outputs = [f"{Path(input).stem}_s1.wav"] if status == "done" else []
    return json.dumps({"input": input, "status": status, "outputs": outputs, "time": time, **more}) + "\n"


def test_later_lines_count_whichever_file_they_are_in(tmp_path):
    (tmp_path / "tisdiss.jsonl").write_text(
        _row("a.wav", 5, settings={"repeats": 1}) + _row("b.wav", 9, settings={"repeats": 1}) + "torn {"
    )
    (tmp_path / "tisdiss.1-of-2.jsonl").write_text(
        _row("a.wav", 7, settings={"repeats": 2}) + _row("b.wav", 8, settings={"repeats": 2})
    )
    (tmp_path / "tisdiss.2-of-2.jsonl").write_text(
        json.dumps({"input": "c.wav", "status": "done", "outputs": ["c.wav"]})
    )
    (tmp_path / "tisdiss.notes.txt").write_text(_row("d.wav", 10))
    for name in ("a_s1.wav", "b_s1.wav", "c.wav"):
        (tmp_path / name).touch()
    record = Record(tmp_path)
    assert {output: made.settings.get("repeats") for output, made in record.makers.items()} == {
        "a_s1.wav": 2,
        "b_s1.wav": 1,
        "c.wav": None,
    }
    assert record.done(["a_s1.wav"], {"repeats": 2}, [])
    with (tmp_path / "tisdiss.1-of-2.jsonl").open("a") as file:
        file.write(_row("a.wav", 20, "failed"))
        file.write(_row("b.wav", 21, settings={"repeats": 3})[:-9])  # is just being written
        file.flush()
        assert record.reread()
        assert not record.done(["a_s1.wav"], {"repeats": 2}, [])
        assert record.makers["b_s1.wav"].settings == {"repeats": 1}
        file.write(_row("b.wav", 21, settings={"repeats": 3})[-9:])
    assert record.reread() and not record.reread()
    assert record.makers["b_s1.wav"].settings == {"repeats": 3}


def test_a_writer_appends_to_its_own_file_alone(many, tmp_path, options):
    out = tmp_path / "out"
    tisdiss("separate", many, out, "--shard", "1/2", *options)
    first = (out / "tisdiss.1-of-2.jsonl").read_bytes()
    tisdiss("separate", many, out, "--shard", "2/2", *options)
    assert (out / "tisdiss.1-of-2.jsonl").read_bytes() == first
    assert sorted(path.name for path in out.glob("*.jsonl")) == ["tisdiss.1-of-2.jsonl", "tisdiss.2-of-2.jsonl"]
    line = json.loads(first.splitlines()[0])
    assert abs(line["time"] - time.time()) < 600
    assert line["within"] == str(many.resolve())


# Status ---------------------------------------------------------------------------------------------


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
    with Presence(out, facts_of_this(source=str(many))):
        assert f"process {os.getpid()}" in tisdiss("status", out).stdout


def test_status_of_what_is_none(tmp_path):
    for place, word in ((tmp_path / "nowhere", "not a folder"), (tmp_path, "no record")):
        assert word in tisdiss("status", place, status=2).stderr


# Scores ---------------------------------------------------------------------------------------------


def test_shards_of_scores_merged_are_those_of_one_run(data, tmp_path, weights):
    command = ("score", data, "--weights", weights, "--repeats", "1-2", "--workers", 0, "--device", "cpu", "--quiet")
    tisdiss(*command, "--csv", tmp_path / "one.csv")
    for index in (1, 3, 4):
        tisdiss(*command, "--csv", tmp_path / "scores.csv", "--shard", f"{index}/4")
    left = {name for name in "abc" if shard_of(name, 4) == 2}
    run = tisdiss("score", data, "--csv", tmp_path / "scores.csv", "--merge", status=int(bool(left)))
    assert not left or "shards: 2" in run.stderr
    tisdiss(*command, "--csv", tmp_path / "scores.csv", "--shard", "2/4")
    run = tisdiss("score", data, "--csv", tmp_path / "scores.csv", "--json", tmp_path / "scores.json", "--merge")

    def rows(path: Path) -> list[list[str]]:
        cells = [row.split(",") for row in path.read_text().splitlines()]
        clock = cells[0].index("network_seconds")
        return [[*row[:clock], *row[clock + 1 :]] for row in cells]

    assert rows(tmp_path / "scores.csv") == rows(tmp_path / "one.csv")
    assert len(json.loads((tmp_path / "scores.json").read_text())["results"]) == 2
    tisdiss("score", data, "--csv", tmp_path / "none.csv", "--merge", status=2)


# Examples -------------------------------------------------------------------------------------------


def _environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    """With a `tisdiss` on the path, as an installed one."""
    command = tmp_path / "bin" / "tisdiss"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tisdiss_cli "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **variables}


def test_the_sbatch_script_does_its_tasks_share(many, tmp_path, mini_weights):
    script = ROOT / "examples" / "cluster" / "separate.sbatch"
    asked = [line.split("=")[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH --array=")]
    assert asked == ["1-8"]
    out = tmp_path / "out"
    variables = {**ARRAY, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "8"}
    done = subprocess.run(
        ["bash", script, many, out, "--weights", mini_weights, "--repeats", "1", "--device", "cpu"],
        env=_environment(tmp_path, **variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert set(united(out)) == {line for line in _names(many) if shard_of(line, 8) == 3}


def test_the_kubernetes_job_does_its_indexs_share(many, tmp_path, mini_weights):
    job = yaml.safe_load((ROOT / "examples" / "cluster" / "kubernetes-job.yaml").read_text())
    spec = job["spec"]
    assert (job["kind"], spec["completionMode"], spec["completions"]) == ("Job", "Indexed", 8)
    (container,) = spec["template"]["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    out = tmp_path / "out"
    values = {"IN": str(many), "OUT": str(out), "OPTIONS": f"--weights {mini_weights} --repeats 1 --device cpu"}
    for variable in container["env"]:
        assert variable["name"] in values
        assert variable["name"] == "OPTIONS" or any(variable["value"].startswith(mount) for mount in mounts)
    done = subprocess.run(
        [*container["command"], *container.get("args", [])],
        env=_environment(tmp_path, JOB_COMPLETION_INDEX="7", **values),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert set(united(out)) == {line for line in _names(many) if shard_of(line, 8) == 8}


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*.wav")]


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
