"""Checkpoints by torch.save: read without running any code of theirs, and the network's tensors found in them."""

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tisdiss_cli.errors import UserError
from tisdiss_cli.model.container import check_readable, is_safetensors

log = logging.getLogger("tisdiss")

# Under which key training scripts keep the network, the likelier first.
_KEYS = ("state_dict", "model_state_dict", "model", "network", "net", "weights", "params", "module")
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile, at any depth


def load_state(path: Path, common: str) -> dict[str, torch.Tensor]:
    """The tensors of a network by name, on the CPU; the log says what was undone to get there.

    A dictionary under one of the usual keys is taken in place of the whole, wrappers' prefixes are taken off, and so is
    what all names begin with, up to `common`.

    Raises:
        UserError: the file is something else, damaged, holds other objects than tensors, or no such dictionary.
    """
    state = _load(path)
    inside: list[str] = []
    while isinstance(state, Mapping) and not _is_state(state):
        key = next((key for key in _KEYS if isinstance(state.get(key), Mapping)), None)
        if key is None:
            break
        inside.append(key)
        state = state[key]
    if not isinstance(state, Mapping) or not _is_state(state):
        raise UserError(f"{path} holds no plain dictionary of tensors{_what(state)}: pass the network's state dict")
    found, prefix = _unwrapped(dict(state), common)
    undone = ([f"tensors under {' > '.join(map(repr, inside))}"] if inside else []) + (
        [f"prefix {prefix!r} taken off their names"] if prefix else []
    )
    if undone:
        log.info(f"{path}: {', '.join(undone)}")
    return found


def _load(path: Path) -> Any:
    check_readable(path)
    if is_safetensors(path):
        raise UserError(f"{path} is a .safetensors file, which is not imported: name it with --weights, if it is ours")
    if zipfile.is_zipfile(path):
        names = {name.rsplit("/", 1)[-1] for name in zipfile.ZipFile(path).namelist()}
        if "constants.pkl" in names:
            raise UserError(f"{path} is a TorchScript archive: pass the checkpoint that it was made from")
        if "data.pkl" not in names:
            raise UserError(f"{path} is a zip archive, but no checkpoint of torch's: unpack it first")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words advise to switch the safety off.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        objects = f" ({named[1]})" if named else ""
        raise UserError(
            f"{path} cannot be read safely: it is damaged, or holds Python objects besides tensors{objects}, which may "
            "run code; pass a file with the network's state dict alone"
        ) from None
    except Exception as error:  # torch raises many kinds for a damaged file
        words = "" if "weights_only" in str(error) else (str(error).strip().splitlines() or [""])[0][:200]
        reason = f" ({words or type(error).__name__})"
        raise UserError(f"{path} cannot be read as a checkpoint{reason}: it is damaged, download it again") from None


def _is_state(state: Mapping[Any, Any]) -> bool:
    return bool(state) and all(isinstance(name, str) and isinstance(v, torch.Tensor) for name, v in state.items())


def _what(state: Any) -> str:
    """What there is instead, in a few words."""
    if not isinstance(state, Mapping):
        return f", but a {type(state).__name__}"
    if not state:
        return ", but an empty one"
    other = [str(key) for key, value in state.items() if not isinstance(value, torch.Tensor)]
    return f", but {', '.join(map(repr, other[:5]))}" if other else ""


def _unwrapped(state: dict[str, torch.Tensor], common: str) -> tuple[dict[str, torch.Tensor], str]:
    """The state under shorter names, and what was taken off."""
    off = ""
    while not all(name.startswith(common) for name in state):
        first = next(iter(state)).partition(".")[0] + "."
        if not all(name.startswith(first) and name != first for name in state):
            break
        off += first
        state = {name.removeprefix(first): value for name, value in state.items()}
    for wrapper in _WRAPPERS:  # within, around a part that was compiled by itself
        if any(f".{wrapper}" in name for name in state):
            off += f"...{wrapper}"
            state = {name.replace(f".{wrapper}", "."): value for name, value in state.items()}
    return state, off
