"""`tisdiss bench`: time, memory and arithmetic of every repetition setting, and with --data its quality."""

from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.bench_tables import as_sentence, bench_table, fit_as_formula, si
from tisdiss_cli.commands.console import bar, keep_quiet, log, print_table, warn_if_untrained
from tisdiss_cli.commands.options import (
    NETWORK,
    DeviceOption,
    WeightsOption,
    check_output,
    parse_names,
    parse_repeats,
    write_json,
)
from tisdiss_cli.errors import UserError
from tisdiss_cli.libraries import versions
from tisdiss_cli.model.config import MOST_SHIFTS

if TYPE_CHECKING:
    from tisdiss_cli.benchmark.grid import Findings
    from tisdiss_cli.benchmark.measure import Measurement
    from tisdiss_cli.data.datasets import Dataset
    from tisdiss_cli.evaluation.evaluate import Evaluation
    from tisdiss_cli.separation.separator import Separator

_groups = ("What is measured", "Quality", NETWORK, "Outputs")
_grid, _set, _network, _outputs = (partial(typer.Option, rich_help_panel=group) for group in _groups)


@app.command()
def bench(  # the options make it long
    repeats: Annotated[str | None, _grid(help="4, 1-8 or 1,2,4. [default: 1 to as trained]")] = None,
    seconds: Annotated[str, _grid(help="Lengths of a mixture, as in 1,4,10.")] = "4",
    batch_size: Annotated[str, _grid(help="Mixtures at a time, as in 1,4,16.")] = "1",
    data: Annotated[Path | None, _set(help="A set as for score: adds SI-SNRi and its curve.")] = None,
    mixture: Annotated[str | None, _set(help="With --data: folder of the mixtures.")] = None,
    references: Annotated[str | None, _set(help="With --data: folders of the references.")] = None,
    plot: Annotated[Path | None, _outputs(help="Draw time, or with --data quality against time: .png or .svg.")] = None,
    json: Annotated[Path | None, _outputs(help="All figures, machine, versions and weights as JSON.")] = None,
    html: Annotated[Path | None, _outputs(help="A page: the tables, and with --data each file's scores.")] = None,
    quiet: Annotated[bool, _outputs("--quiet", help="No progress; tables and errors only.")] = False,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        str, _network(envvar="TISDISS_PRECISION", help="auto, fp32, bf16 or, on CUDA, tf32; several as in fp32,bf16.")
    ] = "auto",
    shifts: Annotated[str, _grid(help="Passes a part of a hop apart, which are averaged, as in 1,2,4.")] = "1",
    compile: Annotated[bool, _network("--compile", help="torch.compile first; that time is not counted.")] = False,
) -> None:
    """Measure time, memory and arithmetic of every repetition setting on this machine.

    Times are medians with quartiles, of the network alone. "of peak" compares the achieved operations with the
    machine's fastest large matrix product, measured in the same run.
    """
    requested = parse_repeats(repeats) if repeats is not None else None
    lengths = _numbers("--seconds", seconds, float, 0.05, 3600)
    batches = _numbers("--batch-size", batch_size, int, 1, 65536)
    passes = _numbers("--shifts", shifts, int, 1, MOST_SHIFTS)
    for option, path in (("--json", json), ("--plot", plot), ("--html", html)):
        check_output(option, path)
    if plot is not None:
        from tisdiss_cli.benchmark.plots import check_plot

        check_plot(plot)

    keep_quiet(quiet)
    from tisdiss_cli.benchmark.grid import run_grid
    from tisdiss_cli.benchmark.measure import describe_machine
    from tisdiss_cli.data.datasets import find_dataset

    dataset = find_dataset(data, mixture, parse_names(references)) if data else None
    separators = _load(weights, device, precision, passes, compile=compile)
    first = separators[0]
    machine = describe_machine(first.device)
    warn_if_untrained(first.weights)
    requested = requested or list(range(1, first.config.reconstructor_repeats + 1))
    shapes = list(product(batches, lengths))
    with bar(total=len(separators) * len(shapes) * len(requested), unit="setting", leave=False) as shown:

        def done(row: "Measurement") -> None:
            """Reports each row at once, for those who stop a long run."""
            shown.update()
            log.info(as_sentence(row))

        found = run_grid(separators, shapes, requested, done)
    outcomes = {one.variant: _score(dataset, one, requested) for one in separators} if dataset else {}
    found.scores = {name: outcome.results for name, outcome in outcomes.items()}
    title = f"{first.weights.name} on {machine.get('gpu') or '{cpu}, {threads} threads'.format(**machine)}"
    _print(found, title)
    if json:
        facts = {"weights": first.weights.name, "weights_sha256": first.weights.digest}
        settings = {**facts, "data": data and str(data), "compiled": compile}
        write_json(json, {"settings": settings, "machine": machine, "versions": versions(), **found.as_dict()})
    if html:
        from tisdiss_cli.commands.pages import bench_page

        bench_page(html, found, outcomes, title, {"weights": first.weights.name, "system": machine["system"]})
    if plot:
        _draw(found, plot, title, len(dataset.items) if dataset else 0)


def _draw(found: "Findings", path: Path, title: str, mixtures: int) -> None:
    """Draws quality against time, or without scored mixtures time against repeats."""
    from tisdiss_cli.benchmark.plots import draw, draw_cost

    if mixtures:
        draw(found.curves(), path, f"{title}, {mixtures} mixtures")
    else:
        draw_cost(found.measurements, path, title)
    log.info(f"drew {path}")


def _load(weights: str | None, device: str, precision: str, passes: list[int], *, compile: bool) -> "list[Separator]":
    """Loads the network in every precision, with every number of shifts; UserError if a precision occurs twice."""
    from tisdiss_cli.separation.separator import Separator

    names = parse_names(precision) or []
    separators = [Separator.load(weights, device, name, shifts) for name in names for shifts in passes]
    if len({separator.variant for separator in separators}) < len(separators):
        raise UserError(f"--precision {precision}: name each once")
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


def _score(dataset: "Dataset", separator: "Separator", requested: list[int]) -> "Evaluation":
    """Scores every setting; a file that cannot be scored is reported and left out."""
    from tisdiss_cli.evaluation.evaluate import default_workers, evaluate

    with bar(unit="file", desc=f"scoring {separator.variant}", leave=False) as shown:
        workers = default_workers(dataset)
        outcome = evaluate(dataset, separator, requested, workers=workers, start=shown.reset, advance=shown.update)
    for sentence in outcome.failed:
        log.error(f"not scored: {sentence}")
    if not outcome.results:
        raise UserError(f"--data {dataset.root}: no file could be scored")
    return outcome


def _print(found: "Findings", title: str) -> None:
    peaks = ", ".join(
        f"{si(value) + 'FLOP/s' if value else 'no memory for it'} in {name}" for name, value in found.ceilings.items()
    )
    print(f"{title}; its largest matrix product: {peaks}\n")
    print_table(bench_table(found))
    print()
    for line in found.fits():
        print(fit_as_formula(line))
    for curve in found.curves():
        name = f"{curve.name}: " if curve.name else ""
        print(f"{name}{curve.marked} is the smallest setting within 0.1 dB of the best")
