"""Worker on one of several devices: a Ray actor with a network, loaded once, that separates jobs.

A worker has the environment of its machine, so everything else comes as an argument.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.pipeline import Pipeline, Progress
from tisdiss_cli.folder.record import Line
from tisdiss_cli.folder.run_lock import RunLock
from tisdiss_cli.folder.settings import Options, Settings, choose_settings, load_separator
from tisdiss_cli.libraries import versions
from tisdiss_cli.model.weights import WeightFile

log = logging.getLogger("tisdiss")

Item = Settings | Progress | Line | logging.LogRecord


@dataclass(frozen=True, kw_only=True)
class Task:
    """Task of a run's workers."""

    folder: Path  # working directory of the driver, for relative paths
    parts: Path  # absolute folder for unfinished outputs
    options: Options
    inputs: int  # number of inputs
    weights: str  # name of the weight file
    content: bytes  # of the weight file
    out: tuple[Path, bytes]  # a file in OUT and its content, as the driver sees it
    sample: tuple[Path, list[int]]  # an input and its fingerprint, likewise
    versions: dict[str, str]


def make_task(options: Options, weights: WeightFile, inputs: int, sample: Job, lock: RunLock) -> Task:
    """Returns the task of a run with `inputs` inputs, one of which is `sample`."""
    info = lock.info.absolute()
    return Task(
        folder=Path.cwd(),
        parts=lock.parts.absolute(),
        options=replace(options, out=options.out.absolute()),
        inputs=inputs,
        weights=weights.path.name,
        content=weights.path.read_bytes(),
        out=(info, info.read_bytes()),
        sample=(sample.path, fingerprint(sample.path)),
        versions=versions(),
    )


class Worker:
    """Worker with a network on "cpu" (with a number of threads) or "cuda"."""

    def __init__(self, task: Task, device: str, threads: int) -> None:
        # Nothing here may fail, as Ray returns only the text of an exception raised here.
        self.task, self.device, self.threads = task, device, threads
        self.settings: Settings | None = None

    def run(self, jobs: list[Job]) -> Iterator[Item]:
        """Separates jobs; yields the settings the first time, then each job's line, progress and log records.

        The driver removes the jobs' folders once their lines are recorded. UserError, OutOfMemory and OSError say in
        one sentence why the worker cannot go on.
        """
        if not self.settings:
            yield self._load()
        assert self.settings
        messages = SimpleQueue[logging.LogRecord]()
        listener = QueueHandler(messages)
        log.addHandler(listener)
        log.setLevel(logging.INFO)
        try:
            for event in Pipeline(self.separator, self.settings, self.task.parts).run(jobs):
                while not messages.empty():
                    yield messages.get()
                yield event
        finally:
            log.removeHandler(listener)

    def _load(self) -> Settings:
        task, here = self.task, versions()
        for name, needed in task.versions.items():
            if here[name].split("+")[0] != needed.split("+")[0]:  # without builds (+cpu, +cu130)
                raise UserError(f"{name} is {here[name]} there and {needed} here: install the same")
        with suppress(OSError):  # if it is missing there, so are relative paths
            os.chdir(task.folder)
        (path, expected), (info, content) = task.sample, task.out
        for what, file, same in (
            ("IN", task.folder / path, fingerprint(path) == expected),
            ("OUT", info, info.is_file() and info.read_bytes() == content),
        ):
            if not same:
                reason = f"{what} is not on a shared disk: {file} is missing there, or differs"
                raise UserError(f"{reason}: name a folder that every machine sees")
        import torch

        torch.set_num_threads(self.threads)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, task.weights)
            path.write_bytes(task.content)
            options = replace(task.options, weights=str(path), device=self.device)
            self.separator = load_separator(options)
            self.settings = choose_settings(self.separator, options, task.inputs)  # with the file's digest
        return self.settings
