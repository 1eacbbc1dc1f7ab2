"""Checkpoints of a training run: written whole or not at all, read back exactly."""

import pickle
from pathlib import Path
from typing import Any

import torch

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import replacing

CHECKPOINT = "checkpoint.pt"
FORMAT = "tisdiss-training-3"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replaces `path` by `state` (tensors, numbers, text, lists, dictionaries), durably, in one step."""
    try:
        with replacing(path, durable=True) as part, part.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): make room or name another OUT"
        ) from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote, on the CPU; UserError when there is none or it is damaged."""
    if not path.is_file():
        raise UserError(f"there is no {path} to resume from: leave --resume out to start this run")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to switch the safety off
            reason = "it is damaged, or holds other objects than tensors, numbers and text"
        raise UserError(f"{path} cannot be read as a checkpoint ({reason})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a checkpoint of this version of 'tisdiss train': train on from its weights with --init"
        )
    return state
