"""Checkpoints by torch.save, read without running any code of theirs."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from tisdiss_cli.errors import UserError
from tisdiss_cli.model.weights import unreadable

# Under which key training scripts keep the network, the likelier first.
_KEYS = ("state_dict", "model_state_dict", "model", "network", "net", "weights", "params", "module")
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod)\.")  # of DistributedDataParallel and torch.compile


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a network by name, on the CPU, without the wrappers that a training script put around.

    Raises:
        UserError: the file is something else, damaged, holds other objects than tensors, or no dictionary of them.
    """
    state = _load(path)
    while isinstance(state, dict) and (key := next((key for key in _KEYS if isinstance(state.get(key), dict)), None)):
        state = state[key]
    if not (isinstance(state, dict) and state and all(isinstance(value, torch.Tensor) for value in state.values())):
        raise UserError(f"{path} holds no plain dictionary of tensors: pass the network's state dict")
    return {_WRAPPERS.sub("", str(name)): value for name, value in state.items()}


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words advise to switch the safety off.
        if not (named := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise unreadable(path, "a checkpoint", "no pickle of tensors") from None
        raise UserError(
            f"{path} holds Python objects besides tensors ({named[1]}), which may run code: pass a file with the "
            "network's state dict alone"
        ) from None
    except Exception as error:  # torch raises many kinds for a damaged file
        words = "" if "weights_only" in str(error) else str(error)
        raise unreadable(path, "a checkpoint", words or type(error).__name__) from None
