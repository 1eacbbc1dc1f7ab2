"""Several devices by Ray: a cluster of two nodes on the loopback, one CPU each, and what dies in it."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
# Before ray is imported: its daemons are to listen on the loopback alone, and to tell nobody of themselves.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}

from ray.cluster_utils import Cluster

from tests.cli import ROOT, start, tisdiss
from tests.folders import RATE, contents, records, speech_like
from tisdiss_cli.folder.jobs import PARTS, plan_jobs

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes whose workers import this checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        found = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        found.add_node(**NODE)
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Short recordings, three longer ones, and one that is none."""
    source = tmp_path_factory.mktemp("many")
    (source / "sub").mkdir()
    for index in range(12):
        soundfile.write(source / "sub" / f"{index:02d}.wav", speech_like(0.3 + index / 20, index), RATE)
    for index, name in enumerate(("long", "once", "poison")):
        soundfile.write(source / f"{name}.wav", speech_like(20 - index, 50 + index), RATE)
    (source / "bad.wav").write_text("no sound\n" * 20)
    return source


@pytest.fixture(scope="module")
def options(mini_weights):
    return ("--weights", mini_weights, "--repeats", 1, "--chunk", 0.5, "--device", "cpu")


@pytest.fixture(scope="module")
def one(many, tmp_path_factory, options) -> Path:
    """What one process on one thread makes of it."""
    out = tmp_path_factory.mktemp("one") / "out"
    process = start("separate", many, out, *options, "--quiet", env={"OMP_NUM_THREADS": "1"})
    process.communicate()
    assert process.returncode == 1  # for the bad file
    return out


def worker_at(out: Path, job) -> int | None:
    """The process that has begun a job."""
    with suppress(OSError, ValueError, KeyError):
        owner = json.loads((out / PARTS / f"{job.key}.claim").read_text())["owner"]
        return json.loads((out / PARTS / f"{owner}.json").read_text())["process"]
    return None


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]):
    """Does something in a thread until the block ends."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    yield
    over.set()
    thread.join()


def test_files_that_kill_their_workers_fail_alone(cluster, many, one, tmp_path, options):
    """One that kills its worker each time, one whose worker is killed once, one that is no sound; then the rest."""
    out = tmp_path / "out"
    jobs = {job.input: job for job in plan_jobs(many, out, voices=2, extension="wav")}
    killed: dict[str, set[int]] = {"poison.wav": set(), "once.wav": set()}

    def kill(over: threading.Event) -> None:
        while not over.wait(0.002):
            for name, most in (("poison.wav", 9), ("once.wav", 1)):
                process = worker_at(out, jobs[name])
                if process and process not in killed[name] and len(killed[name]) < most:
                    killed[name].add(process)
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)

    with meanwhile(kill):
        run = tisdiss("separate", many, out, "--cluster", cluster.address, *options, status=1)
    assert len(killed["poison.wav"]) == 2 and len(killed["once.wav"]) == 1
    lines = records(out)
    assert {name for name, line in lines.items() if line["status"] == "failed"} == {"poison.wav", "bad.wav"}
    assert "killed its worker twice" in lines["poison.wav"]["reason"]
    assert {name: line["reason"] for name, line in records(one).items() if line["reason"]} == {
        "bad.wav": lines["bad.wav"]["reason"]
    }
    expected = {name: content for name, content in contents(one).items() if not name.startswith("poison")}
    assert contents(out) == expected
    assert not (out / PARTS).exists()
    assert len((out / "tisdiss.jsonl").read_text().splitlines()) == len(jobs)  # each once
    assert "14 separated, 2 failed" in run.stdout and "ray" not in run.stdout.lower()
    told = [line for line in run.stderr.replace("\r", "\n").splitlines() if "died" in line]
    assert sum("poison.wav" in line for line in told) == 2

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    tisdiss("separate", many, out, *options, status=1)  # goes on, on one device
    assert records(out)["poison.wav"]["status"] == "done"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert set(contents(out)) == set(contents(one))


def test_a_node_that_is_lost_and_one_that_comes(cluster, many, one, tmp_path, options, monkeypatch):
    # A node may then be started from a thread, where signals cannot be handled.
    monkeypatch.setattr("ray._private.utils.set_sigterm_handler", lambda handler: None)
    out = tmp_path / "out"
    jobs = plan_jobs(many, out, voices=2, extension="wav")
    changed = []

    def change(over: threading.Event) -> None:
        while not over.wait(0.005):
            if sum(worker_at(out, job) is not None for job in jobs) >= 2 and not changed:
                changed.append(cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False))
                changed.append(cluster.add_node(**NODE))

    with meanwhile(change):
        tisdiss("separate", many, out, "--cluster", cluster.address, *options, "--quiet", status=1)
    assert len(changed) == 2
    assert contents(out) == contents(one)
    assert not (out / PARTS).exists()


def test_ctrl_c_ends_every_worker_of_a_local_ray(many, one, tmp_path, options):
    out = tmp_path / "out"
    jobs = plan_jobs(many, out, voices=2, extension="wav")
    environment = {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    process = start("separate", many, out, "--devices", 2, *options, env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    workers: set[int] = set()
    while process.poll() is None and time.monotonic() < deadline and len(workers) < 2:
        workers |= {found for job in jobs if (found := worker_at(out, job))}
        time.sleep(0.002)
    assert len(workers) == 2
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True).stdout if _has_ss() else ""
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1] == "tisdiss: stopped; the same command goes on where this one ended"
    assert "Traceback" not in stderr
    for worker in workers:
        assert not _lives(worker)
        for line in listening.splitlines():
            assert f"pid={worker}," not in line or "127.0.0.1" in line.split()[3]
    assert not list(out.rglob("*.part")) and not (out / PARTS).exists()
    done = set(records(out)) if (out / "tisdiss.jsonl").exists() else set()
    assert len(done) < len(jobs)
    tisdiss("separate", many, out, *options, "--quiet", status=1)
    assert set(contents(out)) == set(contents(one))


def _has_ss() -> bool:
    return any((Path(folder) / "ss").exists() for folder in os.environ["PATH"].split(os.pathsep))


def _lives(process: int) -> bool:
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True
