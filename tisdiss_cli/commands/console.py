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
    """Formatter of one line a message: control characters in names are escaped, line ends of a format string stay."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, or the lines of a format string with arguments."""
        escaped = copy.copy(record)
        if isinstance(record.args, tuple) and record.args:
            escaped.args = tuple(shown(value) if isinstance(value, str) else value for value in record.args)
        else:
            escaped.msg, escaped.args = shown(record.getMessage()), None
        return super().format(escaped)


def start_logging() -> None:
    """Sends the library's messages to stderr, each after "tisdiss: "; of several ranks, only the first one's."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Sentence("tisdiss: %(message)s"))
    logging.raiseExceptions = False  # a message that cannot be written must not become a traceback
    log.handlers, log.propagate = [handler], False
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns about its caches at the first drawing
    log.setLevel(logging.INFO if os.environ.get("LOCAL_RANK", "0") == "0" else logging.ERROR)


class _Event(logging.Formatter):
    """Formatter of one line of JSON a message."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        return json.dumps(
            {"format": 1, "event": "message", "level": record.levelname.lower(), "text": record.getMessage()}
        )


def speak_json() -> None:
    """Turns the messages on stderr into lines of JSON from now on."""
    for handler in log.handlers:
        handler.setFormatter(_Event())


def keep_quiet(quiet: bool) -> None:
    """Limits messages to errors where `--quiet` was given."""
    if quiet:
        log.setLevel(logging.ERROR)


def warn_if_untrained(weights: "WeightFile") -> None:
    """Warns that untrained weights do not separate."""
    if not weights.trained:
        log.warning(f"warning: the weights {weights.name!r} are untrained: they do not separate")


def bar(**options: Any) -> "AbstractContextManager[tqdm]":
    """Returns a tqdm bar on stderr that messages do not break; hidden with `--quiet`."""
    from tqdm.contrib.logging import tqdm_logging_redirect

    hidden = not log.isEnabledFor(logging.INFO)
    return tqdm_logging_redirect(loggers=[log], **{"file": sys.stderr, "disable": hidden, **options})


def audio_bar(seconds: float, *, hidden: bool = False) -> "AbstractContextManager[tqdm]":
    """Returns a `bar` of seconds of audio; the total may be unknown (0 or not finite) or too low, see `advance`."""
    has_total = isfinite(seconds) and seconds > 0
    counter = "{n:.1f}/{total:.1f} s of audio [{elapsed}<{remaining}{postfix}]"
    form = "{l_bar}{bar}| " + counter if has_total else "{n:.1f} s of audio [{elapsed}{postfix}]"
    options = {"disable": True} if hidden else {}
    return bar(total=seconds if has_total else None, unit="s", bar_format=form, **options)


def advance(shown_bar: "tqdm", seconds: float, note: str = "") -> None:
    """Moves an `audio_bar`; its total grows if there is more audio than expected."""
    if not isfinite(seconds):
        return
    if shown_bar.total is not None:
        shown_bar.total = max(shown_bar.total, shown_bar.n + seconds)
    shown_bar.set_postfix_str(note, refresh=False)
    shown_bar.update(seconds)


def plain_console(width: int | None = None, soft_wrap: bool = False) -> "Console":
    """Returns a console on stdout that prints text as it is: no markup, control characters escaped."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:  # of a table's cell, or of a line
            printable = shown(text).encode(self.encoding, "backslashreplace").decode(self.encoding)
            return super().render_str(printable, **options)

    return Plain(width=width, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)


def print_table(table: "Table") -> None:
    """Prints a whole table on stdout, wider than the terminal if need be, so that no cell is cut."""
    needed = plain_console(width=1000).measure(table).maximum
    plain_console(width=max(plain_console().width, needed)).print(table)
