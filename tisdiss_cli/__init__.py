"""Separate two-talker recordings with TISDiSS: the Python API."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Separator", "__version__", "load_weights"]

if TYPE_CHECKING:
    from tisdiss_cli.model.weights import load_weights
    from tisdiss_cli.separation.separator import Separator

    __version__: str

_HOMES = {"Separator": "tisdiss_cli.separation.separator", "load_weights": "tisdiss_cli.model.weights"}


def __getattr__(name: str) -> Any:
    """Imports torch only when the API is used, so that `tisdiss --help` is instant; the version is pyproject's."""
    if name == "__version__":
        from tisdiss_cli.libraries import installed

        return installed("tisdiss") or "unknown"  # in a checkout on the path that was never installed
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
