"""What several commands parse or report in the same way."""

import json
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import replacing

WeightsOption = Annotated[str | None, typer.Option(help="Bundled name or .safetensors file.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0, ... or mps.")]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]


def parse_repeats(text: str) -> list[int]:
    """ "4", "1-8", "1,2,4" or "1-3,6" as ascending whole numbers; UserError says what is allowed."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"--repeats {text}: write a number, a range or a list, as in 4, 1-8 or 1,2,4")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= 1000:
            raise UserError(f"--repeats {text}: each must be 1 to 1000, the lower end of a range first")
        found.update(range(low, high + 1))
    return sorted(found)


def check_output(option: str, path: Path | None) -> None:
    """UserError now, and not after the work, if the file cannot be written there."""
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{option} {path}: name a file in a folder that exists")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{option} {path}: the folder {path.parent} cannot be written to")


def check_weights_output(option: str, path: Path) -> None:
    """`check_output` for a weight file."""
    if path.suffix != ".safetensors":
        raise UserError(f"{option} {path} must end in .safetensors")
    check_output(option, path)


def versions() -> dict[str, str]:
    """Of this program, Python and the libraries that results depend on."""
    from importlib.metadata import version

    from tisdiss_cli import __version__

    libraries = {name: version(name) for name in ("torch", "torchaudio", "torchmetrics", "numpy")}
    return {"tisdiss": __version__, "python": platform.python_version(), **libraries}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes the file whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
