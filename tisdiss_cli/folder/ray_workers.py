"""A worker on one of several devices, as an actor of Ray's: a network, loaded once, and bundles of jobs.

A worker's environment is its machine's, not the driver's: whatever it must know comes as an argument.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
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
from tisdiss_cli.model.weights import WeightFile

log = logging.getLogger("tisdiss")

_LIBRARIES = ("torch", "torchaudio", "soundfile", "av", "numpy")

Item = Settings | Progress | Line | logging.LogRecord


@dataclass(frozen=True, kw_only=True)
class Task:
    """The orders of a run's workers."""

    folder: Path  # in which the driver was started: where relative paths begin
    parts: Path  # absolute; for unfinished outputs
    options: Options
    inputs: int  # how many there are
    weights: str  # the file's name
    content: bytes  # and what is in it
    out: tuple[Path, bytes]  # a file in OUT and its content, as the driver sees it
    sample: tuple[Path, list[int]]  # one of the inputs and its fingerprint, likewise
    versions: dict[str, str]


def make_task(options: Options, weights: WeightFile, inputs: int, sample: Job, lock: RunLock) -> Task:
    """Returns a run's task, by its options, its weights, how many inputs there are, one of them, and its lock."""
    facts = lock.facts.absolute()
    return Task(
        folder=Path.cwd(),
        parts=lock.parts.absolute(),
        options=replace(options, out=options.out.absolute()),
        inputs=inputs,
        weights=weights.path.name,
        content=weights.path.read_bytes(),
        out=(facts, facts.read_bytes()),
        sample=(sample.path, fingerprint(sample.path)),
        versions=versions_here(),
    )


def versions_here() -> dict[str, str]:
    """Returns those of what the samples depend on; which build of a library it is (+cpu, +cu130) is left out."""
    found = {"tisdiss": sys.modules["tisdiss_cli"].__version__}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name).split("+")[0]
    return found


class Worker:
    """Holds a network on one device, "cpu" or "cuda"; on a CPU torch has so many threads."""

    def __init__(self, task: Task, device: str, threads: int) -> None:
        # Whatever may fail waits for `run`: of what is raised here Ray gives back the text only.
        self.task, self.device, self.threads = task, device, threads
        self.settings: Settings | None = None

    def run(self, jobs: list[Job]) -> Iterator[Item]:
        """Does a bundle; yields the settings the first time, each input's line, and what else there is to tell.

        The jobs' folders stay, for the driver to remove once the line is in the record. UserError, OutOfMemory and
        OSError say in one sentence why the worker can do nothing, or no more.
        """
        if not self.settings:
            yield self._load()
        assert self.settings
        said = SimpleQueue[logging.LogRecord]()
        listener = QueueHandler(said)
        log.addHandler(listener)
        log.setLevel(logging.INFO)
        try:
            for event in Pipeline(self.separator, self.settings, self.task.parts).run(jobs):
                while not said.empty():
                    yield said.get()
                yield event
        finally:
            log.removeHandler(listener)

    def _load(self) -> Settings:
        task, here = self.task, versions_here()
        for name, wanted in task.versions.items():
            if here.get(name) != wanted:
                found = here.get(name, "missing")
                raise UserError(f"{name} is {found} there and {wanted} here: install the same on both")
        with suppress(OSError):  # where it is missed, so are relative paths
            os.chdir(task.folder)
        (path, expected), (facts, content) = task.sample, task.out
        for what, file, same in (
            ("IN", task.folder / path, fingerprint(path) == expected),
            ("OUT", facts, facts.is_file() and facts.read_bytes() == content),
        ):
            if not same:
                reason = f"{what} is not on a disk that it shares: {file} is not there, or another"
                raise UserError(f"{reason}: name a folder that every machine sees")
        import torch

        torch.set_num_threads(self.threads)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, task.weights)
            path.write_bytes(task.content)
            options = replace(task.options, weights=str(path), device=self.device)
            self.separator = load_separator(options)
            self.settings = choose_settings(self.separator, options, task.inputs)  # the file's digest is among them
        return self.settings
