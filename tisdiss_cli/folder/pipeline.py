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
from tisdiss_cli.folder.pace import Pace
from tisdiss_cli.folder.record import Line
from tisdiss_cli.folder.settings import Settings
from tisdiss_cli.separation.early_exit import EarlyExit
from tisdiss_cli.separation.separator import Separator

_WAITING_BATCHES = 4  # so many batches' chunks may wait for others of their length

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
class File:
    """An input in flight."""

    job: Job
    reading: Reading = field(default_factory=Reading)
    computing: Computing = field(default_factory=Computing)
    failure: str | None = None  # why it cannot be read or written, by the thread that found it


@dataclass(frozen=True)
class Chunk:
    """A piece of an input, on its way to the network and from there."""

    file: File
    start: int  # in samples of the input at the network's rate
    mixture: Tensor  # (n,)

    @property
    def end(self) -> int:
        """Where it ends, in the same samples."""
        return self.start + self.mixture.shape[0]


class Batcher(Generic[Item]):
    """Gathers items of one kind into batches.

    A batch is due once it is full, or once too many items wait: then the kind whose first item has waited longest
    goes as it is. Items of a kind keep their order, and the same items in the same order give the same batches.

    Args:
        size: the most items of a batch.
        most_waiting: with so many items waiting a batch is due; at least `size`.
    """

    def __init__(self, size: int, *, most_waiting: int) -> None:
        self.size, self.most_waiting = size, most_waiting
        self.waiting = 0
        self._groups: dict[Hashable, list[Item]] = {}  # the kind that has waited longest comes first

    def add(self, kind: Hashable, item: Item) -> list[list[Item]]:
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

    def _take(self, kind: Hashable) -> list[Item]:
        batch = self._groups.pop(kind)
        self.waiting -= len(batch)
        return batch


class _Stopped(Exception):
    """The run is over; a thread that waits shall return."""


class Pipeline:
    """Separates jobs once. Failures of single inputs become lines; others are raised by `run`.

    Args:
        separator: the network.
        settings: for all jobs; OUT must exist.
        parts: the folder for unfinished outputs, in which each job gets its own.
        settle: is given each job with its line, in the writing thread, and does away with its folder once the line is
            recorded; RecordError ends the run.
        pace: chooses each input's repeats in place of the settings.
    """

    def __init__(
        self,
        separator: Separator,
        settings: Settings,
        parts: Path,
        settle: Callable[[Job, Line], object] = lambda job, line: None,
        pace: Pace | None = None,
    ) -> None:
        self.separator, self.settings, self.parts, self.settle, self.pace = separator, settings, parts, settle, pace
        self.stacked = separator.stacks(settings.batch_size)
        self.stop = threading.Event()
        self.chunks: Queue[Chunk | File | None] = Queue(maxsize=_WAITING_BATCHES * settings.batch_size + 2)
        self.results: Queue[tuple[Chunk, Tensor] | File | None] = Queue(maxsize=4 * settings.batch_size + 2)
        self.lines: SimpleQueue[Line] = SimpleQueue()
        self.begun: dict[str, VoiceFiles] = {}  # by the jobs' keys, until their outputs have their names
        self.error: BaseException | None = None  # of a thread

    def run(self, jobs: Sequence[Job]) -> Iterator[Progress | Line]:
        """Does every job in this order; yields what is done as it comes.

        Raises:
            RecordError: as `settle` does.
            OutOfMemory: memory does not suffice for the shortest chunk, so that no input could be separated.
        """
        reader, writer = (
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (lambda: self._read(jobs), self._write)
        )
        try:
            reader.start()
            writer.start()
            yield from self._compute()
            self._put(self.results, None)
            while writer.is_alive():
                writer.join(timeout=0.1)
                yield from self._settled()
            yield from self._settled()
        except _Stopped:
            pass
        finally:
            self.stop.set()
            reader.join()
            writer.join()
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
                file.failure = _sentence(job, error)
            self._put(self.chunks, file)
        self._put(self.chunks, None)

    def _read_file(self, file: File) -> None:
        options, job, own = self.settings.options, file.job, file.reading
        own.fingerprint = fingerprint(job.path)
        wanted = options.averaged if job.channel is None else (job.channel,)
        inner = self.separator.sample_rate
        source = Source(job.path, inner, track=options.track, partial=options.partial, wanted=wanted)
        own.warnings = source.warnings
        as_input = options.sample_rate == "input"
        rates, folder = (inner, source.input_rate if as_input else inner), self.parts / job.key
        own.voices = VoiceFiles(
            job, self.settings, folder, rates=rates, source_subtype=source.subtype, start=source.start
        )
        self.begun[job.key] = own.voices
        chunker = self.settings.plan.chunker()
        for block in source.blocks():
            self._enqueue(file, chunker.push(block))
        own.frames = source.frames if as_input else None
        self._enqueue(file, chunker.finish())

    def _enqueue(self, file: File, chunks: list[tuple[int, Tensor]]) -> None:
        for start, mixture in chunks:
            self._put(self.chunks, Chunk(file, start, mixture))

    # Computing ----------------------------------------------------------------------------------

    def _compute(self) -> Iterator[Progress | Line]:
        size = self.settings.batch_size
        batcher: Batcher[Chunk] = Batcher(size, most_waiting=_WAITING_BATCHES * size)
        while (item := self._get(self.chunks)) is not None:
            if isinstance(item, File):
                item.computing.all_read = True
                self._pass_on(item)
            else:
                own = item.file.computing
                if own.repeats is None:
                    own.repeats = self.pace.choose() if self.pace else self.settings.repeats
                own.waiting += 1
                for batch in batcher.add((self._shape(item), own.repeats), item):
                    yield from self._run(batch)
            yield from self._settled()
        for batch in batcher.finish():
            yield from self._run(batch)

    def _shape(self, chunk: Chunk) -> int:
        """Returns what all chunks of a batch have alike: their length in one tensor, side by side their threads."""
        length = chunk.mixture.shape[0]
        return length if self.stacked else self.separator.threads_of(length)

    def _run(self, batch: list[Chunk]) -> Iterator[Progress | Line]:
        wanted = [chunk for chunk in batch if not chunk.file.failure]
        if wanted:
            yield from self._separate(wanted)
        for chunk in batch:
            chunk.file.computing.waiting -= 1
            self._pass_on(chunk.file)

    def _separate(self, batch: list[Chunk]) -> Iterator[Progress | Line]:
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
            self._put(self.results, (chunk, voices))
            fresh, own.end = (chunk.end - own.end) / self.separator.sample_rate, chunk.end
            advanced += fresh
            yield Progress(fresh)
            yield from self._settled()
        if self.pace:  # which chooses numbers, alike for all of a batch, and never auto
            self.pace.report(used, advanced, time.perf_counter() - began)

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
                continue
            chunk, separated = item
            voices = chunk.file.reading.voices
            if voices and not chunk.file.failure:
                try:
                    voices.push(chunk.start, separated, chunk.mixture)
                except Exception as error:
                    chunk.file.failure = _sentence(chunk.file.job, error)

    def _finish(self, file: File) -> None:
        job, voices, facts = file.job, file.reading.voices, dict[str, Any]()
        if voices and not file.failure:
            try:
                facts = voices.finish(file.reading.frames)
            except Exception as error:
                file.failure = _sentence(job, error)
        line = job.line(
            file.failure,
            repeats=file.computing.mean_repeats,
            audio_seconds=round(file.computing.end / self.separator.sample_rate, 6),
            elapsed_seconds=round(file.computing.elapsed, 6),
            settings=self.settings.recorded,
            source=file.reading.fingerprint,
            precision_why=self.separator.precision_why,
            **facts | {"warnings": [*file.reading.warnings, *facts.get("warnings", ())]},
        )
        if voices and file.failure:
            voices.discard()
        self.begun.pop(job.key, None)  # it stays marked as begun until its line is recorded
        self.settle(job, line)
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
