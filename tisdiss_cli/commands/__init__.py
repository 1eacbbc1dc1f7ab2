"""The command line: one file per subcommand; nothing here imports torch until a command runs."""

from typing import Annotated

import typer

app = typer.Typer(
    help="Separate two-talker recordings with TISDiSS; --repeats trades quality against speed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from tisdiss_cli import __version__

        print(f"tisdiss {__version__}")
        raise typer.Exit()


@app.callback()
def _before(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Takes the options that stand before a subcommand."""
