"""Datasets of mixtures with references on disk: WSJ0-2mix, Libri2Mix, WHAMR! and custom folders.

A split is a folder with a folder of mixtures and a folder of references for each speaker. Files are matched by their
path below these folders, without the extension. All references may end in their speaker's number, in the same way:
`s1/x_s1`, `s1/x_1`, `s1/x-s1` or `s1/x-1` belongs to `mix/x`.
"""

import os
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from tisdiss_cli.audio.find import find
from tisdiss_cli.errors import UserError, listed


@dataclass(frozen=True)
class Layout:
    """Folder names of a corpus; the first existing mixture folder is used, and `{}` is the speaker's number."""

    name: str
    mixtures: tuple[str, ...]
    references: str


# The first layout that fits applies. The first mixture is the one that papers report: Libri2Mix clean; WHAMR! noisy
# and reverberant with anechoic references (Maciejewski et al. 2020, table 3; the WHAMR! results of TISDiSS), so that
# dereverberation counts. WHAM! has the folders of Libri2Mix.
LAYOUTS = (
    Layout(
        "WHAMR!", ("mix_both_reverb", "mix_clean_reverb", "mix_both_anechoic", "mix_clean_anechoic"), "s{}_anechoic"
    ),
    Layout("Libri2Mix", ("mix_clean", "mix_both"), "s{}"),
    Layout("WSJ0-2mix", ("mix",), "s{}"),
)
_CUSTOM = "custom"
_Split = tuple[Path, str, str, tuple[str, ...]]  # folder, layout, mixture folder, reference folders
_DEPTH = 5  # levels, as in corpus/wav8k/min/train-100/mix_clean


@dataclass(frozen=True)
class Item:
    """One mixture and its references."""

    id: str  # path below the mixtures' folder, without the extension
    mixture: Path
    references: tuple[Path, ...]  # one per speaker, in the order of the folders


@dataclass(frozen=True)
class Dataset:
    """One split of a dataset."""

    root: Path
    layout: str  # a name of LAYOUTS, or "custom"
    mixture: str  # folder below `root`, or as named by the caller
    references: tuple[str, ...]  # likewise
    items: list[Item]  # complete ones, sorted by id
    missing: list[str]  # "<id>: no file in s2" for each incomplete one

    @property
    def speakers(self) -> int:
        """Number of references per item."""
        return len(self.references)


def find_dataset(
    root: str | os.PathLike[str], mixture: str | None = None, references: Sequence[str] | None = None
) -> Dataset:
    """Finds the only split at or below `root` and lists its items.

    Args:
        root: a split, or a folder with exactly one split up to 5 levels below it, as in `wav8k/min/tt`.
        mixture: folder of the mixtures, inside the split or a path of its own. Default: the layout's first.
        references: folders of the references, at least two, likewise. Default: the layout's `s1`, `s2`, ...

    Raises:
        UserError: `root` is not a folder, has no split or several, or the split has no complete item.
    """
    root = Path(root)
    if not os.path.isdir(root):  # Path.is_dir would raise on a name that is too long
        raise UserError(f"{root} is not a folder: pass one that holds mixtures and references (mix, s1, s2)")
    if mixture is not None and not mixture.strip():
        raise UserError("--mixture is empty: leave it out, or name the folder of the mixtures")
    if references is not None and not (all(map(str.strip, references)) and len(set(references)) == len(references) > 1):
        raise UserError(f"--references {','.join(references)}: name one folder per speaker, each once, as in s1,s2")
    splits = _splits(root, mixture, references)
    if not splits:
        requested = [*([mixture] if mixture else []), *(references or [])]
        if requested:
            raise UserError(f"{root} has no folder that holds {', '.join(requested)}: check the names")
        layouts = "; ".join(
            f"{layout.name}: {layout.mixtures[0]}, {layout.references.format(1)}, {layout.references.format(2)}"
            for layout in reversed(LAYOUTS)
        )
        raise UserError(f"{root} has no known layout ({layouts}): name the folders with --mixture and --references")
    if len(splits) > 1:
        names = listed([split.relative_to(root) for split, *_ in splits])
        raise UserError(f"{root} holds {len(splits)} sets: pass one of {names}")
    split, layout_name, mixture, references = splits[0]
    if len(references) < 2:
        raise UserError(f"{split} has only one folder of references ({references[0]}): add one for each speaker")
    items, missing = _items(split, mixture, references)
    if not items:
        examples = ", ".join(f"{name} has {_example(split / name)}" for name in (mixture, *references))
        raise UserError(f"{split}: no file in {mixture} has a counterpart in {' and '.join(references)} ({examples})")
    return Dataset(split, layout_name, mixture, tuple(references), items, missing)


def _example(folder: Path) -> str:
    """Returns the path of a sound file in `folder`, relative to it; "none" if it has none."""
    path = next(iter(find(folder)), None)
    return str(path.relative_to(folder)) if path else "none"


def _splits(folder: Path, mixture: str | None, references: Sequence[str] | None, depth: int = _DEPTH) -> list[_Split]:
    """Returns every split at or below `folder`; does not search inside a split."""
    if split := _split(folder, mixture, references):
        return [split]
    below = subfolders(folder) if depth else []
    return [split for path in below for split in _splits(path, mixture, references, depth - 1)]


def subfolders(folder: Path) -> list[Path]:
    """Returns the folders in `folder`, sorted, without hidden ones."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): pass another folder") from None


def _split(folder: Path, mixture: str | None, references: Sequence[str] | None) -> _Split | None:
    for layout in (*LAYOUTS, Layout(_CUSTOM, (), "s{}")):
        names = layout.mixtures if mixture is None else (mixture,)
        chosen = next((name for name in names if os.path.isdir(folder / name)), None)
        speakers = tuple(references) if references is not None else _speakers(folder, layout.references)
        if chosen is None or not speakers or not all(os.path.isdir(folder / name) for name in speakers):
            continue
        matches = chosen in layout.mixtures and (references is None or layout.references.format(1) == references[0])
        if matches or layout.name == _CUSTOM or mixture is None:
            return folder, layout.name if matches else _CUSTOM, chosen, speakers
    return None


def _speakers(folder: Path, pattern: str) -> tuple[str, ...]:
    """Returns the existing folders `s1`, `s2`, ..., up to the first gap."""
    names: list[str] = []
    while os.path.isdir(folder / pattern.format(len(names) + 1)):
        names.append(pattern.format(len(names) + 1))
    return tuple(names)


def _items(split: Path, mixture: str, references: Sequence[str]) -> tuple[list[Item], list[str]]:
    missing: list[str] = []

    def listing(name: str) -> dict[str, Path]:
        files: dict[str, Path] = {}
        for path in find(split / name):
            key = path.relative_to(split / name).with_suffix("").as_posix()
            if files.setdefault(key, path) is not path:
                missing.append(f"{key}: two files in {name}, {files[key].name} is used and {path.name} is ignored")
        return files

    names = (mixture, *references)
    folders = [listing(name) for name in names]
    for number, files in enumerate(folders[1:], 1):
        folders[number] = _without_number(files, number, mixtures=folders[0].keys(), missing=missing)
    items: list[Item] = []
    for key in sorted(set().union(*folders)):
        absent = [name for name, files in zip(names, folders, strict=True) if key not in files]
        if absent:
            missing.append(f"{key}: no file in {', '.join(absent)}")
        else:
            items.append(Item(key, folders[0][key], tuple(files[key] for files in folders[1:])))
    return items, missing


def _without_number(files: dict[str, Path], number: int, *, mixtures: Set[str], missing: list[str]) -> dict[str, Path]:
    """Returns a speaker's references by the keys of their mixtures, without the speaker's number at their ends.

    The ending that matches the most mixtures, the first of equals, applies to all: with mixtures `x` and `x_1`,
    `s1/x_1` could belong to either.
    """
    ends = ("", f"_s{number}", f"_{number}", f"-s{number}", f"-{number}")
    end = max(ends, key=lambda end: sum(key + end in files for key in mixtures))
    if not end:
        return files
    matched = {key: files[key + end] for key in mixtures if key + end in files}
    used = set(matched.values())
    for key, path in files.items():
        if path not in used and matched.setdefault(key, path) is not path:
            missing.append(f"{key}: two files for it, {matched[key].name} is used and {path.name} is ignored")
    return matched


METADATA = "mixtures.csv"  # written by `tisdiss mix`


def is_set(folder: Path) -> bool:
    """Returns True for a folder of mixtures and references, and for the output of `tisdiss mix`."""
    try:
        if _split(folder, None, None):
            return True
        with (folder / METADATA).open("rb") as file:
            return file.read(13) == b"id,speaker_1,"
    except OSError:
        return False
