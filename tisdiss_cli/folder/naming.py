"""Names of outputs (`--name`), and name collisions."""

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
ONE_FILE = "{folder}/{stem}"  # default of --layout channels
# Characters, endings and names that Windows reserves; a colon would write a hidden stream of another file.
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]|[ .]$|^(?:con|prn|aux|nul|(?:com|lpt)[1-9])(?=\.|$)', re.IGNORECASE)
FIELDS = ("folder", "stem", "voice", "input", "ext", "repeats", "channel")


@dataclass(frozen=True)
class Template:
    """Template of a path below OUT, without extension, with FIELDS in braces."""

    text: str = DEFAULT
    repeats: str = ""  # value of {repeats}

    @cached_property
    def fields(self) -> set[str]:
        """Fields in the template."""
        return {name for _, name, _, _ in Formatter().parse(self.text) if name is not None}

    def fill(self, input: str, stem: str, *, unique: str, voice: int | None, channel: int | None = None) -> str:
        """Returns the path of one output, relative to OUT, without its extension.

        `stem` is the input without its extension, and `unique` the same, with the extension if another input differs
        only in that. Voices and channels count from 1; a channel follows the stem unless the template has its field.
        """
        if self.text == DEFAULT:  # the same as below, but faster
            return f"{unique}_s{voice}" if channel is None else f"{unique}_c{channel}_s{voice}"
        folder, _, name = (stem if self.fields & {"ext", "input"} else unique).rpartition("/")
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

    def check_unique(self, jobs: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Raises UserError if two inputs have an output of one name that the default template keeps apart."""
        owners: dict[str, str] = {}
        for input, outputs in jobs if self.text not in (DEFAULT, ONE_FILE) else ():
            for output in outputs:
                other = owners.setdefault(output, input)
                if other != input:
                    met = f"{other} and {input} would both become {output}"
                    raise UserError(f"--name {self.text}: {met}: add {{folder}} and {{ext}}, or {{input}}")


def parse_name(
    text: str, extension: str, *, repeats: str | None, each_channel: bool, one_file: bool = False
) -> Template:
    """Returns the template of `--name`, which may end in the outputs' extension.

    `repeats` is the value of {repeats}; None if it is only known during the run. With `one_file`, an input has one
    output. UserError if the text is not a template, leads out of OUT, or gives all voices or all inputs one name.
    """
    option, default = f"--name {text}", ONE_FILE if one_file else DEFAULT
    text = default if text == DEFAULT else text
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise UserError(f"{option}: {error}: write it like '{default}'") from None
    for _, name, form, conversion in parts:
        if name is not None and (name not in FIELDS or form or conversion):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            choices = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise UserError(f"{option}: {{{shown}}} is unknown: choose among {choices}")
    fields, suffix = {name for _, name, _, _ in parts}, Path(text).suffix
    text = text.removesuffix(f".{extension}")
    path = text.format(**dict.fromkeys(FIELDS, "aa"))
    folders, as_in = path.split("/"), f"as in '{default}'"
    for wrong, sentence in (
        (
            one_file and "voice" in fields,
            f"--layout channels has one file for all voices: leave {{voice}} out, {as_in}",
        ),
        (one_file and "channel" in fields, "--layout channels has one file for all channels: leave {channel} out"),
        (not one_file and "voice" not in fields, f"all voices of an input would be one file: add {{voice}}, {as_in}"),
        (not {"stem", "input"} & fields, f"all inputs would be one file: add {{stem}}, {as_in}"),
        ("channel" in fields and not each_channel, "{channel} needs --channels each: leave it out"),
        ("repeats" in fields and repeats is None, "--rtf and --budget choose the repeats later: leave {repeats} out"),
        (
            suffix.lower() in EXTENSIONS and suffix != f".{extension}",
            f"the outputs end in .{extension}: leave {suffix} out, or pass --format",
        ),
        (path.startswith(("/", "\\")) or PureWindowsPath(path).drive, "it is an absolute path: write a path below OUT"),
        (".." in folders, "it leaves its folder by ..: write a path below OUT"),
        (any(name.startswith(".") for name in folders), "names that begin with a dot are hidden: choose others"),
        (WINDOWS and any(map(_NOT_ON_WINDOWS.search, folders)), "Windows does not allow such a name: choose another"),
        (not folders[-1] or "\0" in path, f"it must end in a file name, {as_in}"),
    ):
        if wrong:
            raise UserError(f"{option}: {sentence}")
    return Template(text, repeats or "")


# Collisions --------------------------------------------------------------------------------


def loose(name: str) -> str:
    """Returns a name normalised in case and accents, as some disks do not distinguish these."""
    composed = unicodedata.normalize("NFC", name)
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", composed.casefold())


def find_collisions(inputs: Sequence[str], files: Sequence[Sequence[str]], out: Path) -> dict[int, str]:
    """Returns why inputs, by index, cannot have their files: another needs the same, or a folder of that name.

    `files` are those of each input, relative to OUT, whose disk decides which names are the same.
    """
    reasons: dict[int, str] = {}
    similar = len({loose(name) for names in files for name in names}) < sum(map(len, files))
    name_of = _disk_names(out) if similar else str
    first: dict[str, int] = {}  # first input with each name
    folders: dict[str, int] = {}  # first input that needs each folder
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
            reasons[index] = f"{inputs[index]} would become {out / taken}, a folder that {below} needs: rename one"
        elif any(name.partition("/")[0] == RECORD for name in names):
            reasons[index] = f"{inputs[index]} would be inside {out / RECORD}, which is the record: rename the folder"
    return reasons


def _folders(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def _disk_names(out: Path) -> Callable[[str], str]:
    """Returns the function by which OUT's disk normalises names: some ignore case, or spellings of accents."""
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".tisdiss-") as probe:
            Path(probe, "\u00e9").touch()
            distinguishes = not any(Path(probe, name).exists() for name in ("\u00c9", "e\u0301"))
    except OSError:
        return loose
    return str if distinguishes else loose
