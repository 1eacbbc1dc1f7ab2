"""Options, checks and JSON output that several commands share."""

import os
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import dump_json, why_unwritable, writing
from tisdiss_cli.model.config import MOST_REPEATS, MOST_SHIFTS, parse_number

NETWORK = "Network and device"  # a group of the help
COUNT = {"min": 1, "max": MOST_REPEATS}  # limits of an option

_network = partial(typer.Option, rich_help_panel=NETWORK)
_depth = partial(typer.Option, rich_help_panel="Depth", min=1, max=MOST_SHIFTS)

WeightsOption = Annotated[
    str | None, _network(envvar="TISDISS_WEIGHTS", help="Bundled name, .safetensors file, or a fetched user/repo.")
]
DeviceOption = Annotated[str, _network(envvar="TISDISS_DEVICE", help="auto, cpu, cuda, cuda:0, ... or mps.")]
PrecisionOption = Annotated[str, _network(envvar="TISDISS_PRECISION", help="auto, fp32, bf16 or, on CUDA, tf32.")]
ShiftsOption = Annotated[int, _depth(help="Averaged passes, a part of a hop apart: better, that many times slower.")]


def finite(value: float | None) -> float | None:
    """Returns an option's number; usage error unless it is finite."""
    if value is not None and not isfinite(value):
        raise typer.BadParameter(f"{value:g} is not a finite number")
    return value


def positive(value: float | None) -> float | None:
    """Returns an option's number; usage error unless it is finite and above 0."""
    if value is not None and value <= 0:
        raise typer.BadParameter(f"{value:g} is not above 0")
    return finite(value)


def parse_repeats(text: str) -> list[int]:
    """Returns the ascending whole numbers of "4", "1-8", "1,2,4" or "1-3,6"; UserError for another text."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"--repeats {text}: write a number, a range or a list, as in 4, 1-8 or 1,2,4")
        low, high = (parse_number("--repeats", end) for end in (first, last or first))
        if low > high:
            raise UserError(f"--repeats {text}: write the lower end of a range first")
        found.update(range(low, high + 1))
    return sorted(found)


def check_output(option: str, path: Path | None) -> None:
    """Raises UserError before the work, rather than after it, if a file cannot be written at `path`."""
    if path is None:
        return
    if reason := why_unwritable(path):
        raise UserError(f"{option} {path}: {reason}")


def check_weights_output(option: str, path: Path) -> None:
    """Checks the path of a weight file as `check_output` does, and its extension."""
    if path.suffix != ".safetensors":
        raise UserError(f"{option} {path} must end in .safetensors")
    check_output(option, path)


def check_folder(option: str, path: Path) -> None:
    """Raises UserError before the work, rather than after it, if the folder neither exists nor can be made."""
    try:
        place = path.resolve()
        above = next(folder for folder in (place, *place.parents) if folder.exists())
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{option} {path} cannot be made ({reason}): name another folder") from None
    if not above.is_dir():
        raise UserError(f"{option} {path}: {above} is a file: name a folder")
    if not os.access(above, os.W_OK):
        raise UserError(f"{option} {path}: the folder {above} cannot be written to")


def parse_names(text: str | None) -> list[str] | None:
    """Returns the names in "s1,s2"."""
    return None if text is None else [name.strip() for name in text.split(",")]


def print_json(content: dict[str, Any]) -> None:
    """Prints a JSON document on stdout."""
    print(dump_json({"format": 1, **content}, indent=2))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON document whole or not at all; UserError if that fails."""
    with writing(path) as part:
        part.write_text(dump_json({"format": 1, **content}, indent=2) + "\n", encoding="utf-8")
