"""Names of outputs (`--name`), and inputs whose outputs would meet."""

import os
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
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

        Of an input, relative to IN, `stem` is what it is without its extension, and `told` the same with what tells it
        from others that differ only in that. Voices and channels count from 1; a channel follows the stem unless the
        template says where.
        """
        if self.text == DEFAULT:  # as below, and faster: it is asked for often
            return f"{told}_s{voice}" if channel is None else f"{told}_c{channel}_s{voice}"
        folder, _, name = (stem if self.fields & {"ext", "input"} else told).rpartition("/")
        after = "" if channel is None or "channel" in self.fields else f"_c{channel}"
        text = self.text.format(
            folder=folder,
            stem=name + after,
            voice=voice,
            input=input + after,
            ext=os.path.splitext(input)[1][1:],
            repeats=self.repeats,
            channel=channel,
        )
        return "/".join(filter(None, text.split("/")))

    def check_apart(self, jobs: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Raises UserError if, of each input and its outputs, two are one file that the default would tell apart."""
        makers: dict[str, str] = {}
        for input, outputs in jobs if self.text != DEFAULT else ():
            for output in outputs:
                other = makers.setdefault(output, input)
                if other != input:
                    met = f"{other} and {input} would both become {output}"
                    raise UserError(f"--name {self.text}: {met}: put {{folder}} and {{ext}}, or {{input}} in")


def parse_name(text: str, extension: str, *, repeats: str | None, each_channel: bool) -> Template:
    """Returns the template of `--name`, which may end in the outputs' extension.

    `repeats` is what {repeats} stands for; None: that is known only when the run has begun. UserError if it is no
    template, leads out of OUT, or gives the voices, or all inputs, one name.
    """
    given = f"--name {text}"
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise UserError(f"{given}: {error}: write it like '{DEFAULT}'") from None
    for _, name, form, conversion in parts:
        if name is not None and (name not in FIELDS or form or conversion):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise UserError(f"{given}: {{{shown}}} is unknown: choose among {known}")
    fields, suffix = {name for _, name, _, _ in parts}, Path(text).suffix
    text = text.removesuffix(f".{extension}")
    path = text.format(**dict.fromkeys(FIELDS, "aa"))
    folders, as_in = path.split("/"), f"as in '{DEFAULT}'"
    for wrong, sentence in (
        ("voice" not in fields, f"all voices of an input would be one file: put {{voice}} in, {as_in}"),
        (not {"stem", "input"} & fields, f"all inputs would be one file: put {{stem}} in, {as_in}"),
        ("channel" in fields and not each_channel, "{channel} has a meaning only with --channels each: leave it out"),
        ("repeats" in fields and repeats is None, "--rtf and --budget choose the repeats later: leave {repeats} out"),
        (
            suffix.lower() in EXTENSIONS and suffix != f".{extension}",
            f"the outputs end in .{extension}: leave {suffix} out, or pass --format",
        ),
        (path.startswith(("/", "\\")) or PureWindowsPath(path).drive, "it is an absolute path: write one below OUT"),
        (".." in folders, "it leads out of its folder by ..: write a path below OUT"),
        (any(name.startswith(".") for name in folders), "names that begin with a point are hidden: write others"),
        (WINDOWS and any(map(_NOT_ON_WINDOWS.search, folders)), "Windows takes no name like that: write another"),
        (not folders[-1] or "\0" in path, f"it must end in the name of a file, {as_in}"),
    ):
        if wrong:
            raise UserError(f"{given}: {sentence}")
    return Template(text, repeats or "")


# Names that meet --------------------------------------------------------------------------------


def loose(name: str) -> str:
    """Returns what names have in common that some disk takes for one: they differ in case, or in how accents are."""
    composed = unicodedata.normalize("NFC", name)
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", composed.casefold())


def find_collisions(inputs: Sequence[str], files: Sequence[Sequence[str]], out: Path) -> dict[int, str]:
    """Returns why inputs, by their index, cannot have their files: another needs the same, or a folder of that name.

    The files are those of each input, relative to OUT, whose disk is asked which names are one.
    """
    reasons: dict[int, str] = {}
    alike = len({loose(name) for names in files for name in names}) < sum(map(len, files))
    name_of = _as_the_disk(out) if alike else str
    first: dict[str, int] = {}  # names, with the first input that has each
    folders: dict[str, int] = {}  # likewise
    for index, names in enumerate(files):
        for name in names:
            other = first.setdefault(name_of(name), index)
            if other != index:
                for one, rival in ((index, other), (other, index)):
                    met = f"{inputs[one]} and {inputs[rival]} would both become {out / name}"
                    reasons[one] = f"{met}: rename one of them, or separate each with a --name of its own"
            for folder in _folders(name_of(name)):
                folders.setdefault(folder, index)
    for index, names in enumerate(files):
        if taken := next((name for name in names if name_of(name) in folders), None):
            below = inputs[folders[name_of(taken)]]
            reasons[index] = f"{inputs[index]} would become {out / taken}, the folder that {below} needs: rename one"
        elif any(name.partition("/")[0] == RECORD for name in names):
            reasons[index] = f"{inputs[index]} would come under {out / RECORD}, which is the record: rename the folder"
    return reasons


def _folders(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def _as_the_disk(out: Path) -> Callable[[str], str]:
    """Returns what OUT's disk makes of a name: some disks know no case, or one spelling of an accent."""
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".tisdiss-") as probe:
            Path(probe, "\u00e9").touch()
            tells_apart = not any(Path(probe, name).exists() for name in ("\u00c9", "e\u0301"))
    except OSError:
        return loose
    return str if tells_apart else loose
