"""Several devices by Ray: a cluster of two nodes on the loopback, one CPU each, and what dies in it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import torch

pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
# Before ray is imported: its daemons are to listen on the loopback alone, and to tell nobody of themselves.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}
os.environ |= {"RAY_worker_niceness": "0"}  # the workers are waited for

from ray.cluster_utils import Cluster

from tests.cli import ROOT, start, tisdiss
from tests.folders import RATE, contents, records, speech_like
from tisdiss_cli.folder.jobs import plan_jobs
from tisdiss_cli.folder.run_lock import PARTS
from tisdiss_cli.folder.settings import Options

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
NAME = ("--name", "{voice}/{folder}/{stem} of {ext}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes whose workers import this checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        found = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False, "no_monitor": True})
        found.add_node(**NODE)
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Short recordings, three longer ones, and one that is none."""
    source = tmp_path_factory.mktemp("many")
    (source / "sub").mkdir()
    for index in range(6):
        soundfile.write(source / "sub" / f"{index:02d}.wav", speech_like(0.3 + index / 20, index), RATE)
    for index, name in enumerate(("long", "once", "poison")):
        soundfile.write(source / f"{name}.wav", speech_like(4 - index / 4, 50 + index), RATE)
    (source / "bad.wav").write_text("no sound\n" * 20)
    return source


@pytest.fixture(scope="module")
def options(mini_weights):
    return ("--weights", mini_weights, "--repeats", 1, "--chunk", 1, "--device", "cpu")


@pytest.fixture(scope="module")
def one(many, tmp_path_factory, options) -> Path:
    """What one process on one thread makes of it, which is what a worker with one CPU has."""
    out, threads = tmp_path_factory.mktemp("one") / "out", torch.get_num_threads()
    torch.set_num_threads(1)
    with chdir(many.parent):
        tisdiss("separate", many.name, out, *options, "--quiet", status=1)  # for the bad file
    torch.set_num_threads(threads)
    return out


def worker_at(out: Path, job) -> int | None:
    """The process that has begun a job: it writes in the job's folder."""
    folder = str(out / PARTS / "all" / job.key)
    if not os.path.isdir(folder):
        return None
    for process in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        with suppress(OSError):
            for link in os.scandir(f"/proc/{process}/fd"):
                with suppress(OSError):
                    if os.readlink(link.path).startswith(folder):
                        return process
    return None


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]):
    """Does something in a thread until the block ends."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _listening(process: int) -> Iterator[IPv4Address | IPv6Address]:
    """The addresses on which a process takes connections."""
    sockets = {os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir() if link.is_symlink()}
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = row.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                words = bytes.fromhex(local.partition(":")[0])  # each of four bytes, in the machine's order
                address = ip_address(b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4)))
                yield getattr(address, "ipv4_mapped", None) or address


@pytest.fixture(scope="module")
def interrupted(many, options, tmp_path_factory):
    """A run on two devices of this machine, stopped once both are at work: what waits for its end.

    It takes long to start, and what is tested before it takes its time too.
    """
    home = tmp_path_factory.mktemp("home")
    out, found = home / "out", SimpleNamespace(out=home / "out", workers=set(), listening=set())
    jobs = plan_jobs(many, Options(out=out), 2)
    environment = {"RAY_AUTH_MODE": "token", "HOME": str(home)}
    process = start("separate", many, out, "--devices", 2, *options, env=environment, start_new_session=True)

    def stop(over: threading.Event) -> None:
        while process.poll() is None and len(found.workers) < 2 and not over.wait(0.002):
            found.workers |= {worker for job in jobs if (worker := worker_at(out, job))}
        found.listening |= {address for worker in found.workers for address in _listening(worker)}
        process.send_signal(signal.SIGINT)

    def wait() -> SimpleNamespace:
        found.stdout, found.stderr = process.communicate(timeout=90)
        found.status = process.returncode
        return found

    with meanwhile(stop):
        yield wait


@pytest.mark.usefixtures("interrupted")  # which begins meanwhile
def test_files_that_kill_their_workers_fail_alone(cluster, many, one, tmp_path, options):
    """One that kills its worker each time, one whose worker is killed once, one that is no sound; then the rest."""
    out = tmp_path / "out"
    jobs = {job.input: job for job in plan_jobs(many, Options(out=out), 2)}
    killed: dict[str, set[int]] = {"poison.wav": set(), "once.wav": set()}

    def kill(over: threading.Event) -> None:
        while not over.wait(0.002):
            for name, most in (("poison.wav", 9), ("once.wav", 1)):
                process = worker_at(out, jobs[name])
                if process and process not in killed[name] and len(killed[name]) < most:
                    killed[name].add(process)
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)

    with meanwhile(kill), chdir(many.parent):  # where the nodes are not
        run = tisdiss("separate", many.name, out, "--cluster", cluster.address, *options, status=1)
    assert len(killed["poison.wav"]) == 3 and len(killed["once.wav"]) == 1
    lines = records(out)
    assert {name for name, line in lines.items() if line["status"] == "failed"} == {"poison.wav", "bad.wav"}
    assert "killed its worker" in lines["poison.wav"]["reason"]
    assert {name: line["reason"] for name, line in records(one).items() if line["reason"]} == {
        "bad.wav": lines["bad.wav"]["reason"]
    }
    expected = {name: content for name, content in contents(one).items() if not name.startswith("poison")}
    assert contents(out) == expected
    assert not (out / PARTS).exists()
    assert len((out / "tisdiss.jsonl").read_text().splitlines()) == len(jobs)  # each once
    assert "8 separated, 2 failed" in run.stdout and "ray" not in run.stdout.lower()
    told = [line for line in run.stderr.replace("\r", "\n").splitlines() if "died" in line]
    assert len(told) == 4 and sum("poison.wav" in line for line in told) >= 2

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    tisdiss("separate", many, out, *options, status=1)  # goes on, on one device
    assert records(out)["poison.wav"]["status"] == "done"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert set(contents(out)) == set(contents(one))


def test_a_node_that_is_lost_and_one_that_comes(cluster, many, one, tmp_path, options, monkeypatch):
    """The one that stays is stopped until the one that came has done something; inputs of a list, and names."""
    # A node may then be started from a thread, where signals cannot be handled.
    monkeypatch.setattr("ray._private.utils.set_sigterm_handler", lambda handler: None)
    out = tmp_path / "out"
    paths = sorted(path.relative_to(many) for path in many.rglob("*.wav"))
    (many / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    jobs = plan_jobs(many, Options(out=out), 2)
    came: set[str] = set()  # inputs that the new node's worker has begun

    def change(over: threading.Event) -> None:
        head, lost = cluster.head_node, next(iter(cluster.worker_nodes))
        with _stopped(*_soon(lambda: _begun_on(head, out, jobs), over).values()):
            _soon(lambda: _begun_on(lost, out, jobs), over)
            cluster.remove_node(lost, allow_graceful=False)
            new = cluster.add_node(**NODE)
            _soon(lambda: came.update(_begun_on(new, out, jobs)) or came & _recorded(out), over)

    with meanwhile(change):
        command = ("--files-from", many / "list.txt", out, *NAME, "--cluster", cluster.address)
        tisdiss("separate", *command, *options, "--quiet", status=1)
    assert came & {name for name, line in records(out).items() if line["status"] == "done"}
    renamed = {}
    for name, content in contents(one).items():
        stem, _, voice = name.removesuffix(".wav").rpartition("_s")
        renamed[f"{voice}/{stem} of wav.wav"] = content
    assert contents(out) == renamed
    assert not (out / PARTS).exists()


def _recorded(out: Path) -> set[str]:
    return set(records(out)) if (out / "tisdiss.jsonl").exists() else set()


def _soon(find: Callable[[], Any], over: threading.Event) -> Any:
    """What is found, once something is, or nothing after a minute."""
    deadline = time.monotonic() + 60
    while not (found := find()) and not over.wait(0.002) and time.monotonic() < deadline:
        pass
    return found


def _begun_on(node, out: Path, jobs) -> dict[str, int]:
    """The inputs that a node's worker has begun, with its process."""
    (raylet,) = node.all_processes["raylet"]
    workers = {job.input: worker for job in jobs if (worker := worker_at(out, job))}
    return {name: worker for name, worker in workers.items() if _parent(worker) == raylet.process.pid}


def _parent(process: int) -> int | None:
    with suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return None


@contextmanager
def _stopped(*processes: int) -> Iterator[None]:
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def test_ctrl_c_ends_every_worker_of_a_local_ray(interrupted, many, one, options):
    run = interrupted()
    assert len(run.workers) == 2
    assert run.listening and all(address.is_loopback for address in run.listening)
    assert run.status == 130
    assert run.stdout == ""
    assert run.stderr.splitlines()[-1] == "tisdiss: stopped; the same command goes on where this one ended"
    assert "Traceback" not in run.stderr
    assert not any(map(_lives, run.workers))
    assert not list(run.out.rglob("*.part"))
    jobs = {job.key: job for job in plan_jobs(many, Options(out=run.out), 2)}
    for folder in (run.out / PARTS).glob("all/*"):  # of inputs that were stopped between their names and their line
        assert not list(folder.iterdir())
        assert any((run.out / name).exists() for name in jobs[folder.name].files)
    assert len(_recorded(run.out)) < len(list(many.rglob("*.wav")))
    tisdiss("separate", many, run.out, *options, "--quiet", status=1)
    assert set(contents(run.out)) == set(contents(one))


def _lives(process: int) -> bool:
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True
