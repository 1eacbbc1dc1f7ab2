"""Learning-rate schedules: the paper's, and one that fits a budget of time or steps."""

from dataclasses import dataclass


@dataclass
class Plateau:
    """Halves the rate when the validation loss has not improved for `patience` epochs (the paper: 3).

    `bad` counts the epochs since the best, for early stopping too.
    """

    patience: int
    best: float = float("inf")
    factor: float = 1.0
    bad: int = 0

    def update(self, loss: float) -> bool:
        """Takes an epoch's validation loss; True if it is the best so far."""
        if loss < self.best:
            self.best, self.bad = loss, 0
            return True
        self.bad += 1
        if self.bad % self.patience == 0:
            self.factor /= 2
        return False


def warm_up(step: int, steps: int) -> float:
    """Linear from above 0 at step 0 to 1 at `steps` (the paper: 2000)."""
    return min(1.0, (step + 1) / max(steps, 1))


def budget_factor(progress: float, warm_up_share: float) -> float:
    """Linear warm-up over the first share of the budget, then linear decay to exactly 0 at its end.

    Args:
        progress: spent share of the budget, 0 to 1.
        warm_up_share: 0 to below 1.
    """
    if progress < warm_up_share:
        return max(progress / warm_up_share, 1e-3)
    return max(0.0, (1 - progress) / (1 - warm_up_share))
