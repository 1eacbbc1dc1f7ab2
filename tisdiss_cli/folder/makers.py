"""Which input each output holds the voices of: a table on the disk, so that a million inputs take little memory."""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tisdiss_cli.errors import UserError

CACHE = 32  # MiB of memory; up to so much, a table never meets the disk


@dataclass(slots=True, frozen=True)
class Made:
    """What counts of a line that lists outputs."""

    input: str
    path: str  # of the input, absolute and without links; "" in records from before it was kept
    channel: int | None
    settings: dict[str, Any]
    source: list[int]  # fingerprint of the input then
    number: int  # of the line, in the order in which they count

    @property
    def key(self) -> tuple[str, str, int | None]:
        """What tells its input from others."""
        return self.input, self.path, self.channel


class Makers:
    """The newest line that lists each output; SQLite, in a temporary file that is gone with the process.

    UserError when its disk is full.
    """

    def __init__(self) -> None:
        self._settings: list[dict[str, Any]] = []  # each once
        self._places: dict[str, int] = {}  # where in the list, by its JSON
        self._empty = True
        self._table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in (f"cache_size = {-round(CACHE * 1024)}", "journal_mode = off", "synchronous = off"):
            self._table.execute(f"PRAGMA {setting}")
        self._table.execute("CREATE TABLE lines (number INTEGER PRIMARY KEY, told BLOB)")
        self._table.execute("CREATE TABLE outputs (name BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID")
        self._table.execute("BEGIN")  # and never ended: else each line would be written to the disk at once

    def __contains__(self, output: object) -> bool:
        return self.number(str(output)) is not None

    def get(self, output: str) -> Made | None:
        """The line whose voices an output holds; None: of no line."""
        number = self.number(output)
        if number is None:
            return None
        ((told,),) = self._run("SELECT told FROM lines WHERE number = ?", (number,))
        input, path, channel, place, source = json.loads(told)
        return Made(input, path, channel, self._settings[place], source, number)

    def number(self, output: str) -> int | None:
        """Of that line."""
        rows = [] if self._empty else self._run("SELECT number FROM outputs WHERE name = ?", (_bytes(output),))
        return rows[0][0] if rows else None

    def add(self, made: Made, outputs: Iterable[str]) -> None:
        """From now on the outputs are the line's."""
        text = json.dumps(made.settings, sort_keys=True)
        place = self._places.setdefault(text, len(self._settings))
        if place == len(self._settings):
            self._settings.append(made.settings)
        told = json.dumps((made.input, made.path, made.channel, place, made.source))
        self._run("INSERT INTO lines VALUES (?, ?)", (made.number, told.encode()))
        for output in outputs:
            self._run("INSERT OR REPLACE INTO outputs VALUES (?, ?)", (_bytes(output), made.number))
        self._empty = False

    def _run(self, command: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._table.execute(command, values).fetchall()
        except sqlite3.Error as error:
            advice = "make room where temporary files go, or set SQLITE_TMPDIR to a folder that has some"
            raise UserError(f"the record's table of outputs cannot be kept ({error}): {advice}") from None


def _bytes(output: str) -> bytes:
    """Whatever a file name or a line may hold, lone surrogates too."""
    return output.encode("utf-8", "surrogatepass")
