"""stdout and stderr that never stop the work: closed, cut off, full, or without a letter that a name needs."""

import errno
import io
import os
import sys
from typing import TextIO

from tisdiss_cli.files import WINDOWS

# The reader or the terminal has gone; Windows says so by EINVAL.
_UNHEARD = (errno.EPIPE, errno.EIO, errno.EBADF, *([errno.EINVAL] if WINDOWS else []))


class _Patient(io.FileIO):
    """A stream's file, which drops what it cannot write; what the disk did not take is remembered."""

    lost: OSError | None = None

    def write(self, data) -> int:  # noqa: ANN001  as the base class has it
        """Returns the number of bytes written or dropped."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _UNHEARD:
                self.lost = error
            return memoryview(data).nbytes


def mend_streams() -> None:
    """Makes stdout and stderr ones that can always be written to; before any other file is opened.

    A number that was closed would else be given to the next file, a voice perhaps, and be printed into.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdout, sys.stderr = _mended(sys.stdout, sys.__stdout__, 1), _mended(sys.stderr, sys.__stderr__, 2)


def lost_output() -> str | None:
    """Returns why results could not be written to stdout; None if they were, or if nobody wanted them."""
    try:
        sys.stdout.flush()
    except OSError as error:  # a terminal's
        return error.strerror if error.errno not in _UNHEARD else None
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw.lost.strerror if isinstance(raw, _Patient) and raw.lost else None


def _mended(stream: TextIO | None, original: TextIO | None, number: int) -> TextIO:
    if stream is None:  # was closed when Python started
        stream = open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    if stream is not original or stream.isatty() or not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    raw = _Patient(number, "w", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # as Python's own, with -u
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=number == 2,
        write_through=stream.write_through,
    )
