"""The training loop: draw, step, log, validate, save; devices, ranks and precision are Lightning Fabric's."""

import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from tisdiss_cli.data.dynamic_mixing import generator
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training import log
from tisdiss_cli.training.checkpoint import CHECKPOINT, save_checkpoint
from tisdiss_cli.training.curve import plot_curve
from tisdiss_cli.training.data import Data, Example
from tisdiss_cli.training.export import Best, export
from tisdiss_cli.training.interrupt import Interrupt
from tisdiss_cli.training.loss import MultiLoss, prepare
from tisdiss_cli.training.optimizers import build_optimizers, set_rates
from tisdiss_cli.training.recipe import Recipe
from tisdiss_cli.training.schedule import Plateau, Schedule
from tisdiss_cli.training.validation import Validation, validate


class Training:
    """One run. A checkpoint holds its tensors and counters; everything random follows from seed, step and rank."""

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        network: TISDiSS,
        data: Data,
        examples: list[Example],
        out: Path,
        origin: dict[str, Any] | None = None,
    ) -> None:
        """Puts everything on the device; `origin` says where the data came from, for the checkpoint."""
        self.fabric, self.recipe, self.out, self.origin = fabric, recipe, out, origin or {}
        self.now = recipe.at(0)  # the recipe of the coming step
        self.data, self.examples = data.to(fabric.device), examples
        self.network = network
        self.average = AveragedModel(network.to(fabric.device), multi_avg_fn=self.follow)
        prepare(network, recipe.compile, recipe.activation_checkpointing, fabric.device)
        self.optimizers = build_optimizers(network, recipe)
        self.model, *_ = fabric.setup(MultiLoss(network, recipe.separator_loss), *self.optimizers)
        self.schedule, self.best = Schedule(recipe), Best(recipe.average_best)
        self.step, self.epoch, self.seconds, self.mixture_seconds = 0, 0, 0.0, 0.0
        self.ended = -1  # the step at which the last epoch ended
        self.pending: list[Tensor] = []  # (loss, gradient norm) of the steps since the last row of the log
        # Seconds that the end of a run takes, kept free in a time budget: the last epoch's end, the last step.
        self.epoch_end_seconds, self.step_seconds = 2.0, 0.0

    def follow(self, average: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        """Moves the average towards the current weights; faster at first, so that it soon forgets the initial ones."""
        decay = min(self.now.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(average, current, 1 - decay)

    def restore(self, state: dict[str, Any]) -> None:
        """Continues where the checkpoint was written."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.step, self.epoch, self.seconds = state["step"], state["epoch"], state["seconds"]
        self.now = self.recipe.at(self.step - 1)  # the last step's; what has changed since comes into force in `loop`
        self.data = self.data.retuned(self.now.level_db, self.now.turn_taking)
        self.ended, self.mixture_seconds = state["ended"], state["mixture_seconds"]
        self.schedule.cooling_since = state["cooling_since"]
        self.epoch_end_seconds, self.step_seconds = state["reserve"]
        self.schedule.plateau = Plateau(**state["plateau"])
        self.best = Best(**state["best"])
        self.pending = list(state["pending"].to(self.fabric.device))

    def save(self) -> None:
        """Writes the checkpoint, unless a step since the last one was not finite."""
        self.check_finite()
        if self.fabric.is_global_zero:
            state = {
                "recipe": self.recipe.to_dict(),
                "origin": self.origin,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "step": self.step,
                "epoch": self.epoch,
                "ended": self.ended,
                "seconds": self.elapsed,
                "mixture_seconds": self.mixture_seconds,
                "cooling_since": self.schedule.cooling_since,
                "reserve": [self.epoch_end_seconds, self.step_seconds],
                "plateau": vars(self.schedule.plateau),
                "best": vars(self.best),
                "pending": torch.stack(self.pending).cpu() if self.pending else torch.zeros(0, 2),
            }
            save_checkpoint(self.out / CHECKPOINT, state)
            self.saved_step = self.step
        self.saved = time.monotonic()

    def check_finite(self) -> None:
        """Brings the losses since the last row together, as means over all ranks, known to each.

        Raises:
            UserError: one is not finite, or a gradient; it names the first such step.
        """
        if self.pending and self.fabric.world_size > 1:
            self.pending = list(self.fabric.all_reduce(torch.stack(self.pending), reduce_op="mean"))
        bad = (~torch.stack(self.pending).isfinite()).any(dim=1).nonzero().flatten().tolist() if self.pending else []
        if bad:
            step = self.step - len(self.pending) + bad[0] + 1
            path = self.out / CHECKPOINT
            last = "no checkpoint was written before"
            if self.saved_step:
                last = f"the last good checkpoint is {path}, of step {self.saved_step}"
            raise UserError(f"the loss or gradient of step {step} is not finite: {last}; try a lower learning_rate")

    @property
    def elapsed(self) -> float:
        """Seconds spent on this run, interruptions left out."""
        return self.seconds + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """The spent share of the budget, or of the epochs."""
        return self.schedule.progress(self.step, self.elapsed, 1.2 * self.epoch_end_seconds + self.step_seconds)

    def agree(self, *values: float) -> list[float]:
        """The largest of every value over all ranks."""
        if self.fabric.world_size == 1:
            return list(values)
        mine = torch.tensor(values, dtype=torch.float64, device=self.fabric.device)
        return self.fabric.all_reduce(mine, reduce_op="max").tolist()

    def change(self) -> None:
        """Brings the recipe of the coming step into force, and says so where it is another than the last step's."""
        before, self.now = self.now, self.recipe.at(self.step)
        self.schedule.recipe = self.now
        if self.now.cooldown and self.schedule.cooling_since is None:
            self.schedule.cooling_since = self.elapsed
        if self.now == before:
            return
        self.data = self.data.retuned(self.now.level_db, self.now.turn_taking)
        if self.now.repeat_range[1] != before.repeat_range[1]:
            self.best = Best(self.recipe.average_best)  # the loss of other exits is no measure for these
        old, new = before.to_dict(), self.now.to_dict()
        words = ", ".join(f"{name} {old[name]} -> {new[name]}" for name in new if new[name] != old[name])
        if self.fabric.is_global_zero:
            self.log.add_change(self.step, self.elapsed / 60, words)
            print(f"tisdiss: from step {self.step} on: {words}", file=sys.stderr)

    def train_step(self, factor: float) -> None:
        """Draws, runs and learns from one batch, at a share of the learning rates; nothing waits for the device."""
        recipe, config = self.now, self.network.config
        random = generator(self.fabric.device, recipe.seed, self.step, self.fabric.global_rank)
        mixture, references = self.data.draw(recipe.batch_size, config.speakers, recipe.segment_samples, random)
        low, high = recipe.repeat_range  # the same draw on every rank
        same = generator(torch.device("cpu"), recipe.seed, self.step)
        repeats = int(torch.randint(low, high + 1, (), generator=same))
        set_rates(self.optimizers, recipe, factor)
        loss = self.model(mixture, references, repeats).mean()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.fabric.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        if recipe.ema_decay:
            self.average.update_parameters(self.network)
        self.pending.append(torch.stack((loss.detach(), norm.detach())))
        self.step += 1
        self.mixture_seconds += self.batch_seconds

    def validation(self) -> Validation | None:
        """Of the averaged weights, known to every rank; None without examples."""
        result = None
        if self.examples and self.fabric.is_global_zero:
            with self.fabric.autocast():
                result = validate(self.average.module, self.examples, self.now.repeat_range[1], self.fabric.device)
        return self.fabric.broadcast(result) if self.fabric.world_size > 1 else result

    def epoch_end(self) -> Validation | None:
        """Validates, keeps the weights if they are among the best, saves the checkpoint, draws the curve."""
        begin = time.monotonic()
        self.check_finite()
        self.epoch, self.ended = self.epoch + 1, self.step
        if not self.now.ema_decay:
            self.average.module.load_state_dict(self.network.state_dict())
        result = self.validation()
        if result:
            self.schedule.plateau.update(result.loss)
        # Without validation the latest weights count as the best.
        if self.best.add(result.loss if result else -self.step, self.average.module.state_dict()):
            export(self, result)
        if self.fabric.is_global_zero and result:
            self.log.add_validation(self.step, self.elapsed / 60, result.loss, result.si_snri)
        self.save()
        if self.fabric.is_global_zero:
            plot_curve(self.out)
        self.epoch_end_seconds = max(self.epoch_end_seconds, time.monotonic() - begin)
        return result

    @property
    def batch_seconds(self) -> float:
        """Seconds of mixture in a step, over all devices."""
        samples = self.now.batch_size * self.now.segment_samples * self.fabric.world_size
        return samples / self.network.config.sample_rate

    def run(self, started: float, state: dict[str, Any] | None = None) -> None:
        """Trains to the end of the schedule; SIGINT or SIGTERM saves first, then raises SystemExit(128 + its number).

        Args:
            started: `time.monotonic()` when the time budget began to run.
            state: of a checkpoint, to continue from.

        Raises:
            UserError: a loss or gradient is not finite, or the checkpoint cannot be written.
        """
        self.started = started
        if state:
            self.restore(state)
        self.saved, self.saved_step = time.monotonic(), self.step
        if self.fabric.is_global_zero:
            self.log = log.Log(self.out / log.LOG, self.recipe.deepest, self.step)
        if self.examples:  # a trial, so that nothing goes wrong later and the time it takes is known
            begin = time.monotonic()
            with self.fabric.autocast():
                validate(self.average.module, self.examples[:2], 1, self.fabric.device)
            trial = 2.0 + (time.monotonic() - begin) / 2 * len(self.examples) * self.recipe.deepest
            self.epoch_end_seconds = max(self.epoch_end_seconds, trial)
        ends = not self.recipe.open_ended or self.recipe.at(self.step).cooldown
        look = "{l_bar}{bar}| {elapsed} {postfix}" if ends else "{elapsed} {postfix}"
        hidden = not self.fabric.is_global_zero
        bar = tqdm(total=100, unit="%", file=sys.stderr, disable=hidden, dynamic_ncols=True, bar_format=look)
        with bar, Interrupt() as interrupt:
            self.loop(bar, interrupt)
        if interrupt.signal:
            name, path = interrupt.signal.name, self.out / CHECKPOINT
            print(
                f"tisdiss: stopped by {name} after step {self.step}, saved in {path}: go on with --resume",
                file=sys.stderr,
            )
            raise SystemExit(128 + interrupt.signal)

    def loop(self, bar: tqdm, interrupt: Interrupt) -> None:
        """Steps, rows, epochs and checkpoints, until the schedule ends or a signal came."""
        seen, row_begin, row_step = "", time.monotonic(), self.step
        while True:
            self.change()
            unsaved = (time.monotonic() - self.saved) / 60
            progress, stop, unsaved = self.agree(self.progress, interrupt.signal or 0, unsaved)
            if stop:
                interrupt.signal = signal.Signals(int(stop))  # perhaps another rank's
                self.save()
                if self.fabric.is_global_zero:
                    plot_curve(self.out)
                return
            if progress >= 1 or self.schedule.exhausted:
                break
            if unsaved >= self.recipe.checkpoint_minutes:
                self.save()
            factor = self.schedule.factor(self.step, progress)
            self.train_step(factor)
            if self.step % self.recipe.log_steps == 0:
                self.check_finite()
                loss, norm = torch.stack(self.pending).mean(dim=0).tolist()
                self.pending = []
                now, steps = time.monotonic(), self.step - row_step
                self.step_seconds = (now - row_begin) / steps
                if self.fabric.is_global_zero:
                    self.log.add(
                        step=self.step,
                        minutes=f"{self.elapsed / 60:.3f}",
                        learning_rate=f"{factor * self.now.learning_rate:.3e}",
                        loss=f"{loss:.5f}",
                        gradient_norm=f"{norm:.4f}",
                        mixture_seconds_per_second=f"{self.batch_seconds / self.step_seconds:.2f}",
                    )
                row_begin, row_step = now, self.step
                bar.set_postfix_str(f"step {self.step} loss {loss:.2f} dB {seen}", refresh=False)
                bar.update(progress * 100 - bar.n)
            if self.schedule.ends_epoch(self.step, progress, self.epoch):
                begin = time.monotonic()
                result = self.epoch_end()
                seen = "SI-SNRi " + " ".join(f"{v:.2f}" for v in result.si_snri) if result else ""
                row_begin += time.monotonic() - begin
        if self.ended != self.step:
            self.epoch_end()
        bar.update(100 - bar.n)
