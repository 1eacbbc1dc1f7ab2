"""`tisdiss score DATA`: what every repetition setting gives, in one pass."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.console import bar, keep_quiet, log, print_table, warn_if_untrained
from tisdiss_cli.commands.options import (
    DeviceOption,
    PrecisionOption,
    WeightsOption,
    check_output,
    parse_names,
    parse_repeats,
    versions,
    write_json,
)
from tisdiss_cli.commands.score_shards import merge as merge_shards
from tisdiss_cli.commands.score_shards import share_of
from tisdiss_cli.commands.score_tables import results_table
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.config import MOST_REPEATS

if TYPE_CHECKING:
    from tisdiss_cli.evaluation.evaluate import Evaluation

_LISTED = 20  # sentences of a kind


@app.command()
def score(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="WSJ0-2mix, Libri2Mix, WHAMR! or the like.")],
    estimates: Annotated[
        Path | None, typer.Option(help="Score this folder's files (a_s1, a_s2 or s1/a, s2/a ...); no network runs.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="How --estimates are named, as in '{id}_est{n}', or separate's --name. [default: found out]"),
    ] = None,
    repeats: Annotated[
        str | None, typer.Option(help="4, 1-8 or 1,2,4; all in one pass. [default: 1 to as trained]")
    ] = None,
    mixture: Annotated[str | None, typer.Option(help="Folder of the mixtures. [default: as the layout]")] = None,
    references: Annotated[
        str | None, typer.Option(help="Folders of the references, as in s1,s2. [default: as the layout]")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Scores per file; a stopped run goes on from it.")] = None,
    json: Annotated[Path | None, typer.Option(help="Settings, versions, means with 95 % intervals.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="A page: quality against time, two settings file by file, worst files.")
    ] = None,
    stoi: Annotated[bool, typer.Option("--stoi", help="Also STOI.")] = False,
    pesq: Annotated[bool, typer.Option("--pesq", help="Also PESQ (narrow band at 8 kHz, wide at 16 kHz).")] = False,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    separator_repeats: Annotated[
        int | None, typer.Option(min=1, max=MOST_REPEATS, help="Repeats of the Separator (advanced).")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, max=1024, help="Processes that compute SDR. [default: by the CPU's cores]")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N|slurm", help="Only this share: 3/8, or by a SLURM array; writes scores.3-of-8.csv."),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Unite the shards' CSVs in --csv; no network runs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; the table and errors only.")] = False,
) -> None:
    """Score separation on mixtures with references: SI-SNRi and SDRi of every repetition setting, in one pass.

    SDR is BSS Eval v3 with 512 taps; each file is scored under its best permutation; a mean's ± is its 95 %
    interval over the files. WHAMR! defaults to mix_both_reverb against the anechoic sources.
    """
    wanted = parse_repeats(repeats) if repeats is not None else None
    if estimates is not None and wanted is not None:
        raise UserError("--repeats has no meaning with --estimates: leave one of them out")
    if pattern is not None and estimates is None:
        raise UserError("--pattern says how the files of --estimates are named: name their folder too")
    if merge and (shard or estimates or wanted):
        raise UserError("--merge only unites what was scored: leave --shard, --estimates and --repeats out")
    for option, path in (("--csv", csv), ("--json", json), ("--html", html)):
        check_output(option, path)
    if csv is not None and json is not None and os.path.realpath(csv) == os.path.realpath(json):
        raise UserError(f"--csv {csv} and --json {json} are one file: name two")

    keep_quiet(quiet)
    from tisdiss_cli.data.datasets import find_dataset
    from tisdiss_cli.evaluation.evaluate import Progress, default_workers, evaluate
    from tisdiss_cli.evaluation.results import Sheet
    from tisdiss_cli.separation.separator import Separator

    dataset = find_dataset(data, mixture, parse_names(references))
    if merge:
        merge_shards(dataset, csv, json)
        return
    dataset, csv = share_of(dataset, csv, shard)
    if not dataset.items:
        return
    sheet = Sheet(csv) if csv else None
    separator = None if estimates else Separator.load(weights, device, precision)
    folders = f"{dataset.mixture} against {', '.join(dataset.references)}"
    log.info(f"{dataset.root} ({dataset.layout}): {len(dataset.items)} mixtures, {folders}")
    if separator:
        warn_if_untrained(separator.weights)
    workers = default_workers(dataset) if workers is None else workers
    try:
        with bar(unit="file", leave=False) as shown:
            progress = Progress(start=shown.reset, advance=shown.update)
            outcome = evaluate(
                dataset,
                separator,
                wanted,
                estimates=estimates,
                separator_repeats=separator_repeats,
                stoi=stoi,
                pesq=pesq,
                sheet=sheet,
                workers=workers,
                progress=progress,
                pattern=pattern,
            )
    except KeyboardInterrupt:
        log.error("stopped" + ("; the same command goes on where this one ended" if csv else ""))
        raise typer.Exit(130) from None
    _tell(outcome, csv=csv, json=json, html=html)


def _tell(outcome: "Evaluation", *, csv: Path | None, json: Path | None, html: Path | None) -> None:
    """What was scored and what was not; exit status 1 if anything was not."""
    _list(logging.ERROR, "not scored", outcome.failed)
    _list(logging.ERROR, "incomplete in the set, left out", outcome.missing)
    _list(logging.WARNING, "scored with a remark", outcome.warnings)
    if json:
        extra = {"missing": outcome.missing, "failed": outcome.failed, "warnings": outcome.warnings}
        results = [summary.as_dict() for summary in outcome.results]
        write_json(json, {"settings": outcome.settings, "versions": versions(), "results": results, **extra})
    if outcome.results:
        table = results_table(outcome.results)
        print_table(table)
        if html:
            from tisdiss_cli.commands.pages import score_page

            score_page(html, outcome, table)
        if outcome.resumed:
            log.info(f"{outcome.resumed} files were scored before ({csv})")
    if outcome.failed or not outcome.results:
        raise typer.Exit(1)


def _list(level: int, heading: str, sentences: list[str]) -> None:
    if sentences:
        listed = sentences[:_LISTED]
        more = f"\n  ... and {len(sentences) - _LISTED} more" if len(sentences) > _LISTED else ""
        log.log(level, "%s: %d" + "\n  %s" * len(listed) + more, heading, len(sentences), *listed)
