"""Checkpoints of a training run, written atomically and restored exactly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import writing
from tisdiss_cli.training.export import Best
from tisdiss_cli.training.log import MetricBuffer
from tisdiss_cli.training.schedule import Clock, Plateau, Schedule
from tisdiss_cli.training.trainer import Trainer

CHECKPOINT = "checkpoint.pt"
FORMAT = "tisdiss-training-3"
_COUNTERS = ("step", "epoch", "ended", "mixture_seconds")


@dataclass
class State:
    """Complete state of a run: random numbers depend on seed, step and rank alone, so no generator is stored."""

    trainer: Trainer
    schedule: Schedule
    clock: Clock
    best: Best
    metrics: MetricBuffer
    step: int = 0  # steps done
    epoch: int = 0  # epochs ended
    ended: int = -1  # step at which the last epoch ended
    mixture_seconds: float = 0.0  # seconds of mixtures trained on

    def pack(self) -> dict[str, Any]:
        """Returns the state as tensors, numbers and text."""
        pending = self.metrics.pending
        return {
            "recipe": self.schedule.plan.to_dict(),
            **self.trainer.state(),
            **{name: getattr(self, name) for name in _COUNTERS},
            "seconds": self.clock.elapsed,
            "cooling_since": self.schedule.cooling_since,
            "reserve": [self.clock.epoch_end_seconds, self.clock.step_seconds],
            "plateau": vars(self.schedule.plateau),
            "best": vars(self.best),
            "pending": torch.stack(pending).cpu() if pending else torch.zeros(0, 2),
        }

    def unpack(self, stored: dict[str, Any]) -> None:
        """Restores the state that `pack` returned."""
        self.trainer.restore(stored)
        for name in _COUNTERS:
            setattr(self, name, stored[name])
        self.schedule.recipe = self.schedule.plan.at(self.step - 1)  # the last step's; `advance` applies later changes
        self.schedule.cooling_since, self.schedule.plateau = stored["cooling_since"], Plateau(**stored["plateau"])
        self.clock.before = stored["seconds"]
        self.clock.epoch_end_seconds, self.clock.step_seconds = stored["reserve"]
        self.best = Best(**stored["best"])
        self.metrics.pending = list(stored["pending"].to(self.metrics.fabric.device))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors, numbers, text, lists, dictionaries) to `path`, atomically and durably."""
    with writing(path, durable=True) as part, part.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the state from `path`, on the CPU; UserError if the file is missing or damaged."""
    if not path.is_file():
        raise UserError(f"there is no {path} to resume from: leave --resume out to start this run")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        # Their texts do not help, or advise unsafe loading.
        reason = getattr(error, "strerror", None) or "it is damaged or holds objects other than tensors and text"
        raise UserError(f"{path} is no checkpoint ({reason}): start the run again in another OUT") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is another version's checkpoint: start a run from its weights with --init")
    return state
