"""One run of a folder: options in, a stream of events out, the same from one device and from several."""

import logging
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from tisdiss_cli.audio.read import announced_seconds
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.inputs import list_inputs
from tisdiss_cli.folder.jobs import Job, plan_jobs
from tisdiss_cli.folder.naming import Template, parse_name
from tisdiss_cli.folder.pipeline import Pipeline, Progress
from tisdiss_cli.folder.record import Line, Record
from tisdiss_cli.folder.run_lock import RunLock, check_free
from tisdiss_cli.folder.settings import Options, Settings, choose_settings, load_separator, with_pace
from tisdiss_cli.folder.shards import parse_shard
from tisdiss_cli.folder.triage import triage
from tisdiss_cli.model.weights import WeightFile, find_weights, read_info

log = logging.getLogger("tisdiss")


@dataclass(frozen=True)
class Planned:
    """What a run is going to do: its first event."""

    todo: list[Job]  # which know their seconds of audio
    refused: list[Line]  # inputs that fail before the work; each comes again when it is recorded
    done: int  # inputs that were separated before under the same settings
    settings: Settings
    weights: WeightFile

    @property
    def seconds(self) -> float:
        """Of audio to do, as the headers have it."""
        return sum(job.seconds for job in self.todo)


Event = Planned | Progress | Line  # a line: what became of an input, "done" or "failed"


def run_folder(options: Options) -> Generator[Event]:
    """Does what the options ask for; yields what becomes of it. With `dry_run` it ends after the plan.

    Whoever stops before the end closes the generator, which ends all work and lets OUT go.

    Raises:
        UserError: the options cannot be meant, or another run is at work in OUT.
        RecordError: the record cannot be written.
        OutOfMemory: memory does not suffice for the shortest chunk.
        NoDevice: of several devices none is left.
    """
    options.check()
    shard, out = parse_shard(options.shard), options.out
    inputs = list_inputs(options.sources, out, options.files_from)
    if not options.dry_run:
        check_free(out, shard)
    weights, separator, settings = read_info(find_weights(options.weights)), None, None
    template = _template(options, weights)
    if options.several and not options.dry_run:
        from tisdiss_cli.folder.ray_driver import Fleet, find_ray

        find_ray(options.cluster)
    else:
        separator = load_separator(options)
        settings = choose_settings(separator, options, len(inputs))
    jobs = plan_jobs(
        inputs,
        out,
        voices=weights.config.speakers,
        extension=options.format,
        template=template,
        each_channel=options.each_channel,
        track=options.track,
        segments=options.formats,
    )
    sample, places = jobs[0], [one.place for one in inputs]
    jobs = [job for job in jobs if shard is None or shard.takes(job.input)]
    if options.dry_run and settings:
        found = triage(jobs, Record(out), settings.recorded, overwrite=options.overwrite, places=places)
        yield Planned(_measured(found.todo, options.track), found.refused, len(found.done), settings, weights)
        return
    _make_folder(out)
    with RunLock(out, shard) as lock, ExitStack() as stack:
        record = Record(out, shard, sources=options.sources, files_from=options.files_from)
        fleet = None
        if not settings:
            fleet = stack.enter_context(Fleet(options, weights, len(inputs), sample, lock))
            settings = fleet.settings
        found = triage(jobs, record, settings.recorded, overwrite=options.overwrite, begun=lock.left, places=places)
        for job in found.done:
            lock.settled(job)
        yield Planned(_measured(found.todo, options.track), found.refused, len(found.done), settings, weights)
        if found.todo or found.refused:
            record.prepare()
        for line in found.refused:
            record.append(line)
            yield line
        if not found.todo:
            return

        def settle(job: Job, line: Line) -> None:
            record.append(line)
            lock.settled(job)

        first = [job for job in found.todo if not lock.begun(job)]
        # One of these may have killed the run: each by itself, the one that was begun last at the very end.
        last = sorted((job for job in found.todo if lock.begun(job)), key=lock.last_begun)
        if fleet:
            yield from fleet.run(first, last, settle)
        elif separator:
            settings = with_pace(settings, separator, options, sum(job.seconds for job in found.todo))
            for together in (first, *([job] for job in last)):
                yield from Pipeline(separator, settings, out, lock.parts, settle).run(together)


def _template(options: Options, weights: WeightFile) -> Template:
    repeats: str | None = (
        "auto" if options.quality is not None else str(options.wanted_repeats or weights.default_repeats)
    )
    if options.limit:
        repeats = None
    return parse_name(options.name, options.format, repeats=repeats, each_channel=options.each_channel)


def _measured(jobs: list[Job], track: int | None) -> list[Job]:
    """Returns the jobs, which now know their seconds of audio, as the headers have it, 0 where that is unknown."""
    for job in jobs:
        job.seconds = seconds if isfinite(seconds := announced_seconds(job.path, track)) else 0.0
    return jobs


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUT {out} cannot be made: {error.strerror}: name a folder that can be written to") from None
