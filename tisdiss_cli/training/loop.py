"""Training loop: draw, step, log, validate, save."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tisdiss_cli.data.dynamic_mixing import generator
from tisdiss_cli.devices import OutOfMemory, memory_guard
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import save_weights
from tisdiss_cli.training.checkpoint import CHECKPOINT, State, save_checkpoint
from tisdiss_cli.training.data import apply_mixing_options
from tisdiss_cli.training.export import WEIGHTS, Best, output_gain, scale_outputs
from tisdiss_cli.training.fabric import Fabric, max_over_ranks
from tisdiss_cli.training.log import LOG, Log, MetricBuffer, plot_curve
from tisdiss_cli.training.recipe import Recipe
from tisdiss_cli.training.schedule import Clock, Schedule
from tisdiss_cli.training.start import RunData
from tisdiss_cli.training.trainer import Trainer
from tisdiss_cli.training.validation import Validation, dry_run, validate

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("tisdiss")

_LEVEL_MIXTURES = 16  # validation mixtures used at most to set the output level


class Training:
    """A training run: its state, its data and the loop.

    A fine-tuning run counts on from the steps of its initial weights, so that it draws new mixtures.
    """

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        *,
        network: TISDiSS,
        run_data: RunData,
        out: Path,
        started: float,
        stored: dict[str, Any] | None = None,
    ) -> None:
        """Moves everything to the device of the launched fabric and restores the checkpoint `stored`, if any.

        `recipe` has all changes of the run, `out` exists, and `started` is a time of `time.monotonic()`. Without
        validation examples the latest weights count as the best.
        """
        self.fabric, self.run_data, self.out = fabric, run_data, out
        schedule, best = Schedule(recipe), Best(recipe.average_best)
        self.state = State(Trainer(fabric, network, recipe), schedule, Clock(started), best, MetricBuffer(fabric))
        if stored:
            self.state.unpack(stored)
        with memory_guard("the training data"):
            self.data = apply_mixing_options(run_data.data.to(fabric.device), schedule.recipe)
        self.before = run_data.origin["before"]  # training behind the initial weights
        self.latest: Validation | None = None  # since the start or the last resume
        self.saved_step = self.state.step  # of the last checkpoint
        # Only the first rank writes.
        self.log = Log(out / LOG if fabric.is_global_zero else Path(os.devnull), recipe.deepest, self.state.step)

    def save(self) -> None:
        """Writes the checkpoint; UserError if a step since the last one was not finite."""
        self.check_finite()
        if self.fabric.is_global_zero:
            save_checkpoint(self.out / CHECKPOINT, {"origin": self.run_data.origin, **self.state.pack()})
        self.saved_step, self.state.clock.saved = self.state.step, time.monotonic()

    def check_finite(self) -> None:
        """Raises a UserError that names the first step with a loss or gradient that is not finite."""
        age = self.state.metrics.reduce()
        if age is not None:
            last = "there is no earlier checkpoint"
            if self.saved_step:
                last = f"the last good checkpoint is {self.out / CHECKPOINT}, of step {self.saved_step}"
            step = self.state.step - age + 1
            raise UserError(f"the loss or gradient of step {step} is not finite: {last}; try a lower learning_rate")

    def apply_changes(self) -> None:
        """Applies the recipe of the coming step and logs how it differs from the last step's."""
        state, repeats = self.state, self.recipe.repeat_range[1]
        changes = state.schedule.advance(state.step, state.clock.elapsed)
        if not changes:
            return
        self.data = apply_mixing_options(self.data, self.recipe)
        if self.recipe.repeat_range[1] != repeats:
            state.best = Best(self.recipe.average_best)  # losses of other exits do not compare
        self.log.add_change(state.step, state.clock.elapsed, changes)
        log.info(f"from step {state.step} on: {changes}")

    @property
    def recipe(self) -> Recipe:
        """Recipe of the coming step."""
        return self.state.schedule.recipe

    @property
    def steps(self) -> int:
        """Steps behind the current weights, those of the initial weights included."""
        return int(self.before.get("steps", 0)) + self.state.step

    def random(self, device: torch.device, *rank: int) -> torch.Generator:
        """Returns the generator of the coming step: one rank's, or without `rank` the same on all ranks."""
        return generator(device, self.recipe.seed, self.steps, *rank)

    def train_step(self, factor: float) -> None:
        """Draws mixtures and trains on them at `factor` (0 to 1) of the rates; UserError if memory runs out."""
        recipe, state = self.recipe, self.state
        random = self.random(self.fabric.device, self.fabric.global_rank)
        low, high = recipe.repeat_range  # the same draw on every rank
        repeats = int(torch.randint(low, high + 1, (), generator=self.random(torch.device("cpu"))))
        try:
            with memory_guard(f"a step of {recipe.batch_size} x {recipe.segment_seconds:g} s of mixtures"):
                batch = self.data.draw(recipe.step_size, recipe.config.speakers, recipe.segment_samples, random)
                metrics = state.trainer.step(*batch, repeats=repeats, recipe=recipe, factor=factor, step=self.steps)
        except OutOfMemory as error:
            raise UserError(f"{error}: lower --batch-size, or pass --activation-checkpointing") from None
        state.metrics.add(*metrics)
        state.step += 1
        state.mixture_seconds += self.step_seconds

    @property
    def step_seconds(self) -> float:
        """Seconds of mixtures in a step, over all devices."""
        recipe = self.recipe
        return recipe.step_size * recipe.segment_samples * self.fabric.world_size / recipe.config.sample_rate

    def validations(self) -> list[Validation]:
        """Returns the validation of every moving average, computed on the first rank; empty without examples."""
        results: list[Validation] = []
        recipe, examples, device = self.recipe, self.run_data.examples, self.fabric.device
        if examples and self.fabric.is_global_zero:
            validated = partial(validate, splitter_weight=recipe.splitter_weight, device=device)
            with memory_guard("the validation"), self.fabric.autocast():
                averages, repeats = self.state.trainer.averages, recipe.repeat_range[1]
                results = [validated(network, examples, repeats=repeats) for network in averages]
        return self.fabric.broadcast(results)

    def end_epoch(self) -> None:
        """Validates, keeps the weights if they are among the best, saves the checkpoint and plots the log."""
        begin, state, averages = time.monotonic(), self.state, self.state.trainer.averages
        self.check_finite()
        state.epoch, state.ended = state.epoch + 1, state.step
        results = self.validations()
        for decay, result in zip(self.recipe.ema_decay, results, strict=False):
            seconds = state.clock.elapsed
            self.log.add_validation(state.step, seconds, ema_decay=decay, loss=result.loss, si_snri=result.si_snri)
        if results:
            state.schedule.plateau.update(min(result.loss for result in results))
        # Without validation the latest weights of the last average count as the best.
        losses = [result.loss for result in results] or [float(-state.step)] * len(averages)
        added = [state.best.add(loss, average.state_dict()) for loss, average in zip(losses, averages, strict=True)]
        best = min(reversed(range(len(losses))), key=losses.__getitem__)
        self.latest = results[best] if results else None
        if any(added) and self.fabric.is_global_zero:
            self.export(self.recipe.ema_decay[best])
        self.save()
        self.plot()
        state.clock.end_epoch(begin)

    def export(self, decay: float) -> None:
        """Writes the mean of the best weights, the latest of which are the moving average with decay `decay`.

        Evenly spaced validation mixtures, or without them one batch, set the output level.
        """
        recipe, state, device, examples = self.recipe, self.state, self.fabric.device, self.run_data.examples
        training = {
            "steps": state.step,
            "minutes": state.clock.elapsed / 60,
            "mixture_hours": state.mixture_seconds / 3600,
        }
        training = {name: round(value + self.before.get(name, 0), 3) for name, value in training.items()}
        info: dict[str, Any] = {"trained": True, "recipe": state.schedule.plan.to_dict()}
        info["training"] = {**training, "device": device.type}
        if self.latest:
            gains = [round(value, 3) for value in self.latest.si_snri]
            info["validation"] = {"mixtures": len(examples), "step": state.step, "ema_decay": decay, "si_snri": gains}
            pairs = [example.on(device) for example in examples[:: -(-len(examples) // _LEVEL_MIXTURES)]]
        else:
            size, speakers = recipe.batch_size, recipe.config.speakers
            pairs = [self.data.draw(size, speakers, recipe.segment_samples, self.random(device))]
        weights, network = state.best.mean(), TISDiSS(recipe.config).to(device).eval()
        network.load_state_dict(weights)
        with self.fabric.autocast():
            gain = output_gain(network, pairs)
        save_weights(self.out / WEIGHTS, recipe.config, scale_outputs(weights, gain), info=info)

    def plot(self) -> None:
        """Plots the log, on the first rank."""
        if self.fabric.is_global_zero:
            plot_curve(self.out)

    def run(self, bar: "tqdm") -> signal.Signals | None:
        """Trains to the end of the schedule and returns None; after SIGINT or SIGTERM, saves and returns the signal.

        `bar` has a total of 100, the percentage of the budget. UserError if a loss or gradient is not finite, or the
        checkpoint cannot be written.
        """
        state, schedule, clock, examples = self.state, self.state.schedule, self.state.clock, self.run_data.examples
        if examples:  # finds errors early, and measures the time to reserve
            averages, repeats = state.trainer.averages, schedule.plan.deepest
            with memory_guard("the validation"), self.fabric.autocast():
                seconds = dry_run(averages[0], examples, repeats=repeats, device=self.fabric.device)
            clock.epoch_end_seconds = max(clock.epoch_end_seconds, 2.0 + seconds * len(averages))
        clock.begin_rows(state.step)
        with deferred_signals() as signals:
            while True:
                self.apply_changes()
                spent = schedule.progress(state.step, clock.elapsed, clock.reserve)
                values = spent, max(signals, default=0), clock.unsaved_minutes
                progress, stop, unsaved = max_over_ranks(self.fabric, *values)
                if stop:
                    self.save()
                    self.plot()
                    return signal.Signals(int(stop))  # perhaps another rank's
                if progress >= 1 or schedule.stops_early:
                    break
                if unsaved >= schedule.plan.checkpoint_minutes:
                    self.save()
                factor = schedule.factor(state.step, progress)
                self.train_step(factor)
                if state.step % self.recipe.log_steps == 0:
                    self.end_row(bar, factor, progress)
                if schedule.ends_epoch(state.step, progress, state.epoch):
                    self.end_epoch()
            if state.ended != state.step:
                self.end_epoch()
        bar.update(100 - bar.n)
        return None

    def end_row(self, bar: "tqdm", factor: float, progress: float) -> None:
        """Writes a row of the log and updates the bar."""
        state = self.state
        self.check_finite()
        loss, norm = state.metrics.pop_means()
        state.clock.end_row(state.step)
        self.log.add(
            state.step,
            state.clock.elapsed,
            learning_rate=f"{factor * self.recipe.learning_rate:.3e}",
            loss=f"{loss:.5f}",
            gradient_norm=f"{norm:.4f}",
            mixture_seconds_per_second=f"{self.step_seconds / state.clock.step_seconds:.2f}",
        )
        validated = " SI-SNRi " + " ".join(f"{value:.2f}" for value in self.latest.si_snri) if self.latest else ""
        bar.set_postfix_str(f"step {state.step} loss {loss:.2f} dB{validated}", refresh=False)
        bar.update(progress * 100 - bar.n)


@contextmanager
def deferred_signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGINT and SIGTERM in a list instead of handling them; restores the former handlers at the end."""
    received: list[signal.Signals] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(signal.Signals(number)))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
