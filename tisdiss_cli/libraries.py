"""Libraries that are missing or cannot be loaded, and the command that mends them."""

import platform
import re
import sys
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

from tisdiss_cli.errors import UserError

_MODULES = {"pyyaml": "yaml"}  # the others are imported by pip's name


def broken_libraries() -> dict[str, str]:
    """Returns a sentence for each required library that cannot be imported, by pip's name."""
    sentences = {}
    for name, requirement in _requirements().items():
        module = _MODULES.get(name, name.replace("-", "_"))
        if module in sys.modules:
            continue
        try:
            load_torchaudio() if module == "torchaudio" else import_module(module)
        except Exception as error:
            cause = f" ({lines[0]})" if (lines := str(error).splitlines()) else ""
            found = installed(name)
            problem = f"{name} {found} cannot be loaded{cause}" if found else f"{name} is not installed"
            force = " --force-reinstall" if found else ""
            sentences[name] = f"{problem}: run pip install{force} '{requirement}'"
    return sentences


def installed(name: str) -> str | None:
    """Returns the installed version of a package without importing it; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Returns the versions of this program, Python and the libraries that results depend on."""
    names = ("tisdiss", "torch", "torchaudio", "torchmetrics", "numpy", "soundfile", "av")
    return {"python": platform.python_version(), **{name: installed(name) or "not installed" for name in names}}


def require(package: str, what: str, extra: str, otherwise: str = "") -> Any:
    """Returns a package of an extra that `what` needs, imported; UserError if it is not installed."""
    try:
        return import_module(package)
    except ImportError:
        raise UserError(f"{what} the package {package}: pip install 'tisdiss[{extra}]'{otherwise}") from None


def load_torchaudio() -> Any:
    """Returns torchaudio, without its compiled part if that does not fit torch or the machine.

    Its resampling, speed perturbation and convolution are plain Python. Its compiled part fits a range of torch's
    versions and a CUDA that its metadata does not name, and fails to load with others. ImportError if it is not
    installed.
    """
    try:
        return import_module("torchaudio")
    except (OSError, RuntimeError):  # the loader's error, or torchaudio's own about another CUDA
        without = ModuleType("torchaudio._extension")
        vars(without).update(
            _IS_TORCHAUDIO_EXT_AVAILABLE=False, _IS_ALIGN_AVAILABLE=False, fail_if_no_align=lambda function: function
        )
        sys.modules[without.__name__] = without
        return import_module("torchaudio")


def _requirements() -> dict[str, str]:
    """Returns the requirements of pyproject.toml without the extras, by name."""
    found = {}
    for requirement in metadata.requires("tisdiss") or []:
        name = re.match(r"[\w.-]+", requirement)
        if name and "extra ==" not in requirement:
            found[name[0].lower()] = requirement.partition(";")[0].strip()
    return found
