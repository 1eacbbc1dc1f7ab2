"""Runs the command as a user does: in this process, which is fast, or in one of its own."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from tisdiss_cli.__main__ import main

ROOT = Path(__file__).parent.parent


def start(*arguments: object, **options) -> subprocess.Popen:
    """A process that runs the command."""
    command = [sys.executable, "-m", "tisdiss_cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **{**pipes, **options})


def tisdiss(*arguments: object, status: int = 0) -> subprocess.CompletedProcess:
    """Runs the command to its end, here, and checks the exit status."""
    out, error, code = io.StringIO(), io.StringIO(), 0
    argv = ["tisdiss", *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    assert code == status, error.getvalue()
    return subprocess.CompletedProcess(argv, code, out.getvalue(), error.getvalue())
