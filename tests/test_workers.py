"""What a worker of several checks and says, and who is given what: without Ray, in this process."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.cli import tisdiss
from tests.folders import contents, records, separate
from tisdiss_cli.folder.cluster import ClusterRun
from tisdiss_cli.folder.fleet import Fleet, NoDevice, Place
from tisdiss_cli.folder.inputs import Input
from tisdiss_cli.folder.jobs import PARTS, Job, Naming, plan_jobs
from tisdiss_cli.folder.locks import Presence
from tisdiss_cli.folder.record import Line, Record
from tisdiss_cli.folder.worker import Answer, Said, Trouble, Worker, task_of, token_file
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import read_info


@pytest.fixture
def driver(folder, tmp_path, mini_weights):
    """A driver's presence, its jobs, its task, and the weights' bytes."""
    out = tmp_path / "out"
    out.mkdir()
    with Presence(out) as presence:
        jobs = plan_jobs(folder, out, voices=2, extension="wav")
        options = {"repeats": 1, "chunk": 1.0, "separator_repeats": 1}
        task = task_of(presence, jobs[0], read_info(mini_weights), precision="fp32", compile=False, options=options)
        token_file(out, presence.name).write_text(task.token)
        yield SimpleNamespace(
            out=out, presence=presence, jobs=jobs, task=task, weights=mini_weights.read_bytes(), source=folder
        )


def test_a_worker_does_a_bundle_and_leaves_the_record_to_its_driver(driver, tmp_path, mini_weights):
    worker = Worker()
    answer = worker.load(driver.task, "cpu", threads=torch.get_num_threads(), weights=driver.weights)
    assert answer.trouble is None
    driver.presence.claim(driver.jobs[2])  # another has begun it
    items = list(worker.run(driver.jobs))
    lines = [item for item in items if isinstance(item, Line)]
    assert {line.input for line in lines} == {job.input for job in driver.jobs if job is not driver.jobs[2]}
    assert {line.status for line in lines} == {"done"}
    told = sum(item for item in items if isinstance(item, float))
    assert told == pytest.approx(sum(line.audio_seconds for line in lines))
    assert not list(driver.out.glob("*.jsonl"))
    assert len(list((driver.out / PARTS).glob("*.claim"))) == len(driver.jobs)  # until its driver has recorded them
    assert lines[0].settings == answer.settings.recorded
    assert lines[0].settings["weights"] == "mini"
    separate(driver.source, tmp_path / "one", mini_weights)
    one = contents(tmp_path / "one")
    assert contents(driver.out) == {name: one[name] for line in lines for name in line.outputs}


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
    answer = Worker().load(replace(driver.task, **change), "cpu", threads=1, weights=driver.weights)
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
    task = replace(driver.task, options={**driver.task.options, "chunk": 2.0})
    worker.load(task, "cpu", threads=torch.get_num_threads(), weights=driver.weights)
    network, most = TISDiSS.separate, 10_000

    def network_separates(self, mixture, *arguments):
        if mixture.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(self, mixture, *arguments)

    monkeypatch.setattr(TISDiSS, "separate", network_separates)
    items = list(worker.run(driver.jobs[:2]))
    assert ["memory" in item.text for item in items if isinstance(item, Said)] == [True]
    assert [item.status for item in items if isinstance(item, Line)] == ["done"] * 2
    most = 0
    items = list(worker.run(driver.jobs[2:]))
    (trouble,) = [item for item in items if isinstance(item, Trouble)]
    assert "memory" in trouble.text
    assert not [item for item in items if isinstance(item, Line)]


class StandIn:
    """A fleet whose workers do what they are told in no time, or die at some inputs."""

    class ray:
        class exceptions:
            RayError = ZeroDivisionError

        @staticmethod
        def get(item):
            if item is None:
                raise ZeroDivisionError
            return item

    def __init__(self, out, places: int, deadly: set[str] = frozenset(), barren: bool = False):
        self.out, self.deadly, self.barren = out, deadly, barren
        self.given: list[list[str]] = []
        self.places = [Place(node="node", host="", number=number, gpu=False, cpus=1) for number in range(places)]
        self.look()

    def look(self) -> None:
        for place in self.places:
            if not place.answer and not place.given_up:
                place.answer = Answer("here", 1, f"worker{place.number}")
                place.actor = SimpleNamespace(run=self)
                self.current = place

    def options(self, num_returns: str):
        assert num_returns == "streaming"
        return self

    def remote(self, bundle: list[Job]):
        self.given.append([job.input for job in bundle])
        (place,) = [place for place in self.places if list(place.bundle) == [job.id for job in bundle]]
        return self._work(place, bundle)

    def _work(self, place: Place, bundle: list[Job]):
        for job in bundle:
            if self.barren:
                yield None
            (self.out / PARTS / f"{job.key}.claim").write_text(f'{{"owner": "{place.answer.name}", "outputs": []}}')
            if job.input in self.deadly:
                yield None
            yield Line(job.input, "done", outputs=job.outputs, audio_seconds=1.0)

    def poll(self) -> list[Place]:
        return [place for place in self.places if place.generator]

    def bury(self, place: Place) -> None:
        place.answer = place.generator = None

    def give_up(self, place: Place, reason: str) -> None:
        self.bury(place)
        place.given_up = True


@pytest.fixture
def jobs(tmp_path):
    """Two hundred, of 1 to 40 seconds and one of ten minutes."""
    (tmp_path / PARTS).mkdir()
    seconds = {f"{index:03d}.wav": 1.0 + index * 7 % 40 for index in range(200)} | {"ages.wav": 600.0}
    naming = Naming(1)
    return [Job(Input(tmp_path, name), naming, seconds=value) for name, value in seconds.items()], seconds


def test_the_longest_come_first_in_bundles_of_minutes(jobs, tmp_path):
    fleet, lines = StandIn(tmp_path, places=3), []
    run = ClusterRun(fleet, jobs[0], out=tmp_path, recorded={}, since=0, on_line=lines.append)
    run.run(Record(tmp_path))
    assert fleet.given[0] == ["ages.wav"]
    given = [name for bundle in fleet.given for name in bundle]
    assert sorted(given) == sorted(jobs[1])  # each once
    assert [jobs[1][name] for name in given] == sorted(jobs[1].values(), reverse=True)
    totals = [sum(jobs[1][name] for name in bundle) for bundle in fleet.given[1:]]
    assert max(totals) <= 180 and totals[0] > 100
    assert totals[-1] <= 10  # so that all end alike
    assert sorted(line.input for line in lines) == sorted(jobs[1])
    assert not list((tmp_path / PARTS).glob("*.claim"))


def test_what_kills_its_worker_is_done_once_more_alone(jobs, tmp_path):
    fleet, lines, audio = StandIn(tmp_path, places=2, deadly={"005.wav", "120.wav"}), [], []
    run = ClusterRun(
        fleet,
        jobs[0],
        out=tmp_path,
        recorded={},
        since=0,
        on_line=lines.append,
        on_audio=audio.append,
    )
    run.run(Record(tmp_path))
    assert {line.input for line in lines if line.status == "failed"} == {"005.wav", "120.wav"}
    for name in fleet.deadly:
        bundles = [bundle for bundle in fleet.given if name in bundle]
        assert len(bundles) == 2 and bundles[1] == [name]
    assert set(records(tmp_path)) == set(jobs[1])


def test_a_device_whose_workers_die_of_nothing_is_given_up(jobs, tmp_path):
    fleet = StandIn(tmp_path, places=2, barren=True)
    with pytest.raises(NoDevice, match="201 files"):
        ClusterRun(fleet, jobs[0], out=tmp_path, recorded={}, since=0).run(Record(tmp_path))
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


def test_places_by_what_nodes_have():
    def node(name: str, **resources: float) -> dict:
        return {"NodeID": name, "NodeManagerAddress": name, "Alive": True, "Resources": resources}

    def places(fleet: Fleet, *nodes: dict, gpu: bool) -> list[tuple[str, int]]:
        fleet.gpu = gpu
        return [(str(place), place.cpus) for each in nodes for place in fleet._places_on(each)]

    local, remote = (
        Fleet(3, address, device="auto", task=None, weights=None, names=set()) for address in (None, "auto")
    )
    gpus, cpus, head = node("a", CPU=32.0, GPU=4.0), node("b", CPU=16.0), node("head")
    assert places(remote, gpus, cpus, head, gpu=True) == [(f"a:gpu{number}", 1) for number in range(4)]
    assert places(remote, cpus, head, gpu=False) == [("b:cpu0", 16)]
    assert places(local, cpus, gpu=False) == [("cpu0", 5), ("cpu1", 5), ("cpu2", 5)]
