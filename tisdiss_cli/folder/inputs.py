"""What is to be separated: files, folders and lists, and the name that tells each input from the others."""

import logging
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tisdiss_cli.audio.find import EXTENSIONS, Listing, list_folder
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.collisions import loose, repeated
from tisdiss_cli.folder.lists import read_list

log = logging.getLogger("tisdiss")

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


@dataclass(frozen=True, slots=True)
class Input:
    """A recording. A million of these are kept, so it holds no more than it must."""

    root: Path  # the folder whose tree OUT mirrors, the same object for all below it
    name: str  # relative to `root`, or what tells it from others; with slashes
    elsewhere: str = ""  # its path, where that is not `root` and `name`
    siblings: frozenset[str] = frozenset()  # further extensions that its name has in its folder, with points

    @property
    def place(self) -> str:
        """Its path, as text."""
        return self.elsewhere or os.path.join(self.root, self.name)

    @property
    def path(self) -> Path:
        """Its path."""
        return Path(self.place)


def list_inputs(sources: Sequence[Path], out: Path, files_from: str | None = None) -> list[Input]:
    """The inputs of a command, each once: of a folder sorted, of a list in its order.

    A file is called by its name, a folder's file by its path below that folder, and a list's by its path below the
    list's folder: as if that folder were separated, whatever else the list holds. One that lies elsewhere is called by
    its whole path. Where inputs of several sources would be called the same but for their extension, all of them get
    their source's folder in front: `monday/call.wav`, `tuesday/call.wav`.

    Args:
        sources: files and folders.
        out: the folder OUT.
        files_from: a list, as `read_list` reads it.

    Raises:
        UserError: there are no inputs, or as `check_ends` and `read_list`.
    """
    found: list[Input] = []
    empty: list[Path] = []
    kinds = Counter[str]()
    for source in sources:
        check_ends(source, out)
        if not source.is_dir():
            found.append(Input(source.parent, source.name))
            continue
        listing = list_folder(source)
        _check_linked(listing, source, out)
        found += (Input(source, name) for name in listing.names)
        kinds += listing.left_out
        empty += [] if listing.names else [source]
    if files_from is not None:
        check_out(out)
        found += _of_list(files_from)
    if empty and not found:
        raise UserError(f"IN {empty[0]} has no sound files (wav, flac, ogg, opus, mp3, aiff, ...): check the folder")
    for folder in empty:
        log.warning(f"warning: IN {folder} has no sound files")
    if kinds:
        log.warning("left out: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    if len(sources) == 1 and files_from is None:
        return found
    return _told_apart(_once(found))


def inputs_again(sources: Sequence[Path], files_from: str | None) -> list[Input]:
    """As `list_inputs` of a command that has passed its checks before; UserError where the list cannot be read."""
    found: list[Input] = []
    for source in sources:
        names = list_folder(source).names if source.is_dir() else None
        found += [Input(source.parent, source.name)] if names is None else (Input(source, name) for name in names)
    if files_from is not None:
        found += _of_list(files_from)
    return found if len(sources) == 1 and files_from is None else _told_apart(_once(found))


def common_source(sources: Sequence[Path], files_from: str | None = None) -> Path:
    """What the inputs of a command are from, as one path: IN, the list, or the folder that they have in common."""
    if len(sources) == 1 and files_from is None:
        return sources[0]
    if not sources and files_from is not None:
        return Path(os.path.expanduser(files_from))
    try:
        return Path(os.path.commonpath([os.path.abspath(source) for source in sources]))
    except ValueError:  # of two drives
        return sources[0]


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


def _of_list(files_from: str) -> list[Input]:
    folder, texts = read_list(files_from)
    found: list[Input] = []
    extensions: dict[Path, dict[str, frozenset[str]]] = {}
    kept: dict[frozenset[str], frozenset[str]] = {}  # each once
    for text in texts:
        path = folder / text
        if ".." in path.parts:  # behind a link that is another folder than the text says
            path = Path(os.path.realpath(path.parent), path.name)
        if path.parent not in extensions:
            extensions[path.parent] = _extensions(path.parent)
        siblings = extensions[path.parent].get(loose(path.stem), frozenset())
        root = folder if path.is_relative_to(folder) else Path(path.anchor)
        name = path.relative_to(root).as_posix()
        name = path.name or "root" if name == "." else name
        found.append(Input(folder, name, _elsewhere(path, folder, name), kept.setdefault(siblings, siblings)))
    return found


def _elsewhere(path: Path, root: Path, name: str) -> str:
    """A path, unless it is `root` and `name`."""
    return "" if os.path.join(root, name) == str(path) else str(path)


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


def _once(inputs: list[Input]) -> list[Input]:
    """Without repetitions of a path; of two names of one the longer stays, where the first was."""
    several = repeated(os.path.abspath(one.place) for one in inputs)
    places: dict[str, int] = {}
    found: list[Input] = []
    for one in inputs:
        place = os.path.abspath(one.place) if several else ""
        if hash(place) in several and places.setdefault(place, len(found)) < len(found):
            before = places[place]
            found[before] = max(found[before], one, key=lambda known: len(known.name))
        else:
            found.append(one)
    return found


def _told_apart(inputs: list[Input]) -> list[Input]:
    several = repeated(_loose_stem(one) for one in inputs)
    roots = defaultdict[str, set[str]](set)
    for one in inputs if several else ():
        if hash(stem := _loose_stem(one)) in several:
            roots[stem].add(os.path.abspath(one.root))
    return [_with_root(one) if roots and len(roots.get(_loose_stem(one), ())) > 1 else one for one in inputs]


def _with_root(one: Input) -> Input:
    name = f"{Path(os.path.abspath(one.root)).name}/{one.name}".lstrip("/")
    return replace(one, name=name, elsewhere=one.place)


def _loose_stem(one: Input) -> str:
    return loose(split_name(one.name)[0])


def split_name(name: str) -> tuple[str, str]:
    """A relative path without its extension, and that with its point, as pathlib has them."""
    point = name.rfind(".")
    if name.rfind("/") + 1 < point < len(name) - 1:
        return name[:point], name[point:]
    return name, ""
