"""A folder in, a folder out: read ahead, run, write behind, record, resume.

One thread reads and cuts, the caller's thread runs the network on batches of chunks, from one file
or several, and one thread stitches and writes. Who owns what on the way is said in
`in_flight`, which chunks make a batch in `batcher`: never the clock, so that a run can be repeated
sample by sample.
"""

import threading
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Protocol

from torch import Tensor

from tisdiss_cli.audio.read import Source
from tisdiss_cli.devices import compute_in_one_thread
from tisdiss_cli.errors import UserError
from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.batcher import Batcher
from tisdiss_cli.folder.in_flight import Chunk, File, Separated
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.locks import Presence
from tisdiss_cli.folder.record import Line
from tisdiss_cli.folder.settings import Settings
from tisdiss_cli.folder.voices import VoiceFiles
from tisdiss_cli.separation.separator import Separator

_WAITING_BATCHES = 4  # so many batches' chunks may wait for others of their length


class _Stopped(Exception):
    """The run is over; a thread that waits shall return."""


class Lines(Protocol):
    """What takes the lines of a run: a `Record`, or what hands them on to one."""

    @property
    def makers(self) -> Container[str]:
        """The outputs that its lines list."""

    def append(self, line: Line) -> None:
        """Takes the line of one input; RecordError when that fails."""

    def done_since(self, job: Job, settings: dict[str, Any], since: int) -> bool:
        """Whether another run has done the job after that time, in nanoseconds."""


class FolderRun:
    """Separates jobs into OUT. Failures of single inputs become lines; others are raised by `run`.

    Args:
        separator: the network.
        jobs: what is to do, in this order.
        out: the folder OUT, which must exist.
        settings: for all of them.
        on_audio: is told how many seconds of audio were separated since the last call, from the caller's thread.
        on_line: is given the line of each input that is done or has failed, from the writing thread.
        on_left: is given each job that another run in OUT has begun, or done since, from the reading thread.
        presence: of the caller in OUT; None: the run's own, for as long as it lasts.
    """

    def __init__(
        self,
        separator: Separator,
        jobs: list[Job],
        out: Path,
        settings: Settings,
        *,
        on_audio: Callable[[float], object] | None = None,
        on_line: Callable[[Line], object] | None = None,
        on_left: Callable[[Job], object] | None = None,
        presence: Presence | None = None,
    ) -> None:
        self.separator, self.jobs, self.out, self.settings = separator, jobs, out, settings
        self.on_audio, self.on_line, self.on_left = on_audio, on_line, on_left
        self._given = presence
        self.stacked = separator.stacks(settings.batch_size)
        self.stop = threading.Event()
        self.chunks: Queue[Chunk | File | None] = Queue(maxsize=_WAITING_BATCHES * settings.batch_size + 2)
        self.results: Queue[Separated | File | None] = Queue(maxsize=4 * settings.batch_size + 2)
        self.error: BaseException | None = None  # of a thread

    def run(self, record: Lines) -> None:
        """Does every job; returns when all is written and recorded.

        Raises:
            RecordError: the record itself cannot be written.
            OutOfMemory: memory does not suffice for the shortest chunk, so that no input could be separated.
        """
        self.presence = self._given or Presence(self.out)
        try:
            self._run_threads(record)
        finally:
            if not self._given:
                self.presence.leave(record.makers)

    def _run_threads(self, record: Lines) -> None:
        threads = [
            threading.Thread(target=self._guarded, args=(lambda: self._read(record),), daemon=True),
            threading.Thread(target=self._guarded, args=(lambda: self._write(record),), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            self._compute()
            self._put(self.results, None)
            threads[1].join()
        except _Stopped:
            pass
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
        if self.error:
            raise self.error

    # Reading ------------------------------------------------------------------------------------

    def _read(self, record: Lines) -> None:
        for job in self.jobs:
            file = File(job)
            try:
                if not self._begin(job, record):
                    continue
                self._read_file(file)
            except _Stopped:
                raise
            except Exception as error:  # whatever is wrong with one input, the others are still to do
                file.reading.failure = _sentence(job, error)
            self._put(self.chunks, file)
        self._put(self.chunks, None)

    def _begin(self, job: Job, record: Lines) -> bool:
        """Claims the job; False if another run has, or has done it since this one came."""
        mine = self.presence.claim(job)
        if mine and record.done_since(job, self.settings.recorded, self.presence.entered):
            self.presence.release(job)
            mine = False
        if not mine and self.on_left:
            self.on_left(job)
        return mine

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
            self.presence.parts(job),
            plan=settings.plan,
            rates=(self.separator.sample_rate, rate),
            format=settings.format,
            subtype=settings.subtype,
            source_subtype=source.subtype,
            hearing=settings.wanted.hearing(len(job.outputs), self.separator.sample_rate),
        )
        chunker = settings.plan.chunker()
        for block in source.blocks():
            self._enqueue(file, chunker.push(block))
        own.frames = source.frames if settings.input_rate else None
        self._enqueue(file, chunker.finish())

    def _enqueue(self, file: File, chunks: list[tuple[int, Tensor]]) -> None:
        for start, mixture in chunks:
            self._put(self.chunks, Chunk(file, start, mixture))

    # Computing ----------------------------------------------------------------------------------

    def _compute(self) -> None:
        size = self.settings.batch_size
        batcher: Batcher[Any, Chunk] = Batcher(size, most_waiting=_WAITING_BATCHES * size)
        for item in self._items():
            if isinstance(item, File):
                item.computing.all_read = True
                self._pass_on(item)
                continue
            own = item.file.computing
            if own.repeats is None:
                own.repeats = self.settings.pace.choose() if self.settings.pace else self.settings.repeats
            own.waiting += 1
            for batch in batcher.add((self._shape(item), own.repeats), item):
                self._run(batch)
        for batch in batcher.finish():
            self._run(batch)

    def _items(self) -> Iterator[Chunk | File]:
        while (item := self._get(self.chunks)) is not None:
            yield item

    def _shape(self, chunk: Chunk) -> int:
        """What is alike in all chunks of a batch: of one tensor the length, of runs side by side the threads."""
        length = chunk.mixture.shape[0]
        return length if self.stacked else self.separator.threads_of(length)

    def _run(self, batch: list[Chunk]) -> None:
        wanted = list[Chunk]()
        for chunk in batch:
            if chunk.file.failure:
                self._through(chunk)
            else:
                wanted.append(chunk)
        if wanted:
            self._separate(wanted)

    def _separate(self, batch: list[Chunk]) -> None:
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
            if self.on_audio:
                self.on_audio(fresh)
            self._through(chunk)
        if self.settings.pace:  # which chooses numbers, alike for all of a batch, and never auto
            self.settings.pace.report(used, advanced, time.perf_counter() - began)

    def _through(self, chunk: Chunk) -> None:
        chunk.file.computing.waiting -= 1
        self._pass_on(chunk.file)

    def _pass_on(self, file: File) -> None:
        """Hands a file to the writing thread once its last chunk is through."""
        if file.computing.all_read and file.computing.waiting == 0:
            self._put(self.results, file)

    # Writing ------------------------------------------------------------------------------------

    def _write(self, record: Lines) -> None:
        while (item := self._get(self.results)) is not None:
            if isinstance(item, File):
                self._finish(item, record)
            elif not item.file.failure:
                try:
                    item.file.reading.voices.push(item.start, item.voices, item.mixture)
                except Exception as error:
                    item.file.writing.failure = _sentence(item.file.job, error)

    def _finish(self, file: File, record: Lines) -> None:
        voices, warnings = file.reading.voices, list[str]()
        if voices and not file.failure:
            try:
                warnings = voices.finish(file.reading.frames)
            except Exception as error:
                file.writing.failure = _sentence(file.job, error)
        line = Line(
            file.job.input,
            "failed" if file.failure else "done",
            reason=file.failure,
            outputs=[] if file.failure else file.job.outputs,
            repeats=file.computing.mean_repeats,
            audio_seconds=round(file.computing.end / self.separator.sample_rate, 6),
            elapsed_seconds=round(file.computing.elapsed, 6),
            warnings=[*file.reading.warnings, *warnings],
            settings=self.settings.recorded,
            source=file.reading.fingerprint,
            **(voices.facts() if voices and not file.failure else {}),
            path=file.job.resolved,
            channel=file.job.channel,
            precision_why=self.separator.precision_why,
        )
        record.append(line)
        if voices:
            voices.discard()
        self.presence.release(file.job)
        if self.on_line:
            self.on_line(line)

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
