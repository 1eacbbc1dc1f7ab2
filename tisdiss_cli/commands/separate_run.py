"""How `tisdiss separate` carries out what it has parsed: on one device, or on several."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from tisdiss_cli.commands.console import advance, audio_bar, log, shown, warn_if_untrained
from tisdiss_cli.commands.separate_asked import Run
from tisdiss_cli.commands.separate_json import print_plan_lines
from tisdiss_cli.errors import UserError

if TYPE_CHECKING:
    from tisdiss_cli.folder.fleet import Place
    from tisdiss_cli.folder.pace import Limit
    from tisdiss_cli.folder.settings import Settings
    from tisdiss_cli.folder.triage import Triage
    from tisdiss_cli.separation.separator import Separator


def run_here(
    run: Run,
    separator: "Separator",
    options: dict[str, Any],
    *,
    limit: "Limit | None",
    max_repeats: int | None,
    dry_run: bool,
    as_json: bool = False,
) -> None:
    """Does what is to do on one device, under a bar of the seconds of audio.

    Args:
        run: what is asked for; its results are filled in.
        separator: the network.
        options: of `choose_settings`.
        limit: of time.
        max_repeats: the most that the limit may choose.
        dry_run: whether only to say what would be done.
        as_json: whether to say it in JSON.
    """
    from tisdiss_cli.folder.locks import enter
    from tisdiss_cli.folder.record import Record
    from tisdiss_cli.folder.run import FolderRun
    from tisdiss_cli.folder.settings import choose_settings, with_pace
    from tisdiss_cli.folder.triage import triage

    jobs = run.jobs(separator.sources)
    settings = choose_settings(separator, limit=limit, **options)
    record = Record(run.out)
    found = triage(jobs, record, settings)
    run.done = found.done
    if dry_run:
        if as_json:
            print_plan_lines(found, settings)
        else:
            _print_plan(found, settings)
        return
    _make_folder(run.out)
    warn_if_untrained(separator.weights)
    if not (found.todo or found.refused):
        return
    presence = enter(run.out, run.source, shard=run.shard, join=run.join)
    try:
        with one_last_sentence():
            began = time.perf_counter()
            if record.reread():  # another run has come and gone meanwhile
                found = triage(jobs, record, settings)
            audio = _measure(found, settings.track)
            run.begin(record, found, presence)
            if found.todo and limit:
                settings = with_pace(settings, separator, limit=limit, seconds=audio, most=max_repeats)
            if not found.todo:
                return
            with audio_bar(audio) as moving:

                def tell(more: float) -> None:
                    factor = (time.perf_counter() - began) / max(moving.n + more, 1e-9)
                    advance(moving, more, f"real-time factor {factor:.3f}")

                FolderRun(
                    separator,
                    found.todo,
                    run.out,
                    settings,
                    on_audio=tell,
                    on_line=run.take,
                    on_left=run.leave,
                    presence=presence,
                ).run(record)
            run.elapsed = time.perf_counter() - began
    finally:
        presence.leave(record.makers)


def run_on_devices(
    run: Run,
    devices: int | None,
    address: str | None,
    options: dict[str, Any],
    *,
    weights: str | None,
    device: str,
    precision: str,
    compile: bool,
) -> None:
    """Does what is to do on several devices, of this machine or of a cluster.

    Args:
        run: what is asked for; its results are filled in.
        devices: how many; None: all.
        address: of the cluster; None: this machine.
        options: of `choose_settings`.
        weights, device, precision, compile: as the command's.
    """
    from tisdiss_cli.folder.cluster import ClusterRun
    from tisdiss_cli.folder.connection import find_ray
    from tisdiss_cli.folder.fleet import Fleet
    from tisdiss_cli.folder.locks import enter
    from tisdiss_cli.folder.record import Record
    from tisdiss_cli.folder.triage import triage
    from tisdiss_cli.folder.worker import task_of
    from tisdiss_cli.model.weights import bundled, find_weights, read_info

    find_ray(address)
    file = read_info(find_weights(weights))
    jobs = run.jobs(file.config.speakers)
    _make_folder(run.out)
    warn_if_untrained(file)
    if not jobs:
        return
    weights_bytes = None if file.path in bundled() else file.path.read_bytes()
    presence, record, names = enter(run.out, run.source, shard=run.shard, join=run.join), None, set[str]()
    try:
        task = task_of(presence, jobs[0], file, precision=precision, compile=compile, options=options)
        fleet = Fleet(devices, address, device=device, task=task, weights=weights_bytes, names=names)
        record = Record(run.out)
        with one_last_sentence(), _no_stdout(), fleet:
            settings = fleet.muster()
            found = triage(jobs, record, settings)
            began = time.perf_counter()
            run.begin(record, found, presence)
            with audio_bar(_measure(found, settings.track)) as moving:
                moving.set_postfix_str("", refresh=False)  # a hidden bar has none before

                def state(left: int, places: "list[Place]") -> None:
                    speed = moving.n / max(time.perf_counter() - began, 1e-9)
                    hours = (max(0.0, (moving.total or 0.0) - moving.n)) / speed / 3600 if speed else 0.0
                    each = ", ".join(f"{place} {place.state}" for place in places[:8])
                    more = f" and {len(places) - 8} more" if len(places) > 8 else ""
                    moving.set_postfix_str(f"{left} files, {hours:.2f} h left; {each}{more}", refresh=False)

                ClusterRun(
                    fleet,
                    found.todo,
                    out=run.out,
                    recorded=settings.recorded,
                    since=presence.entered,
                    on_audio=lambda more: advance(moving, more, moving.postfix or ""),
                    on_line=run.take,
                    on_left=run.leave,
                    on_state=state,
                ).run(record)
            run.elapsed = time.perf_counter() - began
    finally:
        presence.leave(record.makers if record else (), names)


@contextmanager
def one_last_sentence() -> Iterator[None]:
    """What ends a run early as a sentence and an exit status; what is done stays done."""
    from tisdiss_cli.devices import OutOfMemory
    from tisdiss_cli.folder.fleet import NoDevice
    from tisdiss_cli.folder.record import RecordError

    ours = threading.current_thread() is threading.main_thread()  # no other thread may say what a signal does
    before = signal.signal(signal.SIGTERM, _terminate) if ours else None
    try:
        yield
    except (RecordError, NoDevice) as error:
        log.error(error)
        raise typer.Exit(1) from None
    except OutOfMemory as error:  # smaller batches and chunks have been tried: the next input would not fit either
        log.error(f"{error}, the shortest chunk: free some or choose another --device; the same command then goes on")
        raise typer.Exit(1) from None
    except KeyboardInterrupt as error:
        log.error("stopped; the same command goes on where this one ended")
        raise typer.Exit(143 if isinstance(error, _Terminated) else 130) from None
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


@contextmanager
def _no_stdout() -> Iterator[None]:
    """Keeps what Ray prints out of the results."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _measure(found: "Triage", track: int | None) -> float:
    """Seconds of audio that are to do; each job learns its own, as its header has it, 0 where that is unknown."""
    from tisdiss_cli.audio.read import announced_seconds

    for job in found.todo:
        job.seconds = seconds if isfinite(seconds := announced_seconds(job.path, track)) else 0.0
    return sum(job.seconds for job in found.todo)


def _print_plan(found: "Triage", settings: "Settings") -> None:
    for job in found.todo:
        print(shown(f"{job.input} -> {', '.join(job.outputs)}"))
    for line in found.refused:
        log.warning(line.reason)
    refused = f", {len(found.refused)} refused" if found.refused else ""
    print(f"{len(found.todo)} to separate, {found.done} done already{refused}", file=sys.stderr)
    facts = {name: " ".join(map(str, v)) if isinstance(v, list) else v for name, v in settings.recorded.items()}
    print("with " + ", ".join(f"{name.replace('_', ' ')} {v}" for name, v in facts.items()), file=sys.stderr)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUT {out} cannot be made: {error.strerror}: name a folder that can be written to") from None
