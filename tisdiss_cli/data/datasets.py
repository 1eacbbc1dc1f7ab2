"""Sets of mixtures with references on disk: WSJ0-2mix, Libri2Mix, WHAMR! and folders of one's own.

A split is a folder that holds one folder of mixtures and one folder of references for each speaker;
files belong together by their path below these folders, whatever their extensions. References may end in their
speaker's number, all in the same way: `s1/x_s1`, `s1/x_1`, `s1/x-s1` or `s1/x-1` belongs to `mix/x`.
"""

import os
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from tisdiss_cli.audio.find import find
from tisdiss_cli.errors import UserError, listed


@dataclass(frozen=True)
class Layout:
    """The folder names of one corpus; `{}` stands for the speaker's number, and the first name found is taken."""

    name: str
    mixtures: tuple[str, ...]
    references: str


# The order decides for a folder that fits several. The first mixture is what papers report on:
# Libri2Mix clean; WHAMR! noisy and reverberant with the anechoic sources as references (Maciejewski et
# al. 2020, table 3; TISDiSS's own WHAMR! results), so that dereverberation counts. WHAM! has Libri2Mix's folders.
LAYOUTS = (
    Layout(
        "WHAMR!",
        ("mix_both_reverb", "mix_clean_reverb", "mix_both_anechoic", "mix_clean_anechoic"),
        "s{}_anechoic",
    ),
    Layout("Libri2Mix", ("mix_clean", "mix_both"), "s{}"),
    Layout("WSJ0-2mix", ("mix",), "s{}"),
)
_CUSTOM = "custom"
_Split = tuple[Path, str, str, tuple[str, ...]]  # a folder, its layout, its folders of mixtures and of references
_DEPTH = 5  # corpus/wav8k/min/train-100/mix_clean


@dataclass(frozen=True)
class Item:
    """One mixture and its speakers' references."""

    id: str  # path below the mixtures' folder, without the extension
    mixture: Path
    references: tuple[Path, ...]  # one for each speaker, in the order of the reference folders


@dataclass(frozen=True)
class Dataset:
    """One split: `items` are complete and sorted by id, `missing` says what the others lack."""

    root: Path
    layout: str  # a name of LAYOUTS, or "custom"
    mixture: str  # the folders in use, as named below `root` or by the caller
    references: tuple[str, ...]
    items: list[Item]
    missing: list[str]  # "<id>: no file in s2"

    @property
    def speakers(self) -> int:
        """The number of references of every item."""
        return len(self.references)


def find_dataset(
    root: str | os.PathLike[str], mixture: str | None = None, references: Sequence[str] | None = None
) -> Dataset:
    """Finds the one split at or below `root` and lists it.

    Args:
        root: a split, or a folder above exactly one (`wav8k/min/tt` and the like, 5 levels at most).
        mixture: folder of the mixtures, inside the split or a path of its own; None: the layout's first.
        references: folders of the references, at least two, likewise; None: the layout's `s1`, `s2`, ...

    Raises:
        UserError: `root` is no folder, holds no split or several, or the split holds no complete item.
    """
    root = Path(root)
    if not os.path.isdir(root):  # of a name that is too long too, where Path would raise
        raise UserError(f"{root} is not a folder: pass one that holds mixtures and references (mix, s1, s2)")
    if mixture is not None and not mixture.strip():
        raise UserError("--mixture names no folder: leave it out, or name the one of the mixtures")
    if references is not None and not (all(map(str.strip, references)) and len(set(references)) == len(references) > 1):
        raise UserError(f"--references {','.join(references)}: name a folder for each speaker, each once, as in s1,s2")
    splits = _splits(root, mixture, references)
    if not splits:
        wanted = [*([mixture] if mixture else []), *(references or [])]
        if wanted:
            raise UserError(
                f"{root} has no folder that holds {', '.join(wanted)} with its counterparts: check the names"
            )
        known = "; ".join(
            f"{one.name}: {one.mixtures[0]}, {one.references.format(1)}, {one.references.format(2)}"
            for one in reversed(LAYOUTS)
        )
        raise UserError(
            f"{root} has none of the known layouts ({known}): name the folders with --mixture and --references"
        )
    if len(splits) > 1:
        names = listed([split.relative_to(root) for split, *_ in splits])
        raise UserError(f"{root} holds {len(splits)} sets: pass one of {names}")
    split, layout, mixture, references = splits[0]
    if len(references) < 2:
        raise UserError(f"{split} has one folder of references ({references[0]}): there must be one for each speaker")
    items, missing = _items(split, mixture, references)
    if not items:
        there = ", ".join(f"{name} has {_example(split / name)}" for name in (mixture, *references))
        raise UserError(
            f"{split}: no sound file in {mixture} has a counterpart of its name in {' and '.join(references)} ({there})"
        )
    return Dataset(split, layout, mixture, tuple(references), items, missing)


def _example(folder: Path) -> str:
    """Returns the name of one of its sound files, below it."""
    path = next(iter(find(folder)), None)
    return str(path.relative_to(folder)) if path else "none"


def _splits(folder: Path, mixture: str | None, references: Sequence[str] | None, depth: int = _DEPTH) -> list[_Split]:
    """Finds every split at or below `folder`, which is not searched any further once it is one."""
    if found := _split(folder, mixture, references):
        return [found]
    below = subfolders(folder) if depth else []
    return [split for path in below for split in _splits(path, mixture, references, depth - 1)]


def subfolders(folder: Path) -> list[Path]:
    """Lists the folders in a folder, without hidden ones, sorted."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): make it readable, or pass another") from None


def _split(folder: Path, mixture: str | None, references: Sequence[str] | None) -> _Split | None:
    for layout in (*LAYOUTS, Layout(_CUSTOM, (), "s{}")):
        names = layout.mixtures if mixture is None else (mixture,)
        chosen = next((name for name in names if os.path.isdir(folder / name)), None)
        speakers = tuple(references) if references is not None else _speakers(folder, layout.references)
        if chosen is None or not speakers or not all(os.path.isdir(folder / name) for name in speakers):
            continue
        known = chosen in layout.mixtures and (references is None or layout.references.format(1) == references[0])
        if known or layout.name == _CUSTOM or mixture is None:
            return folder, layout.name if known else _CUSTOM, chosen, speakers
    return None


def _speakers(folder: Path, pattern: str) -> tuple[str, ...]:
    """Returns `s1`, `s2`, ... as far as there are such folders."""
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
                missing.append(f"{key}: two files in {name}, {files[key].name} is used and {path.name} is not")
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
    """Returns a speaker's references by the keys of their mixtures, where most names end in the speaker's number.

    All follow one rule, the one that fits the most mixtures and of equals the first: with `x` and `x_1` among the
    mixtures, `s1/x_1` may be either's.
    """
    ends = ("", f"_s{number}", f"_{number}", f"-s{number}", f"-{number}")
    end = max(ends, key=lambda one: sum(key + one in files for key in mixtures))
    if not end:
        return files
    found = {key: files[key + end] for key in mixtures if key + end in files}
    used = set(found.values())
    for key, path in files.items():
        if path not in used and found.setdefault(key, path) is not path:
            missing.append(f"{key}: two files for it, {found[key].name} is used and {path.name} is not")
    return found


METADATA = "mixtures.csv"  # of `tisdiss mix`


def is_set(folder: Path) -> bool:
    """Tells whether a folder is a set of mixtures: mixtures beside references, or what `tisdiss mix` has written."""
    try:
        if _split(folder, None, None):
            return True
        with (folder / METADATA).open("rb") as file:
            return file.read(13) == b"id,speaker_1,"
    except OSError:
        return False
