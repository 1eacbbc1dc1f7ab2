"""stdout and stderr that never stop the work: closed, broken, full, or unable to encode a name."""

import errno
import io
import os
import sys
from typing import TextIO

from tisdiss_cli.files import WINDOWS

# The reader or the terminal is gone; Windows reports that as EINVAL.
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, *([errno.EINVAL] if WINDOWS else []))


class _ForgivingFile(io.FileIO):
    """Raw stream that drops what it cannot write, and remembers an error of the disk."""

    lost: OSError | None = None

    def write(self, data) -> int:  # noqa: ANN001  as the base class has it
        """Writes or drops the bytes; returns their number."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _GONE:
                self.lost = error
            return memoryview(data).nbytes


def make_streams_safe() -> None:
    """Makes stdout and stderr safe to write to; call it before any other file is opened.

    Otherwise the next file, perhaps a voice, would get the number of a closed stream, and be printed into.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    sys.stdout, sys.stderr = _made_safe(sys.stdout, sys.__stdout__, 1), _made_safe(sys.stderr, sys.__stderr__, 2)


def lost_output() -> str | None:
    """Returns why results could not be written to stdout; None if they were, or if the reader is gone."""
    try:
        sys.stdout.flush()
    except OSError as error:  # a terminal's
        return error.strerror if error.errno not in _GONE else None
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw.lost.strerror if isinstance(raw, _ForgivingFile) and raw.lost else None


def _made_safe(stream: TextIO | None, original: TextIO | None, number: int) -> TextIO:
    if stream is None:  # was closed when Python started
        stream = open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    if stream is not original or stream.isatty() or not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    raw = _ForgivingFile(number, "w", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # as Python's own, with -u
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=number == 2,
        write_through=stream.write_through,
    )
