"""The command line: one file per subcommand; nothing here imports torch until a command runs."""

import sys
from typing import NoReturn

import typer

app = typer.Typer(
    help="Separate two-talker recordings with TISDiSS; --repeats trades quality against speed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class UsageError(ValueError):
    """A mistake in how a command was called: one sentence that names the option or file and the mend."""


def fail(message: str, status: int = 2) -> NoReturn:
    """Prints one sentence on stderr and exits; status 2 is a usage error."""
    print(f"tisdiss: {message}", file=sys.stderr)
    raise typer.Exit(status)
