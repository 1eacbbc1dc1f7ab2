"""Estimates of other tools: their files, found by naming patterns."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from tisdiss_cli.audio.find import EXTENSIONS, find
from tisdiss_cli.data.datasets import Dataset, Item
from tisdiss_cli.errors import UserError

log = logging.getLogger("tisdiss")

# Of patterns that fit the same number of mixtures, the first is taken.
PATTERNS = (
    *("{id}_s{n}", "s{n}/{id}", "{id}_est{n}", "{id}_spk{n}", "{id}_source{n}", "{id}_source{n}hat", "{id}_{n}"),
    *("{id}-{n}", "est{n}/{id}", "spk{n}/{id}", "{id}/s{n}", "{id}/est{n}", "{id}/spk{n}", "{id}/s{n}_estimate"),
    "{id}/{n}",
)
_MOST_REPEATS = 64  # largest value tried for {repeats}
_Files = dict[str, tuple[Path, ...]]  # by id, in the order of their numbers; () for none


def find_estimates(folder: Path, dataset: Dataset, pattern: str | None = None) -> _Files:
    """Returns each item's estimates in the order of their numbers, with any extension; () for none.

    All follow one pattern, which is logged: `pattern`, or that of PATTERNS which fits the most items. Numbers begin at
    1, or at 0 if there is one. The id may have the mixtures' folder in front, as when the whole set was separated. A
    `pattern` is a path below `folder` with `{id}` and `{n}`, or a template of `separate --name`, with or without
    extension. UserError if the folder does not exist, or no file fits.
    """
    if pattern is not None:
        pattern = check_pattern(pattern)
    if not os.path.isdir(folder):
        raise UserError(f"--estimates {folder} is not a folder: pass the one that the estimates are in")
    files: dict[str, Path] = {}
    for path in find(folder):
        used = files.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
        if used is not path:
            log.warning(f"--estimates: {used} is used, {path.name} beside it is ignored")
    if not files:
        raise UserError(f"--estimates {folder} has no sound files: pass the folder that the estimates are in")
    patterns = PATTERNS if pattern is None else (pattern,)
    tried = [match for one in patterns for match in _matches(files, dataset, one)]
    name, found = max(tried, key=lambda match: _fit(match[1], dataset.speakers))  # the first of equals
    if not any(found.values()):
        id = dataset.items[0].id
        looked = ", ".join(_name(one, id, number=1) for one in patterns)
        example = next(iter(files.values())).relative_to(folder)
        raise UserError(
            f"--estimates {folder} has no file named like {looked}, but for example {example}: say how they are named "
            "with --pattern, as in --pattern '{id}_est{n}'"
        )
    log.info(f"estimates are named {name}")
    return found


def _fit(found: _Files, speakers: int) -> tuple[int, int]:
    """Returns the number of items with one estimate for each speaker, and with any."""
    counts = [len(paths) for paths in found.values()]
    return sum(count == speakers for count in counts), sum(count > 0 for count in counts)


def check_pattern(pattern: str) -> str:
    """Returns the pattern without its extension; UserError if it is unusable."""
    try:
        path = Path(_name(pattern, "a", number=1))
        usable = len({_name(pattern, id, number=n) for id in "ab" for n in (1, 2)}) == 4
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):
        usable = False
    if not usable or path.is_absolute():
        raise UserError(f"--pattern {pattern}: write {{id}} and {{n}}, as in '{{id}}_est{{n}}', or separate's --name")
    suffix = Path(pattern).suffix
    return pattern.removesuffix(suffix) if suffix.lower() in EXTENSIONS else pattern


def _name(pattern: str, id: str, *, number: int, extension: str = "wav", repeats: str = "") -> str:
    """Returns an estimate's path below its folder, without extension, by a pattern or a template of `--name`."""
    folder, _, stem = id.rpartition("/")
    separates = {"folder": folder, "stem": stem, "voice": number, "input": f"{id}.{extension}", "ext": extension}
    name = pattern.format(id=id, n=number, repeats=repeats, channel=1, **separates)
    if "{folder}" in pattern:  # it may be empty
        name = "/".join(part for part in name.split("/") if part)
    return name


def _matches(files: dict[str, Path], dataset: Dataset, pattern: str) -> Iterator[tuple[str, _Files]]:
    """Yields the matches with and without the mixtures' folder, in front or as `{folder}`, for any repeats."""
    folder = f"{Path(dataset.mixture).name}/"
    for repeats in ("auto", *map(str, range(1, _MOST_REPEATS + 1))) if "{repeats}" in pattern else ("",):
        yield _match(files, dataset, pattern=pattern, repeats=repeats)
        yield _match(files, dataset, pattern=pattern, repeats=repeats, above=folder)
        if "{folder}" in pattern or "{input}" in pattern:
            yield _match(files, dataset, pattern=pattern, repeats=repeats, within=folder)


def _match(
    files: dict[str, Path], dataset: Dataset, *, pattern: str, repeats: str, above: str = "", within: str = ""
) -> tuple[str, _Files]:
    def file(item: Item, number: int) -> Path | None:
        extension = item.mixture.suffix[1:]
        return files.get(above + _name(pattern, within + item.id, number=number, extension=extension, repeats=repeats))

    first = 0 if any(file(item, 0) for item in dataset.items) else 1
    found: _Files = {}
    for item in dataset.items:
        paths: list[Path] = []
        while path := file(item, first + len(paths)):
            paths.append(path)
        found[item.id] = tuple(paths)
    return f"{above}{pattern}, counted from {first}", found
