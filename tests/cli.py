"""Runs the command as a user does, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def start(*arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "tisdiss_cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **options.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **{**pipes, **options})


def tisdiss(*arguments: object, status: int = 0, **options) -> subprocess.CompletedProcess:
    """Runs to the end and checks the exit status."""
    process = start(*arguments, **options)
    out, error = process.communicate(timeout=120)
    assert process.returncode == status, error
    assert "Traceback" not in (error or "")
    return subprocess.CompletedProcess(arguments, process.returncode, out, error)
