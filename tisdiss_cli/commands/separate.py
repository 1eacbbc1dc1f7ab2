"""`tisdiss separate IN OUT`: each voice of every recording in its own file."""

import sys
import time
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.console import plain_console
from tisdiss_cli.commands.options import DeviceOption, PrecisionOption, WeightsOption
from tisdiss_cli.errors import UserError

if TYPE_CHECKING:
    from tisdiss_cli.folder.jobs import Job
    from tisdiss_cli.folder.record import Line, Record
    from tisdiss_cli.folder.run import Settings
    from tisdiss_cli.separation.early_exit import Auto

_ROWS = 30  # files listed one by one in the final table


@app.command()
def separate(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A sound file, or a folder searched recursively.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the voices; mirrors IN's tree.")],
    repeats: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Repeats of the Reconstructor: more is better and slower; auto stops each chunk when it has settled. "
            "[default: as the weights recommend]",
        ),
    ] = None,
    max_repeats: Annotated[
        int | None, typer.Option(help="The most that auto, --rtf and --budget may choose. [default: 8; as trained]")
    ] = None,
    rtf: Annotated[
        float | None, typer.Option(help="Choose the repeats that this machine affords at this real-time factor.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="... or in this time for all of IN, as in 90s, 10m, 1h30m.")
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="torch.compile the network first: a minute or two, for long runs.")
    ] = False,
    format: Annotated[str, typer.Option(help="wav (16 bit, float where that would clip) or flac.")] = "wav",
    sample_rate: Annotated[str, typer.Option(help="Of the outputs: model, or input.")] = "model",
    chunk: Annotated[
        float | None,
        typer.Option(help="Seconds that the network hears at a time; the rest of a file, up to 1.5 times as many."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Chunks at a time. [default: 1 on a CPU, else 16]")] = None,
    separator_repeats: Annotated[int | None, typer.Option(help="Repeats of the Separator (advanced).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do everything again, replace any file.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no table; errors only.")] = False,
) -> None:
    """Separate recordings of several talkers: IN/sub/call.wav becomes OUT/sub/call_s1.wav, call_s2.wav.

    OUT/tisdiss.jsonl records each input; run the same command again to go on where it stopped.
    """
    for option, value, choices in (
        ("--format", format, ("wav", "flac")),
        ("--sample-rate", sample_rate, ("model", "input")),
    ):
        if value not in choices:
            raise UserError(f"{option} {value} is unknown: choose {' or '.join(choices)}")
    if chunk is not None and not 0.5 <= chunk <= 3600:
        raise UserError(f"--chunk {chunk:g}: it must be 0.5 to 3600 seconds")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: it must be at least 1")
    depth = _parse_repeats(repeats)
    if sum(option is not None for option in (repeats, rtf, budget)) > 1:
        raise UserError("--repeats, --rtf and --budget each choose the depth: give one of them")
    if max_repeats is not None and max_repeats < 1:
        raise UserError(f"--max-repeats {max_repeats}: it must be at least 1")
    if rtf is not None and not 0 < rtf < inf:
        raise UserError(f"--rtf {rtf:g}: it must be a finite number above 0")
    if separator_repeats is not None and separator_repeats < 1:
        raise UserError(f"--separator-repeats {separator_repeats}: it must be at least 1")
    if not source.exists():
        raise UserError(f"IN {source} does not exist: name a sound file or a folder of them")

    from tisdiss_cli.folder.jobs import plan_jobs
    from tisdiss_cli.folder.pace import measure_pace, parse_duration
    from tisdiss_cli.folder.record import Line, Record, RecordError
    from tisdiss_cli.folder.run import FolderRun, Progress, Settings, default_batch
    from tisdiss_cli.separation.separator import Separator

    limit = parse_duration(budget) if budget else None
    separator = Separator.load(weights, device, precision)
    if compile:
        separator.compile()
    jobs = plan_jobs(source, out, separator.sources, format)
    plan = separator.plan(chunk)
    if depth == "auto":
        depth = separator.auto(max_repeats)
    depth = depth or separator.default_repeats
    separator_repeats = separator_repeats or separator.config.separator_repeats
    settings = Settings(
        repeats=depth,
        separator_repeats=separator_repeats,
        plan=plan,
        batch_size=batch_size or default_batch(separator.device),
        format=format,
        input_rate=sample_rate == "input",
        overwrite=overwrite,
        recorded={
            "weights": separator.weights.name,
            "weights_sha256": separator.weights.digest,
            "repeats": f"--rtf {rtf:g}" if rtf else f"--budget {budget}" if budget else _recorded(depth),
            "separator_repeats": separator_repeats,
            "precision": separator.precision,
            "chunk_seconds": plan.chunk / separator.sample_rate,
            "format": format,
            "sample_rate": sample_rate,
            **({"compiled": True} if compile else {}),
        },
    )
    record = Record(out)
    todo, skipped, foreign = _sort(jobs, record, out, settings)
    if dry_run:
        for job in todo:
            print(f"{job.input} -> {', '.join(job.outputs)}")
        print(f"{len(todo)} to separate, {skipped} done already", file=sys.stderr)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUT {out} cannot be made: {error.strerror}: name a folder that can be written to") from None
    if not separator.weights.trained and not quiet:
        print(
            f"tisdiss: warning: the weights {separator.weights.name!r} are untrained: they do not separate",
            file=sys.stderr,
        )

    seconds = [_seconds(job.path) for job in todo]
    if todo and (rtf or budget):
        most = max_repeats or separator.config.reconstructor_repeats
        pace = measure_pace(separator, plan, settings.batch_size, separator_repeats, most)
        chosen = pace.limit(sum(seconds), rtf=rtf, budget=limit)
        print(f"tisdiss: {chosen}", file=sys.stderr)
        settings = replace(settings, pace=pace)
    lines: list[Line] = []
    began = time.perf_counter()
    for line in foreign:
        record.append(line)
        lines.append(line)
    if todo:
        from tqdm import tqdm

        bar = tqdm(
            total=round(sum(seconds), 3) or None,
            unit="s",
            file=sys.stderr,
            disable=quiet,
            bar_format="{l_bar}{bar}| {n:.1f}/{total:.1f} s of audio [{elapsed}<{remaining}{postfix}]",
        )

        def advance(seconds: float) -> None:
            bar.update(seconds)
            bar.set_postfix_str(
                f"real-time factor {(time.perf_counter() - began) / max(bar.n, 1e-9):.3f}", refresh=False
            )

        run = FolderRun(separator, todo, out, settings, Progress(advance, lines.append))
        try:
            with bar:
                run.run(record)
        except RecordError as error:
            print(f"tisdiss: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("tisdiss: stopped; the same command goes on where this one ended", file=sys.stderr)
            raise typer.Exit(130) from None
    failed = [line for line in lines if line.status == "failed"]
    if not quiet:
        _report(lines, skipped, time.perf_counter() - began)
    elif failed:
        for line in failed:
            print(f"tisdiss: {line.reason}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _parse_repeats(text: str | None) -> int | str | None:
    if text is None or text == "auto":
        return text
    try:
        number = int(text)
    except ValueError:
        raise UserError(f"--repeats {text}: it must be a number or auto") from None
    if number < 1:
        raise UserError(f"--repeats {text}: it must be at least 1")
    return number


def _recorded(depth: "int | Auto") -> int | str:
    return depth if isinstance(depth, int) else f"auto, {depth.threshold_db:g} dB, at most {depth.most}"


def _sort(jobs: "list[Job]", record: "Record", out: Path, settings: "Settings") -> "tuple[list[Job], int, list[Line]]":
    """What is to do, how many are done, and lines for those that would replace a file that is not ours."""
    from tisdiss_cli.files import fingerprint
    from tisdiss_cli.folder.record import Line

    todo, skipped, foreign = [], 0, []
    for job in jobs:
        source = fingerprint(job.path)
        if not settings.overwrite:
            if record.done(job.input, settings.recorded, source):
                skipped += 1
                continue
            strange = (output for output in job.outputs if output not in record.made and (out / output).exists())
            stranger = next(strange, None)
            if stranger and not job.parts(out).exists():  # else an interrupted run has just named it
                reason = f"{out / stranger} exists and is not from this folder's runs: pass --overwrite to replace it"
                line = Line(job.input, "failed", reason, settings=settings.recorded, source=source)
                foreign.append(line)
                continue
        todo.append(job)
    return todo, skipped, foreign


def _seconds(path: Path) -> float:
    """What a file's header says of its length; 0 for one that has none: its reason comes later."""
    import soundfile

    try:
        return soundfile.info(path).duration
    except (soundfile.LibsndfileError, OSError, TypeError, ZeroDivisionError):
        return 0.0


def _report(lines: "list[Line]", skipped: int, elapsed: float) -> None:
    from rich.table import Table

    console = plain_console() if sys.stdout.isatty() else plain_console(width=200)
    done = [line for line in lines if line.status == "done"]
    shown = lines if len(lines) <= _ROWS else [line for line in lines if line.reason or line.warnings]
    if shown:
        table = Table(box=None, pad_edge=False)
        for heading in ("input", "", "repeats", "audio", "time", ""):
            table.add_column(
                heading, justify="right" if heading in ("repeats", "audio", "time") else "left", overflow="fold"
            )
        for line in sorted(shown, key=lambda line: line.input):
            remark = line.reason or "; ".join(line.warnings)
            table.add_row(
                line.input,
                line.status,
                f"{line.repeats:g}" if line.repeats else "",
                f"{line.audio_seconds:.2f} s",
                f"{line.elapsed_seconds:.2f} s",
                remark,
            )
        console.print(table)
    seconds = sum(line.audio_seconds for line in done)
    rate = f", {elapsed / seconds:.3f} times its length" if seconds else ""
    console.print(
        f"{len(done)} separated, {len(lines) - len(done)} failed, {skipped} done before; "
        f"{seconds:.1f} s of audio in {elapsed:.1f} s{rate}"
    )
