"""`tisdiss bench`: what every repetition setting costs, and with --data what it gives for that."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.bench_tables import bench_table, comparison_table, duration, in_words, si
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
from tisdiss_cli.errors import UserError

if TYPE_CHECKING:
    from tisdiss_cli.benchmark.against_naive import Comparison
    from tisdiss_cli.benchmark.grid import Findings, Fit
    from tisdiss_cli.benchmark.measure import Measurement
    from tisdiss_cli.benchmark.plots import Curve
    from tisdiss_cli.data.datasets import Dataset
    from tisdiss_cli.evaluation.evaluate import Evaluation
    from tisdiss_cli.evaluation.results import Summary
    from tisdiss_cli.separation.separator import Separator


@app.command()
def bench(  # the options make it long
    repeats: Annotated[str | None, typer.Option(help="4, 1-8 or 1,2,4. [default: 1 to as trained]")] = None,
    seconds: Annotated[str, typer.Option(help="Lengths of a mixture, as in 1,4,10.")] = "4",
    batch_size: Annotated[str, typer.Option(help="Mixtures at a time, as in 1,4,16.")] = "1",
    compare: Annotated[str | None, typer.Option(help="Precisions side by side, as in fp32,bf16.")] = None,
    against_naive: Annotated[
        bool, typer.Option("--against-naive", help="Compare with a naive network, and on --data's folder of mixtures.")
    ] = False,
    against_oracle: Annotated[bool, typer.Option("--against-oracle", hidden=True)] = False,  # its name before
    data: Annotated[Path | None, typer.Option(help="A set as for score: adds SI-SNRi and its curve.")] = None,
    mixture: Annotated[str | None, typer.Option(help="With --data: folder of the mixtures.")] = None,
    references: Annotated[str | None, typer.Option(help="With --data: folders of the references.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw time against repeats, with --data quality against time: .png or .svg.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="All numbers, machine, versions, weights.")] = None,
    html: Annotated[Path | None, typer.Option(help="A page of the tables, with --data of each file too.")] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="torch.compile the network first; none of its time is counted.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; tables and errors only.")] = False,
) -> None:
    """Measure time, memory and arithmetic of every repetition setting on this machine.

    Times are medians with quartiles, of the network alone. "of peak" compares the achieved operations with the
    machine's fastest large matrix product, measured in the same run. The naive network of --against-naive is run as
    the published code runs: float32, one mixture at a time, the speaker path with all its padding.
    """
    against_naive |= against_oracle
    wanted = parse_repeats(repeats) if repeats is not None else None
    lengths = _numbers("--seconds", seconds, float, 0.05, 3600)
    batches = _numbers("--batch-size", batch_size, int, 1, 65536)
    precisions = parse_names(compare) or [precision]
    if compare and precision != "auto":
        raise UserError("--compare and --precision exclude each other: leave one of them out")
    for option, path in (("--json", json), ("--plot", plot), ("--html", html)):
        check_output(option, path)
    if plot is not None:
        from tisdiss_cli.benchmark.plots import check_plot

        check_plot(plot)

    keep_quiet(quiet)
    from tisdiss_cli.benchmark.grid import Grid, curve, fits, run_grid
    from tisdiss_cli.benchmark.measure import describe_machine
    from tisdiss_cli.data.datasets import find_dataset

    dataset = find_dataset(data, mixture, parse_names(references)) if data else None
    separators = _load(weights, device, precisions, compile=compile)
    first = separators[0]
    machine = describe_machine(first.device)
    warn_if_untrained(first.weights)

    grid = Grid(
        separators,
        wanted or list(range(1, first.config.reconstructor_repeats + 1)),
        batches,
        lengths,
        against_naive,
        [item.mixture for item in dataset.items] if dataset else [],
    )
    with bar(total=grid.rows, unit="setting", leave=False) as shown:

        def done(row: "Measurement | Comparison") -> None:
            """Says each row at once: whoever stops a long run has it."""
            shown.update()
            log.info(in_words(row))

        found = run_grid(grid, done)
    outcomes = {one.precision: _score(dataset, one, grid.repeats) for one in separators} if dataset else {}
    scored = {name: outcome.results for name, outcome in outcomes.items()}
    lines = fits(found.measurements)
    curves = [drawn for name in scored if (drawn := curve(found.measurements, name, _quality(scored[name])))]
    _report(found, lines, scored, curves, machine, first.weights.name)
    if json:
        settings = {
            "weights": first.weights.name,
            "weights_sha256": first.weights.digest,
            "data": data and str(data),
            "compiled": compile,
        }
        write_json(json, {"settings": settings, "machine": machine, **_content(found, lines, scored, curves)})
    if html:
        _write_page(html, found, lines, outcomes, curves, machine, first.weights.name)
    if plot and (curves or not dataset):
        _draw(plot, found, curves, f"{first.weights.name} on {_place(machine)}", len(dataset.items) if dataset else 0)


def _load(weights: str | None, device: str, precisions: list[str], *, compile: bool) -> "list[Separator]":
    """The network in every precision; UserError where two names mean one."""
    from tisdiss_cli.separation.separator import Separator

    separators = [Separator.load(weights, device, name) for name in precisions]
    if len({separator.precision for separator in separators}) < len(separators):
        raise UserError(f"--compare {','.join(precisions)}: name each precision once")
    for separator in separators:
        if compile:
            separator.compile()
    return separators


def _numbers(option: str, text: str, kind: type, low: float, high: float) -> list:
    try:
        values = list(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError:
        raise UserError(f"{option} {text}: write one number or several, as in 1,4,10") from None
    if not all(low <= value <= high for value in values):
        raise UserError(f"{option} {text}: each must be {low:g} to {high:g}")
    return values


def _content(
    found: "Findings", lines: "list[Fit]", scored: "dict[str, list[Summary]]", curves: "list[Curve]"
) -> dict[str, Any]:
    """What --json holds of the numbers."""
    return {
        "versions": versions(),
        "ceilings": found.ceilings,
        "results": [asdict(measurement) for measurement in found.measurements],
        "fits": [asdict(line) for line in lines],
        "against_naive": [asdict(comparison) for comparison in found.comparisons],
        "folders_against_naive": [asdict(comparison) for comparison in found.folders],
        "scores": {precision: [one.as_dict() for one in summaries] for precision, summaries in scored.items()},
        "curves": [asdict(curve) for curve in curves],
    }


def _quality(summaries: "list[Summary]") -> dict[int, float]:
    """SI-SNRi in dB by repeats."""
    return {one.repeats: one.means["si_snri"].mean for one in summaries if one.repeats is not None}


def _score(dataset: "Dataset", separator: "Separator", wanted: Sequence[int]) -> "Evaluation":
    """SI-SNRi of every setting; a file that cannot be scored is said and left out."""
    from tisdiss_cli.evaluation.evaluate import Progress, default_workers, evaluate

    with bar(unit="file", desc=f"scoring {separator.precision}", leave=False) as shown:
        progress = Progress(shown.reset, shown.update)
        outcome = evaluate(dataset, separator, wanted, workers=default_workers(dataset), progress=progress)
    for sentence in outcome.failed:
        log.error(f"not scored: {sentence}")
    if not outcome.results:
        raise UserError(f"--data {dataset.root}: no file could be scored")
    return outcome


def _place(machine: dict[str, Any]) -> str:
    return str(machine.get("gpu", machine["cpu"]))


def _draw(plot: Path, found: "Findings", curves: "list[Curve]", title: str, mixtures: int) -> None:
    from tisdiss_cli.benchmark.plots import draw, draw_cost

    if mixtures:
        draw(curves, plot, f"{title}, {mixtures} mixtures")
    else:
        draw_cost(found.measurements, plot, title)
    log.info(f"drew {plot}")


def _write_page(
    path: Path,
    found: "Findings",
    lines: "list[Fit]",
    outcomes: "dict[str, Evaluation]",
    curves: "list[Curve]",
    machine: dict[str, Any],
    weights: str,
) -> None:
    from tisdiss_cli.commands.pages import bench_page

    tables = [bench_table(found.measurements, {name: outcome.results for name, outcome in outcomes.items()})]
    tables += [comparison_table(found.comparisons, found.folders)] if found.comparisons else []
    bench_page(path, tables, list(map(_in_words, lines)), curves, outcomes, machine, weights)


def _in_words(line: "Fit") -> str:
    shape = f"{line.precision}, batch {line.batch_size}, {line.audio_seconds:g} s"
    return f"time = {duration(line.a)} + {duration(line.b)} x repeats   ({shape})"


def _report(
    found: "Findings",
    lines: "list[Fit]",
    scored: "dict[str, list[Summary]]",
    curves: "list[Curve]",
    machine: dict[str, Any],
    weights: str,
) -> None:
    from tisdiss_cli.benchmark.plots import draw_text

    peaks = ", ".join(
        f"{si(value) + 'FLOP/s' if value else 'no memory for it'} in {name}" for name, value in found.ceilings.items()
    )
    name = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    print(f"{weights} on {name}; its largest matrix product: {peaks}\n")
    print_table(bench_table(found.measurements, scored))
    print()
    for line in lines:
        print(_in_words(line))
    for curve in curves:
        print(f"\n{curve.name}: {curve.marked} is the smallest setting within 0.1 dB of the best")
        print(draw_text(curve))
    if found.comparisons:
        print()
        print_table(comparison_table(found.comparisons, found.folders))
