"""Pipeline of jobs on one device: read ahead, separate in batches, write behind.

One thread reads and cuts, the caller's thread runs the network on batches of chunks, from one file or several, and one
thread stitches and writes. Types show which thread owns what. Batches follow from the order of the chunks, never from
the clock, so that a run can be repeated sample by sample.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
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
from tisdiss_cli.separation.chunking import Chunker
from tisdiss_cli.separation.early_exit import EarlyExit
from tisdiss_cli.separation.separator import Separator

_WAITING_BATCHES = 4  # batches whose chunks may wait for others of their length

Item = TypeVar("Item")


@dataclass(frozen=True)
class Progress:
    """Event: more seconds of audio are separated."""

    seconds: float
    note: str = ""  # for the bar


# Files in flight. Only the owner of a field writes it; others read it after it was handed over: the computing thread
# gets a chunk once it is read, the writing thread its voices once they are computed, and the file last. Only `failure`
# is read earlier, to save work, and seeing it late does no harm.


@dataclass
class Reading:
    """State owned by the reading thread."""

    fingerprint: list[int] = field(default_factory=list)  # of the input when it was opened
    voices: VoiceFiles | None = None  # made when the input is opened, then owned by the writing thread
    sources: list[Source] = field(default_factory=list)  # of each mixture; their warnings grow while they are read


@dataclass
class Computing:
    """State owned by the computing thread, which is the caller's."""

    repeats: int | EarlyExit | None = None  # None: not chosen yet
    waiting: int = 0  # chunks read but not run
    all_read: bool = False
    ends: Counter[int] = field(default_factory=Counter)  # end of what was run of each mixture, in samples
    elapsed: float = 0.0  # the network's seconds
    used: list[int] = field(default_factory=list)  # repeats of each chunk


@dataclass
class Writing:
    """State owned by the writing thread."""

    next: int = 0  # index of the next chunk to write
    early: dict[int, tuple["Chunk", Tensor]] = field(default_factory=dict)  # by index: run before the one ahead of it


@dataclass
class File:
    """File in flight."""

    job: Job
    reading: Reading = field(default_factory=Reading)
    computing: Computing = field(default_factory=Computing)
    writing: Writing = field(default_factory=Writing)
    failure: str | None = None  # why it cannot be read or written, set by the thread that notices


@dataclass(frozen=True)
class Chunk:
    """Chunk of a file, before and after the network."""

    file: File
    index: int  # in the file, from 0 on
    number: int  # of its mixture, from 0 on
    start: int  # position in samples at the network's rate
    mixture: Tensor  # (n,)


class Batcher(Generic[Item]):
    """Batcher of items of one kind.

    A batch is due when it is full, or when too many items wait: then the batch that has waited longest. Items of a kind
    keep their order, and the same items in the same order give the same batches.

    Args:
        size: most items in a batch.
        most_waiting: number of waiting items at which a batch is due, at least `size`.
    """

    def __init__(self, size: int, *, most_waiting: int) -> None:
        self.size, self.most_waiting = size, most_waiting
        self._groups: dict[Hashable, list[Item]] = {}  # the longest waiting first

    @property
    def waiting(self) -> int:
        """Number of waiting items."""
        return sum(map(len, self._groups.values()))

    def add(self, kind: Hashable, item: Item) -> list[list[Item]]:
        """Adds an item; returns the batches that are due."""
        group = self._groups.setdefault(kind, [])
        group.append(item)
        if len(group) == self.size:
            return [self._groups.pop(kind)]
        if self.waiting == self.most_waiting:
            return [self._groups.pop(next(iter(self._groups)))]
        return []

    def finish(self) -> list[list[Item]]:
        """Returns the batches of all waiting items."""
        batches, self._groups = list(self._groups.values()), {}
        return batches


class Pipeline:
    """Pipeline that separates jobs once. Failures of single inputs become lines; others are raised by `run`.

    Args:
        separator: the network.
        settings: settings for all jobs.
        parts: folder for unfinished outputs, with a folder for each job.
        commit: called with each job and its line, in the writing thread; records the line and removes the job's folder.
            RecordError ends the run.
        pace: chooses each input's repeats, if any, instead of the settings.
    """

    def __init__(
        self,
        separator: Separator,
        settings: Settings,
        parts: Path,
        commit: Callable[[Job, Line], object] = lambda job, line: None,
        pace: Pace | None = None,
    ) -> None:
        self.separator, self.settings, self.parts, self.commit, self.pace = separator, settings, parts, commit, pace
        self.size = settings.batch_size
        self.stacked = separator.stacks(settings.batch_size)
        self.begun: dict[str, VoiceFiles] = {}  # by the jobs' keys, until their outputs are named
        self.writing = deque[Future[Line | None]]()  # pending work of the writing thread, in order
        self.over = False  # no line can be recorded any more

    def run(self, jobs: Sequence[Job]) -> Iterator[Progress | Line]:
        """Separates the jobs in order; yields progress and each job's line.

        Raises:
            RecordError: from `commit`.
            OutOfMemory: memory does not suffice for the shortest chunk.
        """
        alone = compute_in_one_thread if self.separator.device.type == "cpu" else None
        self.reader, self.writer = (ThreadPoolExecutor(1, initializer=alone) for _ in range(2))
        try:
            yield from self._compute(jobs)
            yield from self._written(0)
        finally:
            self.reader.shutdown(cancel_futures=True)
            self.writer.shutdown(cancel_futures=True)
            for voices in self.begun.values():
                voices.discard()

    # Reading ------------------------------------------------------------------------------------

    def _read_ahead(self, jobs: Sequence[Job]) -> Iterator[Chunk | File]:
        """Yields the items of `_read`, which the reading thread produces ahead."""
        items = self._read(jobs)
        coming = deque(self.reader.submit(next, items, None) for _ in range(_WAITING_BATCHES * self.size + 2))
        while item := coming.popleft().result():
            coming.append(self.reader.submit(next, items, None))
            yield item

    def _read(self, jobs: Sequence[Job]) -> Iterator[Chunk | File]:
        """Yields the chunks of each job, then its file."""
        for job in jobs:
            file, indices = File(job), count()
            try:
                for number, channel in enumerate(job.mixtures):
                    for start, mixture in self._cut(file, channel):
                        yield Chunk(file, next(indices), number, start, mixture)
            except Exception as error:  # a fault of one input must not stop the others
                file.failure = _sentence(job, error)
            yield file

    def _cut(self, file: File, channel: int | None) -> Iterator[tuple[int, Tensor]]:
        options, job, reading = self.settings.options, file.job, file.reading
        reading.fingerprint = reading.fingerprint or fingerprint(job.path)
        selected = options.averaged if channel is None else (channel,)
        source = Source(
            job.path, self.separator.sample_rate, track=options.track, partial=options.partial, selected=selected
        )
        reading.sources.append(source)
        if not reading.voices:
            reading.voices = self.begun[job.key] = VoiceFiles(job, self.settings, self.parts / job.key)
        reading.voices.add(source)
        chunker = Chunker(self.settings.plan)
        for block in source.blocks():
            yield from chunker.push(block)
        yield from chunker.finish()

    # Computing ----------------------------------------------------------------------------------

    def _compute(self, jobs: Sequence[Job]) -> Iterator[Progress | Line]:
        batcher: Batcher[Chunk] = Batcher(self.size, most_waiting=_WAITING_BATCHES * self.size)
        for item in self._read_ahead(jobs):
            if isinstance(item, File):
                item.computing.all_read = True
                self._pass_on(item)
            else:
                computing, length = item.file.computing, item.mixture.shape[0]
                if computing.repeats is None:
                    computing.repeats = self.pace.choose() if self.pace else self.settings.repeats
                computing.waiting += 1
                # Chunks in one tensor have one length; those that run side by side, the same number of threads.
                kind = length if self.stacked else self.separator.threads_of(length)
                for batch in batcher.add((kind, computing.repeats), item):
                    yield from self._run(batch)
            yield from self._written(_WAITING_BATCHES * self.size)
        for batch in batcher.finish():
            yield from self._run(batch)

    def _run(self, batch: list[Chunk]) -> Iterator[Progress | Line]:
        needed = [chunk for chunk in batch if not chunk.file.failure]
        if needed:
            yield from self._separate(needed)
        for chunk in batch:
            chunk.file.computing.waiting -= 1
            self._pass_on(chunk.file)

    def _separate(self, batch: list[Chunk]) -> Iterator[Progress | Line]:
        began, advanced, used = time.perf_counter(), 0.0, 0
        separated = self.separator.run_each(
            [chunk.mixture for chunk in batch],
            batch[0].file.computing.repeats,
            self.settings.options.separator_repeats,
            stacked=self.stacked,
        )
        for chunk, (voices, used, seconds) in zip(batch, separated, strict=True):
            computing = chunk.file.computing
            computing.used.append(used)
            computing.elapsed += seconds
            self.writing.append(self.writer.submit(self._push, chunk, voices))
            before = computing.ends[chunk.number]
            computing.ends[chunk.number] = max(before, chunk.start + chunk.mixture.shape[0])
            fresh = (computing.ends[chunk.number] - before) / self.separator.sample_rate
            advanced += fresh
            yield Progress(fresh)
            yield from self._written(_WAITING_BATCHES * self.size)
        if self.pace:  # it chooses a number, the same for the whole batch
            self.pace.report(used, advanced, time.perf_counter() - began)

    def _pass_on(self, file: File) -> None:
        """Passes a file to the writing thread after its last chunk."""
        if file.computing.all_read and file.computing.waiting == 0:
            self.writing.append(self.writer.submit(self._finish, file))

    def _written(self, most: int) -> Iterator[Line]:
        """Yields the lines of written files, waiting until at most `most` tasks of the writing thread are pending."""
        while self.writing and (len(self.writing) > most or self.writing[0].done()):
            if line := self.writing.popleft().result():
                yield line

    # Writing ------------------------------------------------------------------------------------

    def _push(self, chunk: Chunk, voices: Tensor) -> None:
        """Writes a chunk's voices once those ahead of it are written; a batch of another length may have run first."""
        file, writing = chunk.file, chunk.file.writing
        writing.early[chunk.index] = chunk, voices
        while file.reading.voices and not file.failure and writing.next in writing.early:
            chunk, voices = writing.early.pop(writing.next)
            writing.next += 1
            try:
                file.reading.voices.push(chunk.number, chunk.start, voices, chunk.mixture)
            except Exception as error:
                file.failure = _sentence(file.job, error)

    def _finish(self, file: File) -> Line | None:
        if self.over:
            return None
        job, voices, facts = file.job, file.reading.voices, dict[str, Any]()
        if voices and not file.failure:
            try:
                facts = voices.finish()
            except Exception as error:
                file.failure = _sentence(job, error)
        computed, warnings = file.computing, [text for source in file.reading.sources for text in source.warnings]
        mean = sum(computed.used) / max(1, len(computed.used))
        line = job.line(
            file.failure,
            repeats=int(mean) if mean.is_integer() else round(mean, 3),
            audio_seconds=round(max(computed.ends.values(), default=0) / self.separator.sample_rate, 6),
            elapsed_seconds=round(computed.elapsed, 6),
            settings=self.settings.recorded,
            source=file.reading.fingerprint,
            precision_why=self.separator.precision_why,
            **facts | {"warnings": list(dict.fromkeys([*warnings, *facts.get("warnings", ())]))},
        )
        if voices and file.failure:
            voices.discard()
        self.begun.pop(job.key, None)  # its folder marks it as begun until its line is recorded
        self.over = True
        self.commit(job, line)
        self.over = False
        return line


def _sentence(job: Job, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error) if str(job.path) in str(error) else f"{job.path}: {error}"
    if isinstance(error, OSError):
        return f"the voices of {job.path} cannot be written: {error.strerror or error}"
    return f"{job.path} cannot be separated: {type(error).__name__}: {error}"
