"""Files as such: whether one is what it was, and replacing one whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def fingerprint(path: Path) -> list[int]:
    """Size in bytes and time of change in nanoseconds; [] if the file is not there."""
    try:
        stat = path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Gives the path of a part file beside `path`, which takes its place in one step when the block ends.

    When the block fails, or the part is not written, `path` stays as it was and the part is removed. `durable`: the
    new content is on the disk before the old one is gone. OSError when the disk does not take it.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        if durable:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
