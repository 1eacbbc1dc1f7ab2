"""Run of a folder: options in, a stream of events out, from one device or several."""

from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite

from tisdiss_cli.audio.read import read_header
from tisdiss_cli.folder.inputs import list_inputs
from tisdiss_cli.folder.jobs import Job, plan_jobs
from tisdiss_cli.folder.naming import parse_name
from tisdiss_cli.folder.pace import measure_pace
from tisdiss_cli.folder.pipeline import Pipeline, Progress
from tisdiss_cli.folder.record import Line, Record
from tisdiss_cli.folder.run_lock import RunLock
from tisdiss_cli.folder.settings import Options, Settings, choose_settings, load_separator
from tisdiss_cli.folder.shards import parse_shard
from tisdiss_cli.folder.triage import triage
from tisdiss_cli.model.weights import WeightFile, find_weights, read_info


@dataclass(frozen=True)
class Planned:
    """Event: the plan of a run, its first event."""

    todo: list[Job]  # with their seconds of audio
    refused: list[Line]  # inputs that fail before the work; each is an event again when recorded
    done: int  # inputs separated before under the same settings
    settings: Settings
    weights: WeightFile

    @property
    def counts(self) -> dict[str, int]:
        """Number of inputs to do, done before and refused."""
        return {"to_do": len(self.todo), "done_before": self.done, "refused": len(self.refused)}

    @property
    def seconds(self) -> float:
        """Seconds of audio to do, by the headers."""
        return sum(job.seconds for job in self.todo)


Event = Planned | Progress | Line  # a line: the result of an input


def run_folder(options: Options) -> Generator[Event]:
    """Runs the options: yields the plan, then progress and a line for each input. A `dry_run` ends after the plan.

    To stop early, close the generator, which ends all work and releases OUT. UserError if the options do not fit, or
    another run writes to OUT; RecordError, OutOfMemory and NoDevice end it early.
    """
    options.check()
    shard, out = parse_shard(options.shard), options.out
    inputs = list_inputs(options.sources, out, options.files_from)
    weights, separator, settings = read_info(find_weights(options.weights)), None, None
    repeats = "auto" if options.quality is not None else str(options.requested_repeats or weights.default_repeats)
    known_repeats = None if options.limit else repeats
    layout = {"each_channel": options.each_channel, "one_file": options.one_file}
    template = parse_name(options.name, options.format, repeats=known_repeats, **layout)
    if options.several and not options.dry_run:
        from tisdiss_cli.folder.ray_driver import find_ray, start_pool
        from tisdiss_cli.folder.ray_workers import make_task

        find_ray(options.cluster)  # before OUT is made
    else:
        separator = load_separator(options)
        settings = choose_settings(separator, options, len(inputs))
    jobs = plan_jobs(inputs, options, weights.config.speakers, template)
    sample, places = jobs[0], [one.place for one in inputs]
    jobs = [job for job in jobs if shard is None or shard.takes(job.input)]
    with ExitStack() as stack:
        lock, pool = None, None
        if not options.dry_run:
            lock = stack.enter_context(RunLock(out, shard))
        if lock and not settings:
            task = make_task(options, weights, len(inputs), sample, lock)
            pool = stack.enter_context(start_pool(options, task, lock))
            settings = pool.wait_until_ready()
        assert settings
        record = Record(out, shard, sources=options.sources, files_from=options.files_from)
        begun = lock.interrupted if lock else {}
        found = triage(jobs, record, settings.recorded, overwrite=options.overwrite, begun=begun, places=places)
        for job in found.todo:
            seconds = read_header(job.path, options.track)[0] * len(job.mixtures)
            job.seconds = seconds if isfinite(seconds) else 0.0
        yield Planned(found.todo, found.refused, len(found.done), settings, weights)
        if not lock:
            return
        for job in found.done:
            lock.clear(job)
        if found.todo or found.refused:
            record.prepare()
        for line in found.refused:
            record.append(line)
            yield line
        if not found.todo:
            return

        def commit(job: Job, line: Line) -> None:
            record.append(line)
            lock.clear(job)

        first = [job for job in found.todo if job.key not in begun]
        # One of these may have killed the run: each by itself, the last one begun at the very end.
        last = sorted((job for job in found.todo if job.key in begun), key=lambda job: begun[job.key])
        if pool:
            yield from pool.run(first, last, commit)
        elif separator:
            seconds = sum(job.seconds for job in found.todo)
            pace = measure_pace(separator, settings, seconds) if options.limit else None
            for together in (first, *([job] for job in last)):
                yield from Pipeline(separator, settings, lock.parts, commit, pace).run(together)
