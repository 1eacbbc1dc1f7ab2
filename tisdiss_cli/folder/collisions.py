"""Inputs whose voices would be the same files: each is refused, alone, and the sentence names the other.

Some disks take two names for one that differ only in case, or in how an accent is spelt; others hold both. OUT's disk
is asked, with files of these very names in a folder that is gone at once.
"""

import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tisdiss_cli.folder.lines import RECORD


def loose(name: str) -> str:
    """What names have in common that some disk takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def repeated(texts: Iterable[str]) -> set[int]:
    """Hashes of the texts that come more than once, and of hardly any other.

    Of a million names few are alike: who looks closer at these alone need not keep a million of them.
    """
    hashes = np.sort(np.fromiter(map(hash, texts), dtype=np.int64))
    return set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())


def find_collisions(inputs: Sequence[Path], outputs: Sequence[Sequence[str]], out: Path) -> dict[int, str]:
    """Why inputs, by their index, cannot have their outputs: another's are the same, or a folder must bear that name.

    Args:
        inputs: paths.
        outputs: of each, relative to OUT; they differ in their numbers, so that the first tells of all.
        out: the folder OUT.
    """
    reasons = _alike(inputs, outputs, out)
    folders = _needed_folders(outputs)
    for index, names in enumerate(outputs):
        if name := next((name for name in names if name in folders), None):
            below = inputs[folders[name]]
            reasons[index] = f"{inputs[index]} would become {out / name}, the folder that {below} needs: rename one"
        elif names[0].partition("/")[0] == RECORD:
            reasons[index] = f"{inputs[index]} would come under {out / RECORD}, which is the record: rename the folder"
    return reasons


def _alike(inputs: Sequence[Path], outputs: Sequence[Sequence[str]], out: Path) -> dict[int, str]:
    """Why inputs cannot have their outputs, whose names OUT's disk takes for another's."""
    some = repeated(loose(names[0]) for names in outputs)
    groups = defaultdict(list)
    for index, names in enumerate(outputs if some else ()):
        if hash(known := loose(names[0])) in some:
            groups[known].append(index)
    reasons: dict[int, str] = {}
    for group in groups.values():
        files = same_file([outputs[index][0] for index in group], out) if len(group) > 1 else {}
        by_file = defaultdict(list)
        for index in group if files else ():
            by_file[files[outputs[index][0]]].append(index)
        for rivals in by_file.values():
            for index in rivals if len(rivals) > 1 else ():
                other = rivals[rivals[0] == index]
                target = out / outputs[index][0]
                reasons[index] = f"{inputs[index]} and {inputs[other]} would both become {target}: rename one of them"
    return reasons


def _needed_folders(outputs: Sequence[Sequence[str]]) -> dict[str, int]:
    """Folders that outputs lie in and that may be the name of one, with the first input that needs each."""
    hashes: set[int] = set()
    for names in outputs:
        hashes.update(map(hash, _folders(names[0])))
    suspects = {hash(name) for names in outputs for name in names if hash(name) in hashes}
    found: dict[str, int] = {}
    for index, names in enumerate(outputs if suspects else ()):
        for folder in _folders(names[0]):
            if hash(folder) in suspects:
                found.setdefault(folder, index)
    return found


def _folders(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def same_file(names: Iterable[str], out: Path) -> dict[str, str]:
    """For each name the first of them that OUT's disk takes for the same; where it cannot be asked, they all are."""
    names = sorted(set(names))
    if len(names) < 2:
        return dict(zip(names, names, strict=True))
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".tisdiss-") as probe:
            for name in names:
                path = Path(probe, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    path.write_text(name, encoding="utf-8", errors="surrogateescape")
            return {name: Path(probe, name).read_text(encoding="utf-8", errors="surrogateescape") for name in names}
    except OSError:
        return dict.fromkeys(names, names[0])
