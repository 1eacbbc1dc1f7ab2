"""`tisdiss report OUT`: a page to look at a separation and listen to it."""

from pathlib import Path
from typing import Annotated

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.console import keep_quiet, log
from tisdiss_cli.commands.options import check_output
from tisdiss_cli.commands.pages import run_page
from tisdiss_cli.errors import UserError


@app.command()
def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that separate wrote.")],
    html: Annotated[Path | None, typer.Option(help="The page. [default: OUT/report/index.html]")] = None,
    open: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    most: Annotated[int, typer.Option(min=0, help="Files with spectrograms: the worst, and one in six the best.")] = 24,
    scores: Annotated[Path | None, typer.Option(help="The CSV of score --csv: true SI-SNRi, not predicted.")] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="OUT2", help="A run of other settings to compare with.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--in", metavar="IN", exists=True, help="The mixtures. [default: as recorded]")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; errors only.")] = False,
) -> None:
    """Write a page that shows a run's files, worst first, and plays mixture and voices at the same instant.

    It opens with a double click, fits a phone's screen, and loads nothing from the network.
    """
    for option, folder in (("OUT", out), ("--against", against)):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{option} {folder} is not a folder: name one that `tisdiss separate` wrote")
    check_output("--html", html)
    keep_quiet(quiet)
    page = run_page(out, source=source, scores=scores, against=against, html=html, most=most)
    print(page)
    if open:
        import webbrowser

        if not webbrowser.open(page.absolute().as_uri()):
            log.error(f"no browser was found: open {page} yourself")
            raise typer.Exit(1)
