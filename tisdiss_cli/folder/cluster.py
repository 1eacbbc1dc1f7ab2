"""A folder on several devices: who gets which jobs, and what becomes of those whose worker died.

Rows are paths, never audio: a worker reads and writes its files itself, by the code of a run on one device, and sends
their lines back. The driver, which is here, alone writes the record.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.fleet import Fleet, NoDevice, Place
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.locks import claimed, release
from tisdiss_cli.folder.record import Line, Record
from tisdiss_cli.folder.worker import Item, Left, Said, Trouble

JobId = tuple[str, int | None]

log = logging.getLogger("tisdiss")

_BUNDLE_SECONDS = 180.0  # of audio, unless a single file has more
_BUNDLE_FILES = 64
_BARREN = 3  # deaths of a device's workers, one after the other, for which no input is to blame


class ClusterRun:
    """Separates jobs into OUT on the devices of a fleet. Failures of single inputs become lines.

    Args:
        fleet: the devices, mustered.
        jobs: what is to do; they know their seconds of audio.
        out: the folder OUT.
        recorded: the settings for the lines.
        since: when the run began, on OUT's clock, in nanoseconds.
        on_audio, on_line, on_left: as `FolderRun`'s.
        on_state: is told now and then how many files are left, and what each device does.
    """

    def __init__(
        self,
        fleet: Fleet,
        jobs: list[Job],
        *,
        out: Path,
        recorded: dict[str, Any],
        since: int,
        on_audio: Callable[[float], object] = lambda seconds: None,
        on_line: Callable[[Line], object] = lambda line: None,
        on_left: Callable[[Job], object] = lambda job: None,
        on_state: Callable[[int, list[Place]], object] = lambda left, places: None,
    ) -> None:
        self.fleet, self.out, self.recorded, self.since = fleet, out, recorded, since
        self.on_audio, self.on_line, self.on_left, self.on_state = on_audio, on_line, on_left, on_state
        # The longest first, so that none is left alone at the end.
        self.todo = deque(sorted(jobs, key=lambda job: (-job.seconds, job.input, job.channel or 0)))
        self.suspects: deque[Job] = deque()  # whose worker died once: each is done alone
        self.deaths: Counter[JobId] = Counter()
        self.audio_left = sum(job.seconds for job in jobs)

    def run(self, record: Record) -> None:
        """Does every job; returns when all is written and recorded.

        Raises:
            RecordError: the record cannot be written.
            NoDevice: every device has been given up.
        """
        while self.todo or self.suspects or any(place.bundle for place in self.fleet.places):
            self.fleet.look()
            for place in self.fleet.places:
                if place.answer and not place.generator and (bundle := self._bundle(record)):
                    place.bundle = {job.id: job for job in bundle}
                    place.generator = place.actor.run.options(num_returns="streaming").remote(bundle)
            if all(place.given_up for place in self.fleet.places):
                raise NoDevice(f"{self._left()} files are left, and no device to do them on")
            for place in self.fleet.poll():
                self._take(place, record)
            self.on_state(self._left(), self.fleet.places)

    def _left(self) -> int:
        return len(self.todo) + len(self.suspects) + sum(len(place.bundle) for place in self.fleet.places)

    def _bundle(self, record: Record) -> list[Job]:
        """The next jobs for one worker: some, so that batches fill; towards the end fewer, so that all end alike."""
        if self.suspects:
            return [self.suspects.popleft()]
        share = self.audio_left / (2 * max(1, len(self.fleet.places)))
        most, total, bundle = min(_BUNDLE_SECONDS, share), 0.0, list[Job]()
        while self.todo and len(bundle) < _BUNDLE_FILES:
            seconds = self.todo[0].seconds
            if bundle and total + seconds > most:
                break
            job = self.todo.popleft()
            self.audio_left -= seconds
            if record.done_since(job, self.recorded, self.since):
                self.on_left(job)
                continue
            bundle.append(job)
            total += seconds
        return bundle

    def _take(self, place: Place, record: Record) -> None:
        """Takes in one thing that a worker sent, its bundle's end or its death."""
        ray = self.fleet.ray
        try:
            item: Item = ray.get(next(place.generator))  # type: ignore[arg-type]
        except StopIteration:
            place.generator = None
            self._return(place)
            return
        except ray.exceptions.RayError:
            self._died(place, record)
            return
        if isinstance(item, float):
            place.ahead += item
            self.on_audio(item)
        elif isinstance(item, Line):
            self._record(place.bundle.pop(item.id), item, record=record, place=place)
        elif isinstance(item, Left):
            self.on_left(place.bundle.pop(item.id))
        elif isinstance(item, Said):
            log.log(item.level, f"{place}: {item.text}")
        elif isinstance(item, Trouble):
            self._return(place)
            self.fleet.give_up(place, item.text)

    def _record(self, job: Job, line: Line, *, record: Record, place: Place | None = None) -> None:
        record.append(line)
        release(self.out, job)  # only now: until the line is written the claim marks the outputs as ours
        if place:
            place.barren, place.ahead = 0, place.ahead - line.audio_seconds
        self.on_line(line)

    def _died(self, place: Place, record: Record) -> None:
        """What a dead worker had begun is done once more, alone; what kills its worker then too has failed."""
        name = place.answer.name if place.answer else ""
        begun = [job for job in place.bundle.values() if claimed(self.out, job, by=name)]
        log.warning(f"warning: the worker on {place} died" + (f" at {begun[0].input}" if begun else ""))
        for job in begun:
            del place.bundle[job.id]
            self.deaths[job.id] += 1
            if self.deaths[job.id] < 2:
                release(self.out, job)
                self.suspects.append(job)
                continue
            reason = f"{job.path} killed its worker twice: try it alone, and see whether the memory suffices"
            line = Line(
                job.input,
                "failed",
                reason,
                settings=self.recorded,
                source=fingerprint(job.path),
                path=job.resolved,
                channel=job.channel,
            )
            self._record(job, line, record=record)
        place.barren = 0 if begun else place.barren + 1
        self._return(place)
        if place.barren == _BARREN:
            self.fleet.give_up(place, "its workers die, whatever they are given")
        else:
            self.fleet.bury(place)

    def _return(self, place: Place) -> None:
        """Puts back what was given and not begun, and takes back what was told of it."""
        for job in reversed(place.bundle.values()):
            self.todo.appendleft(job)
            self.audio_left += job.seconds
        place.bundle = {}
        if place.ahead:
            self.on_audio(-place.ahead)
            place.ahead = 0.0
