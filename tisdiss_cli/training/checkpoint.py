"""Checkpoints of a training run: all that a run has come to, written whole or not at all, read back exactly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import replacing
from tisdiss_cli.training.export import Best
from tisdiss_cli.training.learner import Learner
from tisdiss_cli.training.log import Losses
from tisdiss_cli.training.schedule import Clock, Plateau, Schedule

CHECKPOINT = "checkpoint.pt"
FORMAT = "tisdiss-training-3"
_COUNTERS = ("step", "epoch", "ended", "mixture_seconds")


@dataclass
class State:
    """Progress of a run. Everything random follows from seed, step and rank, so this is all that a checkpoint needs."""

    learner: Learner
    schedule: Schedule
    clock: Clock
    best: Best
    losses: Losses
    step: int = 0  # steps done
    epoch: int = 0  # epochs ended
    ended: int = -1  # the step at which the last one did
    mixture_seconds: float = 0.0  # heard so far

    def pack(self) -> dict[str, Any]:
        """Returns it as tensors, numbers and text."""
        losses = self.losses.pending
        return {
            "recipe": self.schedule.plan.to_dict(),
            **self.learner.state(),
            **{name: getattr(self, name) for name in _COUNTERS},
            "seconds": self.clock.elapsed,
            "cooling_since": self.schedule.cooling_since,
            "reserve": [self.clock.epoch_end_seconds, self.clock.step_seconds],
            "plateau": vars(self.schedule.plateau),
            "best": vars(self.best),
            "pending": torch.stack(losses).cpu() if losses else torch.zeros(0, 2),
        }

    def unpack(self, stored: dict[str, Any]) -> None:
        """Goes back to where `pack` was called."""
        self.learner.restore(stored)
        for name in _COUNTERS:
            setattr(self, name, stored[name])
        self.schedule.recipe = self.schedule.plan.at(self.step - 1)  # the last step's; `advance` tells later changes
        self.schedule.cooling_since, self.schedule.plateau = stored["cooling_since"], Plateau(**stored["plateau"])
        self.clock.before = stored["seconds"]
        self.clock.epoch_end_seconds, self.clock.step_seconds = stored["reserve"]
        self.best = Best(**stored["best"])
        self.losses.pending = list(stored["pending"].to(self.losses.fabric.device))


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
    """Returns what `save_checkpoint` wrote, on the CPU; UserError when there is none or it is damaged."""
    if not path.is_file():
        raise UserError(f"there is no {path} to resume from: leave --resume out to start this run")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        # Whose words are of no help, or advise to switch the safety off.
        reason = getattr(error, "strerror", None) or "it is damaged, or holds other objects than tensors and text"
        raise UserError(f"{path} cannot be read as a checkpoint ({reason})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a checkpoint of this version of 'tisdiss train': train on from its weights with --init"
        )
    return state
