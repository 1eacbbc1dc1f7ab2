"""Names of outputs (`--name`), and inputs whose outputs would meet.

Some disks take two names for one that differ only in case, or in how an accent is spelt; others hold both. OUT's disk
is asked, with files of these very names in a folder that is gone at once.
"""

import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath
from string import Formatter

from tisdiss_cli.audio.find import EXTENSIONS
from tisdiss_cli.errors import UserError
from tisdiss_cli.files import WINDOWS
from tisdiss_cli.folder.record import RECORD

DEFAULT = "{folder}/{stem}_s{voice}"
# Characters, ends and whole names that Windows keeps for itself; a colon would write a hidden stream of another file.
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]|[ .]$|^(?:con|prn|aux|nul|(?:com|lpt)[1-9])(?=\.|$)', re.IGNORECASE)
FIELDS = ("folder", "stem", "voice", "input", "ext", "repeats", "channel")


@dataclass(frozen=True)
class Template:
    """A path below OUT, without the outputs' extension, with fields in braces: FIELDS."""

    text: str = DEFAULT
    repeats: str = ""  # what {repeats} is

    @cached_property
    def fields(self) -> set[str]:
        """The fields that it has."""
        return {name for _, name, _, _ in Formatter().parse(self.text) if name is not None}

    def fill(self, input: str, stem: str, *, told: str, voice: int, channel: int | None = None) -> str:
        """Returns the path of one output, relative to OUT, without its extension.

        Args:
            input: relative to IN.
            stem: the input without its extension.
            told: the same with what tells it from others that differ only in their extension.
            voice: from 1 on.
            channel: the one that is separated, from 1 on; it follows the stem unless the template says where.
        """
        if self.text == DEFAULT:  # as below, and faster: it is asked for often
            return f"{told}_s{voice}" if channel is None else f"{told}_c{channel}_s{voice}"
        fields = self.fields
        path = Path(stem if fields & {"ext", "input"} else told)
        after = "" if channel is None or "channel" in fields else f"_c{channel}"
        folder = path.parent.as_posix()
        values = {
            "folder": "" if folder == "." else folder,
            "stem": path.name + after,
            "voice": voice,
            "input": input + after,
            "ext": Path(input).suffix[1:],
            "repeats": self.repeats,
            "channel": channel,
        }
        return "/".join(part for part in self.text.format(**values).split("/") if part)

    def check_apart(self, jobs: Iterable[tuple[str, Sequence[str]]]) -> None:
        """UserError if outputs of different inputs are one file and the default would tell them apart.

        Args:
            jobs: input and outputs of each.
        """
        makers: dict[str, str] = {}
        for input, outputs in jobs if self.text != DEFAULT else ():
            for output in outputs:
                other = makers.setdefault(output, input)
                if other != input:
                    of_use = ("folder", "ext") if Path(other).suffix != Path(input).suffix else ("folder",)
                    lacking = [f"{{{field}}}" for field in of_use if field not in self.fields]
                    hint = f"put {' or '.join(lacking)} in" if lacking else "put {input} in"
                    raise UserError(f"--name {self.text}: {other} and {input} would both become {output}: {hint}")


def parse_name(text: str, extension: str, *, repeats: str | None, each_channel: bool) -> Template:
    """Returns the template of `--name`.

    Args:
        text: as given; the outputs' extension may stand at its end.
        extension: of the outputs.
        repeats: what {repeats} is; None: that is known only when the run has begun.
        each_channel: whether every channel is an input.

    Raises:
        UserError: it is no template, leads out of OUT, or gives the voices, or all inputs, one name.
    """
    given = f"--name {text}"
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise UserError(f"{given}: {error}: write it like '{DEFAULT}'") from None
    fields = [name for _, name, _, _ in parts if name is not None]
    known = ", ".join(f"{{{field}}}" for field in FIELDS)
    for _, name, form, conversion in parts:
        if name is not None and (name not in FIELDS or form or conversion):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise UserError(f"{given}: {{{shown}}} is unknown: choose among {known}")
    if "voice" not in fields:
        raise UserError(f"{given}: all voices of an input would be one file: put {{voice}} in, as in '{DEFAULT}'")
    if not {"stem", "input"} & set(fields):
        raise UserError(f"{given}: all inputs would be one file: put {{stem}} in, as in '{DEFAULT}'")
    if "channel" in fields and not each_channel:
        raise UserError(f"{given}: {{channel}} has a meaning only with --channels each: leave it out")
    if "repeats" in fields and repeats is None:
        raise UserError(f"{given}: --rtf and --budget choose the repeats later: leave {{repeats}} out")
    template = Template(_without_extension(text, extension, given), repeats or "")
    _check_place(template, given)
    return template


def _without_extension(text: str, extension: str, given: str) -> str:
    suffix = Path(text).suffix
    if suffix.lower() not in EXTENSIONS:
        return text
    if suffix != f".{extension}":
        raise UserError(f"{given}: the outputs end in .{extension}: leave {suffix} out, or pass --format")
    return text.removesuffix(suffix)


def _check_place(template: Template, given: str) -> None:
    """UserError if it leads out of OUT, or its outputs would be hidden or folders."""
    text = template.text.format(**dict.fromkeys(FIELDS, "aa"))
    if text.startswith(("/", "\\")) or PureWindowsPath(text).drive:
        raise UserError(f"{given} is an absolute path: write one below OUT")
    parts = text.split("/")
    if ".." in parts:
        raise UserError(f"{given} leads out of its folder by ..: write a path below OUT")
    if any(part.startswith(".") for part in parts):
        raise UserError(f"{given}: names that begin with a point are hidden, and found by nothing: write others")
    if WINDOWS and (found := next(filter(None, map(_NOT_ON_WINDOWS.search, parts)), None)):
        raise UserError(f"{given}: Windows takes no name like {found.string}: leave out {found[0]!r}")
    if not parts[-1] or "\0" in text:
        raise UserError(f"{given}: it must end in the name of a file, as in '{DEFAULT}'")


def split_name(name: str) -> tuple[str, str]:
    """Returns a relative path without its extension, and that with its point, as pathlib has them."""
    point = name.rfind(".")
    if name.rfind("/") + 1 < point < len(name) - 1:
        return name[:point], name[point:]
    return name, ""


# Names that meet --------------------------------------------------------------------------------


def loose(name: str) -> str:
    """Returns what names have in common that some disk takes for one."""
    return (
        name.lower() if name.isascii() else unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    )


def find_collisions(inputs: Sequence[str], files: Sequence[Sequence[str]], out: Path) -> dict[int, str]:
    """Returns why inputs, by their index, cannot have their files: another needs the same, or a folder of that name.

    Args:
        inputs: paths.
        files: of each, relative to OUT.
        out: the folder OUT.
    """
    reasons = {
        index: f"{inputs[index]} and {inputs[other]} would both become {out / met}: rename one of them, or separate "
        "each with a --name of its own"
        for index, other, met in _alike(files, out)
    }
    needed: dict[str, int] = {}  # folders, with the first input that has a file there
    for index, names in enumerate(files):
        for name in names:
            for folder in _folders(name):
                needed.setdefault(folder, index)
    for index, names in enumerate(files):
        if taken := next((name for name in names if name in needed), None):
            below = inputs[needed[taken]]
            reasons[index] = f"{inputs[index]} would become {out / taken}, the folder that {below} needs: rename one"
        elif any(name.partition("/")[0] == RECORD for name in names):
            reasons[index] = f"{inputs[index]} would come under {out / RECORD}, which is the record: rename the folder"
    return reasons


def _alike(files: Sequence[Sequence[str]], out: Path) -> Iterator[tuple[int, int, str]]:
    """Yields inputs that have a file which OUT's disk takes for another input's, that input, and the file."""
    first: dict[str, int] = {}
    groups: dict[str, list[tuple[int, str]]] = {}
    for index, names in enumerate(files):
        for name in names:
            known = loose(name)
            before = first.setdefault(known, index)
            if before != index:
                earlier = [(before, other) for other in files[before] if loose(other) == known]
                groups.setdefault(known, earlier).append((index, name))
    for group in groups.values():
        same = same_file([name for _, name in group], out)
        for index, name in group:
            rival = next((other for other, its in group if other != index and same[its] == same[name]), None)
            if rival is not None:
                yield index, rival, name


def _folders(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def same_file(names: Iterable[str], out: Path) -> dict[str, str]:
    """Returns for each name the first that OUT's disk takes for the same; where it cannot be asked, they all are."""
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
