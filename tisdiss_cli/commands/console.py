"""How a command speaks: results on stdout, messages and bars on stderr.

The library logs to the logger "tisdiss"; the one handler here writes its sentences, and `--quiet` is a level.
"""

import logging
import os
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from tqdm import tqdm

    from tisdiss_cli.model.weights import WeightFile

log = logging.getLogger("tisdiss")


def start_logging() -> None:
    """Sentences of the library on stderr, each after "tisdiss: "; of several ranks the first alone speaks."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("tisdiss: %(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO if os.environ.get("LOCAL_RANK", "0") == "0" else logging.ERROR)


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


def plain_console(width: int | None = None, soft_wrap: bool = False) -> "Console":
    """A console on stdout that takes no text for markup: file names, with brackets or colons too, stand as they are."""
    from rich.console import Console

    return Console(width=width, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)


def print_table(table: "Table") -> None:
    """Prints a table on stdout whole, wider than the terminal if it must be: no cell is shortened."""
    needed = plain_console(width=1000).measure(table).maximum
    plain_console(width=max(plain_console().width, needed)).print(table)
