"""The training loop: draw, step, log, validate, save; devices, ranks and precision are Lightning Fabric's."""

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
from tisdiss_cli.training.data import tuned
from tisdiss_cli.training.export import WEIGHTS, Best, output_gain, scale_outputs
from tisdiss_cli.training.fabric import Fabric, agree
from tisdiss_cli.training.learner import Learner
from tisdiss_cli.training.log import LOG, Log, Losses, plot_curve
from tisdiss_cli.training.recipe import Recipe
from tisdiss_cli.training.schedule import Clock, Schedule
from tisdiss_cli.training.start import Material
from tisdiss_cli.training.validation import Validation, rehearse, validate

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("tisdiss")

_LEVELS = 16  # mixtures that the weights' level is taken from


class Training:
    """A run: its state, what it learns from, and the loop over both.

    The step counts from the first of the weights that the run began with, so that fine-tuning sees other mixtures, and
    its moving averages begin with those weights.
    """

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        *,
        network: TISDiSS,
        material: Material,
        out: Path,
        started: float,
        stored: dict[str, Any] | None = None,
    ) -> None:
        """Puts everything on the launched fabric's device, in the state of a `stored` checkpoint if there is one.

        The recipe has all the run's changes; its folder `out` is there; its time runs since `started`, by
        `time.monotonic()`. Without examples to validate on the latest weights count as the best.
        """
        self.fabric, self.material, self.out = fabric, material, out
        schedule, best = Schedule(recipe), Best(recipe.average_best)
        self.state = State(Learner(fabric, network, recipe), schedule, Clock(started), best, Losses(fabric))
        if stored:
            self.state.unpack(stored)
        with memory_guard("all that is drawn from"):
            self.data = tuned(material.data.to(fabric.device), schedule.recipe)
        self.before = material.origin["before"]  # what is behind the weights that the run began with
        self.latest: Validation | None = None  # of this part of the run
        self.saved_step = self.state.step  # of the last checkpoint
        # Only the first rank writes.
        self.log = Log(out / LOG if fabric.is_global_zero else Path(os.devnull), recipe.deepest, self.state.step)

    def save(self) -> None:
        """Writes the checkpoint, unless a step since the last one was not finite."""
        self.check_finite()
        if self.fabric.is_global_zero:
            save_checkpoint(self.out / CHECKPOINT, {"origin": self.material.origin, **self.state.pack()})
        self.saved_step, self.state.clock.saved = self.state.step, time.monotonic()

    def check_finite(self) -> None:
        """Settles the losses; UserError names the first step whose loss or gradient is not finite."""
        ago = self.state.losses.settle()
        if ago is not None:
            last = "no checkpoint was written before"
            if self.saved_step:
                last = f"the last good checkpoint is {self.out / CHECKPOINT}, of step {self.saved_step}"
            step = self.state.step - ago + 1
            raise UserError(f"the loss or gradient of step {step} is not finite: {last}; try a lower learning_rate")

    def change(self) -> None:
        """Brings the recipe of the coming step into force, and says so where it is another than the last step's."""
        state, repeats = self.state, self.recipe.repeat_range[1]
        words = state.schedule.advance(state.step, state.clock.elapsed)
        if not words:
            return
        self.data = tuned(self.data, self.recipe)
        if self.recipe.repeat_range[1] != repeats:
            state.best = Best(self.recipe.average_best)  # the loss of other exits is no measure for these
        self.log.add_change(state.step, state.clock.elapsed, words)
        log.info(f"from step {state.step} on: {words}")

    @property
    def recipe(self) -> Recipe:
        """That of the coming step."""
        return self.state.schedule.recipe

    @property
    def steps(self) -> int:
        """Steps that are behind the weights."""
        return int(self.before.get("steps", 0)) + self.state.step

    def random(self, device: torch.device, *rank: int) -> torch.Generator:
        """Returns the coming step's random numbers: one rank's, or those that all ranks have in common."""
        return generator(device, self.recipe.seed, self.steps, *rank)

    def train_step(self, factor: float) -> None:
        """Draws, runs and learns from one batch, at a share of the learning rates; nothing waits for the device.

        UserError where the memory of the device does not suffice.
        """
        recipe, state = self.recipe, self.state
        random = self.random(self.fabric.device, self.fabric.global_rank)
        low, high = recipe.repeat_range  # the same draw on every rank
        repeats = int(torch.randint(low, high + 1, (), generator=self.random(torch.device("cpu"))))
        try:
            with memory_guard(f"a step of {recipe.batch_size} x {recipe.segment_seconds:g} s of mixtures"):
                batch = self.data.draw(recipe.step_size, recipe.config.speakers, recipe.segment_samples, random)
                taken = state.learner.learn(*batch, repeats=repeats, recipe=recipe, factor=factor, step=self.steps)
        except OutOfMemory as error:
            raise UserError(
                f"{error}: lower --batch-size or --segment-seconds, or pass --activation-checkpointing"
            ) from None
        state.losses.add(*taken)
        state.step += 1
        state.mixture_seconds += self.step_seconds

    @property
    def step_seconds(self) -> float:
        """Seconds of mixture in a step, over all devices."""
        recipe = self.recipe
        return recipe.step_size * recipe.segment_samples * self.fabric.world_size / recipe.config.sample_rate

    def validations(self) -> list[Validation]:
        """Validates every moving average, on the first rank for all; returns nothing without examples."""
        results: list[Validation] = []
        recipe, examples, device = self.recipe, self.material.examples, self.fabric.device
        if examples and self.fabric.is_global_zero:
            validated = partial(validate, measure=recipe.loss, splitter_weight=recipe.splitter_weight, device=device)
            with memory_guard("the validation"), self.fabric.autocast():
                averages, repeats = self.state.learner.averages, recipe.repeat_range[1]
                results = [validated(network, examples, repeats=repeats) for network in averages]
        return self.fabric.broadcast(results)

    def end_epoch(self) -> None:
        """Validates, keeps the weights if they are among the best, saves the checkpoint, draws the curve."""
        begin, state, averages = time.monotonic(), self.state, self.state.learner.averages
        self.check_finite()
        state.epoch, state.ended = state.epoch + 1, state.step
        results = self.validations()
        for decay, one in zip(self.recipe.ema_decay, results, strict=False):
            seconds = state.clock.elapsed
            self.log.add_validation(state.step, seconds, ema_decay=decay, loss=one.loss, si_snri=one.si_snri)
        if results:
            state.schedule.plateau.update(min(one.loss for one in results))
        # Without validation the latest weights count as the best, of several averages the last one's.
        losses = [one.loss for one in results] or [float(-state.step)] * len(averages)
        added = [state.best.add(loss, one.state_dict()) for loss, one in zip(losses, averages, strict=True)]
        place = min(reversed(range(len(losses))), key=losses.__getitem__)
        self.latest = results[place] if results else None
        if any(added) and self.fabric.is_global_zero:
            self.export(self.recipe.ema_decay[place])
        self.save()
        self.draw_curve()
        state.clock.end_epoch(begin)

    def export(self, decay: float) -> None:
        """Writes the mean of the best weights, the latest of which are the moving average with that decay.

        Their level is taken from some of the validation set, evenly spread, or from a batch.
        """
        recipe, state, device, examples = self.recipe, self.state, self.fabric.device, self.material.examples
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
            pairs = [example.on(device) for example in examples[:: -(-len(examples) // _LEVELS)]]
        else:
            size, speakers = recipe.batch_size, recipe.config.speakers
            pairs = [self.data.draw(size, speakers, recipe.segment_samples, self.random(device))]
        weights, network = state.best.mean(), TISDiSS(recipe.config).to(device).eval()
        network.load_state_dict(weights)
        with self.fabric.autocast():
            gain = output_gain(network, pairs)
        save_weights(self.out / WEIGHTS, recipe.config, scale_outputs(weights, gain), info=info)

    def draw_curve(self) -> None:
        """Draws the log, on the first rank."""
        if self.fabric.is_global_zero:
            plot_curve(self.out)

    def run(self, bar: "tqdm") -> signal.Signals | None:
        """Takes steps, with their rows, epochs and checkpoints, to the end of the schedule.

        SIGINT or SIGTERM saves first, and is returned. The bar, of a total of 100, is brought to the spent share with
        every row of the log. UserError if a loss or gradient is not finite, or the checkpoint cannot be written.
        """
        state, schedule, clock, examples = self.state, self.state.schedule, self.state.clock, self.material.examples
        if examples:  # so that nothing goes wrong later, and the time it takes is known
            averages, repeats = state.learner.averages, schedule.plan.deepest
            with memory_guard("the validation"), self.fabric.autocast():
                seconds = rehearse(averages[0], examples, repeats=repeats, device=self.fabric.device)
            clock.epoch_end_seconds = max(clock.epoch_end_seconds, 2.0 + seconds * len(averages))
        clock.begin_rows(state.step)
        with signals_noted() as signals:
            while True:
                self.change()
                spent = schedule.progress(state.step, clock.elapsed, clock.reserve)
                progress, stop, unsaved = agree(self.fabric, spent, max(signals, default=0), clock.unsaved_minutes)
                if stop:
                    self.save()
                    self.draw_curve()
                    return signal.Signals(int(stop))  # perhaps another rank's
                if progress >= 1 or schedule.exhausted:
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
        """Writes a row of the log, and moves the bar."""
        state = self.state
        self.check_finite()
        loss, norm = state.losses.close()
        state.clock.end_row(state.step)
        self.log.add(
            state.step,
            state.clock.elapsed,
            learning_rate=f"{factor * self.recipe.learning_rate:.3e}",
            loss=f"{loss:.5f}",
            gradient_norm=f"{norm:.4f}",
            mixture_seconds_per_second=f"{self.step_seconds / state.clock.step_seconds:.2f}",
        )
        seen = " SI-SNRi " + " ".join(f"{value:.2f}" for value in self.latest.si_snri) if self.latest else ""
        bar.set_postfix_str(f"step {state.step} loss {loss:.2f} dB{seen}", refresh=False)
        bar.update(progress * 100 - bar.n)


@contextmanager
def signals_noted() -> Iterator[list[signal.Signals]]:
    """Takes SIGINT and SIGTERM down in a list while it is entered; afterwards the former handlers are back."""
    seen: list[signal.Signals] = []
    before = {
        number: signal.signal(number, lambda number, _: seen.append(signal.Signals(number)))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
