"""`tisdiss info`: versions, machine, device, precision and weights for a bug report."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.console import print_table
from tisdiss_cli.commands.options import print_json
from tisdiss_cli.errors import UserError
from tisdiss_cli.libraries import broken_libraries, installed, versions

_OPTIONAL = ("lightning-fabric", "matplotlib", "pystoi", "pesq", "huggingface-hub")


@app.command()
def info(json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Print versions, device, precision and bundled weights, to paste into a bug report."""
    facts = {
        "broken": broken_libraries(),
        "versions": {**versions(), "libsndfile": _or_error(_libsndfile)},
        "machine": _or_error(_machine),
        "cuda": _or_error(_cuda),
        "precision": _or_error(_precision),
        "weights": _or_error(_weights),
        "optional": {name: installed(name) for name in _OPTIONAL},
    }
    if json:
        print_json(facts)
        return
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _rows(facts):
        table.add_row(name, value)
    print_table(table)


def _or_error(facts: Callable[[], Any]) -> Any:
    """Returns the facts, or the error that prevents finding them: a report matters most where something is broken."""
    try:
        return facts()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _libsndfile() -> str:
    import soundfile

    return soundfile.__libsndfile_version__


def _machine() -> dict[str, Any]:
    from tisdiss_cli.benchmark.measure import describe_machine
    from tisdiss_cli.devices import choose_device

    return describe_machine(choose_device("auto"))


def _precision() -> dict[str, str]:
    """Returns the precision that "auto" takes with the default weights, and the reason."""
    from tisdiss_cli.devices import choose_device, choose_precision
    from tisdiss_cli.model.weights import find_weights, read_info

    try:
        agreement = read_info(find_weights()).bf16_agreement_db
    except UserError:  # reported among the weights
        agreement = None
    precision, why = choose_precision("auto", choose_device("auto"), agreement)
    return {"precision": precision, "why": why}


def _cuda() -> dict[str, Any]:
    """Returns whether torch can use CUDA, the version it was built for, its cards, and the driver's."""
    import torch

    cards = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        cards.append({"name": card.name, "memory": card.total_memory, "capability": f"{card.major}.{card.minor}"})
    return {
        "available": torch.cuda.is_available(),
        "built_for": torch.version.cuda,
        "cards": cards,
        "driver": _driver_cards(),
    }


def _driver_cards() -> list[str] | None:
    """Returns a line for each card that NVIDIA's driver sees; None where it cannot be asked."""
    if not (program := shutil.which("nvidia-smi")):
        return None
    try:
        command = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.splitlines()


def _weights() -> list[dict[str, Any]]:
    """Returns the bundled weight files, the default first; an unreadable one has an error instead of facts."""
    from tisdiss_cli.model.weights import bundled, read_info

    found: list[dict[str, Any]] = []
    for index, path in enumerate(bundled()):
        row: dict[str, Any] = {"name": path.stem, "default": index == 0}
        try:
            file = read_info(path)
            row |= {"trained": file.trained, "digest": file.digest}
        except UserError as error:
            row |= {"error": str(error)}
        found.append(row)
    return found


def _rows(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yields the name and text of each value in nested facts: "cuda available", "weights 1 name"."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value, 1):
            yield from _rows(part, f"{name} {key}".strip())
    else:
        yield name, str(value)
