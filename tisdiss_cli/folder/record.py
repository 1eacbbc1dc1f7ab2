"""Which inputs are done, and whose voices each output holds: the record of OUT, by which a stopped run resumes."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import dump_json, fingerprint
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.lines import RECORD, Line, LineFile, merged, record_files
from tisdiss_cli.folder.makers import Made, Makers

__all__ = ["RECORD", "Line", "Record", "RecordError"]

_Key = tuple[str, str, int | None]

log = logging.getLogger("tisdiss")


class RecordError(Exception):
    """The record cannot be written, so that nothing more can be promised; the sentence says why."""


class Record:
    """The files in OUT, read when opened; one of them, the writer's own, is appended to line by line.

    UserError when there is something of a record's name that is no file, or that cannot be read.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.path, self.within = out, out / RECORD, ""
        self._origin: tuple[list[str], str] = [], ""  # each IN and the list, until a line has said so
        self.makers = Makers()  # of each output: the newest line that lists it, whose voices it holds
        self._failed: dict[_Key, int] = {}  # by input, path and channel: the newest line that says so
        self._failed_inputs: dict[tuple[str, int | None], int] = {}  # the same without the path, for old lines
        self._former: dict[_Key, set[str]] = {}  # outputs that another has made since
        self._unsure: set[str] = set()  # of those, which an attempt that failed may have replaced
        self._count = 0
        self._files: dict[Path, LineFile] = {self.path: LineFile(self.path)}
        self.reread()
        if not self._count and any(not file.empty for file in self._files.values()):
            log.warning(f"warning: {self.path} holds no line of a record: nothing counts as done")

    def write_to(self, name: str, within: str, *, sources: Sequence[Path] = (), files_from: str | None = None) -> None:
        """Chooses the file that is written, by its name in OUT, and says what the lines are from.

        Args:
            name: of the file.
            within: IN, absolute, or what several have in common.
            sources: each IN, which the first line says: what several have in common may be another run's IN.
            files_from: the list, likewise.
        """
        self.path, self.within = self.out / name, within
        self._origin = [os.path.realpath(source) for source in sources], _absolute(files_from)
        self._files.setdefault(self.path, LineFile(self.path))

    def reread(self) -> bool:
        """Takes in what other writers have added, and says whether there was anything."""
        before = self._count
        for path in record_files(self.out):
            self._files.setdefault(path, LineFile(path))
        for line in merged(self._files.values()):
            self._take(line)
        return self._count > before

    def done(self, outputs: list[str], settings: dict[str, Any], source: list[int]) -> bool:
        """Whether all the outputs are there, from one input that was this then, under the same settings."""
        made = self.makers.get(outputs[0])
        return (
            made is not None
            and made.settings == settings
            and made.source == source
            and all(self.makers.number(output) == made.number and output not in self._unsure for output in outputs)
            and not self._failed_since(made)
            and all((self.out / output).is_file() for output in outputs)
        )

    def done_since(self, job: Job, settings: dict[str, Any], since: int) -> bool:
        """Whether another run has done the job after that time on OUT's clock, in nanoseconds."""
        found = fingerprint(self.out / job.outputs[0])
        if not found or found[1] < since:
            return False
        self.reread()
        return self.done([*job.outputs, *job.besides], settings, fingerprint(job.path))

    def prepare(self) -> None:
        """RecordError now, and not after the first input's work, if nothing can be added."""
        self._write("")

    def append(self, line: Line) -> None:
        """Adds a line, with the time and with IN, and hands it to the disk; RecordError when that fails."""
        line.time, line.within = time.time(), line.within or self.within
        line.sources, line.files_from = self._origin
        values = asdict(line)
        if self._origin == ([], ""):
            del values["sources"], values["files_from"]
        self._write(dump_json(values) + "\n")
        self._origin = [], ""
        try:
            self._take(line)
        except UserError as error:
            raise RecordError(str(error)) from None

    def _write(self, text: str) -> None:
        own = self._files[self.path]
        if text and own.torn:
            text = "\n" + text
        own.torn = own.torn or bool(text)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                own.skip(file.tell())
        except OSError as error:
            advice = (
                "free some space" if error.errno in (ENOSPC, EDQUOT, EFBIG) else "name an OUT that can be written to"
            )
            raise RecordError(f"{self.path} cannot be written: {error.strerror or error}: {advice}") from None
        if text:
            own.torn = False

    def _take(self, line: Line) -> None:
        self._count += 1
        key = (line.input, line.path, line.channel)
        if line.status != "done":
            self._failed[key] = self._failed_inputs[line.input, line.channel] = self._count
            for path in (line.path, ""):
                self._unsure |= self._former.get((line.input, path, line.channel), set())
        if not line.outputs:
            return
        outputs = [*line.outputs, *line.segments]
        for output in outputs:
            before = self.makers.get(output)
            if before and before.key != key:
                self._former.setdefault(before.key, set()).add(output)
        self.makers.add(Made(*key, line.settings, line.source, self._count), outputs)
        self._unsure.difference_update(outputs)

    def _failed_since(self, made: Made) -> bool:
        """Whether the input has failed after it was made: an attempt may have replaced some of its outputs."""
        if made.path:
            return self._failed.get(made.key, 0) > made.number
        return self._failed_inputs.get((made.input, made.channel), 0) > made.number


def _absolute(files_from: str | None) -> str:
    """A list's path from anywhere; of standard input and of pipes, which cannot be read again, as it was given."""
    if files_from is None:
        return ""
    path = os.path.abspath(os.path.expanduser(files_from))
    return path if os.path.isfile(path) else files_from
