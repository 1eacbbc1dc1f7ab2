"""`tisdiss separate IN OUT`: each voice of every recording in its own file."""

import os
import time
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.console import keep_quiet, log
from tisdiss_cli.commands.options import DeviceOption, PrecisionOption, WeightsOption, check_repeats
from tisdiss_cli.commands.separate_json import print_summary
from tisdiss_cli.commands.separate_tables import print_report
from tisdiss_cli.errors import UserError

if TYPE_CHECKING:
    from tisdiss_cli.commands.separate_asked import Run


@app.command()
def separate(  # the options make it long
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN... OUT",
            help="Sound files, or folders searched recursively; last the folder for the voices, mirroring their trees.",
        ),
    ],
    files_from: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="A list of inputs (-: standard input): paths, JSON lines with audio_filepath or path, or a wav.scp; "
            "relative to the list.",
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(help="Of the outputs, below OUT; also {input} (with its extension), {ext}, {repeats}, {channel}."),
    ] = "{folder}/{stem}_s{voice}",
    repeats: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Repeats of the Reconstructor: more is better and slower; auto stops each chunk when it has settled. "
            "[default: as the weights recommend]",
        ),
    ] = None,
    quality: Annotated[
        float | None, typer.Option(help="Refine each chunk until so many dB of SI-SNRi are predicted for it.")
    ] = None,
    max_repeats: Annotated[
        int | None,
        typer.Option(help="The most that auto, --quality, --rtf and --budget may choose. [default: 8, 8, as trained]"),
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
    format: Annotated[str, typer.Option(help="wav, flac, ogg, opus, mp3, aiff or w64.")] = "wav",
    subtype: Annotated[
        str,
        typer.Option(
            help="16, 24, 32 (bit) or float; auto holds what the input held and more where a voice is quiet or would "
            "clip."
        ),
    ] = "auto",
    sample_rate: Annotated[str, typer.Option(help="Of the outputs: model, or input.")] = "model",
    track: Annotated[
        int | None, typer.Option(help="Which audio track of a video or other container. [default: the first]")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Separate what there is of truncated or damaged files, with a warning.")
    ] = False,
    channels: Annotated[
        str,
        typer.Option(
            help="average of all; those named, as in 2 or 1,3, averaged; or each by itself: call_c1_s1.wav, ..."
        ),
    ] = "average",
    chunk: Annotated[
        float | None,
        typer.Option(help="Seconds that the network hears at a time; the rest of a file, up to 1.5 times as many."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Chunks at a time. [default: by the cores of a CPU, else up to 16, as memory allows]"),
    ] = None,
    separator_repeats: Annotated[int | None, typer.Option(help="Repeats of the Separator (advanced).")] = None,
    segments: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT,...", help="Write who speaks when beside the voices: rttm, json, textgrid, audacity."
        ),
    ] = None,
    min_quality: Annotated[
        float | None, typer.Option(help="Mark files as doubtful whose predicted SI-SNRi, in dB, is below this.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N|slurm", help="Only this share of IN: 3/8, or by the variables of a SLURM array."),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(metavar="N|all", help="So many devices at once, by Ray (pip install 'tisdiss[cluster]')."),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="auto|ADDRESS", help="The devices of a Ray cluster instead of this machine's.")
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Help a run that is at work in OUT: do what it has not begun.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do everything again, replace any file.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="At the end, a page to look at and listen to: OUT/report/index.html.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    json: Annotated[
        bool,
        typer.Option("--json", help="Instead of the table one JSON document of what was done; with --dry-run, lines."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no table; errors only.")] = False,
) -> None:
    """Separate recordings of several talkers: IN/sub/call.wav becomes OUT/sub/call_s1.wav, call_s2.wav.

    OUT/tisdiss.jsonl records each input; run the same command again to go on where it stopped.

    Names that would meet: inputs that differ only in their extension get it into the stem (call_wav_s1.wav), inputs of
    several IN get the name of their own IN's folder in front (monday/call_s1.wav), all of them; those that still meet
    fail. What a LIST names is called as if the list's folder were IN; what lies elsewhere, by its whole path.
    """
    keep_quiet(quiet)
    _check_choice("--format", format, ("wav", "flac", "ogg", "opus", "mp3", "aiff", "w64"))
    _check_choice("--subtype", subtype, ("auto", "16", "24", "32", "float"))
    _check_choice("--sample-rate", sample_rate, ("model", "input"))
    _check_numbers(
        chunk=chunk,
        batch_size=batch_size,
        max_repeats=max_repeats,
        rtf=rtf,
        separator_repeats=separator_repeats,
        track=track,
        quality=quality,
        min_quality=min_quality,
    )
    wanted = _parse_repeats(repeats)
    if quality is not None and repeats in (None, "auto"):
        repeats, wanted = None, "auto"
    if sum(option is not None for option in (repeats, quality, rtf, budget)) > 1:
        raise UserError("--repeats, --quality, --rtf and --budget each choose the repeats: give one of them")
    *sources, out = (Path(os.path.expanduser(path)) for path in paths)
    if not sources and files_from is None:
        raise UserError(f"OUT is missing: name a folder for the voices of {out} after it")
    if report:
        from tisdiss_cli.commands.pages import check_pictures

        check_pictures()

    several = devices is not None or cluster is not None
    number = _parse_devices(devices)
    if several:
        _check_several(device, rtf, budget)

    from tisdiss_cli.activity.formats import parse_formats
    from tisdiss_cli.audio.channels import parse_channels
    from tisdiss_cli.folder.inputs import common_source, list_inputs
    from tisdiss_cli.folder.locks import check_free
    from tisdiss_cli.folder.names import parse_name
    from tisdiss_cli.folder.shards import parse_shard

    share = parse_shard(shard)
    inputs = list_inputs(sources, out, files_from)
    source = common_source(sources, files_from)
    check_free(out, source, shard=share, join=join or dry_run)
    from tisdiss_cli.commands.separate_asked import Run
    from tisdiss_cli.commands.separate_run import run_here, run_on_devices
    from tisdiss_cli.folder.pace import parse_limit
    from tisdiss_cli.separation.separator import Separator

    limit, wanted_channels = parse_limit(rtf, budget), parse_channels(channels)
    formats = [] if segments is None else parse_formats(segments)
    each_channel = wanted_channels == "each"
    template = parse_name(name, format, repeats=_told_repeats(name, wanted, limit, weights), each_channel=each_channel)
    run = Run(inputs, source, out, share, join, format, template, each_channel, track, formats, sources, files_from)
    options = {
        "repeats": wanted,
        "max_repeats": max_repeats,
        "quality": quality,
        "separator_repeats": separator_repeats,
        "chunk": chunk,
        "batch_size": batch_size,
        "inputs": len(inputs),
        "format": format,
        "subtype": subtype,
        "channels": wanted_channels,
        "sample_rate": sample_rate,
        "compiled": compile,
        "overwrite": overwrite,
        "track": track,
        "partial": partial,
        "segments": formats,
        "min_quality": min_quality,
    }
    began = time.perf_counter()
    try:
        if several and not dry_run:
            run_on_devices(
                run,
                number,
                cluster,
                options,
                weights=weights,
                device=device,
                precision=precision,
                compile=compile,
            )
        else:
            separator = Separator.load(weights, device, precision)
            if compile:
                separator.compile()
            run_here(run, separator, options, limit=limit, max_repeats=max_repeats, dry_run=dry_run, as_json=json)
    except typer.Exit:  # what is done is told all the same
        if json:
            run.elapsed = time.perf_counter() - began
            print_summary(run, stopped=True)
        raise
    if not dry_run:
        _tell(run, report=report, json=json, quiet=quiet)


def _tell(run: "Run", *, report: bool, json: bool, quiet: bool) -> None:
    """What became of the inputs; exit status 1 if one has failed."""
    if json:
        print_summary(run, stopped=False)
    elif not quiet:
        print_report(run)
    if report:
        from tisdiss_cli.commands.pages import run_page

        log.info(f"wrote {run_page(run.out)}")
    failed = [line for line in run.lines if line.status == "failed"]
    for line in failed if quiet else ():
        log.error(line.reason)
    if failed:
        raise typer.Exit(1)


def _told_repeats(name: str, wanted: int | str | None, limit: object, weights: str | None) -> str | None:
    """What {repeats} is in `--name`; None if that is not known before the run."""
    if limit or wanted or "{repeats}" not in name:
        return None if limit else str(wanted or "")
    from tisdiss_cli.model.weights import find_weights, read_info

    return str(read_info(find_weights(weights)).default_repeats)


def _parse_devices(text: str | None) -> int | None:
    """A number, or None for all."""
    if text is None or text == "all":
        return None
    if not text.isdecimal() or not 1 <= int(text[:9]) <= 100_000:
        raise UserError(f"--devices {text}: write how many, or all")
    return int(text)


def _check_several(device: str, rtf: float | None, budget: str | None) -> None:
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device} is one device: write auto, cpu or cuda with --devices and --cluster")
    if rtf or budget:
        raise UserError("--rtf and --budget go by one device's clock: give --repeats with --devices and --cluster")


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{option} {value} is unknown: choose {', '.join(choices[:-1])} or {choices[-1]}")


def _check_numbers(
    *,
    chunk: float | None,
    batch_size: int | None,
    max_repeats: int | None,
    rtf: float | None,
    separator_repeats: int | None,
    track: int | None,
    quality: float | None,
    min_quality: float | None,
) -> None:
    if chunk is not None and not 0.5 <= chunk <= 3600:
        raise UserError(f"--chunk {chunk:g}: it must be 0.5 to 3600 seconds")
    for option, decibels in (("--quality", quality), ("--min-quality", min_quality)):
        if decibels is not None and not isfinite(decibels):
            raise UserError(f"{option} {decibels:g}: it must be a finite number of decibels")
    if rtf is not None and not 0 < rtf < inf:
        raise UserError(f"--rtf {rtf:g}: it must be a finite number above 0")
    if batch_size is not None and not 1 <= batch_size <= 65536:
        raise UserError(f"--batch-size {batch_size}: it must be at least 1 and at most 65536")
    if track is not None and not 1 <= track <= 1000:
        raise UserError(f"--track {track}: it must be at least 1 and at most 1000")
    for option, value in (("--max-repeats", max_repeats), ("--separator-repeats", separator_repeats)):
        if value is not None:
            check_repeats(option, value)


def _parse_repeats(text: str | None) -> int | Literal["auto"] | None:
    if text is None:
        return None
    if text == "auto":
        return "auto"
    return check_repeats("--repeats", text)
