"""The driver of several devices, by Ray: who gets which jobs, and what becomes of those whose worker died.

Ray places the workers and notices when one is gone. Bundles are paths, never audio: a worker reads and writes its files
itself, by the code of a run on one device, and sends their lines back. Nothing is retried by Ray: a worker that died is
replaced from here, and is given work once it has answered.
"""

import logging
import os
import shutil
import socket
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tisdiss_cli.devices import cores
from tisdiss_cli.errors import UserError
from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.pipeline import Progress
from tisdiss_cli.folder.ray_workers import Answer, Item, Said, Worker, make_task
from tisdiss_cli.folder.record import Line
from tisdiss_cli.folder.run_lock import RunLock
from tisdiss_cli.folder.settings import Options, Settings
from tisdiss_cli.model.weights import WeightFile, bundled

if TYPE_CHECKING:
    from ray import ObjectRef, ObjectRefGenerator

log = logging.getLogger("tisdiss")

JobId = tuple[str, int | None]
Settle = Callable[[Job, Line], object]

_STORE = 100 << 20  # bytes of Ray's object store on this machine: paths and a weight file are all that goes through it
_LONGEST = 40  # characters of a folder in which Ray's sockets can be: their paths must have less than 108 bytes
_LOOKS = 2.0  # seconds between looks at which nodes there are
_PATIENCE = 60.0  # seconds to wait, after the first worker is ready, for others before the work begins
_TELL = 30.0  # seconds after which it is told what is waited for
_STARTS = 3  # that fail one after the other, or deaths that no input is to blame for: then a device is given up
_BUNDLE_SECONDS = 180.0  # of audio, unless a single file has more
_BUNDLE_FILES = 64


class NoDevice(RuntimeError):
    """No device is left to work on; the sentence says why."""


@dataclass(kw_only=True)
class Place:
    """A device, and the worker on it as far as there is one."""

    node: str  # Ray's id
    host: str  # its address; "" for this machine alone
    number: int  # of the devices on that node
    gpu: bool
    cpus: int
    actor: Any = None
    answering: "ObjectRef | None" = None  # of `load`
    generator: "ObjectRefGenerator | None" = None  # of `run`
    answer: Answer | None = None
    bundle: dict[JobId, Job] = field(default_factory=dict)  # what it was given and has not yet brought back
    ahead: float = 0.0  # seconds of audio that it has told of and brought no line for
    failed_starts: int = 0
    barren: int = 0  # deaths, one after the other, that no input is to blame for
    given_up: bool = False

    def __str__(self) -> str:
        return (f"{self.host}:" if self.host else "") + f"{'gpu' if self.gpu else 'cpu'}{self.number}"

    @property
    def state(self) -> str:
        """One word for the bar."""
        if self.given_up:
            return "given up"
        return "busy" if self.generator else "ready" if self.answer else "starting"


class Fleet:
    """Workers on devices; a context in which Ray is connected and the first workers have answered.

    Args:
        options: of the run. Without `cluster`, a Ray is started that listens on the loopback only. On CPUs a node of a
            cluster is a device, and this machine is divided into `devices`.
        weights: the network's.
        inputs: how many there are.
        sample: one of them.
        lock: the run's.

    Attributes:
        settings: the workers'.

    Raises:
        UserError: Ray is missing, there is no such cluster, fewer devices than asked for, or a worker that cannot do
            the run's work as the others would.
        NoDevice: none could be started.
    """

    settings: Settings

    def __init__(self, options: Options, weights: WeightFile, inputs: int, sample: Job, lock: RunLock) -> None:
        self.options, self.lock, self.address, self.count = options, lock, options.cluster, options.device_count
        self._weights = None if weights.path in bundled() else weights.path.read_bytes()
        self._sent: Any = None  # Ray's reference to them
        self.task = make_task(options, weights, inputs, sample, lock.parts)
        self.prepare()

    def prepare(self) -> None:
        """Sets out with no places and nothing to do."""
        self.places: list[Place] = []
        self._looked = -_LOOKS
        self.todo, self.alone, self.tries = deque[Job](), deque[Job](), Counter[JobId]()
        self.handed: dict[JobId, Job] = {}  # what a worker has been given and none has brought back
        self.audio_left = 0.0

    def __enter__(self) -> "Fleet":
        with ExitStack() as stack:
            stack.callback((self.lock.parts / "token").unlink, missing_ok=True)
            stack.enter_context(
                redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8")))
            )  # Ray prints there
            self.ray = _connect(self.address, self.count, stack)
            stack.callback(self._close)
            found = self._nodes()
            self.gpu = self.options.device != "cpu" and any(node["Resources"].get("GPU", 0) >= 1 for node in found)
            if self.options.device == "cuda" and not self.gpu:
                raise UserError("--device cuda: Ray sees no GPU there: check ray status, or use --device cpu")
            self._look(now=True)
            if self.count and len(self.places) < self.count:
                kind = "GPUs" if self.gpu else "nodes"
                raise UserError(f"--devices {self.count}: there are {len(self.places)} {kind}: ask for fewer, or all")
            self.settings = self._muster()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _close(self) -> None:
        """Ends every worker, and Ray if it was started here."""
        for place in self.places:
            self._end(place)
        self.ray.shutdown()
        if self.address is not None:
            time.sleep(0.5)  # a cluster's own daemons end the processes
        for job in self.handed.values():
            self.lock.dropped(job)

    # Work ---------------------------------------------------------------------------------------

    def run(self, first: list[Job], last: list[Job], settle: Settle) -> Iterator[Progress | Line]:
        """Does every job, and yields what is done as it comes.

        Args:
            first: what is to do; they know their seconds of audio.
            last: what is done at the end, each job by itself.
            settle: is given each job with its line, to record it.

        Raises:
            RecordError: as `settle` does.
            NoDevice: every device has been given up.
        """
        # The longest first, so that none is left alone at the end.
        self.todo.extend(sorted(first, key=lambda job: (-job.seconds, job.input, job.channel or 0)))
        self.alone.extend(last)
        self.tries.update({job.id: 2 for job in last})
        self.audio_left = sum(job.seconds for job in first)
        try:
            while self.todo or self.alone or any(place.bundle for place in self.places):
                yield from self._turn(settle)
        finally:
            for place in self.places:  # what has come and was not taken in yet is done
                with suppress(Exception):
                    while place.generator and self.ray.wait([place.generator], timeout=0)[0]:
                        list(self._take(place, settle))
                self._end(place)

    def _turn(self, settle: Settle) -> Iterator[Progress | Line]:
        """Gives out bundles, and takes in what has come."""
        self._look()
        for place in self.places:
            if place.answer and not place.generator and (bundle := self._bundle()):
                place.bundle = {job.id: job for job in bundle}
                self.handed |= place.bundle
                place.generator = place.actor.run.options(num_returns="streaming").remote(bundle)
        left = len(self.todo) + len(self.alone) + sum(len(place.bundle) for place in self.places)
        if all(place.given_up for place in self.places):
            raise NoDevice(f"{left} files are left, and no device to do them on")
        for place in self._poll():
            yield from self._take(place, settle)
        states = [f"{place} {place.state}" for place in self.places]
        more = f" and {len(states) - 8} more" if len(states) > 8 else ""
        yield Progress(0.0, f"{left} files left; {', '.join(states[:8])}{more}")

    def _bundle(self) -> list[Job]:
        """Returns the next jobs for one worker: some, so that batches fill; towards the end fewer: all end alike."""
        share = self.audio_left / (2 * max(1, len(self.places)))
        most, total, bundle = min(_BUNDLE_SECONDS, share), 0.0, list[Job]()
        while self.todo and len(bundle) < _BUNDLE_FILES and not (bundle and total + self.todo[0].seconds > most):
            job = self.todo.popleft()
            self.audio_left -= job.seconds
            total += job.seconds
            bundle.append(job)
        return bundle or ([self.alone.popleft()] if self.alone else [])

    def _take(self, place: Place, settle: Settle) -> Iterator[Progress | Line]:
        """Takes in one thing that a worker sent, its bundle's end or its death."""
        try:
            item: Item = self.ray.get(next(place.generator))  # type: ignore[arg-type]
        except StopIteration:
            place.generator = None
            return
        except self.ray.exceptions.RayError:
            yield from self._died(place, settle)
            return
        if isinstance(item, Progress):
            place.ahead += item.seconds
            yield item
        elif isinstance(item, Line):
            settle(place.bundle.pop(item.id), item)
            del self.handed[item.id]
            place.barren, place.ahead = 0, place.ahead - item.audio_seconds
            yield item
        elif isinstance(item, Said):
            log.log(item.level, f"{place}: {item.text}")
        else:
            for job in reversed(self._lost(place)):
                self._again(job)
            yield from self._taken_back(place)
            self._give_up(place, item.text)

    def _died(self, place: Place, settle: Settle) -> Iterator[Progress | Line]:
        """What a dead worker did not bring back goes to another, then it is done by itself, and then it has failed."""
        lost = self._lost(place)
        begun = [job for job in lost if (self.lock.parts / job.key).is_dir()]
        log.warning(f"warning: the worker on {place} died" + (f" at {begun[0].input}" if begun else ""))
        yield from self._taken_back(place)
        for job in reversed(lost):
            self.tries[job.id] += 1
            if self.tries[job.id] == 1:
                self._again(job)
            elif self.tries[job.id] == 2:
                self.alone.append(job)
            else:
                reason = f"{job.path} killed its worker, also by itself: see whether the memory suffices for it"
                line = Line(
                    job.input,
                    "failed",
                    job.resolved,
                    reason,
                    settings=self.settings.recorded,
                    source=fingerprint(job.path),
                    channel=job.channel,
                )
                settle(job, line)
                del self.handed[job.id]
                yield line
        place.barren = 0 if begun else place.barren + 1
        if place.barren == _STARTS:
            self._give_up(place, "its workers die, whatever they are given")
            return
        self._end(place)
        self._looked = -_LOOKS  # so that another is started at once
        self._sent = None  # Ray would fetch it from any node that has it, and wait ten seconds for one that is gone

    def _lost(self, place: Place) -> list[Job]:
        lost, place.bundle = list(place.bundle.values()), {}
        return lost

    def _again(self, job: Job) -> None:
        self.todo.appendleft(job)
        self.audio_left += job.seconds

    def _taken_back(self, place: Place) -> Iterator[Progress]:
        """Takes back what was told of inputs that are to be done again."""
        if place.ahead:
            yield Progress(-place.ahead)
        place.ahead = 0.0

    # Places -------------------------------------------------------------------------------------

    def _look(self, now: bool = False) -> None:
        """Takes in nodes that have come, lets go of those that are gone, starts workers where there are none."""
        if not now and time.monotonic() - self._looked < _LOOKS:
            return
        self._looked = time.monotonic()
        nodes = self._nodes()
        alive = {node["NodeID"] for node in nodes}
        self.places = [place for place in self.places if place.actor or place.given_up or place.node in alive]
        known = {(place.node, place.number) for place in self.places}
        for place in (place for node in nodes for place in self._places_on(node)):
            enough = self.count and sum(not known.given_up for known in self.places) >= self.count
            if (place.node, place.number) not in known and not enough:
                self.places.append(place)
        for place in self.places:
            if not place.actor and not place.given_up and place.node in alive:
                self._start(place)

    def _nodes(self) -> list[dict[str, Any]]:
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        return sorted(nodes, key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))

    def _places_on(self, node: dict[str, Any]) -> list[Place]:
        cpus, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
        if self.gpu:
            count, each = gpus, min(1, cpus // max(1, gpus))
        elif self.address is None:
            count = self.count or 1
            each = max(1, cpus // count)
        else:
            count, each = min(1, cpus), cpus
        host = "" if self.address is None else node["NodeManagerAddress"]
        return [
            Place(node=node["NodeID"], host=host, number=number, gpu=self.gpu, cpus=each) for number in range(count)
        ]

    def _start(self, place: Place) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = {
            "num_cpus": place.cpus,
            "num_gpus": int(place.gpu),
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(place.node, soft=False),
        }
        place.actor = self.ray.remote(Worker).options(**options).remote()
        if self._sent is None and self._weights is not None:
            self._sent = self.ray.put(self._weights)
        # Not in __init__: what is raised there comes back as text only.
        device, threads = "cuda" if place.gpu else "cpu", max(1, place.cpus)
        place.answering = place.actor.load.remote(self.task, device, threads=threads, weights=self._sent)

    def _end(self, place: Place) -> None:
        actor, place.actor, place.answering, place.generator, place.answer = place.actor, None, None, None, None
        if actor is not None:
            with suppress(Exception):
                self.ray.kill(actor)

    def _give_up(self, place: Place, reason: str) -> None:
        """Uses a device no more."""
        self._end(place)
        place.given_up = True
        log.warning(f"warning: going on without {place}: {reason}")

    # Answers ------------------------------------------------------------------------------------

    def _muster(self) -> Settings:
        """Waits for the workers to answer; returns their settings. UserError and NoDevice as the class."""
        deadline, began, told = float("inf"), time.monotonic(), False
        while waiting := [place for place in self.places if place.answering or not (place.answer or place.given_up)]:
            names = ", ".join(str(place) for place in waiting)
            if any(place.answer for place in self.places):
                deadline = min(deadline, time.monotonic() + _PATIENCE)
            if time.monotonic() > deadline:
                log.info(f"beginning without {names}: still starting")
                break
            if not told and time.monotonic() - began > _TELL:
                log.info(f"waiting for {names}: starting, or busy with other work")
                told = True
            self._poll(strict=True)
            self._look()
        ready = [place.answer for place in self.places if place.answer]
        if not ready:
            raise NoDevice("no device could be started: see the sentences above, or leave out --devices and --cluster")
        self.first = ready[0]
        for other in ready:
            if difference := _difference(self.first, other):
                raise UserError(difference)
        assert self.first.settings is not None  # of one without trouble
        return self.first.settings

    def _poll(self, strict: bool = False) -> list[Place]:
        """Waits a moment for something to come; returns the places whose bundles have brought something.

        What `load` answers is taken in here. With `strict` an answer that tells of trouble is a UserError, else its
        device is given up.
        """
        waiting: dict[Any, Place] = {}
        for place in self.places:
            if found := place.generator or place.answering:
                waiting[found] = place
        if not waiting:
            time.sleep(0.1)
            return []
        ready, _ = self.ray.wait(list(waiting), num_returns=1, timeout=0.5)
        if ready:  # whatever else is there already comes along
            ready, _ = self.ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for place in (waiting[ref] for ref in ready):
            if not place.generator:
                self._take_answer(place, strict)
        return [waiting[ref] for ref in ready if waiting[ref].generator]

    def _take_answer(self, place: Place, strict: bool) -> None:
        try:
            answer: Answer = self.ray.get(place.answering)
        except self.ray.exceptions.RayError as error:
            place.failed_starts += 1
            self._end(place)
            if place.failed_starts == _STARTS:
                self._give_up(place, _last_line(error))
            return
        place.answering = None
        trouble = answer.trouble or ("" if strict else _difference(self.first, answer))
        if trouble and strict:
            raise UserError(trouble)
        if trouble:
            self._give_up(place, trouble)
            return
        place.answer, place.failed_starts = answer, 0


def _difference(one: Answer, other: Answer) -> str:
    """Returns in what two workers would not do the same, as a sentence; "" where there is nothing."""
    assert one.settings and other.settings  # neither has trouble
    for key, value in other.settings.recorded.items():
        if value != one.settings.recorded.get(key):
            return (
                f"{one.host} would work with {key} {one.settings.recorded.get(key)}, {other.host} with {value}: choose "
                "by an option, or install the same weights on both"
            )
    return ""


# Connection -------------------------------------------------------------------------------------


def find_ray(address: str | None) -> Any:
    """Returns Ray's module; UserError where it is missing, or nothing answers at the address of a cluster."""
    if address not in (None, "auto"):
        _check_address(address)
    # Read when ray is imported, and by its own processes.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # then its daemons listen on the loopback only
        os.environ.setdefault("RAY_worker_niceness", "0")  # as one process has it; by default its workers give way
    try:
        import ray
    except ImportError:
        raise UserError("--devices and --cluster need the package ray: pip install 'tisdiss[cluster]'") from None
    return ray


def _connect(address: str | None, devices: int | None, stack: ExitStack) -> Any:
    """Returns Ray's module, connected; UserError as `find_ray`, or where it cannot be."""
    ray = find_ray(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    if address is None:
        folder = tempfile.mkdtemp(prefix="tisdiss-", dir=_short_folder())
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        options |= {
            "address": "local",  # not a cluster that happens to run on this machine
            "include_dashboard": False,
            "num_cpus": max(cores(), devices or 1),
            "object_store_memory": _STORE,
            "_temp_dir": folder,
        }
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except Exception as error:  # of many kinds, by what is wrong with the address
        where = "Ray could not be started here" if address is None else f"--cluster {address}: no cluster answers there"
        raise UserError(f"{where}: {_last_line(error)}") from None
    return ray


def _short_folder() -> str:
    """Returns the folder for temporary files, or, where its name is too long for sockets, another that takes files."""
    wanted = tempfile.gettempdir()
    fitting = (place for place in (wanted, "/tmp", "/var/tmp", os.path.expanduser("~")) if len(place) < _LONGEST)
    return next((place for place in fitting if os.access(place, os.W_OK)), wanted)


def _check_address(address: str) -> None:
    """UserError unless something answers there: Ray itself would go on trying for minutes."""
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdecimal():
        raise UserError(
            f"--cluster {address}: write auto on one of its nodes, or HOST:PORT as ray start has printed it"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--cluster {address}: no cluster answers there: {error}") from None


def _last_line(error: Exception) -> str:
    """Returns what is wrong, of an error of Ray's, which may have pages of text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].rstrip(".")
