"""Separate two-talker recordings with TISDiSS: the Python API."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Separator", "__version__", "load_weights"]

if TYPE_CHECKING:
    from tisdiss_cli.model.weights import load_weights
    from tisdiss_cli.separation.separator import Separator


def __getattr__(name: str) -> Any:
    """Imports torch only when the API is used, so that `tisdiss --help` is instant."""
    if name == "Separator":
        from tisdiss_cli.separation.separator import Separator

        return Separator
    if name == "load_weights":
        from tisdiss_cli.model.weights import load_weights

        return load_weights
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
