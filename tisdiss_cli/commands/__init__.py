"""The command line: one file per subcommand; nothing here imports torch until a command runs."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup


class _PlainHelp:
    """Help printed as written: rich would take "[cluster]" for a style and drop it."""

    def format_help(self: Any, *arguments: Any) -> None:
        """Prints the help."""
        from rich.markup import escape

        for described in (self, *self.params, *getattr(self, "commands", {}).values()):
            paragraphs = (described.help or "").split("\n\n")
            described.help = escape("\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs))
        super().format_help(*arguments)  # type: ignore[misc]


class _Command(_PlainHelp, TyperCommand):
    pass


class _Group(_PlainHelp, TyperGroup):
    pass


class Commands(typer.Typer):
    """Group of commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=_Group, no_args_is_help=True, rich_markup_mode="rich", **options)

    def command(self, *arguments: Any, **options: Any) -> Any:
        """Registers the decorated function as a command."""
        return super().command(*arguments, cls=_Command, **options)


app = Commands(
    help="Separate two-talker recordings with TISDiSS; --repeats trades quality against speed.",
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        from tisdiss_cli import __version__

        print(f"tisdiss {__version__}")
        raise typer.Exit()


@app.callback()
def _before(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Handles the options before a subcommand."""
