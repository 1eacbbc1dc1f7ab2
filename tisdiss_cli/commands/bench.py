"""`tisdiss bench`: what every repetition setting costs, and with --data what it gives for that."""

import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.options import check_output, parse_repeats, print_table, say, versions, write_json
from tisdiss_cli.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from tisdiss_cli.benchmark import Measurement
    from tisdiss_cli.comparison import Comparison, FolderComparison
    from tisdiss_cli.plots import Curve


@app.command()
def bench(
    repeats: Annotated[str | None, typer.Option(help="4, 1-8 or 1,2,4. [default: 1 to as trained]")] = None,
    seconds: Annotated[str, typer.Option(help="Lengths of a mixture, as in 1,4,10.")] = "4",
    batch_size: Annotated[str, typer.Option(help="Mixtures at a time, as in 1,4,16.")] = "1",
    compare: Annotated[str | None, typer.Option(help="Precisions side by side, as in fp32,bf16.")] = None,
    against_oracle: Annotated[
        bool, typer.Option("--against-oracle", help="Compare with a naive network, and on --data's folder of mixtures.")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="A set as for score: adds SI-SNRi and its curve.")] = None,
    mixture: Annotated[str | None, typer.Option(help="With --data: folder of the mixtures.")] = None,
    references: Annotated[str | None, typer.Option(help="With --data: folders of the references.")] = None,
    plot: Annotated[Path | None, typer.Option(help="With --data: draw quality against time, .png or .svg.")] = None,
    json: Annotated[Path | None, typer.Option(help="All numbers, machine, versions, weights.")] = None,
    weights: Annotated[str | None, typer.Option(help="Bundled name or .safetensors file.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0, ... or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="torch.compile the network first; none of its time is counted.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; tables and errors only.")] = False,
) -> None:
    """Measure time, memory and arithmetic of every repetition setting on this machine.

    Times are medians with quartiles, of the network alone. "of peak" compares the achieved operations with the
    machine's fastest large matrix product, measured in the same run. The naive network of --against-oracle is run as
    the published code runs: float32, one mixture at a time, the speaker path with all its padding.
    """
    depths = parse_repeats(repeats) if repeats is not None else None
    lengths = _numbers("--seconds", seconds, float, 0.05, 3600)
    batches = _numbers("--batch-size", batch_size, int, 1, 65536)
    precisions = [name.strip() for name in compare.split(",")] if compare else [precision]
    if compare and precision != "auto":
        raise UserError("--compare and --precision exclude each other: leave one of them out")
    if plot is not None and data is None:
        raise UserError("--plot draws quality against time: name a set with --data too")
    for option, path in (("--json", json), ("--plot", plot)):
        check_output(option, path)
    if plot is not None:
        from tisdiss_cli.plots import check_plot

        check_plot(plot)

    from tqdm import tqdm

    # torch.utils.benchmark imports it, and it warns of a CUDA toolkit on a machine without a card.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from tisdiss_cli.benchmark import describe_machine, fit_line, matmul_ceiling, measure
    from tisdiss_cli.datasets import find_dataset
    from tisdiss_cli.separation import Separator

    names = [name.strip() for name in references.split(",")] if references else None
    dataset = find_dataset(data, mixture, names) if data else None
    separators = [Separator.load(weights, device, name) for name in precisions]
    first = separators[0]
    if compile:
        for separator in separators:
            separator.compile()
    if len({separator.precision for separator in separators}) < len(separators):
        raise UserError(f"--compare {compare}: name each precision once")
    depths = depths or list(range(1, first.config.reconstructor_repeats + 1))
    machine = describe_machine(first.device)
    if not first.weights.trained:
        say(f"warning: the weights {first.weights.name!r} are untrained: they do not separate")

    measurements: list[Measurement] = []
    ceilings: dict[str, float] = {}
    bar = tqdm(
        total=len(separators) * len(batches) * len(lengths) * len(depths),
        unit="setting",
        file=sys.stderr,
        disable=quiet,
        leave=False,
    )
    with bar:
        for separator in separators:
            ceiling = ceilings[separator.precision] = matmul_ceiling(separator)
            for batch in batches:
                for length in lengths:
                    for measurement in measure(separator, depths, batch, length, ceiling):
                        measurements.append(measurement)
                        bar.update()
    scored: dict[str, list[dict[str, Any]]] = {}
    if dataset:
        for separator in separators:
            scored[separator.precision] = _score(dataset, separator, depths, quiet)

    compared: list[Comparison] = []
    folders: list[FolderComparison] = []
    if against_oracle:
        from tisdiss_cli.comparison import compare, compare_folder

        shapes = [(batch, length) for batch in batches for length in lengths]
        for separator in separators:
            for batch, length in shapes:
                compared += compare(separator, depths, batch, length)
            if dataset:
                folders.append(compare_folder(separator, [item.mixture for item in dataset.items], max(depths)))
    fits = []
    for cell in dict.fromkeys(map(_cell, measurements)):
        timed = [m for m in measurements if _cell(m) == cell and m.median is not None]
        if len(timed) > 1:
            a, b = fit_line([m.repeats for m in timed], [m.median for m in timed])
            fits.append({**dict(zip(("precision", "batch_size", "audio_seconds"), cell, strict=True)), "a": a, "b": b})
    curves = _curves(measurements, scored)
    _report(measurements, fits, scored, curves, machine, ceilings, first.weights.name)
    if against_oracle:
        print()
        print_table(comparison_table(compared, folders))
    if json:
        content = {
            "settings": {
                "weights": first.weights.name,
                "weights_sha256": first.weights.digest,
                "data": data and str(data),
                "compiled": compile,
            },
            "machine": machine,
            "versions": versions(),
            "ceilings": ceilings,
            "results": [asdict(measurement) for measurement in measurements],
            "fits": fits,
            "against_oracle": [asdict(comparison) for comparison in compared],
            "folders_against_oracle": [asdict(comparison) for comparison in folders],
            "scores": scored,
            "curves": [asdict(curve) for curve in curves],
        }
        write_json(json, content)
    if plot and curves:
        from tisdiss_cli.plots import draw

        draw(
            curves, plot, f"{first.weights.name} on {machine.get('gpu', machine['cpu'])}, {len(dataset.items)} mixtures"
        )
        say(f"drew {plot}")


def _cell(measurement: "Measurement") -> tuple[str, int, float]:
    return measurement.precision, measurement.batch_size, measurement.audio_seconds


def _numbers(option: str, text: str, kind: type, low: float, high: float) -> list:
    try:
        values = list(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError:
        raise UserError(f"{option} {text}: write one number or several, as in 1,4,10") from None
    if not all(low <= value <= high for value in values):
        raise UserError(f"{option} {text}: each must be {low:g} to {high:g}")
    return values


def _score(dataset: Any, separator: Any, depths: list[int], quiet: bool) -> list[dict[str, Any]]:
    """SI-SNRi of every setting; a file that cannot be scored is said and left out."""
    from tqdm import tqdm

    from tisdiss_cli.evaluation import Progress, default_workers, evaluate

    bar = tqdm(unit="file", desc=f"scoring {separator.precision}", file=sys.stderr, disable=quiet, leave=False)
    with bar:
        progress = Progress(bar.reset, bar.update, lambda sentence: tqdm.write(f"tisdiss: {sentence}", sys.stderr))
        outcome = evaluate(dataset, separator, depths, workers=default_workers(dataset), progress=progress)
    for sentence in outcome.failed:
        say(f"not scored: {sentence}")
    if not outcome.results:
        raise UserError(f"--data {dataset.root}: no file could be scored")
    return outcome.results


def _curves(measurements: "list[Measurement]", scored: dict[str, list[dict[str, Any]]]) -> "list[Curve]":
    """Quality against time for each precision, timed on the first batch size and length of the grid."""
    from tisdiss_cli.depth import smallest_within
    from tisdiss_cli.plots import Curve

    curves = []
    for precision, results in scored.items():
        quality = {entry["repeats"]: entry["si_snri"]["mean"] for entry in results}
        cell = next((_cell(m) for m in measurements if m.precision == precision), None)
        timed = [m for m in measurements if _cell(m) == cell and m.rtf is not None]
        if timed:
            values = [quality[m.repeats] for m in timed]
            depths, marked = [m.repeats for m in timed], smallest_within({m.repeats: quality[m.repeats] for m in timed})
            curves.append(Curve(precision, depths, [m.rtf for m in timed], values, marked))
    return curves


def _report(
    measurements: "list[Measurement]",
    fits: list[dict[str, Any]],
    scored: dict[str, list[dict[str, Any]]],
    curves: "list[Curve]",
    machine: dict[str, Any],
    ceilings: dict[str, float],
    weights: str,
) -> None:
    from tisdiss_cli.plots import draw_text

    peaks = ", ".join(f"{_si(value)}FLOP/s in {name}" for name, value in ceilings.items())
    name = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    print(f"{weights} on {name}; its largest matrix product: {peaks}\n")
    print_table(bench_table(measurements, scored))
    print()
    for fit in fits:
        cell = f"{fit['precision']}, batch {fit['batch_size']}, {fit['audio_seconds']:g} s"
        print(f"time = {_time(fit['a'])} + {_time(fit['b'])} x repeats   ({cell})")
    for curve in curves:
        print(f"\n{curve.name}: {curve.marked} is the smallest setting within 0.1 dB of the best")
        print(draw_text(curve))


def bench_table(measurements: "list[Measurement]", scored: dict[str, list[dict[str, Any]]]) -> "Table":
    """A row for each setting; columns that say the same everywhere are left out."""
    from rich.table import Table

    grid = {
        "precision": [m.precision for m in measurements],
        "batch": [str(m.batch_size) for m in measurements],
        "audio": [f"{m.audio_seconds:g} s" for m in measurements],
    }
    grid = {heading: cells for heading, cells in grid.items() if len(set(cells)) > 1}
    table = Table(box=None, pad_edge=False)
    headings = [*grid, "repeats", "median", "quartiles", "RTF", "x real", "memory", "MAC", "FLOP/s", "of peak"]
    for heading in [*headings, *(["SI-SNRi"] if scored else [])]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row, m in enumerate(measurements):
        cells = [column[row] for column in grid.values()] + [str(m.repeats)]
        if m.median is None:
            cells += ["out of memory", *[""] * 7]
        else:
            memory = f"{m.memory / 2**20:,.0f} MiB" if m.memory else ""
            cells += [_time(m.median), f"{_time(m.lower)} - {_time(m.upper)}", f"{m.rtf:.4f}", f"{1 / m.rtf:.1f}"]
            cells += [memory, _si(m.macs), _si(m.flops), f"{m.of_ceiling:.0%}"]
        if scored:
            entry = next((e for e in scored[m.precision] if e["repeats"] == m.repeats), None)
            cells.append(f"{entry['si_snri']['mean']:.2f} dB" if entry else "")
        table.add_row(*cells)
        if row + 1 < len(measurements) and _cell(m) != _cell(measurements[row + 1]):
            table.add_section()
    return table


def comparison_table(compared: "list[Comparison]", folders: "list[FolderComparison]") -> "Table":
    """Ours and the naive network's side by side, a row for each setting and each folder."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    headings = ("precision", "audio", "repeats", "ours", "naive", "ratio", "rel. error", "SI-SNR", "memory", "naive")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for c in compared:
        audio = f"{c.audio_seconds:g} s" if c.batch_size == 1 else f"{c.batch_size} x {c.audio_seconds:g} s"
        memory = [f"{value / 2**20:,.0f} MiB" if value else "" for value in (c.memory, c.naive_memory)]
        agreement = [f"{c.relative_error:.1e}", f"{c.si_snr:.1f} dB"]
        times = [_time(c.seconds), _time(c.naive_seconds), f"{c.ratio:.2f} x"]
        table.add_row(c.precision, audio, str(c.repeats), *times, *agreement, *memory)
    for c in folders:
        audio = f"{c.files} files, {c.audio_seconds:.0f} s"
        table.add_row(c.precision, audio, str(c.repeats), _time(c.seconds), _time(c.naive_seconds), f"{c.ratio:.2f} x")
    return table


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if abs(seconds) >= 1 else f"{seconds * 1e3:.1f} ms"


def _si(value: float) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.0f} "
