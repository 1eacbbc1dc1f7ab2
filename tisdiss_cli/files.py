"""Files: fingerprints, printable names, JSON, and atomic replacement."""

import errno
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

from tisdiss_cli.errors import UserError

WINDOWS = sys.platform == "win32"

# Bytes that are not UTF-8, which Python keeps as lone surrogates, and characters at which some readers end a line.
_UNPRINTABLE = re.compile("[\ud800-\udfff\x7f-\x9f\u2028\u2029]")
_JOINERS = "\u200c\u200d"  # invisible, but parts of scripts and emoji


def fingerprint(path: Path) -> list[int]:
    """Returns size in bytes and time of change in nanoseconds; [] if there is no such file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return []
    return [found.st_size, found.st_mtime_ns]


def dump_json(content: Any, indent: int | None = None) -> str:
    """Returns JSON that any disk, terminal and reader takes, and that gives the same names back.

    Text stays as it is, unless a name is not UTF-8 or has a character at which some readers end a line: then all of it
    is ASCII, with escapes. ValueError if a number is not finite.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    return json.dumps(content, indent=indent, allow_nan=False) if _UNPRINTABLE.search(text) else text


def shown(text: str) -> str:
    """Returns text for a terminal or a page: control characters and bytes not in UTF-8 become \\n, \\xff."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    if letter in _JOINERS or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return letter
    return repr(letter)[1:-1]


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yields the path of a temporary part, which replaces `path` in one step when the block ends.

    If the block fails, `path` stays as it was and the part is removed. A link's target is replaced, or made. A device,
    a pipe or an open stream (/dev/stdout) cannot be replaced: the part's content is written into it. With `durable` the
    new content is on the disk before the old one is gone. OSError if the disk does not take it.
    """
    if (stream := _stream(path)) is not None or _is_special(path):
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part"
            yield part
            _pour(part, path if stream is None else stream)
        return
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{target.name}.part")
    if len(os.fsencode(part.name)) > 255:
        part = target.with_name(f".{sha256(os.fsencode(target.name)).hexdigest()[:16]}.part")
    try:
        yield part
        if durable:
            with part.open("rb+") as file:  # Windows flushes only files that are open for writing
                os.fsync(file.fileno())
        try:
            os.replace(part, target)
        except PermissionError as error:
            if not WINDOWS:
                raise
            raise PermissionError(error.errno, "another program has it open", str(path)) from None
    finally:
        with suppress(OSError):  # the first error is the one that counts
            part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, kind: type[Exception] = OSError, durable: bool = False) -> Iterator[Path]:
    """Yields a part as `replacing` does; UserError for an OSError, or an error of another `kind`."""
    try:
        with replacing(path, durable) as part:
            yield part
    except (OSError, kind) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written ({reason}): free some space, or name another file") from None


def appending(path: Path) -> TextIO:
    """Opens a text file, a link's target, a device or an open stream to append lines with any names; OSError."""
    stream = _stream(path)
    into, closes = (path, True) if stream is None else (stream, False)
    return open(into, "a", newline="", encoding="utf-8", errors="surrogateescape", closefd=closes)


def why_unwritable(path: Path) -> str | None:
    """Returns why `replacing(path)` would fail, as the end of a sentence; None if nothing is found."""
    if _stream(path) is not None:
        return None
    try:
        target = Path(os.path.realpath(path))
        if path.is_dir() or not (_is_special(path) or target.parent.is_dir()):
            return "name a file in a folder that exists"
        if _is_special(path):
            return None if os.access(path, os.W_OK) else "it cannot be written to"
        if not os.access(target.parent, os.W_OK):
            return f"the folder {target.parent} cannot be written to"
        target.exists()  # fails for a name that is too long
    except (OSError, ValueError) as error:
        return f"it cannot be written: {getattr(error, 'strerror', None) or error}"
    return None


def _stream(path: Path) -> int | None:
    """Returns the descriptor, 1 or 2, of the open stream to which a path like /dev/stdout leads; None for others."""
    for number in (1, 2):
        with suppress(OSError, ValueError):
            if os.path.samestat(path.stat(), os.fstat(number)):
                return number
    return None


def _is_special(path: Path) -> bool:
    """Returns whether the path exists and is neither a regular file nor a folder."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _pour(part: Path, into: Path | int) -> None:
    """Writes a file's content into a device or an open stream, after what was already printed there."""
    for printed in (sys.stdout, sys.stderr):
        if printed is not None:
            printed.flush()
    try:
        with part.open("rb") as content, open(into, "wb", closefd=not isinstance(into, int)) as out:
            shutil.copyfileobj(content, out)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EBADF):  # the reader has closed it
            raise
