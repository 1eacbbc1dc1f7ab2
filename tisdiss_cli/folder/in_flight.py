"""An input on its way through a run's three threads; the types say which thread owns what.

Only the owner of a field writes it. The others read what a queue has brought them: the computing thread gets a chunk
once it is read, the writing thread its voices once they are computed, and the input itself last of all. A failure
alone is looked at earlier, to be spared work, and one seen late harms nothing.
"""

from dataclasses import dataclass, field

from torch import Tensor

from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.voices import VoiceFiles
from tisdiss_cli.separation.early_exit import EarlyExit


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
