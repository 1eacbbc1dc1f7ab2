"""`--files-from`: the files that a list names, in any of the forms that people have them in."""

import json
import logging
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from tisdiss_cli.errors import UserError

log = logging.getLogger("tisdiss")

_KEYS = ("audio_filepath", "path")  # of NeMo's manifests and of Hugging Face's


def read_list(name: str) -> tuple[Path, list[str]]:
    """The folder that a list's relative paths begin at, and its paths as written, in its order.

    A list is plain paths, one a line (or each ended by a zero byte, as `find -print0` writes them); JSON objects, one a
    line, with `audio_filepath` or `path`; or Kaldi's `wav.scp`, `id path`, known by the extension .scp or by its
    lines: none is a file as it stands, each has two words, and the rest of one is a file. Empty lines are skipped.

    Args:
        name: of the file; "-": standard input. Its folder is the list's, of "-" and of pipes the working directory.

    Raises:
        UserError: it cannot be read, names nothing, or has a line of another form.
    """
    content, folder = _read(name)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"--files-from {name} is in UTF-16: save it in UTF-8")
    content = content.removeprefix(b"\xef\xbb\xbf")
    lines = content.split(b"\0" if b"\0" in content else b"\n")
    if all(line.endswith(b"\r") for line in lines if line):
        lines = [line[:-1] for line in lines]
    texts = [(number, os.fsdecode(line)) for number, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise UserError(f"--files-from {name} has no inputs: write paths into it, one a line")
    if _object(texts[0][1]) is not None:
        return folder, list(_from_json(texts, name))
    if b"\0" not in content and _is_kaldi(texts, name, folder):
        return folder, list(_from_kaldi(texts, name))
    return folder, [text for _, text in texts]


def _read(name: str) -> tuple[bytes, Path]:
    here = Path.cwd()
    if name == "-":
        if sys.stdin is None:
            raise UserError("--files-from -: standard input is closed: name a file")
        return sys.stdin.buffer.read(), here
    path = Path(os.path.expanduser(name))
    try:
        content, regular = path.read_bytes(), stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise UserError(f"--files-from {name} cannot be read: {error.strerror}: name a list of files") from None
    return content, Path(os.path.abspath(path.parent)) if regular else here


def _object(text: str) -> dict | None:
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _from_json(texts: list[tuple[int, str]], name: str) -> Iterator[str]:
    parts = 0
    for number, text in texts:
        row = _object(text)
        path = next((row[key] for key in _KEYS if key in row), None) if row else None
        if not isinstance(path, str) or not path or "\0" in path:
            raise UserError(f"--files-from {name}, line {number}: it must be a JSON object with {' or '.join(_KEYS)}")
        parts += bool(row and row.get("offset"))
        yield path
    if parts:
        log.warning(f"warning: {name}: offset is not heeded, whole files are separated (lines that have one: {parts})")


def _is_kaldi(texts: list[tuple[int, str]], name: str, folder: Path) -> bool:
    if name.lower().endswith(".scp"):
        return True
    rests = [text.split(maxsplit=1)[1:] for _, text in texts]
    if not all(rests) or any(os.path.lexists(folder / text) for _, text in texts):
        return False
    return any(rest[0].rstrip().endswith("|") or os.path.isfile(folder / rest[0].strip()) for rest in rests)


def _from_kaldi(texts: list[tuple[int, str]], name: str) -> Iterator[str]:
    for number, text in texts:
        words = text.strip().split(maxsplit=1)
        if len(words) < 2:
            raise UserError(
                f"--files-from {name}, line {number}: {text.strip()} is no line of a wav.scp: write id path"
            )
        if words[1].endswith("|"):
            raise UserError(
                f"--files-from {name}, line {number}: {words[0]} is a command's output, and commands are not run: "
                "write it to a file and name that"
            )
        yield words[1]
