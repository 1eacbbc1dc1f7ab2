"""A worker on one of several devices, as an actor of Ray's: a network, loaded once, and bundles of jobs.

A worker's environment is its machine's, not the driver's: whatever it must know comes as an argument.
"""

import logging
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import Queue

from tisdiss_cli.devices import OutOfMemory
from tisdiss_cli.errors import UserError
from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.pipeline import Pipeline, Progress
from tisdiss_cli.folder.record import Line
from tisdiss_cli.folder.settings import Options, Settings, choose_settings, load_separator
from tisdiss_cli.model.weights import WeightFile, bundled

log = logging.getLogger("tisdiss")

_TOLD = 0.5  # seconds between two words on how far it is
_LIBRARIES = ("torch", "torchaudio", "soundfile", "av", "numpy")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every worker of a run is told."""

    folder: Path  # in which the driver was started: where relative paths begin
    parts: Path  # absolute; for unfinished outputs
    token: str  # what stands in the file `token` there, which a worker finds if OUT is on a disk that all share
    options: Options
    inputs: int  # how many there are
    weights: str  # a bundled name, or the name of the file whose bytes come with it
    digest: str
    sample: tuple[Path, list[int]]  # one of the inputs and its fingerprint
    versions: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What a worker says once it is ready, or cannot be."""

    host: str
    settings: Settings | None = None
    trouble: str | None = None  # one sentence


@dataclass(frozen=True)
class Said:
    """A sentence of the library's, for the driver to log."""

    level: int
    text: str


@dataclass(frozen=True)
class Trouble:
    """Why a worker can do no more; the rest of its bundle is not begun or is to be done again."""

    text: str


Item = Progress | Line | Said | Trouble


def make_task(options: Options, weights: WeightFile, inputs: int, sample: Job, parts: Path) -> Task:
    """Returns a run's task, and leaves the token for its workers to find.

    Args:
        options: of the run.
        weights: a bundled file, or one whose bytes are sent.
        inputs: how many there are.
        sample: one of them.
        parts: the run's folder for unfinished outputs.
    """
    token = os.urandom(16).hex()
    (parts / "token").write_text(token, encoding="ascii")
    return Task(
        folder=Path.cwd(),
        parts=parts.absolute(),
        token=token,
        options=replace(options, out=options.out.absolute()),
        inputs=inputs,
        weights=weights.path.name if weights.path not in bundled() else weights.name,
        digest=weights.digest,
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
    """Holds a network on one device; `load` comes first."""

    def load(self, task: Task, device: str, *, threads: int, weights: bytes | None) -> Answer:
        """Makes ready, or says in one sentence why that cannot be.

        Args:
            task: the run's.
            device: "cpu", "cuda", ...
            threads: of torch's on a CPU.
            weights: the weight file's bytes; None: `task.weights` is bundled.
        """
        self.task, host = task, platform.node()
        try:
            if trouble := self._mismatch(host):
                return Answer(host, trouble=trouble)
            import torch

            torch.set_num_threads(threads)
            self._load_network(device, weights)
            if (found := self.settings.recorded["weights_sha256"]) != task.digest:
                raise UserError(f"its weights {task.weights} are others ({found}, not {task.digest}): install the same")
        except (UserError, OutOfMemory, OSError) as error:
            return Answer(host, trouble=f"{host}: {error}")
        return Answer(host, self.settings)

    def run(self, jobs: list[Job]) -> Iterator[Item]:
        """Does a bundle; yields each input's line, and what else there is to tell, as it comes.

        The jobs' folders stay, for the driver to remove once the line is in the record.
        """
        items: Queue[Item | None] = Queue()
        thread = threading.Thread(target=self._work, args=(jobs, items), daemon=True)
        thread.start()
        while (item := items.get()) is not None:
            yield item
        thread.join()

    def _work(self, jobs: list[Job], items: "Queue[Item | None]") -> None:
        listener, seconds, told = _Listener(items), 0.0, 0.0
        log.addHandler(listener)
        log.setLevel(logging.INFO)
        # A line goes out at once: once an output has its name, its line should not be lost with this process.
        pipeline = Pipeline(
            self.separator, self.settings, self.task.options.out, self.task.parts, lambda job, line: items.put(line)
        )
        try:
            for event in pipeline.run(jobs):
                seconds += event.seconds if isinstance(event, Progress) else 0.0
                if time.monotonic() - told > _TOLD:
                    items.put(Progress(seconds))
                    seconds, told = 0.0, time.monotonic()
            items.put(Progress(seconds))
        except Exception as error:
            known = isinstance(error, UserError | OutOfMemory | OSError)
            items.put(Trouble(f"{platform.node()}: " + (str(error) if known else f"{type(error).__name__}: {error}")))
        finally:
            log.removeHandler(listener)
            items.put(None)

    def _load_network(self, device: str, weights: bytes | None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            name = self.task.weights
            if weights is not None:
                name = str(Path(folder) / self.task.weights)
                Path(name).write_bytes(weights)
            options = replace(self.task.options, weights=name, device=device)
            self.separator = load_separator(options)
            self.settings = choose_settings(
                self.separator, options, self.task.inputs
            )  # the file's digest is among them

    def _mismatch(self, host: str) -> str | None:
        task, here = self.task, versions_here()
        for name, wanted in task.versions.items():
            if here.get(name) != wanted:
                return f"{host} has {name} {here.get(name, 'not')}, this machine {wanted}: install the same on both"
        try:
            shared = (task.parts / "token").read_text(encoding="ascii") == task.token
        except OSError:
            shared = False
        if not shared:
            return f"OUT {task.options.out} is not on a disk that {host} shares: name a folder that every machine sees"
        path, expected = task.sample
        try:
            os.chdir(task.folder)
        except OSError:
            if not path.is_absolute():
                return f"IN is not on a disk that {host} shares: the folder {task.folder} is not there"
        if fingerprint(path) != expected:
            return f"IN is not on a disk that {host} shares: {path} is not there, or another file"
        return None


class _Listener(logging.Handler):
    def __init__(self, items: "Queue[Item | None]") -> None:
        super().__init__()
        self.items = items

    def emit(self, record: logging.LogRecord) -> None:
        self.items.put(Said(record.levelno, record.getMessage()))
