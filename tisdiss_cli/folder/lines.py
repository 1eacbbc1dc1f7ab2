"""The lines of OUT's record, of one file or of several: what they say, and the order in which they count.

Each writer has a file of its own, `tisdiss.jsonl`, `tisdiss.3-of-8.jsonl`, ...: no two append to one. Read together,
later lines count, by the time that each bears; within a file its order decides.
"""

import heapq
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tisdiss_cli.errors import UserError

RECORD = "tisdiss.jsonl"
_NAME = re.compile(r"tisdiss(?:\.([^/]+))?\.jsonl")
_LONGEST = 1 << 24  # bytes of a line; one that is longer is not ours


@dataclass(slots=True)
class Line:
    """What became of one input."""

    input: str  # relative to IN
    status: str  # "done" or "failed"
    reason: str | None = None  # one sentence, of a failed one
    outputs: list[str] = field(default_factory=list)  # relative to OUT
    repeats: float = 0  # of the Reconstructor; with --repeats auto the mean over the chunks
    audio_seconds: float = 0.0
    elapsed_seconds: float = 0.0  # the network's time on its chunks
    warnings: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)  # all that the samples depend on
    source: list[int] = field(default_factory=list)  # size in bytes and time of change of the input
    segments: list[str] = field(default_factory=list)  # files of who speaks when, relative to OUT
    speech_seconds: list[float] | None = None  # of each voice; None: nobody listened
    overlap_seconds: float | None = None  # in which two or more speak
    silence_seconds: float | None = None  # in which nobody does
    talkers: int | None = None  # voices that speak
    quality: dict[str, Any] | None = None  # predicted SI-SNRi in dB, its 80 % band, and the worst ten seconds'
    doubtful: bool = False  # predicted below --min-quality
    path: str = ""  # of the input, absolute and without links; "" in records from before it was kept
    channel: int | None = None  # of the input, with --channels each
    precision_why: str = ""  # why the precision of the settings was taken, in words
    within: str = ""  # IN, absolute; of several what they have in common, of a list the list
    sources: list[str] = field(default_factory=list)  # each IN, absolute: in the first line of a run
    files_from: str = ""  # the list, in the same line
    time: float = 0.0  # when it was written, in seconds since 1970; 0 in records from before it was kept

    @property
    def id(self) -> tuple[str, int | None]:
        """What tells it from the other lines of a run."""
        return self.input, self.channel


class LineFile:
    """One file of the record, read on from where it was left."""

    def __init__(self, path: Path) -> None:
        self.path, self.torn, self.empty = path, False, True
        self._offset = 0

    def read(self) -> Iterator[tuple[float, Line]]:
        """The lines that are new, each with the time by which it counts; others are left out.

        UserError when there is something of the file's name that is no file, or that cannot be read.
        """
        time = 0.0
        for row in self._rows():
            self.empty = False
            self.torn = not row.endswith(b"\n")
            try:
                line = _parse(row)
            except (ValueError, KeyError, TypeError, RecursionError):
                if self.torn:
                    return  # by a kill, and its input is simply done again; or its writer is just writing it
                line = None
            self._offset += len(row)
            if line:
                time = max(time, line.time)
                yield time, line

    def skip(self, offset: int) -> None:
        """Takes what stands before that byte as read."""
        self._offset = offset

    def _rows(self) -> Iterator[bytes]:
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise UserError(f"{self.path} is where the record of OUT must be: move it away, or name another OUT")
            with self.path.open("rb") as file:
                file.seek(self._offset)
                while row := file.readline(_LONGEST):
                    yield row
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            advice = "make it readable, or name another OUT"
            raise UserError(f"{self.path} cannot be read: {error.strerror or error}: {advice}") from None


def record_files(out: Path) -> list[Path]:
    """Every file of OUT's record, sorted."""
    try:
        with os.scandir(out) as entries:
            names = sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name))
    except OSError:
        names = []
    return [out / name for name in names]


def record_name(writer: str | None) -> str:
    """The name of a writer's file; None: the one that a single run writes."""
    return f"tisdiss.{writer}.jsonl" if writer else RECORD


def merged(files: Iterable[LineFile]) -> Iterator[Line]:
    """The new lines of several files in the order in which they count."""
    for _, line in heapq.merge(*(file.read() for file in files), key=lambda timed: timed[0]):
        yield line


def _parse(row: bytes) -> Line:
    """The line in a row; ValueError, KeyError or TypeError if there is none."""
    values = json.loads(row)
    line = Line(**{key: values[key] for key in set(Line.__dataclass_fields__) & set(values)})
    texts = [line.input, line.status, line.path, line.within, line.files_from]
    numbers = [line.audio_seconds, line.elapsed_seconds, line.time]
    lists = (line.outputs, line.segments, line.sources)
    if (
        not all(isinstance(each, list) for each in lists)
        or not all(isinstance(text, str) for each in lists for text in each)
        or not all(isinstance(text, str) for text in texts)
        or not all(isinstance(number, int | float) for number in numbers)
    ):
        raise TypeError("a line of another kind")
    return line
