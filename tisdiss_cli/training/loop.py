"""The training loop: draw, step, log, validate, save; devices, ranks and precision are Lightning Fabric's."""

import math
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from tisdiss_cli.errors import UserError
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.paths import SpeakerPath, SpectralPath
from tisdiss_cli.model.weights import save_weights
from tisdiss_cli.training import log
from tisdiss_cli.training.checkpoint import NAME, save_checkpoint
from tisdiss_cli.training.corpus import Corpus
from tisdiss_cli.training.loss import multi_loss
from tisdiss_cli.training.mixing import draw_sources, generator
from tisdiss_cli.training.recipe import Recipe
from tisdiss_cli.training.schedule import Plateau, budget_factor, warm_up
from tisdiss_cli.training.validation import Example, Validation, validate

WEIGHTS = "weights.safetensors"


class MultiLoss(nn.Module):
    """The network and its loss as one module, so that several devices see one forward."""

    def __init__(self, network: TISDiSS, separator_outputs: bool) -> None:
        super().__init__()
        self.network, self.separator_outputs = network, separator_outputs

    def forward(self, sources: Tensor, repeats: int) -> Tensor:
        """References (B, S, L) -> the terms (K,) for their mixture; their mean is the loss."""
        estimates = self.network.estimates(sources.sum(dim=1), repeats, separator_outputs=self.separator_outputs)
        return multi_loss((estimate.waveforms() for estimate in estimates), sources)


def prepare(network: TISDiSS, recipe: Recipe, device: torch.device) -> None:
    """Compiles the paths, or forgets their activations until the backward pass, as the recipe wants."""
    for module in network.modules():
        if isinstance(module, SpectralPath | SpeakerPath):
            if recipe.activation_checkpointing:
                module.forward = partial(checkpoint, module.forward, use_reentrant=False)
            # On a CPU torch 2.11 corrupts memory in the compiled backward pass of the speaker path.
            if recipe.compile and (isinstance(module, SpectralPath) or device.type != "cpu"):
                module.compile(dynamic=False)


class Training:
    """One run. `state` is all that a checkpoint needs besides tensors; everything random follows from the step."""

    def __init__(
        self, fabric: Fabric, recipe: Recipe, network: TISDiSS, corpus: Corpus, examples: list[Example], out: Path
    ) -> None:
        self.fabric, self.recipe, self.out = fabric, recipe, out
        self.corpus, self.examples = corpus.to(fabric.device), examples
        self.network = network
        self.average = AveragedModel(network.to(fabric.device), multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))
        prepare(network, recipe, fabric.device)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True
        )
        self.model, self.optimizer = fabric.setup(MultiLoss(network, recipe.separator_loss), optimizer)
        self.plateau = Plateau(recipe.patience)
        self.step, self.epoch, self.seconds = 0, 0, 0.0
        self.pending: list[Tensor] = []  # (loss, gradient norm) of the steps since the last row of the log
        self.stopped_by: signal.Signals | None = None
        self.reserve = 0.0  # seconds kept for the last validation

    def restore(self, state: dict[str, Any]) -> None:
        """Continues where the checkpoint was written."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.epoch, self.seconds = state["step"], state["epoch"], state["seconds"]
        self.plateau = Plateau(**state["plateau"])
        self.pending = list(state["pending"].to(self.fabric.device))

    def save(self) -> None:
        """Writes the checkpoint, unless a loss since the last one was not finite."""
        self.check_finite()
        if self.fabric.is_global_zero:
            save_checkpoint(
                self.out / NAME,
                {
                    "recipe": self.recipe.to_dict(),
                    "network": self.network.state_dict(),
                    "average": self.average.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "step": self.step,
                    "epoch": self.epoch,
                    "seconds": self.elapsed,
                    "plateau": vars(self.plateau),
                    "pending": torch.stack(self.pending).cpu() if self.pending else torch.zeros(0, 2),
                },
            )
        self.saved = time.monotonic()

    def check_finite(self) -> None:
        """UserError names the first step since the last row whose loss is not finite."""
        bad = [] if not self.pending else (~torch.stack(self.pending)[:, 0].isfinite()).nonzero().flatten().tolist()
        if bad:
            step = self.step - len(self.pending) + bad[0] + 1
            path = self.out / NAME
            last = f"the last good checkpoint is {path}" if path.exists() else "no checkpoint was written before"
            raise UserError(f"the loss of step {step} is not finite: {last}; try a lower learning_rate")

    @property
    def elapsed(self) -> float:
        """Seconds spent on this run, interruptions left out."""
        return self.seconds + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """The spent share of the budget, or of the epochs."""
        recipe = self.recipe
        if recipe.minutes:
            return min(1.0, self.elapsed / max(1.0, recipe.minutes * 60 - self.reserve))
        if recipe.steps:
            return min(1.0, self.step / recipe.steps)
        return min(1.0, self.step / (recipe.epochs * recipe.epoch_steps))

    def rate(self, progress: float) -> float:
        """The learning rate of the coming step."""
        recipe = self.recipe
        if recipe.minutes or recipe.steps:
            return recipe.learning_rate * budget_factor(progress, recipe.warm_up_share)
        return recipe.learning_rate * warm_up(self.step, recipe.warm_up_steps) * self.plateau.factor

    def agree(self, progress: float) -> tuple[float, bool]:
        """Progress and the wish to stop, the same on every rank."""
        stop = self.stopped_by is not None
        if self.fabric.world_size == 1:
            return progress, stop
        both = torch.tensor([progress, float(stop)], dtype=torch.float64, device=self.fabric.device)
        progress, stop = self.fabric.all_reduce(both, reduce_op="max").tolist()
        return progress, bool(stop)

    def train_step(self, rate: float) -> None:
        """Draws, runs and learns from one batch; nothing here waits for the device."""
        recipe, config = self.recipe, self.network.config
        random = generator(self.fabric.device, recipe.seed, self.step, self.fabric.global_rank)
        samples = round(recipe.segment_seconds * config.sample_rate)
        sources = draw_sources(self.corpus, recipe.batch_size, config.speakers, samples, recipe.level_db, random)
        low, high = recipe.repeat_range  # the same draw on every rank
        same = generator(torch.device("cpu"), recipe.seed, self.step)
        repeats = int(torch.randint(low, high + 1, (), generator=same))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.model(sources, repeats).mean()
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=recipe.clip_norm, error_if_nonfinite=False
        )
        self.optimizer.step()
        if recipe.ema_decay:
            self.average.update_parameters(self.network)
        self.pending.append(torch.stack((loss.detach(), norm.detach())))
        self.step += 1

    def epoch_end(self) -> Validation | None:
        """Validates the averaged weights, keeps them if they are the best so far, saves the checkpoint."""
        self.epoch += 1
        if not self.recipe.ema_decay:
            self.average.module.load_state_dict(self.network.state_dict())
        result = None
        if self.examples and self.fabric.is_global_zero:
            begin = time.monotonic()
            with self.fabric.autocast():
                result = validate(
                    self.average.module, self.examples, self.network.config.reconstructor_repeats, self.fabric.device
                )
            self.reserve = 1.1 * (time.monotonic() - begin) + 1
        result = self.fabric.broadcast(result) if self.fabric.world_size > 1 else result
        if self.plateau.update(result.loss if result else -math.inf) or not result:
            self.export(result)
        if result and self.fabric.is_global_zero:
            self.log.add_validation(self.step, self.elapsed / 60, result.loss, result.si_snri)
        self.save()
        return result

    def export(self, result: Validation | None) -> None:
        """Writes the weights as `separate` loads them."""
        if not self.fabric.is_global_zero:
            return
        recipe, config = self.recipe, self.network.config
        batch_seconds = recipe.batch_size * recipe.segment_seconds * self.fabric.world_size
        info: dict[str, Any] = {
            "trained": True,
            "recipe": recipe.to_dict(),
            "training": {
                "speakers": len(self.corpus.names),
                "steps": self.step,
                "minutes": round(self.elapsed / 60, 2),
                "mixture_hours": round(self.step * batch_seconds / 3600, 2),
                "device": self.fabric.device.type,
            },
        }
        if result:
            info["validation"] = {"mixtures": len(self.examples), "si_snri": [round(v, 3) for v in result.si_snri]}
        save_weights(self.out / WEIGHTS, config, self.average.module.state_dict(), info)

    def run(self, started: float, state: dict[str, Any] | None = None) -> None:
        """Trains to the end of the schedule; a signal saves first, then raises SystemExit(128 + its number).

        Args:
            started: `time.monotonic()` when the time budget began to run.
            state: of a checkpoint, to continue from.
        """
        self.started = started
        if state:
            self.restore(state)
        self.saved = time.monotonic()
        recipe = self.recipe
        if self.fabric.is_global_zero:
            self.log = log.Log(self.out / log.NAME, self.network.config.reconstructor_repeats, self.step)
        if self.examples:  # a trial, so that nothing goes wrong later and the time it takes is known
            begin = time.monotonic()
            with self.fabric.autocast():
                validate(self.average.module, self.examples[:2], 1, self.fabric.device)
            self.reserve = (time.monotonic() - begin) / 2 * len(self.examples) * recipe.repeat_range[1] + 1
        handlers = {s: signal.signal(s, self.on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        bar = tqdm(total=100, unit="%", file=sys.stderr, disable=not self.fabric.is_global_zero, dynamic_ncols=True)
        bar.bar_format = "{l_bar}{bar}| {elapsed} {postfix}"
        try:
            self.loop(bar)
        finally:
            bar.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Asks the loop to save and stop after the current step."""
        self.stopped_by = signal.Signals(number)

    def loop(self, bar: tqdm) -> None:
        """Steps, rows, epochs and checkpoints, until the schedule ends."""
        recipe = self.recipe
        seen, row_begin, row_step = "", time.monotonic(), self.step
        while True:
            progress, stop = self.agree(self.progress)
            if stop:
                self.save()
                name = self.stopped_by.name if self.stopped_by else "a signal to another rank"
                bar.close()
                print(
                    f"stopped by {name} after step {self.step}, saved in {self.out / NAME}: go on with --resume",
                    file=sys.stderr,
                )
                raise SystemExit(128 + (self.stopped_by or signal.SIGTERM))
            if progress >= 1:
                break
            rate = self.rate(progress)
            self.train_step(rate)
            if self.step % recipe.log_steps == 0:
                self.check_finite()
                loss, norm = torch.stack(self.pending).mean(dim=0).tolist()
                self.pending = []
                now = time.monotonic()
                steps = self.step - row_step
                seconds = steps * recipe.batch_size * recipe.segment_seconds * self.fabric.world_size
                if self.fabric.is_global_zero:
                    self.log.add(
                        step=self.step,
                        minutes=f"{self.elapsed / 60:.3f}",
                        learning_rate=f"{rate:.3e}",
                        loss=f"{loss:.5f}",
                        gradient_norm=f"{norm:.4f}",
                        mixture_seconds_per_second=f"{seconds / (now - row_begin):.2f}",
                    )
                row_begin, row_step = now, self.step
                bar.set_postfix_str(f"step {self.step} loss {loss:.2f} dB {seen}", refresh=False)
                bar.update(progress * 100 - bar.n)
            if self.epoch_is_over(progress):
                begin = time.monotonic()
                result = self.epoch_end()
                seen = "SI-SNRi " + " ".join(f"{v:.2f}" for v in result.si_snri) if result else ""
                row_begin += time.monotonic() - begin
                budgeted = recipe.minutes or recipe.steps
                if not budgeted and self.examples and self.plateau.bad >= recipe.stop_after:
                    return
            elif self.agree((time.monotonic() - self.saved) / 60)[0] >= recipe.checkpoint_minutes:
                self.save()
        if self.pending or self.epoch < recipe.budget_epochs or not (recipe.minutes or recipe.steps):
            self.epoch_end()

    def epoch_is_over(self, progress: float) -> bool:
        """After `epoch_steps` steps, or when the next part of the budget is spent."""
        recipe = self.recipe
        if recipe.steps:
            return self.step >= recipe.steps * (self.epoch + 1) / recipe.budget_epochs
        if recipe.minutes:
            return progress >= (self.epoch + 1) / recipe.budget_epochs
        return self.step % recipe.epoch_steps == 0
