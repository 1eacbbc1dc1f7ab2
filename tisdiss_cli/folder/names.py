"""`--name`: what outputs are called."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath
from string import Formatter

from tisdiss_cli.audio.find import EXTENSIONS
from tisdiss_cli.errors import UserError
from tisdiss_cli.files import WINDOWS

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
        """The path of one output, relative to OUT, without its extension.

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

    def check_apart(self, jobs: Iterable[tuple[str, int | None, Sequence[str]]]) -> None:
        """UserError if outputs of different inputs, or of channels, are one file and the default would tell them apart.

        Args:
            jobs: input, channel and outputs of each.
        """
        if self.text == DEFAULT:
            return
        makers: dict[str, tuple[str, int | None]] = {}
        for input, channel, outputs in jobs:
            for output in outputs:
                other = makers.setdefault(output, (input, channel))
                if other[0] != input:
                    of_use = ("folder", "ext") if Path(other[0]).suffix != Path(input).suffix else ("folder",)
                    lacking = [f"{{{field}}}" for field in of_use if field not in self.fields]
                    hint = f"put {' or '.join(lacking)} in" if lacking else "put {input} in"
                    raise UserError(f"--name {self.text}: {other[0]} and {input} would both become {output}: {hint}")


def parse_name(text: str, extension: str, *, repeats: str | None, each_channel: bool) -> Template:
    """The template of `--name`.

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
