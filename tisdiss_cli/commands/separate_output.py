"""Output of `tisdiss separate`: plan, table, JSON documents and events."""

import json
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tisdiss_cli.commands.console import log, plain_console
from tisdiss_cli.files import shown

if TYPE_CHECKING:
    from rich.table import Table

    from tisdiss_cli.folder.record import Line
    from tisdiss_cli.folder.run import Event, Planned

_ROWS = 30  # files listed one by one


@dataclass
class Outcome:
    """Outcome of a run: lines of its inputs, and time."""

    lines: "list[Line]" = field(default_factory=list)
    done_before: int = 0
    elapsed: float = 0.0  # seconds

    def sums(self) -> tuple[int, int, float]:
        """Returns the number of inputs done, the number failed, and the seconds of audio done."""
        done = [line.audio_seconds for line in self.lines if line.status == "done"]
        return len(done), len(self.lines) - len(done), sum(done)


class EventLines:
    """Writer of a run's events as lines of JSON on stderr."""

    def __init__(self, planned: "Planned") -> None:
        self.began, self.seconds, self.total = time.perf_counter(), 0.0, planned.seconds
        self._print("planned", **planned.counts, audio_seconds=planned.seconds)

    def write(self, event: "Event") -> None:
        """Prints the progress in seconds of audio, or the result of an input."""
        from tisdiss_cli.folder.record import Line

        if isinstance(event, Line):
            facts = {
                name: getattr(event, name) for name in ("status", "reason", "outputs", "audio_seconds", "warnings")
            }
            of_input = {"input": event.input, "path": event.path, "channel": event.channel}
            self._print("input", **of_input, **facts, bytes=event.source[0] if event.source else None)
            return
        self.seconds += getattr(event, "seconds", 0.0)
        elapsed, total = time.perf_counter() - self.began, max(self.total, self.seconds)
        left = elapsed / self.seconds * (total - self.seconds) if self.seconds > 0 else None
        clock = {"elapsed_seconds": elapsed, "remaining_seconds": left}
        self._print("progress", audio_seconds=self.seconds, total_seconds=total, **clock)

    def _print(self, event: str, **facts: Any) -> None:
        print(json.dumps({"format": 1, "event": event, **facts}, allow_nan=False), file=sys.stderr, flush=True)


def print_plan(planned: "Planned", as_json: bool) -> None:
    """Prints the plan and the settings; as JSON, a line for each input and one with sums and settings."""
    if as_json:
        for job in planned.todo:
            facts = {"path": job.resolved, "channel": job.channel, "outputs": job.outputs, "segments": job.segments}
            _print({"input": job.input, "status": "to do", **facts, "audio_seconds": job.seconds or None})
        for line in planned.refused:
            _print({"status": "refused", **_failure(line)})
        _print({**planned.counts, "settings": planned.settings.recorded})
        return
    for job in planned.todo:
        print(shown(f"{job.input} -> {', '.join(job.outputs)}"))
    for line in planned.refused:
        log.warning(line.reason)
    refused = f", {len(planned.refused)} refused" if planned.refused else ""
    print(f"{len(planned.todo)} to separate, {planned.done} done already{refused}", file=sys.stderr)
    facts = {name: " ".join(map(str, v)) if isinstance(v, list) else v for name, v in planned.settings.recorded.items()}
    print("with " + ", ".join(f"{name.replace('_', ' ')} {v}" for name, v in facts.items()), file=sys.stderr)


def print_summary(outcome: Outcome, *, stopped: bool) -> None:
    """Prints one JSON document: counts, hours, time and failures; `stopped` if the run was interrupted."""
    done, failed, seconds = outcome.sums()
    _print(
        {
            "done": done,
            "failed": failed,
            "done_before": outcome.done_before,
            "stopped": stopped,
            "audio_hours": seconds / 3600,
            "audio_seconds": seconds,
            "elapsed_seconds": outcome.elapsed,
            "real_time_factor": outcome.elapsed / seconds if seconds else None,
            "failures": [_failure(line) for line in outcome.lines if line.status == "failed"],
        }
    )


def print_table(outcome: Outcome) -> None:
    """Prints a table of the inputs (of many, only those with messages), and a line with the sums."""
    lines, elapsed = outcome.lines, outcome.elapsed
    console = plain_console() if sys.stdout.isatty() else plain_console(width=200)
    if listed := lines if len(lines) <= _ROWS else [line for line in lines if line.reason or line.warnings]:
        console.print(_table(listed))
    done, failed, seconds = outcome.sums()
    rate = f", {elapsed / seconds:.3f} times its length" if seconds else ""
    console.print(
        f"{done} separated, {failed} failed, {outcome.done_before} done before; "
        f"{seconds:.1f} s of audio in {elapsed:.1f} s{rate}"
    )


def _failure(line: "Line") -> dict[str, Any]:
    return {"input": line.input, "path": line.path, "channel": line.channel, "reason": line.reason}


def _table(lines: "list[Line]") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("input", "", "repeats", "audio", "time", ""):
        numbers = heading in ("repeats", "audio", "time")
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    for line in sorted(lines, key=lambda line: (line.input, line.channel or 0)):
        table.add_row(
            line.input if line.channel is None else f"{line.input}, channel {line.channel}",
            line.status,
            f"{line.repeats:g}" if line.repeats else "",
            f"{line.audio_seconds:.2f} s",
            f"{line.elapsed_seconds:.2f} s",
            line.reason or "; ".join(line.warnings),
        )
    return table


def _print(content: dict[str, Any]) -> None:
    print(json.dumps({"format": 1, **content}, allow_nan=False))  # ASCII, for any name and any pipe
