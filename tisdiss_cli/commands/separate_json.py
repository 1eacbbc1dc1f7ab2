"""`tisdiss separate --json`: for programs that call it, the one thing on stdout."""

import json
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tisdiss_cli.commands.separate_asked import Run
    from tisdiss_cli.folder.settings import Settings
    from tisdiss_cli.folder.triage import Triage


def print_plan_lines(found: "Triage", settings: "Settings") -> None:
    """With `--dry-run`: a line for each input that is to do or refused, then one of the sums and the settings."""
    from tisdiss_cli.audio.read import announced_seconds

    for job in found.todo:
        seconds = announced_seconds(job.path, settings.track)
        _print(
            {
                "input": job.input,
                "status": "to do",
                "path": job.resolved,
                "channel": job.channel,
                "outputs": job.outputs,
                "segments": job.besides,
                "audio_seconds": seconds if isfinite(seconds) else None,
            }
        )
    for line in found.refused:
        _print(
            {
                "input": line.input,
                "status": "refused",
                "path": line.path,
                "channel": line.channel,
                "reason": line.reason,
            }
        )
    counts = {"to_do": len(found.todo), "done_before": found.done, "refused": len(found.refused)}
    _print({**counts, "settings": settings.recorded})


def print_summary(run: "Run", *, stopped: bool) -> None:
    """One document: how many inputs and hours, the time it took, and each failure's reason.

    Args:
        run: what it was.
        stopped: whether it ended before all was done.
    """
    done, failed, seconds = run.sums()
    _print(
        {
            "done": done,
            "failed": failed,
            "done_before": run.done,
            "left_to_another_run": run.left,
            "stopped": stopped,
            "audio_hours": seconds / 3600,
            "audio_seconds": seconds,
            "elapsed_seconds": run.elapsed,
            "real_time_factor": run.elapsed / seconds if seconds else None,
            "failures": [
                {"input": line.input, "path": line.path, "channel": line.channel, "reason": line.reason}
                for line in run.lines
                if line.status == "failed"
            ],
        }
    )


def _print(content: dict[str, Any]) -> None:
    print(json.dumps(content, allow_nan=False))  # in ASCII: any name, and any terminal or pipe
