"""Inputs: files, folders and lists (`--files-from`), and the name that tells each from the others."""

import json
import logging
import os
import stat
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tisdiss_cli.audio.find import EXTENSIONS, Listing, list_folder
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.naming import loose

log = logging.getLogger("tisdiss")

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}
_KEYS = ("audio_filepath", "path")  # of NeMo's manifests and of Hugging Face's


@dataclass(frozen=True, slots=True)
class Input:
    """A recording."""

    name: str  # its path below IN, or below the list's folder, with slashes
    place: str  # its path
    siblings: frozenset[str] = frozenset()  # further extensions that its name has in its folder, with points


def list_inputs(sources: Sequence[Path], out: Path | None, files_from: str | None = None) -> list[Input]:
    """Returns the inputs of a command, each once: of a folder sorted, of a list in its order.

    A file is called by its name, a folder's file by its path below that folder, and a list's by its path below the
    list's folder: as if that folder were separated, whatever else the list holds. One that lies elsewhere is called by
    its whole path.

    Args:
        sources: files and folders.
        out: the folder OUT; None: the same command has passed its checks before, and all has been said.
        files_from: a list, as `read_list` reads it.

    Raises:
        UserError: there are no inputs, or as `check_ends` and `read_list`.
    """
    found: list[Input] = []
    empty: list[Path] = []
    kinds = Counter[str]()
    for source in sources:
        if out:
            check_ends(source, out)
        if not source.is_dir():
            found.append(Input(source.name, str(source)))
            continue
        listing = list_folder(source)
        if out:
            _check_linked(listing, source, out)
        found += (Input(name, os.path.join(source, name)) for name in listing.names)
        kinds += listing.left_out
        empty += [] if listing.names else [source]
    if files_from is not None:
        if out:
            check_out(out)
        found += _of_list(files_from)
    if out:
        if empty and not found:
            raise UserError(
                f"IN {empty[0]} has no sound files (wav, flac, ogg, opus, mp3, aiff, ...): check the folder"
            )
        for folder in empty:
            log.warning(f"warning: IN {folder} has no sound files")
        if kinds:
            log.warning("left out: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    return found if len(sources) == 1 and files_from is None else _once(found)


def check_ends(source: Path, out: Path) -> None:
    """UserError unless IN is a file or a folder that can be read and OUT a folder, or nothing yet, outside it."""
    try:
        mode = source.stat().st_mode
        if stat.S_ISDIR(mode):
            os.scandir(source).close()
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "no file")
            raise UserError(f"IN {source} is {kind}: write the recording to a file first, and name that")
    except FileNotFoundError:
        raise UserError(f"IN {source} does not exist: name a sound file or a folder of them") from None
    except OSError as error:
        raise UserError(
            f"IN {source} cannot be read: {error.strerror}: name a sound file or a folder of them"
        ) from None
    check_out(out)
    if stat.S_ISDIR(mode) and out.resolve().is_relative_to(source.resolve()):
        raise _inside(out, source)


def check_out(out: Path) -> None:
    """UserError unless OUT is a folder or nothing yet."""
    try:
        if not stat.S_ISDIR(out.stat().st_mode):
            raise UserError(f"OUT {out} is a file: name a folder")
    except (FileNotFoundError, NotADirectoryError):
        pass  # is made, or that fails with its own sentence
    except OSError as error:
        raise UserError(f"OUT {out} cannot be used: {error.strerror}: name another folder") from None


def _check_linked(listing: Listing, source: Path, out: Path) -> None:
    """UserError if OUT lies in a folder that a link within IN leads to, where there are sound files."""
    if not listing.links:
        return
    inside = {name[:point] for name in listing.names for point, sign in enumerate(name) if sign == "/"}
    place = out.resolve()
    for link in listing.links:
        if link in inside and place.is_relative_to(os.path.realpath(os.path.join(source, link))):
            raise _inside(out, source / link)


def _inside(out: Path, source: Path) -> UserError:
    return UserError(f"OUT {out} lies inside IN {source}: name a folder outside it, or its voices become inputs")


def _once(inputs: list[Input]) -> list[Input]:
    """Returns each path once, where it came first, under the longest of its names."""
    found: dict[str, Input] = {}
    for one in inputs:
        place = os.path.abspath(one.place)
        found[place] = max(found.get(place, one), one, key=lambda known: len(known.name))
    return list(found.values())


# Lists ------------------------------------------------------------------------------------------


def _of_list(files_from: str) -> list[Input]:
    folder, texts = read_list(files_from)
    found: list[Input] = []
    extensions: dict[Path, dict[str, frozenset[str]]] = {}
    for text in texts:
        path = folder / text
        if ".." in path.parts:  # behind a link that is another folder than the text says
            path = Path(os.path.realpath(path.parent), path.name)
        if path.parent not in extensions:
            extensions[path.parent] = _extensions(path.parent)
        siblings = extensions[path.parent].get(loose(path.stem), frozenset())
        name = path.relative_to(folder if path.is_relative_to(folder) else path.anchor).as_posix()
        found.append(Input(path.name or "root" if name == "." else name, str(path), siblings))
    return found


def _extensions(folder: Path) -> dict[str, frozenset[str]]:
    """By stem, those of a folder's sound files, none hidden."""
    found = defaultdict[str, set[str]](set)
    try:
        for name in os.listdir(folder):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in EXTENSIONS and not name.startswith("."):
                found[loose(stem)].add(suffix)
    except OSError:
        pass  # the files are not there either, and say so
    return {stem: frozenset(suffixes) for stem, suffixes in found.items()}


def read_list(name: str) -> tuple[Path, list[str]]:
    """Returns the folder that a list's relative paths begin at, and its paths as written, in its order.

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
