"""Jobs on one device: read ahead, separate in batches, write behind.

One thread reads and cuts, the caller's thread runs the network on batches of chunks, from one file or several, and one
thread stitches and writes. The types of what is on its way say which thread owns what. Which chunks make a batch
follows from their order, never from the clock, so that a run can be repeated sample by sample.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Full, Queue, SimpleQueue
from typing import Any, Generic, TypeVar

from torch import Tensor

from tisdiss_cli.audio.read import Source
from tisdiss_cli.devices import compute_in_one_thread
from tisdiss_cli.errors import UserError
from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.outputs import VoiceFiles
from tisdiss_cli.folder.record import Line
from tisdiss_cli.folder.settings import Settings
from tisdiss_cli.separation.early_exit import EarlyExit
from tisdiss_cli.separation.separator import Separator

_WAITING_BATCHES = 4  # so many batches' chunks may wait for others of their length

Kind = TypeVar("Kind", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Progress:
    """So many more seconds of audio are separated."""

    seconds: float
    note: str = ""  # for the bar


# What is on its way. Only the owner of a field writes it. The others read what a queue has brought them: the computing
# thread gets a chunk once it is read, the writing thread its voices once they are computed, and the input itself last
# of all. A failure alone is looked at earlier, to be spared work, and one seen late harms nothing.


@dataclass
class Reading:
    """What the reading thread owns."""

    fingerprint: list[int] = field(default_factory=list)  # of the input when it was opened
    voices: VoiceFiles | None = None  # made when the input is opened; from then on the writing thread's
    frames: int | None = None  # of the outputs, where they are to be as long as the input
    warnings: list[str] = field(default_factory=list)  # the source's own list, which grows while it is read
    failure: str | None = None  # why it cannot be read


@dataclass
class Computing:
    """What the computing thread, which is the caller's, owns."""

    repeats: int | EarlyExit | None = None  # None: not chosen yet
    waiting: int = 0  # chunks read and not yet run
    all_read: bool = False
    end: int = 0  # of the newest chunk run, in samples
    elapsed: float = 0.0  # seconds of the network's time
    used: list[int] = field(default_factory=list)  # repeats of each chunk

    @property
    def mean_repeats(self) -> float:
        """Over the chunks, where they differ; 0 if none was run."""
        mean = sum(self.used) / max(1, len(self.used))
        return int(mean) if mean.is_integer() else round(mean, 3)


@dataclass
class Writing:
    """What the writing thread owns."""

    failure: str | None = None  # why its voices cannot be written


@dataclass
class File:
    """An input in flight."""

    job: Job
    reading: Reading = field(default_factory=Reading)
    computing: Computing = field(default_factory=Computing)
    writing: Writing = field(default_factory=Writing)

    @property
    def failure(self) -> str | None:
        """Why it failed, if it has."""
        return self.reading.failure or self.writing.failure


@dataclass(frozen=True)
class Chunk:
    """A piece of an input, read and not yet run."""

    file: File
    start: int  # in samples of the input at the network's rate
    mixture: Tensor  # (n,)

    @property
    def end(self) -> int:
        """Where it ends, in the same samples."""
        return self.start + self.mixture.shape[0]


@dataclass(frozen=True)
class Separated:
    """A chunk's voices, computed and not yet written."""

    file: File
    start: int  # as the chunk's
    voices: Tensor  # (S, n)
    mixture: Tensor  # (n,)


class Batcher(Generic[Kind, Item]):
    """Gathers items of one kind into batches.

    A batch is due once it is full, or once too many items wait: then the kind whose first item has waited longest
    goes as it is. Items of a kind keep their order, and the same items in the same order give the same batches.

    Args:
        size: the most items of a batch.
        most_waiting: with so many items waiting a batch is due; at least `size`.
    """

    def __init__(self, size: int, *, most_waiting: int) -> None:
        if not 1 <= size <= most_waiting:
            raise ValueError(f"1 <= size ({size}) <= most_waiting ({most_waiting}) must hold")
        self.size, self.most_waiting = size, most_waiting
        self.waiting = 0
        self._groups: dict[Kind, list[Item]] = {}  # the kind that has waited longest comes first

    def add(self, kind: Kind, item: Item) -> list[list[Item]]:
        """Takes an item; returns the batches that are due now."""
        group = self._groups.setdefault(kind, [])
        group.append(item)
        self.waiting += 1
        if len(group) == self.size:
            return [self._take(kind)]
        if self.waiting == self.most_waiting:
            return [self._take(next(iter(self._groups)))]
        return []

    def finish(self) -> list[list[Item]]:
        """Returns the batches of all that still waits."""
        return [self._take(kind) for kind in list(self._groups)]

    def _take(self, kind: Kind) -> list[Item]:
        batch = self._groups.pop(kind)
        self.waiting -= len(batch)
        return batch


class _Stopped(Exception):
    """The run is over; a thread that waits shall return."""


class Pipeline:
    """Separates jobs once. Failures of single inputs become lines; others are raised by `run`.

    Args:
        separator: the network.
        settings: for all jobs.
        out: the folder OUT, which must exist.
        parts: the folder for unfinished outputs, in which each job gets its own.
        settle: is given each job with its line, in the writing thread, and does away with its folder once the line is
            recorded; RecordError ends the run.
    """

    def __init__(
        self,
        separator: Separator,
        settings: Settings,
        out: Path,
        parts: Path,
        settle: Callable[[Job, Line], object] = lambda job, line: None,
    ) -> None:
        self.separator, self.settings, self.out, self.parts, self.settle = separator, settings, out, parts, settle
        self.stacked = separator.stacks(settings.batch_size)
        self.stop = threading.Event()
        self.chunks: Queue[Chunk | File | None] = Queue(maxsize=_WAITING_BATCHES * settings.batch_size + 2)
        self.results: Queue[Separated | File | None] = Queue(maxsize=4 * settings.batch_size + 2)
        self.lines: SimpleQueue[Line] = SimpleQueue()
        self.begun: dict[str, VoiceFiles] = {}  # by the jobs' keys, until their outputs have their names
        self.error: BaseException | None = None  # of a thread

    def run(self, jobs: Sequence[Job]) -> Iterator[Progress | Line]:
        """Does every job in this order; yields what is done as it comes.

        Raises:
            RecordError: as `settle` does.
            OutOfMemory: memory does not suffice for the shortest chunk, so that no input could be separated.
        """
        threads = [
            threading.Thread(target=self._guarded, args=(lambda: self._read(jobs),), daemon=True),
            threading.Thread(target=self._guarded, args=(self._write,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield from self._compute()
            self._put(self.results, None)
            while threads[1].is_alive():
                threads[1].join(timeout=0.1)
                yield from self._settled()
            yield from self._settled()
        except _Stopped:
            pass
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
            for voices in self.begun.values():
                voices.discard()
        if self.error:
            raise self.error

    # Reading ------------------------------------------------------------------------------------

    def _read(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            file = File(job)
            try:
                self._read_file(file)
            except _Stopped:
                raise
            except Exception as error:  # whatever is wrong with one input, the others are still to do
                file.reading.failure = _sentence(job, error)
            self._put(self.chunks, file)
        self._put(self.chunks, None)

    def _read_file(self, file: File) -> None:
        settings, job, own = self.settings, file.job, file.reading
        own.fingerprint = fingerprint(job.path)
        wanted = settings.channels if job.channel is None else (job.channel,)
        source = Source(
            job.path, self.separator.sample_rate, track=settings.track, partial=settings.partial, wanted=wanted
        )
        own.warnings = source.warnings
        rate = source.input_rate if settings.input_rate else self.separator.sample_rate
        own.voices = VoiceFiles(
            job,
            self.out,
            self.parts / job.key,
            plan=settings.plan,
            rates=(self.separator.sample_rate, rate),
            format=settings.format,
            subtype=settings.subtype,
            source_subtype=source.subtype,
            start=source.start,
            told=settings.told,
        )
        self.begun[job.key] = own.voices
        chunker = settings.plan.chunker()
        for block in source.blocks():
            self._enqueue(file, chunker.push(block))
        own.frames = source.frames if settings.input_rate else None
        self._enqueue(file, chunker.finish())

    def _enqueue(self, file: File, chunks: list[tuple[int, Tensor]]) -> None:
        for start, mixture in chunks:
            self._put(self.chunks, Chunk(file, start, mixture))

    # Computing ----------------------------------------------------------------------------------

    def _compute(self) -> Iterator[Progress | Line]:
        size = self.settings.batch_size
        batcher: Batcher[Any, Chunk] = Batcher(size, most_waiting=_WAITING_BATCHES * size)
        while (item := self._get(self.chunks)) is not None:
            if isinstance(item, File):
                item.computing.all_read = True
                self._pass_on(item)
            else:
                own = item.file.computing
                if own.repeats is None:
                    own.repeats = self.settings.pace.choose() if self.settings.pace else self.settings.repeats
                own.waiting += 1
                for batch in batcher.add((self._shape(item), own.repeats), item):
                    yield from self._run(batch)
            yield from self._settled()
        for batch in batcher.finish():
            yield from self._run(batch)

    def _shape(self, chunk: Chunk) -> int:
        """What is alike in all chunks of a batch: of one tensor the length, of runs side by side the threads."""
        length = chunk.mixture.shape[0]
        return length if self.stacked else self.separator.threads_of(length)

    def _run(self, batch: list[Chunk]) -> Iterator[Progress]:
        wanted = list[Chunk]()
        for chunk in batch:
            if chunk.file.failure:
                self._through(chunk)
            else:
                wanted.append(chunk)
        if wanted:
            yield from self._separate(wanted)

    def _separate(self, batch: list[Chunk]) -> Iterator[Progress]:
        began, advanced, used = time.perf_counter(), 0.0, 0
        separated = self.separator.run_each(
            [chunk.mixture for chunk in batch],
            batch[0].file.computing.repeats,
            self.settings.separator_repeats,
            stacked=self.stacked,
        )
        for chunk, (voices, used, seconds) in zip(batch, separated, strict=True):
            own = chunk.file.computing
            own.used.append(used)
            own.elapsed += seconds
            self._put(self.results, Separated(chunk.file, chunk.start, voices, chunk.mixture))
            fresh, own.end = (chunk.end - own.end) / self.separator.sample_rate, chunk.end
            advanced += fresh
            self._through(chunk)
            yield Progress(fresh)
        if self.settings.pace:  # which chooses numbers, alike for all of a batch, and never auto
            self.settings.pace.report(used, advanced, time.perf_counter() - began)

    def _through(self, chunk: Chunk) -> None:
        chunk.file.computing.waiting -= 1
        self._pass_on(chunk.file)

    def _pass_on(self, file: File) -> None:
        """Hands a file to the writing thread once its last chunk is through."""
        if file.computing.all_read and file.computing.waiting == 0:
            self._put(self.results, file)

    def _settled(self) -> Iterator[Line]:
        while not self.lines.empty():
            yield self.lines.get()

    # Writing ------------------------------------------------------------------------------------

    def _write(self) -> None:
        while (item := self._get(self.results)) is not None:
            if isinstance(item, File):
                self._finish(item)
            elif not item.file.failure:
                try:
                    item.file.reading.voices.push(item.start, item.voices, item.mixture)
                except Exception as error:
                    item.file.writing.failure = _sentence(item.file.job, error)

    def _finish(self, file: File) -> None:
        voices, warnings = file.reading.voices, list[str]()
        if voices and not file.failure:
            try:
                warnings = voices.finish(file.reading.frames)
            except Exception as error:
                file.writing.failure = _sentence(file.job, error)
        line = Line(
            file.job.input,
            "failed" if file.failure else "done",
            file.job.resolved,
            reason=file.failure,
            outputs=[] if file.failure else file.job.outputs,
            repeats=file.computing.mean_repeats,
            audio_seconds=round(file.computing.end / self.separator.sample_rate, 6),
            elapsed_seconds=round(file.computing.elapsed, 6),
            warnings=[*file.reading.warnings, *warnings],
            settings=self.settings.recorded,
            source=file.reading.fingerprint,
            **(voices.facts() if voices and not file.failure else {}),
            channel=file.job.channel,
            precision_why=self.separator.precision_why,
        )
        if voices and file.failure:
            voices.discard()
        self.begun.pop(file.job.key, None)  # it stays marked as begun until its line is recorded
        self.settle(file.job, line)
        self.lines.put(line)

    # Threads ------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        if self.separator.device.type == "cpu":
            compute_in_one_thread()
        try:
            work()
        except _Stopped:
            pass
        except BaseException as error:
            self.error = error
            self.stop.set()

    def _put(self, queue: Queue, item: Any) -> None:
        while not self.stop.is_set():
            try:
                return queue.put(item, timeout=0.2)
            except Full:
                continue
        raise _Stopped

    def _get(self, queue: Queue) -> Any:
        while not self.stop.is_set():
            try:
                return queue.get(timeout=0.2)
            except Empty:
                continue
        raise _Stopped


def _sentence(job: Job, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"the voices of {job.path} cannot be written: {error.strerror or error}"
    return f"{job.path} cannot be separated: {type(error).__name__}: {error}"
