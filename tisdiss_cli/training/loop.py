"""The training loop: draw, step, log, validate, save; devices, ranks and precision are Lightning Fabric's."""

import logging
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric

from tisdiss_cli.data.dynamic_mixing import generator
from tisdiss_cli.devices import OutOfMemory, memory_guard
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.checkpoint import CHECKPOINT, save_checkpoint
from tisdiss_cli.training.clock import Clock
from tisdiss_cli.training.curve import plot_curve
from tisdiss_cli.training.data import Data, Example, tuning
from tisdiss_cli.training.export import WEIGHTS, Best, describe, export, level_pairs
from tisdiss_cli.training.fabric import agree
from tisdiss_cli.training.interrupt import Interrupt
from tisdiss_cli.training.learner import Learner
from tisdiss_cli.training.ledger import Ledger
from tisdiss_cli.training.log import LOG, Log
from tisdiss_cli.training.recipe import Recipe
from tisdiss_cli.training.schedule import Plateau, Schedule
from tisdiss_cli.training.validation import Validation, rehearse, validate

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("tisdiss")


class Training:
    """One run. A checkpoint holds its tensors and counters; everything random follows from seed, step and rank.

    The step counts from the first of the weights that the run began with, so that fine-tuning sees other mixtures, and
    its moving averages begin with those weights.
    """

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        *,
        network: TISDiSS,
        data: Data,
        examples: list[Example],
        out: Path,
        origin: dict[str, Any] | None = None,
        started: float | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Puts everything on the device, in the state that a checkpoint has.

        Args:
            fabric: launched.
            recipe: of the run, with all its changes.
            network: to train, on the CPU.
            data: to draw from.
            examples: to validate on; without any the latest weights count as the best.
            out: folder of the run, which is there.
            origin: where the data came from, for the checkpoint.
            started: `time.monotonic()` when the time budget began to run; now if it is not given.
            state: of a checkpoint, to continue from.
        """
        self.fabric, self.recipe, self.out, self.origin = fabric, recipe, out, origin or {}
        self.now = recipe.at(0)  # the recipe of the coming step
        with memory_guard("all that is drawn from"):
            self.data, self.examples = data.to(fabric.device), examples
        self.learner, self.config = Learner(fabric, network, recipe), network.config
        self.schedule, self.best = Schedule(recipe), Best(recipe.average_best)
        self.clock = Clock(time.monotonic() if started is None else started)
        self.ledger = Ledger(fabric)
        self.step, self.epoch, self.mixture_seconds = 0, 0, 0.0
        self.steps_before = int(self.origin.get("before", {}).get("steps", 0))  # of the weights that it began with
        self.ended = -1  # the step at which the last epoch ended
        self.latest: Validation | None = None  # of this part of the run
        if state:
            self.restore(state)
        self.saved_step = self.step  # of the last checkpoint
        self.clock.begin_rows(self.step)
        # Only the first rank writes.
        self.log = Log(out / LOG, recipe.deepest, self.step) if fabric.is_global_zero else None

    def restore(self, state: dict[str, Any]) -> None:
        """Continues where the checkpoint was written."""
        self.learner.restore(state)
        self.step, self.epoch, self.clock.before = state["step"], state["epoch"], state["seconds"]
        self.now = self.recipe.at(self.step - 1)  # the last step's; what has changed since comes into force in `change`
        self.data = self.data.retuned(**tuning(self.now))
        self.ended, self.mixture_seconds = state["ended"], state["mixture_seconds"]
        self.schedule.cooling_since = state["cooling_since"]
        self.clock.epoch_end_seconds, self.clock.step_seconds = state["reserve"]
        self.schedule.plateau = Plateau(**state["plateau"])
        self.best = Best(**state["best"])
        self.ledger.restore(state["pending"])

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "recipe": self.recipe.to_dict(),
            "origin": self.origin,
            **self.learner.state(),
            "step": self.step,
            "epoch": self.epoch,
            "ended": self.ended,
            "seconds": self.clock.elapsed,
            "mixture_seconds": self.mixture_seconds,
            "cooling_since": self.schedule.cooling_since,
            "reserve": [self.clock.epoch_end_seconds, self.clock.step_seconds],
            "plateau": vars(self.schedule.plateau),
            "best": vars(self.best),
            "pending": self.ledger.state(),
        }

    def save(self) -> None:
        """Writes the checkpoint, unless a step since the last one was not finite."""
        self.check_finite()
        if self.fabric.is_global_zero:
            save_checkpoint(self.out / CHECKPOINT, self.state())
        self.saved_step, self.clock.saved = self.step, time.monotonic()

    def check_finite(self) -> None:
        """Settles the ledger; UserError names the first step whose loss or gradient is not finite."""
        ago = self.ledger.settle()
        if ago is not None:
            last = "no checkpoint was written before"
            if self.saved_step:
                last = f"the last good checkpoint is {self.out / CHECKPOINT}, of step {self.saved_step}"
            step = self.step - ago + 1
            raise UserError(f"the loss or gradient of step {step} is not finite: {last}; try a lower learning_rate")

    @property
    def progress(self) -> float:
        """The spent share of the budget, or of the epochs."""
        return self.schedule.progress(self.step, self.clock.elapsed, self.clock.reserve)

    def change(self) -> None:
        """Brings the recipe of the coming step into force, and says so where it is another than the last step's."""
        before, self.now = self.now, self.recipe.at(self.step)
        self.schedule.recipe = self.now
        if self.now.cooldown and self.schedule.cooling_since is None:
            self.schedule.cooling_since = self.clock.elapsed
        if self.now == before:
            return
        self.data = self.data.retuned(**tuning(self.now))
        if self.now.repeat_range[1] != before.repeat_range[1]:
            self.best = Best(self.recipe.average_best)  # the loss of other exits is no measure for these
        old, new = before.to_dict(), self.now.to_dict()
        words = ", ".join(f"{name} {old[name]} -> {new[name]}" for name in new if new[name] != old[name])
        if self.log:
            self.log.add_change(self.step, self.clock.minutes, words)
        log.info(f"from step {self.step} on: {words}")

    def random(self, device: torch.device, *rank: int) -> torch.Generator:
        """The coming step's random numbers: one rank's, or those that all ranks have in common."""
        return generator(device, self.recipe.seed, self.steps_before + self.step, *rank)

    def train_step(self, factor: float) -> None:
        """Draws, runs and learns from one batch, at a share of the learning rates; nothing waits for the device.

        Raises:
            UserError: the memory of the device does not suffice.
        """
        try:
            with memory_guard(f"a step of {self.now.batch_size} x {self.now.segment_seconds:g} s of mixtures"):
                self._train_step(factor)
        except OutOfMemory as error:
            raise UserError(
                f"{error}: lower --batch-size or --segment-seconds, or pass --activation-checkpointing"
            ) from None

    def _train_step(self, factor: float) -> None:
        recipe, speakers = self.now, self.config.speakers
        random = self.random(self.fabric.device, self.fabric.global_rank)
        mixture, references = self.data.draw(recipe.step_size, speakers, recipe.segment_samples, random)
        low, high = recipe.repeat_range  # the same draw on every rank
        repeats = int(torch.randint(low, high + 1, (), generator=self.random(torch.device("cpu"))))
        loss, norm = self.learner.learn(
            mixture, references, repeats=repeats, recipe=recipe, factor=factor, step=self.steps_before + self.step
        )
        self.ledger.add(loss, norm)
        self.step += 1
        self.mixture_seconds += self.batch_seconds

    def validations(self) -> list[Validation]:
        """Of every moving average, known to every rank; none without examples."""
        results: list[Validation] = []
        if self.examples and self.fabric.is_global_zero:
            with memory_guard("the validation"), self.fabric.autocast():
                results = [self.validate(average) for average in self.learner.averages]
        return self.fabric.broadcast(results) if self.fabric.world_size > 1 else results

    def validate(self, network: TISDiSS) -> Validation:
        """Of a network of this run's, at the most repeats of a step."""
        return validate(
            network,
            self.examples,
            repeats=self.now.repeat_range[1],
            device=self.fabric.device,
            measure=self.now.loss,
            splitter_weight=self.now.splitter_weight,
        )

    def epoch_end(self) -> None:
        """Validates, keeps the weights if they are among the best, saves the checkpoint, draws the curve."""
        begin = time.monotonic()
        self.check_finite()
        self.epoch, self.ended = self.epoch + 1, self.step
        results = self.validations()
        if self.log:
            for decay, result in zip(self.now.ema_decay, results, strict=False):
                minutes, gains = self.clock.minutes, result.si_snri
                self.log.add_validation(self.step, minutes, ema_decay=decay, loss=result.loss, si_snri=gains)
        # Without validation the latest weights count as the best, of several averages the last one's.
        losses = [result.loss for result in results] or [float(-self.step)] * len(self.learner.averages)
        if results:
            self.schedule.plateau.update(min(losses))
        place = min(reversed(range(len(losses))), key=losses.__getitem__)
        added = [
            self.best.add(loss, average.state_dict())
            for loss, average in zip(losses, self.learner.averages, strict=True)
        ]
        self.latest = results[place] if results else None
        if any(added):
            self.export(place)
        self.save()
        self.draw_curve()
        self.clock.end_epoch(begin)

    def export(self, place: int) -> None:
        """Writes the mean of the best weights; the latest of them are those of the average at `place`."""
        if not self.fabric.is_global_zero:
            return
        recipe, device, validation = self.now, self.fabric.device, None
        if self.latest:
            gains = [round(value, 3) for value in self.latest.si_snri]
            facts = {"step": self.step, "ema_decay": self.now.ema_decay[place]}
            validation = {"mixtures": len(self.examples), **facts, "si_snri": gains}
            pairs = level_pairs(self.examples, device)
        else:
            speakers, random = self.config.speakers, self.random(device)
            pairs = [self.data.draw(recipe.batch_size, speakers, recipe.segment_samples, random)]
        info = describe(
            self.recipe,
            steps=self.step,
            minutes=self.clock.minutes,
            mixture_hours=self.mixture_seconds / 3600,
            device=device.type,
            before=self.origin.get("before", {}),
            validation=validation,
        )
        config = replace(self.config, reconstructor_repeats=recipe.repeat_range[1])
        autocast = self.fabric.autocast()
        export(self.out / WEIGHTS, config=config, state=self.best.mean(), pairs=pairs, info=info, autocast=autocast)

    def draw_curve(self) -> None:
        """Draws the log, on the first rank."""
        if self.fabric.is_global_zero:
            plot_curve(self.out)

    @property
    def batch_seconds(self) -> float:
        """Seconds of mixture in a step, over all devices."""
        samples = self.now.step_size * self.now.segment_samples * self.fabric.world_size
        return samples / self.config.sample_rate

    @property
    def endless(self) -> bool:
        """Whether there is no end in sight: an open-ended run before its cooldown."""
        return self.recipe.open_ended and not self.recipe.at(self.step).cooldown

    def run(self, bar: "tqdm") -> signal.Signals | None:
        """Trains to the end of the schedule; SIGINT or SIGTERM saves first, and is returned.

        Args:
            bar: of a total of 100, is brought to the spent share with every row of the log.

        Raises:
            UserError: a loss or gradient is not finite, or the checkpoint cannot be written.
        """
        if self.examples:  # so that nothing goes wrong later, and the time it takes is known
            with memory_guard("the validation"), self.fabric.autocast():
                seconds = rehearse(
                    self.learner.averages[0], self.examples, repeats=self.recipe.deepest, device=self.fabric.device
                )
            seconds *= len(self.learner.averages)
            self.clock.epoch_end_seconds = max(self.clock.epoch_end_seconds, 2.0 + seconds)
        self.clock.begin_rows(self.step)
        with Interrupt() as interrupt:
            return self.loop(bar, interrupt)

    def loop(self, bar: "tqdm", interrupt: Interrupt) -> signal.Signals | None:
        """Steps, rows, epochs and checkpoints, until the schedule ends or a signal came."""
        while True:
            self.change()
            asked = self.progress, interrupt.signal or 0, self.clock.unsaved_minutes
            progress, stop, unsaved = agree(self.fabric, *asked)
            if stop:
                self.save()
                self.draw_curve()
                return signal.Signals(int(stop))  # perhaps another rank's
            if progress >= 1 or self.schedule.exhausted:
                break
            if unsaved >= self.recipe.checkpoint_minutes:
                self.save()
            factor = self.schedule.factor(self.step, progress)
            self.train_step(factor)
            if self.step % self.recipe.log_steps == 0:
                self.end_row(bar, factor, progress)
            if self.schedule.ends_epoch(self.step, progress, self.epoch):
                self.epoch_end()
        if self.ended != self.step:
            self.epoch_end()
        bar.update(100 - bar.n)
        return None

    def end_row(self, bar: "tqdm", factor: float, progress: float) -> None:
        """Writes a row of the log, and moves the bar."""
        self.check_finite()
        loss, norm = self.ledger.close()
        self.clock.end_row(self.step)
        if self.log:
            self.log.add(
                step=self.step,
                minutes=f"{self.clock.minutes:.3f}",
                learning_rate=f"{factor * self.now.learning_rate:.3e}",
                loss=f"{loss:.5f}",
                gradient_norm=f"{norm:.4f}",
                mixture_seconds_per_second=f"{self.batch_seconds / self.clock.step_seconds:.2f}",
            )
        seen = " SI-SNRi " + " ".join(f"{value:.2f}" for value in self.latest.si_snri) if self.latest else ""
        bar.set_postfix_str(f"step {self.step} loss {loss:.2f} dB{seen}", refresh=False)
        bar.update(progress * 100 - bar.n)
