"""Inputs of a run: files, folders and lists (`--files-from`), each with a unique name."""

import json
import logging
import os
import stat
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tisdiss_cli.audio.find import EXTENSIONS, list_folder
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.naming import loose

log = logging.getLogger("tisdiss")

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}
_KEYS = ("audio_filepath", "path")  # in NeMo's and in Hugging Face's manifests


@dataclass(frozen=True, slots=True)
class Input:
    """Recording to separate."""

    name: str  # its path below IN, or below the list's folder, with slashes
    place: str  # its path
    siblings: frozenset[str] = frozenset()  # other extensions (with dots) of its stem in its folder


def list_inputs(sources: Sequence[Path], out: Path | None, files_from: str | None = None) -> list[Input]:
    """Returns the unique inputs of a command: of a folder sorted, of a list in its order.

    A file has its own name, a folder's file its path below the folder, and a list's file its path below the list's
    folder, as if that folder were separated; a file elsewhere has its whole path.

    Without `out` nothing is checked or logged, as the same command was checked before. UserError if there are no
    inputs, IN is not a readable file or folder, or contains OUT, or as in `read_list`.
    """
    inputs, empty, kinds = list[Input](), list[Path](), Counter[str]()
    for source in sources:
        if out:
            _check_in(source)
        if not source.is_dir():
            inputs.append(Input(source.name, str(source)))
            continue
        listing = list_folder(source)
        for folder in (source, *(source / link for link in listing.links)):
            if out and out.resolve().is_relative_to(folder.resolve()):
                inside = f"OUT {out} is inside IN {folder}"
                raise UserError(f"{inside}: name a folder outside it, or its voices become inputs")
        inputs += (Input(name, os.path.join(source, name)) for name in listing.names)
        kinds += listing.left_out
        empty += [] if listing.names else [source]
    if files_from is not None:
        inputs += _of_list(files_from)
    if out:
        if empty and not inputs:
            raise UserError(f"IN {empty[0]} has no sound files (wav, flac, mp3, m4a, ...): check the folder")
        for folder in empty:
            log.warning(f"warning: IN {folder} has no sound files")
        if kinds:
            log.warning("left out: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    return inputs if len(sources) == 1 and files_from is None else _unique(inputs)


def _check_in(source: Path) -> None:
    advice = "name a sound file or a folder of them"
    try:
        mode = source.stat().st_mode
        if stat.S_ISDIR(mode):
            os.scandir(source).close()
        elif not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "not a file")
            raise UserError(f"IN {source} is {kind}: write the recording to a file first, and name that")
    except FileNotFoundError:
        raise UserError(f"IN {source} does not exist: {advice}") from None
    except OSError as error:
        raise UserError(f"IN {source} cannot be read: {error.strerror}: {advice}") from None


def _unique(inputs: list[Input]) -> list[Input]:
    """Returns each path once, at its first position, with the longest of its names."""
    unique: dict[str, Input] = {}
    for one in inputs:
        place = os.path.abspath(one.place)
        unique[place] = max(unique.get(place, one), one, key=lambda same: len(same.name))
    return list(unique.values())


# Lists ------------------------------------------------------------------------------------------


def _of_list(files_from: str) -> list[Input]:
    folder, texts = read_list(files_from)
    found, extensions_in = list[Input](), cache(_extensions)
    for text in texts:
        path = folder / text
        if ".." in path.parts:  # behind a link, the text names another folder
            path = Path(os.path.realpath(path.parent), path.name)
        siblings = extensions_in(path.parent).get(loose(path.stem), frozenset())
        name = path.relative_to(folder if path.is_relative_to(folder) else path.anchor).as_posix()
        found.append(Input(path.name or "root" if name == "." else name, str(path), siblings))
    return found


def _extensions(folder: Path) -> dict[str, frozenset[str]]:
    """Returns the extensions of a folder's sound files, without hidden ones, by stem."""
    found = defaultdict[str, set[str]](set)
    with suppress(OSError):  # its files are missing too, and are reported
        for name in os.listdir(folder):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in EXTENSIONS and not name.startswith("."):
                found[loose(stem)].add(suffix)
    return {stem: frozenset(suffixes) for stem, suffixes in found.items()}


def read_list(name: str) -> tuple[Path, list[str]]:
    """Returns the folder of a list's relative paths, and its paths as written, in order.

    A list has one path a line (or zero bytes between paths, as from `find -print0`), JSON objects with `audio_filepath`
    or `path`, or, with the extension .scp, Kaldi's lines `id path`. Empty lines are skipped. The folder is the list's,
    or the working directory for standard input ("-") and pipes. UserError if the list cannot be read, is empty, or has
    other lines.
    """
    folder = Path.cwd()
    try:
        if name == "-":
            content = sys.stdin.buffer.read() if sys.stdin else b""
        else:
            path = Path(os.path.expanduser(name))
            content = path.read_bytes()
            folder = Path(os.path.abspath(path.parent)) if path.is_file() else folder
    except OSError as error:
        raise UserError(f"--files-from {name} cannot be read: {error.strerror}: name a list of files") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"--files-from {name} is in UTF-16: save it in UTF-8")
    content = content.removeprefix(b"\xef\xbb\xbf")
    lines = content.split(b"\0" if b"\0" in content else b"\n")
    if all(line.endswith(b"\r") for line in lines if line):
        lines = [line[:-1] for line in lines]
    texts = [(number, os.fsdecode(line)) for number, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise UserError(f"--files-from {name} has no inputs: write one path a line")
    found = _of_kaldi(texts, name) if name.lower().endswith(".scp") else _of_json(texts, name)
    return folder, [text for _, text in texts] if found is None else found


def _object(text: str) -> dict | None:
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _of_json(texts: list[tuple[int, str]], name: str) -> list[str] | None:
    """Returns the paths in lines of JSON; None if the first line is not JSON."""
    rows = [(number, _object(text)) for number, text in texts]
    if rows[0][1] is None:
        return None
    paths: list[str] = []
    for number, row in rows:
        path = next((row[key] for key in _KEYS if key in row), None) if row else None
        if not isinstance(path, str) or not path or "\0" in path:
            raise UserError(f"--files-from {name}, line {number}: it must be a JSON object with {' or '.join(_KEYS)}")
        paths.append(path)
    if parts := sum(bool(row and row.get("offset")) for _, row in rows):
        log.warning(f"warning: {name}: offset is ignored, whole files are separated (lines with an offset: {parts})")
    return paths


def _of_kaldi(texts: list[tuple[int, str]], name: str) -> list[str]:
    """Returns the paths in the lines `id path` of a wav.scp."""
    paths: list[str] = []
    for number, text in texts:
        where, (id, *path) = f"--files-from {name}, line {number}", text.strip().split(maxsplit=1)
        if not path:
            raise UserError(f"{where}: {id} is not a line of a wav.scp: write id path")
        if path[0].endswith("|"):
            raise UserError(f"{where}: {id} is a command's output: commands are not run, write it to a file")
        paths += path
    return paths
