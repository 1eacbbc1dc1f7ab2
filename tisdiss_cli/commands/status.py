"""`tisdiss status OUT`: progress of a folder."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.console import log, plain_console
from tisdiss_cli.commands.options import print_json
from tisdiss_cli.folder.shards import MOST

if TYPE_CHECKING:
    from tisdiss_cli.folder.status import Status


@app.command()
def status(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that separate writes to, or has written to.")],
    inputs: Annotated[Path | None, typer.Option(metavar="IN", help="The recordings. [default: as recorded]")] = None,
    shards: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=MOST, help="Number of shards. [default: as the record's files]"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print how far OUT is: inputs done, failed and missing, hours of audio, speed, and which shards lack something.

    The shards are written as sbatch --array takes them.
    """
    from tisdiss_cli.folder.status import read_status

    out = Path(os.path.expanduser(out))
    found = read_status(out, Path(os.path.expanduser(inputs)) if inputs else None, shards)
    for place in found.unseen:
        log.warning(f"warning: {place} is not here, so its missing inputs are unknown: pass --inputs IN")
    if json:
        print_json(_as_dict(found))
    else:
        _print(found)


def _as_dict(found: "Status") -> dict[str, Any]:
    shards = [{"shard": index, **vars(counts)} for index, counts in found.shards.items()]
    return {
        **vars(found.total),
        "hours": found.seconds / 3600,
        "rtf": found.rtf,
        "shards": {"count": len(shards), "lacking": found.array, "each": shards} if shards else None,
        "inputs": found.sources,
        "unseen": found.unseen,
        "at_work": [{**asdict(run), "shard": run.shard or None} for run in found.at_work],
    }


def _print(found: "Status") -> None:
    console, total = plain_console(soft_wrap=True), found.total
    missing = f"{total.missing} missing" if not found.unseen else "missing unknown"
    speed = "" if found.rtf is None else f", real-time factor {found.rtf:.3f}"
    console.print(f"{total.done} done, {total.failed} failed, {missing}; {found.seconds / 3600:.2f} h of audio{speed}")
    if found.shards:
        lacking = [index for index, counts in found.shards.items() if counts.lacks]
        text = f"{len(lacking)} lack something: {found.array}" if lacking else "all have all of theirs"
        console.print(f"of {len(found.shards)} shards {text}")
    for run in found.at_work:
        console.print(f"at work: {run}")
