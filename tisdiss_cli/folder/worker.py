"""What works on one device for a run that has several: a network, loaded once, and bundles of jobs.

A worker's environment is its machine's, not the driver's: whatever it must know comes as an argument. It is a plain
class; `fleet` makes actors of Ray's from it.
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
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import Queue
from typing import Any

from tisdiss_cli.devices import OutOfMemory
from tisdiss_cli.errors import UserError
from tisdiss_cli.files import fingerprint
from tisdiss_cli.folder.jobs import PARTS, Job
from tisdiss_cli.folder.locks import Presence, facts_of_this
from tisdiss_cli.folder.record import Line, RecordError
from tisdiss_cli.folder.run import FolderRun
from tisdiss_cli.folder.settings import Settings, choose_settings
from tisdiss_cli.model.weights import WeightFile, bundled
from tisdiss_cli.separation.separator import Separator

log = logging.getLogger("tisdiss")

_TOLD = 0.5  # seconds between two words on how far it is
_LIBRARIES = ("torch", "torchaudio", "soundfile", "av", "numpy")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every worker of a run is told."""

    folder: Path  # in which the driver was started: where relative paths begin
    out: Path  # absolute
    run: str  # the driver's name in OUT
    token: str  # what stands in the file of `token_file`
    weights: str  # a bundled name, or the name of the file whose bytes come with it
    digest: str
    precision: str
    compile: bool
    options: dict[str, Any]  # of `choose_settings`
    sample: tuple[Path, list[int]]  # one of the inputs and its fingerprint
    versions: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What a worker says once it is ready, or cannot be."""

    host: str
    process: int
    name: str = ""  # in OUT
    settings: Settings | None = None
    trouble: str | None = None  # one sentence


@dataclass(frozen=True)
class Left:
    """An input that another run has begun or done."""

    id: tuple[str, int | None]


@dataclass(frozen=True)
class Said:
    """A sentence of the library's, for the driver to log."""

    level: int
    text: str


@dataclass(frozen=True)
class Trouble:
    """Why a worker can do no more; the rest of its bundle is not begun or is to be done again."""

    text: str


Item = float | Line | Left | Said | Trouble  # a float: so many seconds of audio are separated


def task_of(
    presence: Presence,
    sample: Job,
    weights: WeightFile,
    *,
    precision: str,
    compile: bool,
    options: dict[str, Any],
) -> Task:
    """A run's task.

    Args:
        presence: the driver's in OUT.
        sample: one of the inputs.
        weights: a bundled file, or one whose bytes are sent.
        precision, compile, options: as `Task` has them.
    """
    return Task(
        folder=Path.cwd(),
        out=presence.out.absolute(),
        run=presence.name,
        token=os.urandom(16).hex(),
        weights=weights.path.name if weights.path not in bundled() else weights.name,
        digest=weights.digest,
        precision=precision,
        compile=compile,
        options=options,
        sample=(sample.path, fingerprint(sample.path)),
        versions=versions_here(),
    )


def token_file(out: Path, run: str) -> Path:
    """Where the driver leaves a token for its workers to find, if OUT is on a disk that all share."""
    return out / PARTS / run / "token"


def versions_here() -> dict[str, str]:
    """Of what the samples depend on; which build of a library it is (+cpu, +cu130) is left out."""
    found = {"tisdiss": sys.modules["tisdiss_cli"].__version__}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name).split("+")[0]
    return found


class Worker:
    """Holds a network on one device; `load` comes first."""

    def __init__(self) -> None:
        self.presence: Presence | None = None

    def load(self, task: Task, device: str, *, threads: int, weights: bytes | None) -> Answer:
        """Makes ready, or says in one sentence why that cannot be.

        Args:
            task: the run's.
            device: "cpu", "cuda", ...
            threads: of torch's on a CPU.
            weights: the weight file's bytes; None: `task.weights` is bundled.
        """
        host, process = platform.node(), os.getpid()
        try:
            if trouble := self._mismatch(task, host):
                return Answer(host, process, trouble=trouble)
            import torch

            torch.set_num_threads(threads)
            self._load_network(task, device, weights)
            if (found := self.settings.recorded["weights_sha256"]) != task.digest:
                raise UserError(f"its weights {task.weights} are others ({found}, not {task.digest}): install the same")
            self.presence = Presence(task.out, facts_of_this(of=task.run))
        except (UserError, OutOfMemory, OSError) as error:
            return Answer(host, process, trouble=f"{host}: {error}")
        return Answer(host, process, self.presence.name, self.settings)

    def run(self, jobs: list[Job]) -> Iterator[Item]:
        """Does a bundle; yields each input's line, and what else there is to tell, as it comes."""
        items: Queue[Item | None] = Queue()
        thread = threading.Thread(target=self._work, args=(jobs, items), daemon=True)
        thread.start()
        while (item := items.get()) is not None:
            yield item
        thread.join()

    def _work(self, jobs: list[Job], items: "Queue[Item | None]") -> None:
        assert self.presence is not None  # `load` has come before
        listener, audio = _Listener(items), _Audio(items)
        log.addHandler(listener)
        log.setLevel(logging.INFO)
        try:
            run = FolderRun(
                self.separator,
                jobs,
                self.presence.out,
                self.settings,
                on_audio=audio.add,
                on_left=lambda job: items.put(Left(job.id)),
                presence=self.presence,
            )
            run.run(_Lines(items))
        except Exception as error:
            said = isinstance(error, UserError | OutOfMemory | RecordError | OSError)
            items.put(Trouble(f"{platform.node()}: " + (str(error) if said else f"{type(error).__name__}: {error}")))
        finally:
            log.removeHandler(listener)
            audio.flush()
            items.put(None)

    def _load_network(self, task: Task, device: str, weights: bytes | None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            name: str | Path | None = task.weights
            if weights is not None:
                name = Path(folder) / task.weights
                name.write_bytes(weights)
            self.separator = Separator.load(name, device, task.precision)
            self.settings = choose_settings(self.separator, **task.options)  # the file's digest is among them
        if task.compile:
            self.separator.compile()

    def _mismatch(self, task: Task, host: str) -> str | None:
        here = versions_here()
        for name, wanted in task.versions.items():
            if here.get(name) != wanted:
                return f"{host} has {name} {here.get(name, 'not')}, this machine {wanted}: install the same on both"
        try:
            shared = token_file(task.out, task.run).read_text(encoding="ascii") == task.token
        except OSError:
            shared = False
        if not shared:
            return f"OUT {task.out} is not on a disk that {host} shares: name a folder that every machine sees"
        path, expected = task.sample
        try:
            os.chdir(task.folder)
        except OSError:
            if not path.is_absolute():
                return f"IN is not on a disk that {host} shares: the folder {task.folder} is not there"
        if fingerprint(path) != expected:
            return f"IN is not on a disk that {host} shares: {path} is not there, or another file"
        return None


class _Lines:
    """A run's record that hands each line on: the driver alone writes them down."""

    def __init__(self, items: "Queue[Item | None]") -> None:
        self.items = items
        self.makers: tuple[str, ...] = ()

    def append(self, line: Line) -> None:
        self.items.put(line)

    def done_since(self, job: Job, settings: dict[str, Any], since: int) -> bool:
        return False  # the driver looks, when it gives the job out


class _Audio:
    """Sums up the seconds of audio, and tells of them not more often than a bar is drawn."""

    def __init__(self, items: "Queue[Item | None]") -> None:
        self.items, self.seconds, self.told = items, 0.0, 0.0

    def add(self, seconds: float) -> None:
        self.seconds += seconds
        if time.monotonic() - self.told > _TOLD:
            self.flush()

    def flush(self) -> None:
        if self.seconds:
            self.items.put(self.seconds)
        self.seconds, self.told = 0.0, time.monotonic()


class _Listener(logging.Handler):
    def __init__(self, items: "Queue[Item | None]") -> None:
        super().__init__()
        self.items = items

    def emit(self, record: logging.LogRecord) -> None:
        self.items.put(Said(record.levelno, record.getMessage()))
