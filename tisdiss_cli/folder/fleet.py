"""The devices of this machine or of a cluster, by Ray: a worker on each, started, checked, replaced, ended.

Ray places the workers and notices when one is gone; which jobs they do is `cluster`'s. Nothing here is retried by Ray:
a worker that died is replaced from here, and is given work once it has answered.
"""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.connection import connect, last_line
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.settings import Settings
from tisdiss_cli.folder.worker import Answer, Task, Worker, token_file

if TYPE_CHECKING:
    from ray import ObjectRef, ObjectRefGenerator

log = logging.getLogger("tisdiss")

_LOOKS = 2.0  # seconds between looks at which nodes there are
_PATIENCE = 60.0  # seconds to wait, after the first worker is ready, for others before the work begins
_TELL = 30.0  # seconds after which it is told what is waited for
_FAILED_STARTS = 3  # one after the other, then a device is given up


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
    bundle: dict[tuple[str, int | None], Job] = field(
        default_factory=dict
    )  # what it was given and has not yet brought back, by its id
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
    """Workers on devices; a context in which Ray is connected.

    Args:
        devices: how many, at most; None: all.
        address: of the cluster, "auto" for the one that this machine belongs to; None: this machine alone, where a Ray
            is started that listens on the loopback only.
        device: "auto", "cpu" or "cuda": what counts as a device. On CPUs a cluster's node is one, and this machine is
            divided into `devices`.
        task: what the workers are told.
        weights: the weight file's bytes, None: as `Worker.load`.
        names: takes the name in OUT of every worker that there was, for `locks.sweep`.

    Raises:
        UserError: Ray is missing, there is no such cluster, or fewer devices than asked for.
    """

    def __init__(
        self,
        devices: int | None,
        address: str | None,
        *,
        device: str,
        task: Task,
        weights: bytes | None,
        names: set[str],
    ) -> None:
        self.devices, self.address, self.device, self.task = devices, address, device, task
        self._weights, self._sent = weights, None  # the bytes, and Ray's reference to them
        self.places: list[Place] = []
        self.names = names
        self._looked = -_LOOKS

    def __enter__(self) -> "Fleet":
        self.ray = connect(self.address, self.devices)
        try:
            found = self._nodes()
            self.gpu = self.device != "cpu" and any(node["Resources"].get("GPU", 0) >= 1 for node in found)
            if self.device == "cuda" and not self.gpu:
                raise UserError("--device cuda: Ray sees no GPU there: check ray status, or use --device cpu")
            token_file(self.task.out, self.task.run).write_text(self.task.token, encoding="ascii")
            self.look(now=True)
            if self.devices and len(self.places) < self.devices:
                kind = "GPUs" if self.gpu else "nodes"
                raise UserError(f"--devices {self.devices}: there are {len(self.places)} {kind}: ask for fewer, or all")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every worker, and Ray if it was started here; what they left is then for `locks.sweep`."""
        for place in self.places:
            self._end(place)
        self.ray.shutdown()
        if self.address is not None:
            time.sleep(0.5)  # a cluster's own daemons end the processes

    # Places -------------------------------------------------------------------------------------

    def look(self, now: bool = False) -> None:
        """Takes in nodes that have come, lets go of those that are gone, starts workers where there are none."""
        if not now and time.monotonic() - self._looked < _LOOKS:
            return
        self._looked = time.monotonic()
        nodes = self._nodes()
        alive = {node["NodeID"] for node in nodes}
        self.places = [place for place in self.places if place.actor or place.given_up or place.node in alive]
        known = {(place.node, place.number) for place in self.places}
        for place in (place for node in nodes for place in self._places_on(node)):
            if (place.node, place.number) not in known and not (
                self.devices and sum(not known.given_up for known in self.places) >= self.devices
            ):
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
            count = self.devices or 1
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

    # Workers ------------------------------------------------------------------------------------

    def muster(self) -> Settings:
        """Waits for the workers to answer; returns their settings.

        Raises:
            UserError: one of them cannot do the run's work as the others would.
            NoDevice: none could be started.
        """
        deadline, began, told = None, time.monotonic(), False
        while waiting := [place for place in self.places if place.answering or not (place.answer or place.given_up)]:
            if deadline is None and any(place.answer for place in self.places):
                deadline = time.monotonic() + _PATIENCE
            if deadline is not None and time.monotonic() > deadline:
                names = ", ".join(str(place) for place in waiting)
                log.info(f"beginning without {names}: still starting")
                break
            if not told and time.monotonic() - began > _TELL:
                names, told = ", ".join(str(place) for place in waiting), True
                log.info(f"waiting for {names}: starting, or busy with other work")
            self.poll(strict=True)
            self.look()
        ready = [place.answer for place in self.places if place.answer]
        if not ready:
            raise NoDevice("no device could be started: see the sentences above, or leave out --devices and --cluster")
        for other in ready:
            if difference := _difference(ready[0], other):
                raise UserError(difference)
        self.first = ready[0]
        assert self.first.settings is not None  # of one without trouble
        return self.first.settings

    def poll(self, strict: bool = False) -> list[Place]:
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
        brought = []
        for ref in ready:
            place = waiting[ref]
            if place.generator:
                brought.append(place)
            else:
                self._take_answer(place, strict)
        return brought

    def _take_answer(self, place: Place, strict: bool) -> None:
        try:
            answer: Answer = self.ray.get(place.answering)
        except self.ray.exceptions.RayError as error:
            place.failed_starts += 1
            self._end(place)
            if place.failed_starts == _FAILED_STARTS:
                self.give_up(place, last_line(error))
            return
        place.answering = None
        if answer.name:
            self.names.add(answer.name)
        trouble = answer.trouble or ("" if strict else _difference(self.first, answer))
        if trouble and strict:
            raise UserError(trouble)
        if trouble:
            self.give_up(place, trouble)
            return
        place.answer, place.failed_starts = answer, 0

    def bury(self, place: Place) -> None:
        """Lets go of a worker that has died; the next look, which is not put off, starts another."""
        self._end(place)
        self._looked = -_LOOKS
        self._sent = None  # Ray would fetch it from any node that has it, and wait ten seconds for one that is gone

    def give_up(self, place: Place, reason: str) -> None:
        """Uses a device no more."""
        self._end(place)
        place.given_up = True
        log.warning(f"warning: going on without {place}: {reason}")


def _difference(one: Answer, other: Answer) -> str:
    """In what two workers would not do the same, as a sentence; "" where there is nothing."""
    assert one.settings and other.settings  # neither has trouble
    for key, value in other.settings.recorded.items():
        if value != one.settings.recorded.get(key):
            return (
                f"{one.host} would work with {key} {one.settings.recorded.get(key)}, {other.host} with {value}: choose "
                "by an option, or install the same weights on both"
            )
    return ""
