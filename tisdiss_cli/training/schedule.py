"""Learning-rate schedules: the paper's, one for a budget of time or steps, and an open-ended one with a cooldown."""

import time
from dataclasses import dataclass

from tisdiss_cli.training.recipe import Recipe


@dataclass
class Plateau:
    """Halving of the learning rate after `patience` epochs without a lower validation loss (the paper: 3)."""

    patience: int
    best: float = float("inf")  # lowest validation loss
    factor: float = 1.0  # share of the learning rate
    bad: int = 0  # epochs since the best, also for early stopping

    def update(self, loss: float) -> None:
        """Updates the factor with an epoch's validation loss."""
        if loss < self.best:
            self.best, self.bad = loss, 0
            return
        self.bad += 1
        if self.bad % self.patience == 0:
            self.factor /= 2


def budget_factor(progress: float, warm_up_share: float, decay_share: float = 1.0) -> float:
    """Returns the share of the learning rate: linear warm-up, constant 1, linear decay to exactly 0.

    All arguments are shares of the budget, 0 to 1; the decay begins after the warm-up at the earliest.
    """
    if progress < warm_up_share:
        return max(progress / warm_up_share, 1e-3)
    return min(1.0, max(0.0, (1 - progress) / min(decay_share, 1 - warm_up_share)))


class Clock:
    """Time spent on a run, without interruptions, and the time its end will need."""

    def __init__(self, started: float) -> None:
        """Begins at `started`, by `time.monotonic()`."""
        self.started, self.before = started, 0.0  # before: seconds spent until the run was resumed
        # The longest end of an epoch so far, and the mean step of the last row.
        self.epoch_end_seconds, self.step_seconds = 2.0, 0.0
        self.saved = self.row_began = time.monotonic()
        self.row_step = 0

    @property
    def elapsed(self) -> float:
        """Seconds spent on this run."""
        return self.before + time.monotonic() - self.started

    @property
    def unsaved_minutes(self) -> float:
        """Minutes since the last checkpoint, or since the run was resumed."""
        return (time.monotonic() - self.saved) / 60

    @property
    def reserve(self) -> float:
        """Seconds to keep free at the end of a time budget for the last step, validation and save."""
        return 1.2 * self.epoch_end_seconds + self.step_seconds

    def begin_rows(self, step: int) -> None:
        """Times the steps after `step` from now on."""
        self.row_began, self.row_step = time.monotonic(), step

    def end_row(self, step: int) -> None:
        """Measures the mean duration of a step in the row that ends with `step`."""
        self.step_seconds = (time.monotonic() - self.row_began) / (step - self.row_step)
        self.begin_rows(step)

    def end_epoch(self, began: float) -> None:
        """Measures an end of an epoch that began at `began`, and leaves it out of the row."""
        seconds = time.monotonic() - began
        self.epoch_end_seconds = max(self.epoch_end_seconds, seconds)
        self.row_began += seconds


class Schedule:
    """Recipe and learning rate of the coming step, by budget, cooldown or epochs."""

    def __init__(self, plan: Recipe) -> None:
        """Begins at step 0 of `plan`, the recipe of the whole run with all its changes."""
        self.plan, self.recipe = plan, plan.at(0)
        self.plateau, self.budgeted = Plateau(plan.patience), bool(plan.minutes or plan.steps)
        self.cooling_since: float | None = None  # seconds into the run when its cooldown began

    def advance(self, step: int, seconds: float) -> str:
        """Applies the recipe of the step after `step` steps and returns its differences as text, empty if none."""
        old, self.recipe = self.recipe.to_dict(), self.plan.at(step)
        if self.recipe.cooldown and self.cooling_since is None:
            self.cooling_since = seconds
        new = self.recipe.to_dict()
        return ", ".join(f"{name} {old[name]} -> {new[name]}" for name in new if new[name] != old[name])

    def progress(self, step: int, seconds: float, reserve: float) -> float:
        """Returns the spent share, 0 to 1, of the budget, or of the cooldown of an open-ended run.

        A budget or cooldown in minutes counts as spent `reserve` seconds before its end.
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
        warm = min(1.0, (step + 1) / max(recipe.warm_up_steps, 1))  # linear, above 0 (the paper: 2000 steps)
        return warm * (1 - progress) if recipe.open_ended else warm * self.plateau.factor

    def ends_epoch(self, step: int, progress: float, epochs: int) -> bool:
        """Returns True if epoch `epochs` ends: after `epoch_steps` steps, or when its share of the budget is spent."""
        recipe = self.recipe
        if recipe.steps:
            return step >= recipe.steps * (epochs + 1) / recipe.budget_epochs
        if recipe.minutes:
            return progress >= (epochs + 1) / recipe.budget_epochs
        return step % recipe.epoch_steps == 0

    @property
    def stops_early(self) -> bool:
        """True if the paper's early stopping applies: no improvement for `stop_after` epochs."""
        return not self.budgeted and not self.recipe.open_ended and self.plateau.bad >= self.recipe.stop_after
