"""The driver of several devices, by Ray: who gets which jobs, and what becomes of those whose worker died.

Ray places the workers and notices when one is gone. Bundles are paths, never audio: a worker reads and writes its files
itself, by the code of a run on one device, and sends their lines back. Nothing is retried by Ray: a worker that died is
replaced from here, and is given work once it has answered.
"""

import logging
import os
import socket
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any

from tisdiss_cli.devices import OutOfMemory, cores
from tisdiss_cli.errors import UserError, listed
from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.pipeline import Progress
from tisdiss_cli.folder.ray_workers import Item, Task, Worker
from tisdiss_cli.folder.record import Line
from tisdiss_cli.folder.run_lock import RunLock
from tisdiss_cli.folder.settings import Options, Settings

log = logging.getLogger("tisdiss")

Settle = Callable[[Job, Line], object]

_STORE = 100 << 20  # bytes of Ray's object store on this machine: paths and a weight file are all that goes through it
_LONGEST = 40  # characters of a folder in which Ray's sockets can be: their paths must have less than 108 bytes
_LOOKS = 2.0  # seconds between looks at which nodes there are
_PATIENCE = 60.0  # seconds to wait, after the first worker is ready, for others before the work begins
_VAIN = 3  # starts and deaths in a row that no input is to blame for: then a device is given up
_BUNDLE_SECONDS = 180.0  # of audio, unless a single file has more
_BUNDLE_FILES = 64


class NoDevice(RuntimeError):
    """No device is left to work on; the sentence says why."""


@dataclass
class Place:
    """A device and the worker on it."""

    name: str
    device: tuple[str, int]  # Ray's id of the machine, and which of the devices there
    cpus: int
    actor: Any = None
    call: Any = None  # the generator of its bundle's items
    ready: bool = False  # whether it has loaded its network
    bundle: list[Job] = field(default_factory=list)  # what it was given and has not yet brought back
    ahead: float = 0.0  # seconds of audio that it has told of and brought no line for

    def __str__(self) -> str:
        return self.name


class Fleet:
    """Workers on devices, each given a bundle of jobs at a time.

    On CPUs a node of a cluster is a device, and this machine is divided into `--devices` ones.
    """

    def __init__(self, ray: Any, options: Options, task: Task, lock: RunLock) -> None:
        self.ray, self.options, self.task, self.lock = ray, options, task, lock
        self.local, self.count = options.cluster is None, options.device_count
        self.gpu = options.device != "cpu" and any(node["Resources"].get("GPU", 0) >= 1 for node in self._nodes())
        self.places: list[Place] = []
        self.settings: Settings | None = None  # of the first worker that was ready, and so of all
        self.settle: Settle = lambda job, line: None
        self.at_work = False
        self.vain = Counter[tuple[str, int]]()  # by device: starts and deaths in a row that no input is to blame for
        self.looked = -_LOOKS
        self.todo, self.audio_left = deque[Job](), 0.0  # the first that are to do next, and seconds of them
        self.tries = Counter[str]()  # that ended in death, by the jobs' keys; with two a job is done by itself

    def muster(self) -> Settings:
        """Starts workers and waits for them; returns their settings.

        Raises:
            UserError: fewer devices than asked for, or a worker that cannot do the run's work as the others would.
            NoDevice: none could be started.
        """
        if self.options.device == "cuda" and not self.gpu:
            raise UserError("--device cuda: Ray sees no GPU there: check ray status, or use --device cpu")
        self._look()
        if self.count and len(self.places) < self.count:
            kind = "GPUs" if self.gpu else "nodes"
            raise UserError(f"--devices {self.count}: there are {len(self.places)} {kind}: ask for fewer, or all")
        deadline = time.monotonic() + _PATIENCE
        while waiting := [place for place in self.places if not place.ready]:
            if time.monotonic() > deadline:
                log.info(f"not ready yet: {listed(waiting)}: starting, or busy with other work")
                deadline += _PATIENCE
                if self.settings:
                    break
            alone = not self.settings
            list(self._news())
            if alone and self.settings:
                deadline = time.monotonic() + _PATIENCE
            self._look()
        if not self.settings:
            raise NoDevice("no device could be started: see the sentences above, or leave out --devices and --cluster")
        return self.settings

    def run(self, first: list[Job], last: list[Job], settle: Settle) -> Iterator[Progress | Line]:
        """Does every job, and yields what is done as it comes; the last ones at the end, each by itself.

        `settle` is given each job with its line, to record it. RecordError as it has; NoDevice when every device has
        been given up.
        """
        self.settle, self.at_work = settle, True
        # The longest first, so that none is left alone at the end.
        self.todo.extend([*sorted(first, key=lambda job: (-job.seconds, job.input, job.channel or 0)), *last])
        self.audio_left = sum(job.seconds for job in self.todo)
        self.tries.update({job.key: 2 for job in last})
        while left := len(self.todo) + sum(len(place.bundle) for place in self.places):
            self._look()
            if not self.places:
                raise NoDevice(f"{left} files are left, and no device to do them on")
            for place in self.places:
                if place.ready and not place.call and self.todo:
                    place.bundle = self._bundle()
                    place.call = place.actor.run.remote(list(place.bundle))
            yield from self._news()
            busy = sum(bool(place.bundle) for place in self.places)
            yield Progress(0.0, f"{left} files left; {busy} of {len(self.places)} devices busy")

    def close(self) -> None:
        """Ends every worker, and Ray if it was started here; what was not brought back is forgotten."""
        places = list(self.places)
        for place in places:
            with suppress(Exception):
                while place.call and self.ray.wait([place.call], timeout=0)[0]:  # what has come is done
                    list(self._take(place))
                self.ray.kill(place.actor)
        self.ray.shutdown()
        if not self.local:
            time.sleep(0.5)  # a cluster's own daemons end the processes
        for job in (job for place in places for job in place.bundle):
            self.lock.dropped(job)

    def _bundle(self) -> list[Job]:
        """Returns the next jobs for one worker: some, so that batches fill; towards the end fewer: all end alike."""
        most, total, bundle = min(_BUNDLE_SECONDS, self.audio_left / (2 * len(self.places))), 0.0, list[Job]()
        while self.todo and len(bundle) < _BUNDLE_FILES:
            job = self.todo[0]
            total += inf if self.tries[job.key] == 2 else job.seconds
            if bundle and total > most:
                break
            bundle.append(self.todo.popleft())
            self.audio_left -= job.seconds
        return bundle

    # What workers tell ---------------------------------------------------------------------------

    def _news(self) -> Iterator[Progress | Line]:
        """Waits a moment for something to come, and takes it in."""
        calls = {place.call: place for place in self.places if place.call}
        if not calls:
            time.sleep(0.1)
            return
        ready, _ = self.ray.wait(list(calls), num_returns=1, timeout=0.5)
        if ready:  # whatever else is there already comes along
            ready, _ = self.ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in ready:
            yield from self._take(calls[call])

    def _take(self, place: Place) -> Iterator[Progress | Line]:
        """Takes in one thing that a worker sent, its bundle's end, why it can do no more, or its death."""
        try:
            item: Item = self.ray.get(next(place.call))
        except StopIteration:
            place.call = None
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            known = isinstance(cause, UserError | OutOfMemory | OSError)
            yield from self._refuse(place, str(cause) if known else f"{type(cause).__name__}: {cause}")
        except self.ray.exceptions.RayError as error:
            begun = [job.input for job in place.bundle if (self.lock.parts / job.key).is_dir()]
            self.vain[place.device] = 0 if begun else self.vain[place.device] + 1
            self.tries.update(job.key for job in place.bundle)
            if place.ready:
                log.warning(f"warning: the worker on {place} died" + (f" at {begun[0]}" if begun else ""))
            if self.vain[place.device] == _VAIN:
                log.warning(f"warning: going on without {place}: {_VAIN} of its workers died: {_last_line(error)}")
            yield from self._lose(place)
        else:
            if isinstance(item, Settings):
                place.ready, self.settings = True, self.settings or item
                for key, value in self.settings.recorded.items():
                    if item.recorded.get(key) != value:
                        its = f"it would work with {key} {item.recorded.get(key)}, the others with {value}"
                        yield from self._refuse(place, f"{its}: choose by an option")
                        break
            elif isinstance(item, logging.LogRecord):
                log.log(item.levelno, f"{place}: {item.getMessage()}")
            elif isinstance(item, Line):
                job = next(job for job in place.bundle if (job.input, job.channel) == item.id)
                place.bundle.remove(job)
                self.settle(job, item)
                self.vain[place.device] = 0
                place.ahead -= item.audio_seconds
                yield item
            else:
                place.ahead += item.seconds
                yield item

    def _refuse(self, place: Place, reason: str) -> Iterator[Progress | Line]:
        """Uses a device no more; before the work begins it is the user's to mend."""
        if not self.at_work:
            raise UserError(f"{place}: {reason}")
        log.warning(f"warning: going on without {place}: {reason}")
        self.vain[place.device] = _VAIN
        yield from self._lose(place)

    def _lose(self, place: Place) -> Iterator[Progress | Line]:
        """Ends a worker, and shares out what it did not bring back.

        Where a worker died of it, an input goes to another; then it is done by itself, and then it has failed.
        """
        with suppress(Exception):
            self.ray.kill(place.actor)
        self.places.remove(place)
        self.looked = -_LOOKS  # so that another is started at once
        yield Progress(-place.ahead)
        lost, place.bundle, place.call = place.bundle, [], None
        for job in reversed(lost):
            self.lock.dropped(job)
            if self.tries[job.key] > 2:
                reason = f"{job.path} killed its worker, also by itself: see whether the memory suffices for it"
                line = job.line(
                    reason, settings=self.settings.recorded if self.settings else {}, source=fingerprint(job.path)
                )
                self.settle(job, line)
                yield line
                continue
            self.audio_left += job.seconds
            if self.tries[job.key] == 2:
                self.todo.append(job)
            else:
                self.todo.appendleft(job)

    # Devices ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Starts workers on devices that have none, those of nodes that have come among them."""
        if time.monotonic() - self.looked < _LOOKS:
            return
        self.looked = time.monotonic()
        for place in (place for node in self._nodes() for place in self._places_on(node)):
            enough = self.count is not None and len(self.places) >= self.count
            known = {place.device for place in self.places}
            if place.device not in known and self.vain[place.device] < _VAIN and not enough:
                self.places.append(place)
                self._start(place)

    def _nodes(self) -> list[dict[str, Any]]:
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        return sorted(nodes, key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))

    def _places_on(self, node: dict[str, Any]) -> list[Place]:
        cpus, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
        if self.gpu:
            count, each = gpus, min(1, cpus // max(1, gpus))
        elif self.local:
            count = self.count or 1
            each = max(1, cpus // count)
        else:
            count, each = min(1, cpus), cpus
        prefix = ("" if self.local else f"{node['NodeManagerAddress']}:") + ("gpu" if self.gpu else "cpu")
        return [Place(f"{prefix}{number}", (node["NodeID"], number), each) for number in range(count)]

    def _start(self, place: Place) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(place.device[0], soft=False)
        worker = self.ray.remote(Worker).options(
            num_cpus=place.cpus, num_gpus=int(self.gpu), scheduling_strategy=strategy
        )
        place.actor = worker.remote(self.task, "cuda" if self.gpu else "cpu", max(1, place.cpus))
        place.call = place.actor.run.remote([])  # which loads the network


# Connection -------------------------------------------------------------------------------------


def find_ray(address: str | None) -> Any:
    """Returns Ray's module; UserError where it is missing, or nothing answers at the address of a cluster."""
    if address not in (None, "auto"):
        host, colon, port = address.rpartition(":")
        if "://" in address or not colon or not port.isdecimal():
            advice = "write auto on one of its nodes, or HOST:PORT as ray start has printed it"
            raise UserError(f"--cluster {address}: {advice}")
        try:  # Ray itself would go on trying for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--cluster {address}: no cluster answers there: {error}") from None
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


@contextmanager
def start_fleet(options: Options, task: Task, lock: RunLock) -> Iterator[Fleet]:
    """Connects to Ray, silently, and gives a fleet; UserError as `find_ray`, or where Ray cannot be connected.

    Without `cluster`, a Ray is started that listens on the loopback only.
    """
    ray, address = find_ray(options.cluster), options.cluster
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        if address is None:
            folder = tempfile.TemporaryDirectory(prefix="tisdiss-", dir=_short_folder(), ignore_cleanup_errors=True)
            how |= {
                "address": "local",  # not a cluster that happens to run on this machine
                "include_dashboard": False,
                "num_cpus": max(cores(), options.device_count or 1),
                "object_store_memory": _STORE,
                "_temp_dir": stack.enter_context(folder),
            }
        else:
            how["address"] = address
        try:
            ray.init(**how)
        except Exception as error:  # of many kinds, by what is wrong with the address
            place = "Ray could not be started here" if address is None else f"--cluster {address}: no cluster is there"
            raise UserError(f"{place}: {_last_line(error)}") from None
        fleet = Fleet(ray, options, task, lock)
        stack.callback(fleet.close)
        yield fleet


def _short_folder() -> str:
    """Returns the folder for temporary files, or, where its name is too long for sockets, another that takes files."""
    wanted = tempfile.gettempdir()
    fitting = (place for place in (wanted, "/tmp", "/var/tmp", os.path.expanduser("~")) if len(place) < _LONGEST)
    return next((place for place in fitting if os.access(place, os.W_OK)), wanted)


def _last_line(error: Exception) -> str:
    """Returns what is wrong, of an error of Ray's, which may have pages of text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].rstrip(".")
