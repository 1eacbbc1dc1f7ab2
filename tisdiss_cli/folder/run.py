"""A folder in, a folder out: read ahead, run, write behind, record, resume.

One thread reads and cuts, the caller's thread runs the network on batches of equally long chunks,
from one file or several, and one thread stitches and writes. A batch is filled by rules that look
only at the order of the inputs, never at the clock, so that a run can be repeated sample by sample.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.audio import AudioError, Source
from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.jobs import Job, sweep
from tisdiss_cli.folder.pace import Pace
from tisdiss_cli.folder.record import Line, Record, RecordError
from tisdiss_cli.folder.voices import VoiceFiles
from tisdiss_cli.separation.chunking import ChunkPlan
from tisdiss_cli.separation.early_exit import Auto
from tisdiss_cli.separation.separator import Separator

_WAITING_BATCHES = 4  # so many batches' chunks may wait for others of their length


@dataclass(frozen=True)
class Settings:
    """What a folder is separated with."""

    repeats: int | Auto
    separator_repeats: int
    plan: ChunkPlan
    batch_size: int
    format: str = "wav"  # or "flac"
    input_rate: bool = False  # outputs at the input's rate instead of the network's
    overwrite: bool = False
    pace: Pace | None = None  # chooses each input's repeats instead
    recorded: dict[str, Any] = field(default_factory=dict)  # goes into each line; a run resumes only under the same


def default_batch(device: torch.device) -> int:
    """Chunks at a time: a CPU is busy with one."""
    return 1 if device.type == "cpu" else 16


@dataclass
class Progress:
    """What a caller may show; each is called from one thread at a time."""

    audio: Callable[[float], None] = lambda seconds: None  # seconds of audio separated since the last call
    line: Callable[[Line], None] = lambda line: None  # an input is done or has failed


@dataclass
class _File:
    """An input in flight."""

    job: Job
    voices: VoiceFiles | None = None
    frames: int | None = None  # of the outputs, where they are to be as long as the input
    waiting: int = 0  # chunks read and not yet run
    ended: bool = False
    reason: str | None = None  # why it failed
    fingerprint: list[int] = field(default_factory=list)  # of the input when it was opened
    end: int = 0  # of the newest chunk run, in samples
    elapsed: float = 0.0
    repeats: int | Auto = 0
    used: list[int] = field(default_factory=list)  # repeats of each chunk


@dataclass
class _Chunk:
    file: _File
    start: int
    mixture: Tensor  # (n,)


class _Stopped(Exception):
    """The run is over; a thread that waits shall return."""


class FolderRun:
    """Separates jobs into OUT. Failures of single inputs become lines; others are raised by `run`."""

    def __init__(
        self, separator: Separator, jobs: list[Job], out: Path, settings: Settings, progress: Progress | None = None
    ) -> None:
        self.separator, self.jobs, self.out, self.settings = separator, jobs, out, settings
        self.progress = progress or Progress()
        self.stop = threading.Event()
        self.chunks: Queue[_Chunk | _File | None] = Queue(maxsize=_WAITING_BATCHES * settings.batch_size + 2)
        self.results: Queue[tuple[_File, int, Tensor] | _File | None] = Queue(maxsize=4 * settings.batch_size + 2)
        self.error: BaseException | None = None  # of a thread

    def run(self, record: Record) -> None:
        """Does every job; returns when all is written and recorded.

        Raises:
            RecordError: the record itself cannot be written.
        """
        threads = [
            threading.Thread(target=self._guarded, args=(self._read,), daemon=True),
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
        sweep(self.out, keep=set())

    # Reading ------------------------------------------------------------------------------------

    def _read(self) -> None:
        for job in self.jobs:
            file = _File(job)
            try:
                self._read_file(file)
            except (AudioError, OSError) as error:
                file.reason = _sentence(job, error)
            self._put(self.chunks, file)
        self._put(self.chunks, None)

    def _read_file(self, file: _File) -> None:
        settings, job = self.settings, file.job
        file.fingerprint = fingerprint(job.path)
        source = Source(job.path, self.separator.sample_rate)
        rate = source.input_rate if settings.input_rate else self.separator.sample_rate
        rates = (self.separator.sample_rate, rate)
        file.voices = VoiceFiles(job, self.out, settings.plan, rates, source.seconds, settings.format)
        chunker = settings.plan.chunker()
        for block in source.blocks():
            self._enqueue(file, chunker.push(block))
        file.frames = source.frames if settings.input_rate else None
        self._enqueue(file, chunker.finish())

    def _enqueue(self, file: _File, chunks: list[tuple[int, Tensor]]) -> None:
        for start, mixture in chunks:
            self._put(self.chunks, _Chunk(file, start, mixture))

    # Computing ----------------------------------------------------------------------------------

    def _compute(self) -> None:
        groups: dict[Any, deque[_Chunk]] = {}  # by length and repeats, so that a batch is one tensor
        waiting = 0
        for item in self._items():
            if isinstance(item, _Chunk):
                if not item.file.repeats:
                    item.file.repeats = self.settings.pace.choose() if self.settings.pace else self.settings.repeats
                item.file.waiting += 1
                group = groups.setdefault(_kind(item), deque())
                group.append(item)
                waiting += 1
                if len(group) == self.settings.batch_size or waiting == _WAITING_BATCHES * self.settings.batch_size:
                    oldest = group if len(group) == self.settings.batch_size else next(iter(groups.values()))
                    groups.pop(_kind(oldest[0]))
                    waiting -= len(oldest)
                    self._run(list(oldest))
            else:
                item.ended = True
                self._pass_on(item)
        for group in groups.values():
            self._run(list(group))

    def _items(self) -> Iterator[_Chunk | _File]:
        while (item := self._get(self.chunks)) is not None:
            yield item

    def _run(self, group: list[_Chunk]) -> None:
        wanted = [chunk for chunk in group if not chunk.file.reason]
        if wanted:
            settings, began = self.settings, time.perf_counter()
            mixtures = torch.stack([chunk.mixture for chunk in wanted])
            repeats = wanted[0].file.repeats
            voices, used = self.separator.run(mixtures, repeats, settings.separator_repeats)
            elapsed = time.perf_counter() - began
            advanced = 0.0
            for chunk, separated, depth in zip(wanted, voices, used, strict=True):
                file, end = chunk.file, chunk.start + chunk.mixture.shape[0]
                file.elapsed += elapsed / len(wanted)
                file.used.append(depth)
                self._put(self.results, (file, chunk.start, separated))
                advanced += (end - file.end) / self.separator.sample_rate
                file.end = end
            self.progress.audio(advanced)
            if settings.pace:
                settings.pace.report(repeats, advanced, elapsed)
        for chunk in group:
            chunk.file.waiting -= 1
            self._pass_on(chunk.file)

    def _pass_on(self, file: _File) -> None:
        """Hands a file to the writing thread once its last chunk is through."""
        if file.ended and file.waiting == 0:
            self._put(self.results, file)

    # Writing ------------------------------------------------------------------------------------

    def _write(self, record: Record) -> None:
        while (item := self._get(self.results)) is not None:
            file = item if isinstance(item, _File) else item[0]
            try:
                if isinstance(item, _File):
                    self._finish(file, record)
                elif not file.reason:
                    file.voices.push(item[1], item[2])
            except (AudioError, OSError) as error:
                file.reason = _sentence(file.job, error)
                if isinstance(item, _File):
                    self._finish(file, record)

    def _finish(self, file: _File, record: Record) -> None:
        job, settings = file.job, self.settings
        line = Line(job.input, "failed", settings=settings.recorded)
        if file.used:  # the mean over the chunks, where they differ
            mean = sum(file.used) / len(file.used)
            line.repeats = int(mean) if mean.is_integer() else round(mean, 3)
        line.audio_seconds = round(file.end / self.separator.sample_rate, 6)
        line.elapsed_seconds = round(file.elapsed, 6)
        line.source = file.fingerprint
        if not file.reason:
            line.warnings = file.voices.finish(file.frames)
            line.status, line.outputs = "done", job.outputs
        line.reason = file.reason
        try:
            record.append(line)
        except OSError as error:
            raise RecordError(f"{record.path} cannot be written: {error.strerror or error}: free some space") from None
        if file.voices:
            file.voices.discard()
        self.progress.line(line)

    # Threads ------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
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


def _kind(chunk: _Chunk) -> tuple[int, int | Auto]:
    return chunk.mixture.shape[0], chunk.file.repeats


def _sentence(job: Job, error: Exception) -> str:
    if isinstance(error, AudioError):
        return str(error)
    reason = getattr(error, "strerror", None) or str(error)
    return f"the voices of {job.path} cannot be written: {reason}"
