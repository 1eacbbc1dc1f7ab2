"""Learning-rate schedules: the paper's, one that fits a budget of time or steps, and one without an end."""

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


def warm_up(step: int, steps: int) -> float:
    """Linear from above 0 at step 0 to 1 at `steps` (the paper: 2000)."""
    return min(1.0, (step + 1) / max(steps, 1))


def budget_factor(progress: float, warm_up_share: float, decay_share: float = 1.0) -> float:
    """Linear warm-up over the first share of the budget, then 1, then linear decay to exactly 0 in the last share.

    Args:
        progress: spent share of the budget, 0 to 1.
        warm_up_share: 0 to below 1.
        decay_share: above 0, at most 1; the decay begins after the warm-up at the earliest.
    """
    if progress < warm_up_share:
        return max(progress / warm_up_share, 1e-3)
    return min(1.0, max(0.0, (1 - progress) / min(decay_share, 1 - warm_up_share)))


class Schedule:
    """Where a run is in its budget, in its cooldown, or else in the paper's epochs, and what follows from it.

    `recipe` is that of the coming step; who trains replaces it where an open-ended run changes.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.plateau = recipe, Plateau(recipe.patience)
        self.budgeted = bool(recipe.minutes or recipe.steps)
        self.cooling_since: float | None = None  # seconds into the run when its cooldown began

    def progress(self, step: int, seconds: float, reserve: float) -> float:
        """The spent share, 0 to 1, after so many steps and seconds; of an open-ended run, of its cooldown.

        `reserve` seconds at the end of a time budget are kept for the last step, validation and save.
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
        """The share of the recipe's learning rates for the coming step, when `step` steps are done."""
        recipe = self.recipe
        if self.budgeted:
            return budget_factor(progress, recipe.warm_up_share, recipe.decay_share)
        warm = warm_up(step, recipe.warm_up_steps)
        return warm * (1 - progress) if recipe.open_ended else warm * self.plateau.factor

    def ends_epoch(self, step: int, progress: float, epochs: int) -> bool:
        """Whether the next epoch is over: after `epoch_steps` steps, or when the next part of the budget is spent."""
        recipe = self.recipe
        if recipe.steps:
            return step >= recipe.steps * (epochs + 1) / recipe.budget_epochs
        if recipe.minutes:
            return progress >= (epochs + 1) / recipe.budget_epochs
        return step % recipe.epoch_steps == 0

    @property
    def exhausted(self) -> bool:
        """Whether the paper's early stop applies: no improvement for `stop_after` epochs."""
        return not self.budgeted and not self.recipe.open_ended and self.plateau.bad >= self.recipe.stop_after
