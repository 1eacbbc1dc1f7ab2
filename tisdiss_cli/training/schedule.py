"""Learning rates and time: the paper's schedule, one that fits a budget of time or steps, and one without an end."""

import time
from dataclasses import dataclass

from tisdiss_cli.training.recipe import Recipe


@dataclass
class Plateau:
    """Halves the rate when the validation loss has not improved for `patience` epochs (the paper: 3).

    `bad` counts the epochs since the best, for early stopping too.
    """

    patience: int
    best: float = float("inf")
    factor: float = 1.0
    bad: int = 0

    def update(self, loss: float) -> None:
        """Takes an epoch's validation loss."""
        if loss < self.best:
            self.best, self.bad = loss, 0
            return
        self.bad += 1
        if self.bad % self.patience == 0:
            self.factor /= 2


def budget_factor(progress: float, warm_up_share: float, decay_share: float = 1.0) -> float:
    """Rises linearly over the first share of a budget, stays 1, falls linearly to exactly 0 in the last share.

    `progress` is the spent share, 0 to 1; the decay begins after the warm-up at the earliest.
    """
    if progress < warm_up_share:
        return max(progress / warm_up_share, 1e-3)
    return min(1.0, max(0.0, (1 - progress) / min(decay_share, 1 - warm_up_share)))


class Clock:
    """Seconds spent on a run, interruptions left out, and those that its end will need."""

    def __init__(self, started: float) -> None:
        """Begins at `started`, by `time.monotonic()`."""
        self.started, self.before = started, 0.0  # before: seconds spent until the run was resumed
        # The longest end of an epoch so far, and a step of the last row: kept free in a time budget for its end.
        self.epoch_end_seconds, self.step_seconds = 2.0, 0.0
        self.saved = self.row_began = time.monotonic()
        self.row_step = 0

    @property
    def elapsed(self) -> float:
        """Seconds spent on this run."""
        return self.before + time.monotonic() - self.started

    @property
    def unsaved_minutes(self) -> float:
        """Minutes since the last checkpoint, or since the run went on."""
        return (time.monotonic() - self.saved) / 60

    @property
    def reserve(self) -> float:
        """Seconds that the end of a time budget is kept free for: the last step, validation and save."""
        return 1.2 * self.epoch_end_seconds + self.step_seconds

    def begin_rows(self, step: int) -> None:
        """Times the steps after `step` from now on."""
        self.row_began, self.row_step = time.monotonic(), step

    def end_row(self, step: int) -> None:
        """Takes the mean duration of the steps of a row, which ends with `step`."""
        self.step_seconds = (time.monotonic() - self.row_began) / (step - self.row_step)
        self.begin_rows(step)

    def end_epoch(self, began: float) -> None:
        """Takes the duration of an epoch's end, begun at `began`, which is no part of its row."""
        seconds = time.monotonic() - began
        self.epoch_end_seconds = max(self.epoch_end_seconds, seconds)
        self.row_began += seconds


class Schedule:
    """The recipe of the coming step, and what rate follows from where a run is in its budget, cooldown or epochs."""

    def __init__(self, plan: Recipe) -> None:
        """Takes the recipe of the whole run, with all its changes."""
        self.plan, self.recipe = plan, plan.at(0)
        self.plateau, self.budgeted = Plateau(plan.patience), bool(plan.minutes or plan.steps)
        self.cooling_since: float | None = None  # seconds into the run when its cooldown began

    def advance(self, step: int, seconds: float) -> str:
        """Brings the recipe of the step after `step` steps into force; returns how it differs from the last step's."""
        old, self.recipe = self.recipe.to_dict(), self.plan.at(step)
        if self.recipe.cooldown and self.cooling_since is None:
            self.cooling_since = seconds
        new = self.recipe.to_dict()
        return ", ".join(f"{name} {old[name]} -> {new[name]}" for name in new if new[name] != old[name])

    def progress(self, step: int, seconds: float, reserve: float) -> float:
        """Returns the share, 0 to 1, that is spent of the budget; of an open-ended run, of its cooldown.

        Of a budget of time, `reserve` seconds at its end are kept for the last step, validation and save.
        """
        recipe = self.recipe
        if recipe.open_ended:
            if self.cooling_since is None:
                return 0.0
            return min(1.0, (seconds - self.cooling_since) / max(1e-3, recipe.cooldown * 60 - reserve))
        if recipe.minutes:
            return min(1.0, seconds / max(1e-3, recipe.minutes * 60 - reserve))
        return min(1.0, step / (recipe.steps or recipe.epochs * recipe.epoch_steps))

    def factor(self, step: int, progress: float) -> float:
        """Returns the share of the recipe's learning rates for the coming step, when `step` steps are done."""
        recipe = self.recipe
        if self.budgeted:
            return budget_factor(progress, recipe.warm_up_share, recipe.decay_share)
        warm = min(1.0, (step + 1) / max(recipe.warm_up_steps, 1))  # linearly, from above 0 (the paper: 2000 steps)
        return warm * (1 - progress) if recipe.open_ended else warm * self.plateau.factor

    def ends_epoch(self, step: int, progress: float, epochs: int) -> bool:
        """Tells if the next epoch is over: after `epoch_steps` steps, or when the next part of the budget is spent."""
        recipe = self.recipe
        if recipe.steps:
            return step >= recipe.steps * (epochs + 1) / recipe.budget_epochs
        if recipe.minutes:
            return progress >= (epochs + 1) / recipe.budget_epochs
        return step % recipe.epoch_steps == 0

    @property
    def exhausted(self) -> bool:
        """True when the paper's early stop applies: no improvement for `stop_after` epochs."""
        return not self.budgeted and not self.recipe.open_ended and self.plateau.bad >= self.recipe.stop_after
