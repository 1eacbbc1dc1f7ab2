"""`tisdiss score` by several processes: one's share of the mixtures, and the sheets of all made one."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tisdiss_cli.commands.console import log, print_table
from tisdiss_cli.commands.options import versions, write_json
from tisdiss_cli.commands.score_tables import results_table
from tisdiss_cli.errors import UserError

if TYPE_CHECKING:
    from tisdiss_cli.data.datasets import Dataset


def share_of(dataset: "Dataset", csv: Path | None, text: str | None) -> "tuple[Dataset, Path | None]":
    """The mixtures of a shard ("3/8", "slurm") and the sheet that it writes; all of them, and `csv`, without one."""
    from tisdiss_cli.evaluation.results import part_of
    from tisdiss_cli.folder.shards import parse_shard

    shard = parse_shard(text)
    if shard is None:
        return dataset, csv
    items = [item for item in dataset.items if shard.takes(item.id)]
    log.info(f"shard {shard}: {len(items)} of {len(dataset.items)} mixtures")
    return replace(dataset, items=items), part_of(csv, shard.name) if csv else None


def merge(dataset: "Dataset", csv: Path | None, json: Path | None) -> None:
    """Unites the sheets of all shards in `csv`, and prints what they give; exit status 1 where scores are missing."""
    from tisdiss_cli.evaluation.results import merge_sheets, summarize
    from tisdiss_cli.folder.shards import array_expression, shard_of

    if csv is None:
        raise UserError("--merge: name the sheet with --csv, as the shards were given it")
    rows, count = merge_sheets(csv)
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
