"""Inputs whose voices would be the same files: each is refused, alone, and the sentence names the other.

Some disks take two names for one that differ only in case, or in how an accent is spelt; others hold both. OUT's disk
is asked, with files of these very names in a folder that is gone at once.
"""

import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from tisdiss_cli.folder.lines import RECORD


def loose(name: str) -> str:
    """What names have in common that some disk takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def find_collisions(inputs: Sequence[Path], outputs: Sequence[Sequence[str]], out: Path) -> dict[int, str]:
    """Why inputs, by their index, cannot have their outputs: another's are the same, or a folder must bear that name.

    Args:
        inputs: paths.
        outputs: of each, relative to OUT; they differ in their numbers, so that the first tells of all.
        out: the folder OUT.
    """
    alike = defaultdict(list)
    for index, names in enumerate(outputs):
        alike[loose(names[0])].append(index)
    reasons: dict[int, str] = {}
    for group in alike.values():
        files = same_file([outputs[index][0] for index in group], out) if len(group) > 1 else {}
        by_file = defaultdict(list)
        for index in group if files else ():
            by_file[files[outputs[index][0]]].append(index)
        for rivals in by_file.values():
            for index in rivals if len(rivals) > 1 else ():
                other = rivals[rivals[0] == index]
                target = out / outputs[index][0]
                reasons[index] = f"{inputs[index]} and {inputs[other]} would both become {target}: rename one of them"
    folders: dict[str, int] = {}
    for index, names in enumerate(outputs):
        folder = names[0].rpartition("/")[0]
        while folder and folder not in folders:
            folders[folder] = index
            folder = folder.rpartition("/")[0]
    for index, names in enumerate(outputs):
        if name := next((name for name in names if name in folders), None):
            below = inputs[folders[name]]
            reasons[index] = f"{inputs[index]} would become {out / name}, the folder that {below} needs: rename one"
        elif names[0].partition("/")[0] == RECORD:
            reasons[index] = f"{inputs[index]} would come under {out / RECORD}, which is the record: rename the folder"
    return reasons


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
