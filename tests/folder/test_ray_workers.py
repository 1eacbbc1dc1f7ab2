"""What a worker of several checks and says, and who is given what: without Ray, in this process."""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.cli import tisdiss
from tests.folders import contents, separate
from tisdiss_cli.devices import OutOfMemory
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder import ray_driver
from tisdiss_cli.folder.jobs import Job, plan_jobs
from tisdiss_cli.folder.pipeline import Progress
from tisdiss_cli.folder.ray_driver import NoDevice, Slot, WorkerPool
from tisdiss_cli.folder.ray_workers import Worker, make_task
from tisdiss_cli.folder.record import Line
from tisdiss_cli.folder.run_lock import PARTS, RunLock
from tisdiss_cli.folder.settings import Options, Settings
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import read_info


@pytest.fixture
def driver(folder, tmp_path, mini_weights):
    """A driver's lock, its jobs and its task."""
    out = tmp_path / "out"
    out.mkdir()
    with RunLock(out) as lock:
        jobs = plan_jobs(folder, Options(out=out), 2)
        options = Options(out=out, precision="fp32", repeats="1", chunk=1.0, separator_repeats=1)
        task = make_task(options, read_info(mini_weights), 1, jobs[0], lock)
        yield SimpleNamespace(out=out, lock=lock, jobs=jobs, task=task, source=folder)


def run(task, jobs: list[Job], threads: int = 1) -> list:
    return list(Worker(task, "cpu", threads).run(jobs))


def lines_of(items: list) -> list[Line]:
    return [item for item in items if isinstance(item, Line)]


def test_a_worker_does_a_bundle_and_leaves_the_record_to_its_driver(driver, tmp_path, mini_weights):
    settings, *items = run(driver.task, driver.jobs, torch.get_num_threads())
    lines = lines_of(items)
    assert {line.input for line in lines} == {job.input for job in driver.jobs}
    assert {line.status for line in lines} == {"done"}
    told = sum(item.seconds for item in items if isinstance(item, Progress))
    assert told == pytest.approx(sum(line.audio_seconds for line in lines))
    assert not list(driver.out.glob("*.jsonl"))
    marks = {path.name for path in (driver.out / PARTS / "all").iterdir() if path.is_dir()}
    assert marks == {job.key for job in driver.jobs}  # until their driver has recorded them
    assert lines[0].settings == settings.recorded
    assert lines[0].settings["weights"] == "mini"
    separate(driver.source, tmp_path / "one", mini_weights)
    assert contents(driver.out) == contents(tmp_path / "one")


def test_what_does_not_fit_is_found_before_the_work(driver):
    task = driver.task
    for change, word in (
        ({"out": (driver.lock.info, b"another")}, "OUT"),
        ({"out": (driver.out / "nowhere", b"")}, "OUT"),
        ({"versions": {"tisdiss": "0.0.0"}}, "tisdiss"),
        ({"versions": {"torch": "1.0"}}, "torch"),
        ({"content": b"no weights"}, "mini.safetensors"),
        ({"options": replace(task.options, precision="fp8")}, "--precision"),
    ):
        with pytest.raises(UserError) as error:
            run(replace(task, **change), driver.jobs)
        assert word in str(error.value) and "\n" not in str(error.value)


def test_an_in_that_is_not_shared_is_found_before_the_work(driver, tmp_path, monkeypatch):
    path, known = driver.task.sample
    for folder, sample in (
        (Path.cwd(), (tmp_path / "nowhere.wav", known)),
        (Path.cwd(), (path, [1, 2])),
        (Path.cwd(), (Path(path.name), known)),
        (tmp_path / "nowhere", (Path(path.name), known)),
    ):
        with pytest.raises(UserError, match=r"^IN ") as error:
            run(replace(driver.task, folder=folder, sample=sample), [])
        assert str(folder / sample[0]) in str(error.value)
    monkeypatch.chdir(tmp_path)  # and a relative one is found, from wherever the worker was started
    (settings,) = run(replace(driver.task, folder=path.parent, sample=(Path(path.name), known)), [])
    assert isinstance(settings, Settings)


def test_memory_that_runs_out_goes_on_smaller_and_for_nothing_ends_the_worker(driver, monkeypatch):
    task = replace(driver.task, options=replace(driver.task.options, chunk=2.0))
    worker = Worker(task, "cpu", torch.get_num_threads())
    estimates, most = TISDiSS.padded_estimates, 10_000

    def network_estimates(self, mixture, *arguments):
        if mixture.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return estimates(self, mixture, *arguments)

    monkeypatch.setattr(TISDiSS, "padded_estimates", network_estimates)
    items = list(worker.run(driver.jobs[:2]))
    said = [item.getMessage() for item in items if isinstance(item, logging.LogRecord)]
    assert ["memory" in sentence for sentence in said] == [True]
    assert [line.status for line in lines_of(items)] == ["done"] * 2
    most = 0
    with pytest.raises(OutOfMemory, match="memory"):
        list(worker.run(driver.jobs[2:]))


class Death(Exception):
    """What Ray raises for what a dead worker was asked for."""


class Failure(Death):
    """What it raises where the worker has."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class StandIn(WorkerPool):
    """Workers that do what they are told in no time, die at some inputs, or do not come up; in slot of Ray's.

    Args:
        out: the folder OUT.
        slots: how many devices there are.
        deadly: inputs that kill their worker.
        broken: whether each worker dies of nothing.
        settings: of each device's workers, or what they raise.
    """

    exceptions = SimpleNamespace(RayError=Death, RayTaskError=Failure)

    def __init__(self, out: Path, slots: int, deadly: set[str] = frozenset(), broken: bool = False, settings=()):
        self.deadly, self.broken, self.given, self.devices = deadly, broken, [], slots
        self.answers = dict(enumerate(settings))
        lock = SimpleNamespace(parts=out, abandon=lambda job: None)
        super().__init__(self, Options(out=out, devices="all"), None, lock)

    # As Ray

    def nodes(self) -> list[dict]:
        return [{"NodeID": "node", "NodeManagerAddress": "", "Alive": True, "Resources": {"CPU": 8.0}}]

    def wait(self, calls: list, num_returns: int, timeout: float) -> tuple[list, list]:
        return calls, []

    def get(self, item):
        if isinstance(item, Exception):
            raise item
        return item

    def kill(self, actor) -> None:
        pass

    # As its workers

    def _slots_on(self, node: dict) -> list[Slot]:
        return [Slot(f"cpu{number}", ("node", number), 1) for number in range(self.devices)]

    def _start(self, slot: Slot) -> None:
        slot.actor = SimpleNamespace(run=SimpleNamespace(remote=self._work))
        slot.call = iter([self.answers.get(slot.device[1], settings_of(repeats=1))])

    def _work(self, batch: list[Job]):
        self.given.append([job.input for job in batch])
        for job in batch:
            if self.broken:
                yield Death()
            (self.lock.parts / job.key).mkdir(exist_ok=True)
            if job.input in self.deadly:
                yield Death()
            yield Progress(1.0)
            yield Line(job.input, "done", job.place, outputs=job.outputs, audio_seconds=1.0)


def settings_of(**recorded: object) -> Settings:
    return Settings(options=Options(out=Path()), repeats=1, plan=None, batch_size=1, recorded=recorded)


def work(pool: StandIn, first: list[Job], last: list[Job] = (), commit=lambda job, line: None) -> list:
    pool.wait_until_ready()
    return list(pool.run(first, list(last), commit))


@pytest.fixture
def jobs(tmp_path):
    """Two hundred, of 1 to 40 seconds and one of ten minutes."""
    seconds = {f"{index:03d}.wav": 1.0 + index * 7 % 40 for index in range(200)} | {"ages.wav": 600.0}
    return [Job(name, f"{tmp_path}/{name}", seconds=value) for name, value in seconds.items()], seconds


def test_the_longest_come_first_in_bundles_of_minutes(jobs, tmp_path):
    pool, committed = StandIn(tmp_path, slots=3), []
    lines = lines_of(work(pool, jobs[0], commit=lambda job, line: committed.append((job.input, line.input))))
    assert pool.given[0] == ["ages.wav"]
    given = [name for batch in pool.given for name in batch]
    assert sorted(given) == sorted(jobs[1])  # each once
    assert [jobs[1][name] for name in given] == sorted(jobs[1].values(), reverse=True)
    totals = [sum(jobs[1][name] for name in batch) for batch in pool.given[1:]]
    assert max(totals) <= 180 and totals[0] > 100
    assert totals[-1] <= 10  # so that all end alike
    assert sorted(committed) == [(name, name) for name in sorted(jobs[1])] and len(lines) == len(committed)


def test_what_kills_its_worker_goes_to_another_then_it_is_alone_then_it_has_failed(jobs, tmp_path):
    pool = StandIn(tmp_path, slots=2, deadly={"005.wav", "120.wav"})
    events = work(pool, jobs[0])
    lines = {line.input: line for line in lines_of(events)}
    assert {name for name, line in lines.items() if line.status == "failed"} == pool.deadly
    assert set(lines) == set(jobs[1])
    for name in pool.deadly:
        batches = [batch for batch in pool.given if name in batch]
        assert len(batches) == 3 and batches[2] == [name]
        assert "killed its worker" in lines[name].reason
    told = sum(event.seconds for event in events if isinstance(event, Progress))
    assert told == pytest.approx(len(jobs[0]) - 2)  # what was lost is taken back


def test_what_was_on_its_way_when_a_run_died_comes_last_and_alone(jobs, tmp_path):
    first, last = jobs[0][:100], jobs[0][100:103]
    pool = StandIn(tmp_path, slots=2, deadly={last[1].input})
    lines = lines_of(work(pool, first, last))
    assert [len(batch) for batch in pool.given[-3:]] == [1, 1, 1]
    assert {name for batch in pool.given[-3:] for name in batch} == {job.input for job in last}
    assert [line.input for line in lines if line.status == "failed"] == [last[1].input]


def test_a_device_whose_workers_die_of_nothing_is_given_up(jobs, tmp_path):
    pool = StandIn(tmp_path, slots=2, broken=True)
    with pytest.raises(NoDevice, match="files are left"):
        work(pool, jobs[0])
    assert len(pool.given) == 6


def test_workers_that_would_not_do_the_same_are_told_before_the_work(tmp_path):
    for settings, sentence in (
        (
            [settings_of(precision="fp32"), settings_of(precision="bf16")],
            "cpu1: .*precision bf16, the others fp32",
        ),
        ([settings_of(), Failure(UserError("IN is not there"))], "cpu1: IN is not there"),
    ):
        with pytest.raises(UserError, match=sentence):
            StandIn(tmp_path, slots=2, settings=settings).wait_until_ready()


def test_one_that_comes_later_and_would_not_do_the_same_is_left_out(jobs, tmp_path, said):
    pool = StandIn(tmp_path, slots=1, settings=[settings_of(repeats=1), settings_of(repeats=2)])
    pool.wait_until_ready()
    pool.devices, pool.scanned = 2, -60
    assert len(lines_of(list(pool.run(jobs[0], [], lambda job, line: None)))) == len(jobs[0])
    assert [sentence for sentence in said if "going on without cpu1" in sentence and "repeats 2" in sentence]


def test_workers_that_never_come_up_are_no_device(tmp_path, said):
    with pytest.raises(NoDevice, match="could be started"):
        StandIn(tmp_path, slots=2, settings=[Death("no such node"), Death("no such node")]).wait_until_ready()
    assert sum("no such node" in sentence for sentence in said) == 2


def test_without_ray_one_sentence_says_how_to_get_it(folder, tmp_path, mini_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for options in (("--devices", 2), ("--cluster", "auto")):
        run = tisdiss("separate", folder, tmp_path / "out", "--weights", mini_weights, *options, "--quiet", status=2)
        assert "tisdiss[cluster]" in run.stderr and len(run.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_usage_errors(folder, tmp_path, mini_weights):
    for options, word in (
        (("--devices", "0"), "--devices"),
        (("--devices", "two"), "--devices"),
        (("--devices", 2, "--device", "cuda:1"), "--device"),
        (("--cluster", "auto", "--rtf", 1), "--repeats"),
        (("--cluster", "127.0.0.1:1"), "--cluster 127.0.0.1:1"),
        (("--cluster", "head"), "HOST:PORT"),
        (("--cluster", "ray://head:10001"), "HOST:PORT"),
        (("--devices", "all", "--budget", "1h"), "--repeats"),
    ):
        run = tisdiss("separate", folder, tmp_path / "out", "--weights", mini_weights, *options, status=2)
        assert word in run.stderr and len(run.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_places_by_what_nodes_have(tmp_path):
    def node(name: str, **resources: float) -> dict:
        return {"NodeID": name, "NodeManagerAddress": name, "Alive": True, "Resources": resources}

    def slots(address: str | None, *nodes: dict, gpu: bool) -> list[tuple[str, int]]:
        pool = StandIn(tmp_path, slots=0)
        pool.local, pool.count, pool.gpu = address is None, 3, gpu
        return [(str(slot), slot.cpus) for each in nodes for slot in WorkerPool._slots_on(pool, each)]

    gpus, cpus, head = node("a", CPU=32.0, GPU=4.0), node("b", CPU=16.0), node("head")
    assert slots("auto", gpus, cpus, head, gpu=True) == [(f"a:gpu{number}", 1) for number in range(4)]
    assert slots("auto", cpus, head, gpu=False) == [("b:cpu0", 16)]
    assert slots(None, cpus, gpu=False) == [("cpu0", 5), ("cpu1", 5), ("cpu2", 5)]


def test_a_folder_of_a_long_name_is_none_for_sockets(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / ("x" * 90)))
    assert len(ray_driver._short_folder()) < 40
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    assert ray_driver._short_folder() == "/tmp"
