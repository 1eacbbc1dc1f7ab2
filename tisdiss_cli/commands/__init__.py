"""The command line: one file per subcommand; nothing here imports torch until a command runs."""

import typer

app = typer.Typer(
    help="Separate two-talker recordings with TISDiSS; --repeats trades quality against speed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
