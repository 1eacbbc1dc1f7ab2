"""The clock of a run: how long it has taken, and how long its next pieces will."""

import time


class Clock:
    """Seconds spent on a run, interruptions left out, and those that its end will need."""

    def __init__(self, started: float) -> None:
        """`started` is the `time.monotonic()` at which the time budget began to run."""
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
    def minutes(self) -> float:
        """`elapsed` in minutes."""
        return self.elapsed / 60

    @property
    def unsaved_minutes(self) -> float:
        """Minutes since the last checkpoint, or since the run went on."""
        return (time.monotonic() - self.saved) / 60

    @property
    def reserve(self) -> float:
        """Seconds that the end of a time budget is kept free for: the last step, validation and save."""
        return 1.2 * self.epoch_end_seconds + self.step_seconds

    def begin_rows(self, step: int) -> None:
        """The steps after `step` are timed from now on."""
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
