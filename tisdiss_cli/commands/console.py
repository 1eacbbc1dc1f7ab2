"""Console of the commands: results on stdout, messages and bars on stderr.

The library logs to the logger "tisdiss"; the one handler here writes its sentences, and `--quiet` is a level.
"""

import copy
import json
import logging
import os
import sys
from contextlib import AbstractContextManager
from math import isfinite
from typing import TYPE_CHECKING, Any

from tisdiss_cli.files import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from tqdm import tqdm

    from tisdiss_cli.model.weights import WeightFile

log = logging.getLogger("tisdiss")


class _Sentence(logging.Formatter):
    """One message, one line, whatever is in the names that it holds; a format's own line ends stand."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, or the lines of a format that has arguments."""
        told = copy.copy(record)
        if isinstance(record.args, tuple) and record.args:
            told.args = tuple(shown(value) if isinstance(value, str) else value for value in record.args)
        else:
            told.msg, told.args = shown(record.getMessage()), None
        return super().format(told)


def start_logging() -> None:
    """Sentences of the library on stderr, each after "tisdiss: "; of several ranks the first alone speaks."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Sentence("tisdiss: %(message)s"))
    logging.raiseExceptions = False  # a sentence that cannot be written is no reason for a traceback among the others
    log.handlers, log.propagate = [handler], False
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # of its caches, it warns whoever draws for the first time
    log.setLevel(logging.INFO if os.environ.get("LOCAL_RANK", "0") == "0" else logging.ERROR)


class _Event(logging.Formatter):
    """One message, one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        return json.dumps(
            {"format": 1, "event": "message", "level": record.levelname.lower(), "text": record.getMessage()}
        )


def speak_json() -> None:
    """Has sentences on stderr come as lines of JSON from now on."""
    for handler in log.handlers:
        handler.setFormatter(_Event())


def keep_quiet(quiet: bool) -> None:
    """With `--quiet`, errors only."""
    if quiet:
        log.setLevel(logging.ERROR)


def warn_if_untrained(weights: "WeightFile") -> None:
    """Says so of weights that do not separate."""
    if not weights.trained:
        log.warning(f"warning: the weights {weights.name!r} are untrained: they do not separate")


def bar(**options: Any) -> "AbstractContextManager[tqdm]":
    """A bar of tqdm on stderr, beside which sentences are written without breaking it; none with `--quiet`."""
    from tqdm.contrib.logging import tqdm_logging_redirect

    hidden = not log.isEnabledFor(logging.INFO)
    return tqdm_logging_redirect(loggers=[log], **{"file": sys.stderr, "disable": hidden, **options})


def audio_bar(seconds: float, *, hidden: bool = False) -> "AbstractContextManager[tqdm]":
    """A `bar` of seconds of audio; the total may be unknown (0, or not finite), or turn out wrong: see `advance`."""
    known = isfinite(seconds) and seconds > 0
    counter = "{n:.1f}/{total:.1f} s of audio [{elapsed}<{remaining}{postfix}]"
    form = "{l_bar}{bar}| " + counter if known else "{n:.1f} s of audio [{elapsed}{postfix}]"
    options = {"disable": True} if hidden else {}
    return bar(total=seconds if known else None, unit="s", bar_format=form, **options)


def advance(shown_bar: "tqdm", seconds: float, note: str = "") -> None:
    """Moves an `audio_bar`; where there is more audio than was announced, the total grows."""
    if not isfinite(seconds):
        return
    if shown_bar.total is not None:
        shown_bar.total = max(shown_bar.total, shown_bar.n + seconds)
    shown_bar.set_postfix_str(note, refresh=False)
    shown_bar.update(seconds)


def plain_console(width: int | None = None, soft_wrap: bool = False) -> "Console":
    """A console on stdout that takes no text for markup, and shows what is in a file's name instead of doing it."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:  # of a table's cell, or of a line
            told = shown(text).encode(self.encoding, "backslashreplace").decode(self.encoding)
            return super().render_str(told, **options)

    return Plain(width=width, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)


def print_table(table: "Table") -> None:
    """Prints a table on stdout whole, wider than the terminal if it must be: no cell is shortened."""
    needed = plain_console(width=1000).measure(table).maximum
    plain_console(width=max(plain_console().width, needed)).print(table)
