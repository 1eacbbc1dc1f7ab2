"""`tisdiss.jsonl`: one line an input, and whose voices each output holds; what makes a stopped run resume."""

import json
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import dump_json

log = logging.getLogger("tisdiss")

RECORD = "tisdiss.jsonl"
_LONGEST = 1 << 24  # bytes of a line; one that is longer is not ours


@dataclass
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
    quality: dict[str, Any] | None = None  # predicted SI-SNRi in dB, its 80 % band, and the worst chunk's
    doubtful: bool = False  # predicted below --min-quality
    path: str = ""  # of the input, absolute and without links; "" in records from before it was kept
    channel: int | None = None  # of the input, with --channels each
    precision_why: str = ""  # why the precision of the settings was taken, in words


class RecordError(Exception):
    """The record cannot be written, so that nothing more can be promised; the sentence says why."""


class Record:
    """The file in OUT, read when opened, appended to line by line.

    UserError when there is something of its name that is no file, or that cannot be read.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.path = out, out / RECORD
        self.makers: dict[str, Line] = {}  # of each output: the newest line that lists it, whose voices it holds
        self._outputs: dict[tuple[str, str, int | None], set[str]] = {}  # by input, path and channel
        self._unsure: set[str] = set()  # outputs whose input has failed since: an attempt may have replaced some
        self._torn = False
        rows = lines = 0
        for row in self._rows():
            rows, self._torn = rows + 1, not row.endswith(b"\n")
            try:
                self._take(_parse(row))
                lines += 1
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # torn by a kill while it was written: that input is simply done again
        if rows and not lines:
            log.warning(f"warning: {self.path} holds no line of a record: nothing counts as done")

    def done(self, outputs: list[str], settings: dict[str, Any], source: list[int]) -> bool:
        """Whether all the outputs are there, from one input that was this then, under the same settings."""
        line = self.makers.get(outputs[0])
        return (
            line is not None
            and line.settings == settings
            and line.source == source
            and all(self.makers.get(output) is line and output not in self._unsure for output in outputs)
            and all((self.out / output).is_file() for output in outputs)
        )

    def prepare(self) -> None:
        """RecordError now, and not after the first input's work, if nothing can be added."""
        try:
            with self.path.open("ab"):
                pass
        except OSError as error:
            raise self._error(error) from None

    def append(self, line: Line) -> None:
        """Adds a line and hands it to the disk; RecordError when that fails."""
        text = ("\n" if self._torn else "") + dump_json(asdict(line)) + "\n"
        self._torn = True
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._error(error) from None
        self._torn = False
        self._take(line)

    def _rows(self) -> Iterator[bytes]:
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise UserError(f"{self.path} is where the record of OUT must be: move it away, or name another OUT")
            with self.path.open("rb") as file:
                while row := file.readline(_LONGEST):
                    yield row
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            advice = "make it readable, or name another OUT"
            raise UserError(f"{self.path} cannot be read: {error.strerror or error}: {advice}") from None

    def _take(self, line: Line) -> None:
        made = [*line.outputs, *line.segments]
        for output in made:
            self.makers[output] = line
        self._unsure.difference_update(made)
        self._outputs.setdefault((line.input, line.path, line.channel), set()).update(made)
        if line.status != "done":
            for path in (line.path, ""):
                self._unsure |= self._outputs.get((line.input, path, line.channel), set())

    def _error(self, error: OSError) -> RecordError:
        advice = "free some space" if error.errno in (ENOSPC, EDQUOT, EFBIG) else "name an OUT that can be written to"
        return RecordError(f"{self.path} cannot be written: {error.strerror or error}: {advice}")


def _parse(row: bytes) -> Line:
    """The line in a row; ValueError, KeyError or TypeError if there is none."""
    values = json.loads(row)
    line = Line(**{key: values[key] for key in set(Line.__dataclass_fields__) & set(values)})
    texts = [line.input, line.status, line.path, *line.outputs, *line.segments]
    if (
        not isinstance(line.outputs, list)
        or not isinstance(line.segments, list)
        or not all(isinstance(text, str) for text in texts)
    ):
        raise TypeError("a line of another kind")
    return line
