"""`tisdiss separate IN... OUT`: each voice of every recording in a file of its own."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.console import advance, audio_bar, keep_quiet, log, speak_json, warn_if_untrained
from tisdiss_cli.commands.options import (
    COUNT,
    NETWORK,
    DeviceOption,
    PrecisionOption,
    ShiftsOption,
    WeightsOption,
    finite,
    positive,
)
from tisdiss_cli.commands.separate_output import EventLines, Outcome, print_plan, print_summary, print_table
from tisdiss_cli.errors import UserError

if TYPE_CHECKING:
    from tisdiss_cli.folder.settings import Options

Format = StrEnum("Format", ["wav", "flac", "ogg", "opus", "mp3", "aiff", "w64"])
Subtype = StrEnum("Subtype", {"auto": "auto", "16": "16", "24": "24", "32": "32", "float": "float"})
_AUTO = Subtype("auto")
Rate = StrEnum("Rate", ["model", "input"])
Layout = StrEnum("Layout", ["files", "channels"])
Band = StrEnum("Band", ["network", "input"])
Shown = StrEnum("Shown", ["bar", "json"])

_groups = ("What to separate", "Depth", NETWORK, "Outputs", "Analysis", "Sharing the work", "The run")
_what, _depth, _network, _outputs, _analysis, _share, _run = (partial(typer.Option, rich_help_panel=g) for g in _groups)


@app.command()
def separate(  # the options make it long
    paths: Annotated[
        list[Path], typer.Argument(metavar="IN... OUT", help="Sound files or folders; last, OUT for voices.")
    ],
    files_from: Annotated[
        str | None, _what(metavar="LIST", help="List of inputs (-: standard input): paths, JSON lines or a wav.scp.")
    ] = None,
    channels: Annotated[str, _what(help="average of all, of some, as in 2 or 1,3, or each by itself.")] = "average",
    track: Annotated[int | None, _what(min=1, max=1000, help="Audio track of a video. [default: the first]")] = None,
    partial: Annotated[bool, _what("--partial", help="Separate what truncated or damaged files still have.")] = False,
    repeats: Annotated[
        str | None,
        _depth(
            metavar="N|auto",
            help="Repeats of the Reconstructor: more is better and slower; auto stops where a chunk converges. "
            "[default: by the weights]",
        ),
    ] = None,
    quality: Annotated[
        float | None, _depth(callback=finite, help="Refine each chunk until its predicted SI-SNRi is this many dB.")
    ] = None,
    rtf: Annotated[float | None, _depth(callback=positive, help="Most repeats within this real-time factor.")] = None,
    budget: Annotated[str | None, _depth(help="... or within this time for all inputs, as in 90s, 10m, 1h30m.")] = None,
    max_repeats: Annotated[
        int | None, _depth(**COUNT, help="Limit of auto, --quality (8), --rtf and --budget (as trained).")
    ] = None,
    separator_repeats: Annotated[int | None, _depth(**COUNT, help="Repeats of the Separator (advanced).")] = None,
    shifts: ShiftsOption = 1,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compile: Annotated[bool, _network("--compile", help="Compile the network first; pays in long runs only.")] = False,
    chunk: Annotated[
        float | None, _network(min=0.5, max=3600, callback=finite, help="Chunk length, seconds. [default: by weights]")
    ] = None,
    batch_size: Annotated[
        int | None, _network(min=1, max=65536, help="Chunks at a time. [default: by cores or the device's memory]")
    ] = None,
    name: Annotated[
        str, _outputs(help="Names of the outputs below OUT; also {input}, {ext}, {repeats}, {channel}.")
    ] = "{folder}/{stem}_s{voice}",
    layout: Annotated[Layout, _outputs(help="A file for each voice, or one with a channel for each.")] = Layout.files,
    format: Annotated[Format, _outputs(help="Format of the outputs.")] = Format.wav,
    subtype: Annotated[
        Subtype, _outputs(help="Bits, or float; auto: the input's, and more where a voice is quiet or would clip.")
    ] = _AUTO,
    sample_rate: Annotated[Rate, _outputs(help="Rate of the outputs: the network's, or each input's.")] = Rate.model,
    band: Annotated[
        Band,
        _outputs(
            help="input: with --sample-rate input, each voice has a share of the mixture above the network's band."
        ),
    ] = Band.network,
    overwrite: Annotated[bool, _outputs("--overwrite", help="Do everything again, and replace any file.")] = False,
    segments: Annotated[
        str | None, _analysis(metavar="FORMAT,...", help="Also write who speaks when: rttm, json, textgrid, audacity.")
    ] = None,
    min_quality: Annotated[
        float | None, _analysis(callback=finite, help="Mark files below this predicted SI-SNRi (dB) as doubtful.")
    ] = None,
    report: Annotated[bool, _analysis("--report", help="Write a page at the end: OUT/report/index.html.")] = False,
    shard: Annotated[
        str | None, _share(metavar="I/N|slurm", help="Separate this share of the inputs: 3/8, or by a SLURM array.")
    ] = None,
    devices: Annotated[
        str | None, _share(metavar="N|all", help="Number of devices to use, by Ray (pip install 'tisdiss[cluster]').")
    ] = None,
    cluster: Annotated[str | None, _share(metavar="auto|ADDRESS", help="The devices of a Ray cluster instead.")] = None,
    dry_run: Annotated[bool, _run("--dry-run", help="Only print what would be done.")] = False,
    json: Annotated[bool, _run("--json", help="Print JSON instead of the table; with --dry-run, lines.")] = False,
    progress: Annotated[Shown, _run(help="A bar, or each event as a line of JSON on stderr.")] = Shown.bar,
    quiet: Annotated[bool, _run("--quiet", help="No progress, no table; errors only.")] = False,
) -> None:
    """Separate recordings of two talkers: IN/sub/call.wav becomes OUT/sub/call_s1.wav, call_s2.wav.

    OUT/tisdiss.jsonl records each input; run the same command again to go on where it stopped.

    Inputs that differ only in their extension keep it in the name (call_wav_s1.wav). Files of a LIST are named as if
    the list's folder were IN, those elsewhere by their whole path. Inputs whose outputs still collide fail.
    """
    values = dict(locals())  # before anything else: the options by their names
    keep_quiet(quiet)
    if progress == Shown.json:
        if quiet:
            raise UserError("--progress json and --quiet exclude each other: use one of them")
        speak_json()
    *sources, out = (Path(os.path.expanduser(path)) for path in paths)
    if not sources and files_from is None:
        raise UserError(f"OUT is missing: name a folder for the voices of {out} after it")
    if report:
        from tisdiss_cli.commands.pages import check_pictures

        check_pictures()
    from tisdiss_cli.folder.settings import Options

    chosen = {field.name: values[field.name] for field in fields(Options) if field.name in values}
    options, outcome = Options(sources=tuple(sources), out=out, **chosen), Outcome()
    try:
        with _one_last_sentence():
            _work(options, outcome, json, progress)
    except typer.Exit:  # finished inputs are reported all the same
        if json:
            print_summary(outcome, stopped=True)
        raise
    if not dry_run:
        _tell(outcome, out, report=report, json=json, quiet=quiet)


def _work(options: "Options", outcome: Outcome, json: bool, progress: Shown) -> None:
    """Runs the options under a bar of the seconds of audio, or with each event as a line of JSON."""
    from tisdiss_cli.folder.pipeline import Progress
    from tisdiss_cli.folder.record import Line
    from tisdiss_cli.folder.run import Planned, run_folder

    with closing(run_folder(options)) as events:
        planned = next(events)
        assert isinstance(planned, Planned)
        if options.dry_run:
            print_plan(planned, json)
            return
        warn_if_untrained(planned.weights)
        outcome.done_before, began = planned.done, time.perf_counter()
        lines = EventLines(planned) if progress == Shown.json else None
        with audio_bar(planned.seconds, hidden=lines is not None) as bar:
            for event in events:
                if lines:
                    lines.write(event)
                if isinstance(event, Progress):
                    factor = (time.perf_counter() - began) / max(bar.n + event.seconds, 1e-9)
                    advance(bar, event.seconds, event.note or f"real-time factor {factor:.3f}")
                elif isinstance(event, Line):
                    outcome.lines.append(event)
                outcome.elapsed = time.perf_counter() - began


def _tell(outcome: Outcome, out: Path, *, report: bool, json: bool, quiet: bool) -> None:
    """Prints the results; exit status 1 if an input failed."""
    if json:
        print_summary(outcome, stopped=False)
    elif not quiet:
        print_table(outcome)
    if report:
        from tisdiss_cli.commands.pages import run_page

        log.info(f"wrote {run_page(out)}")
    failed = [line for line in outcome.lines if line.status == "failed"]
    for line in failed if quiet else ():
        log.error(line.reason)
    if failed:
        raise typer.Exit(1)


@contextmanager
def _one_last_sentence() -> Iterator[None]:
    """Turns whatever ends a run early into one sentence and an exit status."""
    from tisdiss_cli.devices import OutOfMemory
    from tisdiss_cli.folder.ray_driver import NoDevice
    from tisdiss_cli.folder.record import RecordError

    ours = threading.current_thread() is threading.main_thread()  # signal handlers need the main thread
    before = signal.signal(signal.SIGTERM, _terminate) if ours else None
    try:
        yield
    except (RecordError, NoDevice) as error:
        log.error(error)
        raise typer.Exit(1) from None
    except OutOfMemory as error:  # even the smallest chunk did not fit
        log.error(f"{error}, the shortest chunk: free some, or choose another --device; the same command then goes on")
        raise typer.Exit(1) from None
    except KeyboardInterrupt as error:
        log.error("stopped; the same command goes on where this one ended")
        raise typer.Exit(143 if isinstance(error, _Terminated) else 130) from None
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run like Ctrl-C."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated
