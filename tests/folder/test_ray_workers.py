"""What a worker of several checks and says, and who is given what: without Ray, in this process."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.cli import tisdiss
from tests.folders import contents, separate
from tisdiss_cli.folder import ray_driver
from tisdiss_cli.folder.jobs import Job, plan_jobs
from tisdiss_cli.folder.pipeline import Progress
from tisdiss_cli.folder.ray_driver import Fleet, NoDevice, Place
from tisdiss_cli.folder.ray_workers import Answer, Said, Trouble, Worker, make_task
from tisdiss_cli.folder.record import Line
from tisdiss_cli.folder.run_lock import PARTS, RunLock
from tisdiss_cli.folder.settings import Options
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import read_info


@pytest.fixture
def driver(folder, tmp_path, mini_weights):
    """A driver's lock, its jobs, its task, and the weights' bytes."""
    out = tmp_path / "out"
    out.mkdir()
    with RunLock(out) as lock:
        jobs = plan_jobs(folder, out, voices=2, extension="wav")
        options = Options(out=out, precision="fp32", repeats="1", chunk=1.0, separator_repeats=1)
        task = make_task(options, read_info(mini_weights), 1, jobs[0], lock.parts)
        yield SimpleNamespace(
            out=out, lock=lock, jobs=jobs, task=task, weights=mini_weights.read_bytes(), source=folder
        )


def lines_of(items: list) -> list[Line]:
    return [item for item in items if isinstance(item, Line)]


def test_a_worker_does_a_bundle_and_leaves_the_record_to_its_driver(driver, tmp_path, mini_weights):
    worker = Worker()
    answer = worker.load(driver.task, "cpu", threads=torch.get_num_threads(), weights=driver.weights)
    assert answer.trouble is None
    items = list(worker.run(driver.jobs))
    lines = lines_of(items)
    assert {line.input for line in lines} == {job.input for job in driver.jobs}
    assert {line.status for line in lines} == {"done"}
    told = sum(item.seconds for item in items if isinstance(item, Progress))
    assert told == pytest.approx(sum(line.audio_seconds for line in lines))
    assert not list(driver.out.glob("*.jsonl"))
    marks = {path.name for path in (driver.out / PARTS / "all").iterdir() if path.is_dir()}
    assert marks == {job.key for job in driver.jobs}  # until their driver has recorded them
    assert lines[0].settings == answer.settings.recorded
    assert lines[0].settings["weights"] == "mini"
    separate(driver.source, tmp_path / "one", mini_weights)
    assert contents(driver.out) == contents(tmp_path / "one")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"token": "another"}, "OUT"),
        ({"versions": {"tisdiss": "0.0.0"}}, "tisdiss"),
        ({"versions": {"torch": "1.0"}}, "torch"),
        ({"digest": "0123456789abcdef"}, "weights"),
        ({"precision": "fp8"}, "--precision"),
    ],
)
def test_what_does_not_fit_is_found_before_the_work(driver, change, word):
    asked = {"options": replace(driver.task.options, **change)} if "precision" in change else change
    answer = Worker().load(replace(driver.task, **asked), "cpu", threads=1, weights=driver.weights)
    assert answer.settings is None
    assert answer.trouble.startswith(answer.host) or answer.host in answer.trouble
    assert word in answer.trouble and "\n" not in answer.trouble


def test_an_in_that_is_not_shared_is_found_before_the_work(driver, tmp_path, monkeypatch):
    path, known = driver.task.sample
    for sample in ((tmp_path / "nowhere.wav", known), (path, [1, 2])):
        answer = Worker().load(replace(driver.task, sample=sample), "cpu", threads=1, weights=driver.weights)
        assert answer.trouble.startswith("IN ")
    task = replace(driver.task, sample=(Path(path.name), known))
    assert Worker().load(task, "cpu", threads=1, weights=driver.weights).trouble.startswith("IN ")
    lost = replace(task, folder=tmp_path / "nowhere")
    assert str(lost.folder) in Worker().load(lost, "cpu", threads=1, weights=driver.weights).trouble
    monkeypatch.chdir(tmp_path)  # and a relative one is found, from wherever the worker was started
    task = replace(task, folder=path.parent)
    assert Worker().load(task, "cpu", threads=1, weights=driver.weights).trouble is None


def test_memory_that_runs_out_goes_on_smaller_and_for_nothing_is_trouble(driver, monkeypatch):
    worker = Worker()
    task = replace(driver.task, options=replace(driver.task.options, chunk=2.0))
    worker.load(task, "cpu", threads=torch.get_num_threads(), weights=driver.weights)
    network, most = TISDiSS.separate, 10_000

    def network_separates(self, mixture, *arguments):
        if mixture.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(self, mixture, *arguments)

    monkeypatch.setattr(TISDiSS, "separate", network_separates)
    items = list(worker.run(driver.jobs[:2]))
    assert ["memory" in item.text for item in items if isinstance(item, Said)] == [True]
    assert [line.status for line in lines_of(items)] == ["done"] * 2
    most = 0
    items = list(worker.run(driver.jobs[2:]))
    (trouble,) = [item for item in items if isinstance(item, Trouble)]
    assert "memory" in trouble.text
    assert not lines_of(items)


class StandIn(Fleet):
    """Workers that do what they are told in no time, or die at some inputs."""

    class ray:
        class exceptions:
            RayError = ZeroDivisionError

        @staticmethod
        def get(item):
            if item is None:
                raise ZeroDivisionError
            return item

    def __init__(self, parts: Path, places: int, deadly: set[str] = frozenset(), barren: bool = False):
        self.deadly, self.barren, self.settings = deadly, barren, SimpleNamespace(recorded={})
        self.lock = SimpleNamespace(parts=parts)
        self.given: list[list[str]] = []
        self.prepare()
        self.places = [Place(node="node", host="", number=number, gpu=False, cpus=1) for number in range(places)]

    def _look(self, now: bool = False) -> None:
        for place in self.places:
            if not place.answer and not place.given_up:
                place.answer, place.actor = Answer("here"), SimpleNamespace(run=self)

    def options(self, num_returns: str):
        assert num_returns == "streaming"
        return self

    def remote(self, bundle: list[Job]):
        self.given.append([job.input for job in bundle])
        return self._work(bundle)

    def _work(self, bundle: list[Job]):
        for job in bundle:
            if self.barren:
                yield None
            (self.lock.parts / job.key).mkdir(exist_ok=True)
            if job.input in self.deadly:
                yield None
            yield Progress(1.0)
            yield Line(job.input, "done", job.place, outputs=job.outputs, audio_seconds=1.0)

    def _poll(self, strict: bool = False) -> list[Place]:
        return [place for place in self.places if place.generator]

    def _end(self, place: Place) -> None:
        place.actor = place.answer = place.generator = None


@pytest.fixture
def jobs(tmp_path):
    """Two hundred, of 1 to 40 seconds and one of ten minutes."""
    seconds = {f"{index:03d}.wav": 1.0 + index * 7 % 40 for index in range(200)} | {"ages.wav": 600.0}
    return [Job(name, f"{tmp_path}/{name}", seconds=value) for name, value in seconds.items()], seconds


def test_the_longest_come_first_in_bundles_of_minutes(jobs, tmp_path):
    fleet, settled = StandIn(tmp_path, places=3), []
    lines = lines_of(list(fleet.run(jobs[0], [], lambda job, line: settled.append((job.input, line.input)))))
    assert fleet.given[0] == ["ages.wav"]
    given = [name for bundle in fleet.given for name in bundle]
    assert sorted(given) == sorted(jobs[1])  # each once
    assert [jobs[1][name] for name in given] == sorted(jobs[1].values(), reverse=True)
    totals = [sum(jobs[1][name] for name in bundle) for bundle in fleet.given[1:]]
    assert max(totals) <= 180 and totals[0] > 100
    assert totals[-1] <= 10  # so that all end alike
    assert sorted(settled) == [(name, name) for name in sorted(jobs[1])] and len(lines) == len(settled)


def test_what_kills_its_worker_goes_to_another_then_it_is_alone_then_it_has_failed(jobs, tmp_path):
    fleet = StandIn(tmp_path, places=2, deadly={"005.wav", "120.wav"})
    events = list(fleet.run(jobs[0], [], lambda job, line: None))
    lines = {line.input: line for line in lines_of(events)}
    assert {name for name, line in lines.items() if line.status == "failed"} == fleet.deadly
    assert set(lines) == set(jobs[1])
    for name in fleet.deadly:
        bundles = [bundle for bundle in fleet.given if name in bundle]
        assert len(bundles) == 3 and bundles[2] == [name]
        assert "killed its worker" in lines[name].reason
    told = sum(event.seconds for event in events if isinstance(event, Progress))
    assert told == pytest.approx(len(jobs[0]) - 2)  # what was lost is taken back


def test_what_was_on_its_way_when_a_run_died_comes_last_and_alone(jobs, tmp_path):
    first, last = jobs[0][:100], jobs[0][100:103]
    fleet = StandIn(tmp_path, places=2, deadly={last[1].input})
    lines = lines_of(list(fleet.run(first, last, lambda job, line: None)))
    assert [len(bundle) for bundle in fleet.given[-3:]] == [1, 1, 1]
    assert {name for bundle in fleet.given[-3:] for name in bundle} == {job.input for job in last}
    assert [line.input for line in lines if line.status == "failed"] == [last[1].input]


def test_a_device_whose_workers_die_of_nothing_is_given_up(jobs, tmp_path):
    fleet = StandIn(tmp_path, places=2, barren=True)
    with pytest.raises(NoDevice, match="files are left"):
        list(fleet.run(jobs[0], [], lambda job, line: None))
    assert len(fleet.given) == 6


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

    def places(address: str | None, *nodes: dict, gpu: bool) -> list[tuple[str, int]]:
        fleet = StandIn(tmp_path, places=0)
        fleet.address, fleet.count, fleet.gpu = address, 3, gpu
        return [(str(place), place.cpus) for each in nodes for place in fleet._places_on(each)]

    gpus, cpus, head = node("a", CPU=32.0, GPU=4.0), node("b", CPU=16.0), node("head")
    assert places("auto", gpus, cpus, head, gpu=True) == [(f"a:gpu{number}", 1) for number in range(4)]
    assert places("auto", cpus, head, gpu=False) == [("b:cpu0", 16)]
    assert places(None, cpus, gpu=False) == [("cpu0", 5), ("cpu1", 5), ("cpu2", 5)]


def test_a_folder_of_a_long_name_is_none_for_sockets(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / ("x" * 90)))
    assert len(ray_driver._short_folder()) < 40
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    assert ray_driver._short_folder() == "/tmp"
