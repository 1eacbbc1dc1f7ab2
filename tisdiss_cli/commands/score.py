"""`tisdiss score DATA`: SI-SNRi and SDRi of every repetition setting, in one pass."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.console import bar, keep_quiet, log, print_table, warn_if_untrained
from tisdiss_cli.commands.options import (
    COUNT,
    DeviceOption,
    PrecisionOption,
    ShiftsOption,
    WeightsOption,
    check_output,
    parse_names,
    parse_repeats,
    write_json,
)
from tisdiss_cli.errors import UserError
from tisdiss_cli.libraries import versions

if TYPE_CHECKING:
    from rich.table import Table

    from tisdiss_cli.data.datasets import Dataset
    from tisdiss_cli.evaluation.evaluate import Evaluation
    from tisdiss_cli.evaluation.results import Mean, Summary

_LISTED = 20  # sentences of a kind
_NAMES = {"si_snri": "SI-SNRi", "sdri": "SDRi", "si_snr": "SI-SNR", "sdr": "SDR", "stoi": "STOI", "pesq": "PESQ"}

_groups = ("What to score", "Outputs", "Sharing the work")
_what, _outputs, _sharing = (partial(typer.Option, rich_help_panel=group) for group in _groups)


@app.command()
def score(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="WSJ0-2mix, Libri2Mix, WHAMR! or the like.")],
    estimates: Annotated[Path | None, _what(help="Score this folder's files; no network runs.")] = None,
    pattern: Annotated[
        str | None, _what(help="Names of --estimates: '{id}_est{n}', or separate's --name. [default: detected]")
    ] = None,
    repeats: Annotated[str | None, _what(help="4, 1-8 or 1,2,4; all in one pass. [default: 1 to as trained]")] = None,
    mixture: Annotated[str | None, _what(help="Folder of the mixtures. [default: as the layout]")] = None,
    references: Annotated[str | None, _what(help="Folders of the references, as in s1,s2. [default: likewise]")] = None,
    csv: Annotated[Path | None, _outputs(help="Scores of each file; a stopped run goes on from it.")] = None,
    json: Annotated[Path | None, _outputs(help="Settings, versions, means with 95 % intervals.")] = None,
    html: Annotated[Path | None, _outputs(help="A page: quality against time, two settings file by file.")] = None,
    stoi: Annotated[bool, _what("--stoi", help="Also STOI.")] = False,
    pesq: Annotated[bool, _what("--pesq", help="Also PESQ (narrow band at 8 kHz, wide at 16 kHz).")] = False,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    separator_repeats: Annotated[int | None, _what(**COUNT, help="Repeats of the Separator (advanced).")] = None,
    shifts: ShiftsOption = 1,
    workers: Annotated[
        int | None, _sharing(min=0, max=1024, help="Processes that compute SDR; 0: this one. [default: by the cores]")
    ] = None,
    shard: Annotated[
        str | None, _sharing(metavar="I/N|slurm", help="Score this share: 3/8, or by a SLURM array; into its own CSV.")
    ] = None,
    merge: Annotated[bool, _sharing("--merge", help="Merge the shards' CSVs into --csv; no network runs.")] = False,
    quiet: Annotated[bool, _outputs("--quiet", help="No progress; the table and errors only.")] = False,
) -> None:
    """Score separation on mixtures with references: SI-SNRi and SDRi of every repetition setting, in one pass.

    SDR is BSS Eval v3 with 512 taps; each file is scored under its best permutation; a mean's ± is its 95 %
    interval over the files. WHAMR! defaults to mix_both_reverb against the anechoic sources.
    """
    requested = parse_repeats(repeats) if repeats is not None else None
    _check_together(requested, estimates, pattern, shard, merge=merge)
    _check_outputs(csv, json, html)

    keep_quiet(quiet)
    from tisdiss_cli.data.datasets import find_dataset
    from tisdiss_cli.evaluation.evaluate import default_workers, evaluate
    from tisdiss_cli.evaluation.results import ScoreTable
    from tisdiss_cli.separation.separator import Separator

    dataset = find_dataset(data, mixture, parse_names(references))
    if merge:
        merge_shards(dataset, csv, json)
        return
    dataset, csv = share_of(dataset, csv, shard)
    if not dataset.items:
        return
    table = ScoreTable(csv) if csv else None
    separator = None if estimates else Separator.load(weights, device, precision, shifts)
    folders = f"{dataset.mixture} against {', '.join(dataset.references)}"
    log.info(f"{dataset.root} ({dataset.layout}): {len(dataset.items)} mixtures, {folders}")
    if separator:
        warn_if_untrained(separator.weights)
    workers = default_workers(dataset) if workers is None else workers
    run = partial(
        evaluate,
        dataset,
        separator,
        requested,
        estimates=estimates,
        pattern=pattern,
        separator_repeats=separator_repeats,
        stoi=stoi,
        pesq=pesq,
        table=table,
        workers=workers,
    )
    outcome = _under_bar(run, resumable=csv is not None)
    _tell(outcome, csv=csv, json=json, html=html)


def _check_together(
    repeats: list[int] | None, estimates: Path | None, pattern: str | None, shard: str | None, *, merge: bool
) -> None:
    """Refuses options that exclude or need each other."""
    if estimates is not None and repeats is not None:
        raise UserError("--repeats has no meaning with --estimates: leave one of them out")
    if pattern is not None and estimates is None:
        raise UserError("--pattern is for --estimates: name their folder too")
    if merge and (shard or estimates or repeats):
        raise UserError("--merge only merges scores: leave --shard, --estimates and --repeats out")


def _under_bar(run: "Callable[..., Evaluation]", *, resumable: bool) -> "Evaluation":
    """Evaluates under a bar of the files; Ctrl-C ends the command, and says whether it can go on."""
    try:
        with bar(unit="file", leave=False) as shown:
            return run(start=shown.reset, advance=shown.update)
    except KeyboardInterrupt:
        log.error("stopped" + ("; the same command goes on where this one ended" if resumable else ""))
        raise typer.Exit(130) from None


def _check_outputs(csv: Path | None, json: Path | None, html: Path | None) -> None:
    for option, path in (("--csv", csv), ("--json", json), ("--html", html)):
        check_output(option, path)
    if csv is not None and json is not None and os.path.realpath(csv) == os.path.realpath(json):
        raise UserError(f"--csv {csv} and --json {json} are the same file: name two")


def _tell(outcome: "Evaluation", *, csv: Path | None, json: Path | None, html: Path | None) -> None:
    """Prints scores and failures; exit status 1 if anything was not scored."""
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


def share_of(dataset: "Dataset", csv: Path | None, text: str | None) -> "tuple[Dataset, Path | None]":
    """Returns the mixtures of a shard ("3/8", "slurm") and its CSV; without a shard all, and `csv`."""
    from tisdiss_cli.evaluation.results import shard_path
    from tisdiss_cli.folder.shards import parse_shard

    shard = parse_shard(text)
    if shard is None:
        return dataset, csv
    items = [item for item in dataset.items if shard.takes(item.id)]
    log.info(f"shard {shard}: {len(items)} of {len(dataset.items)} mixtures")
    return replace(dataset, items=items), shard_path(csv, shard.name) if csv else None


def merge_shards(dataset: "Dataset", csv: Path | None, json: Path | None) -> None:
    """Merges the CSVs of all shards into `csv` and prints the means; exit status 1 if scores are missing."""
    from tisdiss_cli.evaluation.results import merge_tables, summarize
    from tisdiss_cli.folder.shards import array_expression, shard_of

    if csv is None:
        raise UserError("--merge: name the CSV with --csv, as for the shards")
    rows, count = merge_tables(csv)
    results, scored = summarize(rows), {row.id for row in rows}
    missing = [item.id for item in dataset.items if item.id not in scored]
    if json:
        settings = {"data": str(dataset.root), "layout": dataset.layout, "merged": str(csv)}
        summaries = [summary.as_dict() for summary in results]
        write_json(json, {"settings": settings, "versions": versions(), "results": summaries, "missing": missing})
    if results:
        print_table(results_table(results))
    if missing:
        lacking = array_expression(shard_of(id, count) for id in missing)
        log.error(f"{len(missing)} of {len(dataset.items)} mixtures have no scores yet; of {count} shards: {lacking}")
        raise typer.Exit(1)


def results_table(results: "list[Summary]") -> "Table":
    """Returns the table of all settings: means with intervals, the gain over the setting before, real-time factor."""
    from rich.table import Table
    from rich.text import Text

    metrics = [metric for metric in _NAMES if any(metric in setting.means for setting in results)]
    several, timed = len(results) > 1, any(setting.rtf is not None for setting in results)
    table = Table(box=None, pad_edge=False)
    headings = ["repeats"] if results[0].repeats is not None else []
    for metric in metrics:
        headings.append(_NAMES[metric])
        headings += ["gain"] if several and metric in ("si_snri", "sdri") else []
    for heading in (*headings, *(["RTF"] if timed else []), "files"):
        table.add_column(heading, justify="right", no_wrap=True)
    before: Summary | None = None
    for setting in results:
        cells: list[str | Text] = [str(setting.repeats)] if setting.repeats is not None else []
        for metric in metrics:
            cells.append(_cell(setting.means.get(metric), 3 if metric == "stoi" else 2, metric in ("si_snri", "sdri")))
            if several and metric in ("si_snri", "sdri"):
                gain = f"{setting.means[metric].mean - before.means[metric].mean:+.2f}" if before else ""
                cells.append(Text(gain, style="dim"))
        cells += [f"{setting.rtf:.3f}" if setting.rtf is not None else ""] if timed else []
        table.add_row(*cells, str(setting.files))
        before = setting
    return table


def _cell(value: "Mean | None", digits: int, interval: bool) -> str:
    if value is None:
        return ""
    half = f" ± {value.ci95:.{digits}f}" if interval and value.ci95 is not None else ""
    return f"{value.mean:.{digits}f}{half}"
