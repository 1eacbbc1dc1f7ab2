"""`tisdiss.jsonl`: one line an input, the newest counts; what makes a stopped run resume."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RECORD = "tisdiss.jsonl"


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


class RecordError(Exception):
    """The record cannot be written, so that nothing more can be promised; the sentence says why."""


class Record:
    """The file in OUT, read when opened, appended to line by line."""

    def __init__(self, out: Path) -> None:
        self.out, self.path = out, out / RECORD
        self.lines: dict[str, Line] = {}
        self.made: set[str] = set()  # every output that a line, not only the newest, lists
        self._torn = False
        if not self.path.exists():
            return
        known = set(Line.__dataclass_fields__)
        text = self.path.read_text(encoding="utf-8", errors="replace")
        self._torn = bool(text) and not text.endswith("\n")
        for row in text.splitlines():
            try:
                values = json.loads(row)
                self._take(Line(**{key: values[key] for key in known & set(values)}))
            except (ValueError, KeyError, TypeError):
                continue  # torn by a kill while it was written: that input is simply done again

    def done(self, input: str, settings: dict[str, Any], source: list[int]) -> bool:
        """Whether the input was separated under the same settings and its outputs are still there."""
        line = self.lines.get(input)
        return (
            line is not None
            and line.status == "done"
            and line.settings == settings
            and line.source == source
            and bool(line.outputs)
            and all((self.out / output).is_file() for output in line.outputs)
        )

    def append(self, line: Line) -> None:
        """Adds a line and hands it to the disk; RecordError when that fails."""
        text = ("\n" if self._torn else "") + json.dumps(asdict(line), ensure_ascii=False) + "\n"
        self._torn = True
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RecordError(f"{self.path} cannot be written: {error.strerror or error}: free some space") from None
        self._torn = False
        self._take(line)

    def _take(self, line: Line) -> None:
        self.lines[line.input] = line
        self.made.update(line.outputs)
