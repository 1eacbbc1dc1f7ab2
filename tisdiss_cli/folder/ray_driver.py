"""Driver of several devices by Ray: distributes jobs, and replaces workers that die.

Ray slots the workers and detects when one dies. Workers get paths, never audio: they read and write files by the code
of a run on one device, and send lines back. Ray retries nothing: a dead worker is replaced from here, and gets jobs
once it is ready.
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
from tisdiss_cli.libraries import require

log = logging.getLogger("tisdiss")

Commit = Callable[[Job, Line], object]

_STORE = 100 << 20  # bytes of Ray's object store on this machine, for paths and a weight file
_LONGEST = 40  # characters of the folder of Ray's sockets, whose paths must have less than 108 bytes
_SCAN = 2.0  # seconds between scans for nodes
_PATIENCE = 60.0  # seconds to wait for all workers, if one is ready
_MOST_FAILURES = 3  # starts and deaths in a row, without a job to blame, after which a device is given up
_BATCH_SECONDS = 180.0  # of audio in a batch of jobs, unless a single file has more
_BATCH_FILES = 64


class NoDevice(RuntimeError):
    """No device is left; the sentence says why."""


@dataclass
class Slot:
    """Slot: a device and the worker on it."""

    name: str
    device: tuple[str, int]  # Ray's id of the node, and the number of the device there
    cpus: int
    actor: Any = None
    call: Any = None  # generator of the items of its batch
    ready: bool = False  # whether its network is loaded
    batch: list[Job] = field(default_factory=list)  # jobs without a line yet
    ahead: float = 0.0  # seconds of audio reported as progress, without a line yet

    def __str__(self) -> str:
        return self.name


class WorkerPool:
    """Worker pool: a worker on each device, with a batch of jobs at a time.

    On CPUs, a node of a cluster is a device, and this machine is divided into `--devices` ones.
    """

    def __init__(self, ray: Any, options: Options, task: Task, lock: RunLock) -> None:
        self.ray, self.options, self.task, self.lock = ray, options, task, lock
        self.local, self.count = options.cluster is None, options.device_count
        self.gpu = options.device != "cpu" and any(node["Resources"].get("GPU", 0) >= 1 for node in self._nodes())
        self.slots: list[Slot] = []
        self.settings: Settings | None = None  # of the first ready worker, and so of all
        self.commit: Commit = lambda job, line: None
        self.running = False
        self.failures = Counter[tuple[str, int]]()  # in a row, by device, without a job to blame
        self.scanned = -_SCAN
        self.todo, self.audio_left = deque[Job](), 0.0  # jobs to do, in order, and their seconds
        self.tries = Counter[str]()  # deaths of workers by job key; after two a job is done by itself

    def wait_until_ready(self) -> Settings:
        """Starts workers and waits until they are ready; returns their settings.

        Raises:
            UserError: fewer devices than requested, or a worker with other settings than the others.
            NoDevice: no worker could be started.
        """
        if self.options.device == "cuda" and not self.gpu:
            raise UserError("--device cuda: Ray has no GPU there: check ray status, or use --device cpu")
        self._scan_nodes()
        if self.count and len(self.slots) < self.count:
            kind = "GPUs" if self.gpu else "nodes"
            raise UserError(f"--devices {self.count}: there are {len(self.slots)} {kind}: ask for fewer, or all")
        deadline = time.monotonic() + _PATIENCE
        while waiting := [slot for slot in self.slots if not slot.ready]:
            if time.monotonic() > deadline:
                log.info(f"not ready yet: {listed(waiting)}: starting, or busy with other work")
                if self.settings:
                    break
                deadline += _PATIENCE
            list(self._poll())
            self._scan_nodes()
        if not self.settings:
            raise NoDevice("no device could be started: see the messages above, or leave out --devices and --cluster")
        return self.settings

    def run(self, first: list[Job], last: list[Job], commit: Commit) -> Iterator[Progress | Line]:
        """Distributes all jobs, and yields progress and lines; the jobs in `last` come at the end, each by itself.

        `commit` records each job's line, perhaps with RecordError. NoDevice if every device was given up.
        """
        self.commit, self.running = commit, True
        # The longest first, so that no device is left with a long job at the end.
        self.todo.extend([*sorted(first, key=lambda job: (-job.seconds, job.input, job.channel or 0)), *last])
        self.audio_left = sum(job.seconds for job in self.todo)
        self.tries.update({job.key: 2 for job in last})
        while left := len(self.todo) + sum(len(slot.batch) for slot in self.slots):
            self._scan_nodes()
            if not self.slots:
                raise NoDevice(f"{left} files are left, and no device")
            for slot in self.slots:
                if slot.ready and not slot.call and self.todo:
                    slot.batch = self._next_batch()
                    slot.call = slot.actor.run.remote(list(slot.batch))
            yield from self._poll()
            busy = sum(bool(slot.batch) for slot in self.slots)
            yield Progress(0.0, f"{left} files left; {busy} of {len(self.slots)} devices busy")

    def close(self) -> None:
        """Ends every worker, and Ray if it was started here, and abandons unfinished jobs."""
        slots = list(self.slots)
        for slot in slots:
            with suppress(Exception):
                while slot.call and self.ray.wait([slot.call], timeout=0)[0]:  # takes in finished items
                    list(self._handle(slot))
                self.ray.kill(slot.actor)
        self.ray.shutdown()
        if not self.local:
            time.sleep(0.5)  # for a cluster's daemons to end the processes
        for job in (job for slot in slots for job in slot.batch):
            self.lock.abandon(job)

    def _next_batch(self) -> list[Job]:
        """Returns the next jobs for a worker: several, to fill batches of chunks; fewer towards the end."""
        most, total, batch = min(_BATCH_SECONDS, self.audio_left / (2 * len(self.slots))), 0.0, list[Job]()
        while self.todo and len(batch) < _BATCH_FILES:
            job = self.todo[0]
            total += inf if self.tries[job.key] == 2 else job.seconds
            if batch and total > most:
                break
            batch.append(self.todo.popleft())
            self.audio_left -= job.seconds
        return batch

    # Messages of workers ---------------------------------------------------------------------------

    def _poll(self) -> Iterator[Progress | Line]:
        """Waits briefly for messages of workers, and handles them."""
        calls = {slot.call: slot for slot in self.slots if slot.call}
        if not calls:
            time.sleep(0.1)
            return
        ready, _ = self.ray.wait(list(calls), num_returns=1, timeout=0.5)
        if ready:  # with everything else that is ready
            ready, _ = self.ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in ready:
            yield from self._handle(calls[call])

    def _handle(self, slot: Slot) -> Iterator[Progress | Line]:
        """Handles a message of a worker: an item, the end of its batch, its error, or its death."""
        try:
            item: Item = self.ray.get(next(slot.call))
        except StopIteration:
            slot.call = None
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            explained = isinstance(cause, UserError | OutOfMemory | OSError)
            yield from self._give_up(slot, str(cause) if explained else f"{type(cause).__name__}: {cause}")
        except self.ray.exceptions.RayError as error:
            begun = [job.input for job in slot.batch if (self.lock.parts / job.key).is_dir()]
            self.failures[slot.device] = 0 if begun else self.failures[slot.device] + 1
            self.tries.update(job.key for job in slot.batch)
            if slot.ready:
                log.warning(f"warning: the worker on {slot} died" + (f" at {begun[0]}" if begun else ""))
            if self.failures[slot.device] == _MOST_FAILURES:
                log.warning(
                    f"warning: going on without {slot}, where {_MOST_FAILURES} workers died: {_last_line(error)}"
                )
            yield from self._replace(slot)
        else:
            if isinstance(item, Settings):
                slot.ready, self.settings = True, self.settings or item
                for key, value in self.settings.recorded.items():
                    if item.recorded.get(key) != value:
                        its = f"it would use {key} {item.recorded.get(key)}, the others {value}"
                        yield from self._give_up(slot, f"{its}: set it by an option")
                        break
            elif isinstance(item, logging.LogRecord):
                log.log(item.levelno, f"{slot}: {item.getMessage()}")
            elif isinstance(item, Line):
                job = next(job for job in slot.batch if (job.input, job.channel) == item.id)
                slot.batch.remove(job)
                self.commit(job, item)
                self.failures[slot.device] = 0
                slot.ahead -= item.audio_seconds
                yield item
            else:
                slot.ahead += item.seconds
                yield item

    def _give_up(self, slot: Slot, reason: str) -> Iterator[Progress | Line]:
        """Gives a device up; UserError before the work has begun."""
        if not self.running:
            raise UserError(f"{slot}: {reason}")
        log.warning(f"warning: going on without {slot}: {reason}")
        self.failures[slot.device] = _MOST_FAILURES
        yield from self._replace(slot)

    def _replace(self, slot: Slot) -> Iterator[Progress | Line]:
        """Ends a worker and returns its jobs to the queue.

        A job whose worker died goes to another worker, then by itself, and then it has failed.
        """
        with suppress(Exception):
            self.ray.kill(slot.actor)
        self.slots.remove(slot)
        self.scanned = -_SCAN  # to start another at once
        yield Progress(-slot.ahead)
        lost, slot.batch, slot.call = slot.batch, [], None
        for job in reversed(lost):
            self.lock.abandon(job)
            if self.tries[job.key] > 2:
                reason = f"{job.path} killed its worker, even by itself: check whether the memory suffices"
                line = job.line(
                    reason, settings=self.settings.recorded if self.settings else {}, source=fingerprint(job.path)
                )
                self.commit(job, line)
                yield line
                continue
            self.audio_left += job.seconds
            if self.tries[job.key] == 2:
                self.todo.append(job)
            else:
                self.todo.appendleft(job)

    # Devices ------------------------------------------------------------------------------------

    def _scan_nodes(self) -> None:
        """Starts workers on devices without one, also on new nodes."""
        if time.monotonic() - self.scanned < _SCAN:
            return
        self.scanned = time.monotonic()
        for slot in (slot for node in self._nodes() for slot in self._slots_on(node)):
            enough = self.count is not None and len(self.slots) >= self.count
            used = {slot.device for slot in self.slots}
            if slot.device not in used and self.failures[slot.device] < _MOST_FAILURES and not enough:
                self.slots.append(slot)
                self._start(slot)

    def _nodes(self) -> list[dict[str, Any]]:
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        return sorted(nodes, key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))

    def _slots_on(self, node: dict[str, Any]) -> list[Slot]:
        cpus, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
        if self.gpu:
            count, each = gpus, min(1, cpus // max(1, gpus))
        elif self.local:
            count = self.count or 1
            each = max(1, cpus // count)
        else:
            count, each = min(1, cpus), cpus
        prefix = ("" if self.local else f"{node['NodeManagerAddress']}:") + ("gpu" if self.gpu else "cpu")
        return [Slot(f"{prefix}{number}", (node["NodeID"], number), each) for number in range(count)]

    def _start(self, slot: Slot) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(slot.device[0], soft=False)
        worker = self.ray.remote(Worker).options(
            num_cpus=slot.cpus, num_gpus=int(self.gpu), scheduling_strategy=strategy
        )
        slot.actor = worker.remote(self.task, "cuda" if self.gpu else "cpu", max(1, slot.cpus))
        slot.call = slot.actor.run.remote([])  # loads the network


# Connection -------------------------------------------------------------------------------------


def find_ray(address: str | None) -> Any:
    """Returns the module ray; UserError if it is missing, or nothing answers at a cluster's address."""
    if address not in (None, "auto"):
        host, colon, port = address.rpartition(":")
        if "://" in address or not colon or not port.isdecimal():
            advice = "write auto on one of its nodes, or HOST:PORT as printed by ray start"
            raise UserError(f"--cluster {address}: {advice}")
        try:  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--cluster {address}: no cluster answers there: {error}") from None
    # Read by ray's import, and by its processes.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # its daemons listen on the loopback only
        os.environ.setdefault("RAY_worker_niceness", "0")  # as for one process; by default its workers are nice
    return require("ray", "--devices and --cluster need", "cluster")


@contextmanager
def start_pool(options: Options, task: Task, lock: RunLock) -> Iterator[WorkerPool]:
    """Connects to Ray silently and yields a worker pool; UserError as in `find_ray`, or if the connection fails.

    Without `cluster`, a local Ray is started that listens on the loopback only.
    """
    ray, address = find_ray(options.cluster), options.cluster
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        if address is None:
            folder = tempfile.TemporaryDirectory(prefix="tisdiss-", dir=_short_folder(), ignore_cleanup_errors=True)
            how |= {
                "address": "local",  # not a cluster on this machine
                "include_dashboard": False,
                "num_cpus": max(cores(), options.device_count or 1),
                "object_store_memory": _STORE,
                "_temp_dir": stack.enter_context(folder),
            }
        else:
            how["address"] = address
        try:
            ray.init(**how)
        except Exception as error:  # of many types
            where = "Ray could not be started" if address is None else f"--cluster {address}: no cluster is there"
            raise UserError(f"{where}: {_last_line(error)}") from None
        pool = WorkerPool(ray, options, task, lock)
        stack.callback(pool.close)
        yield pool


def _short_folder() -> str:
    """Returns the folder for temporary files, or another writable one if its path is too long for sockets."""
    default = tempfile.gettempdir()
    fitting = (path for path in (default, "/tmp", "/var/tmp", os.path.expanduser("~")) if len(path) < _LONGEST)
    return next((path for path in fitting if os.access(path, os.W_OK)), default)


def _last_line(error: Exception) -> str:
    """Returns the last line of Ray's error, which may have pages of text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].rstrip(".")
