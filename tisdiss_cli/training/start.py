"""Start of a training run: from a recipe, from weights to fine-tune, or from its own checkpoint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tisdiss_cli.data.clips import ErrorCollector
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import find_weights, load_weights, read_info
from tisdiss_cli.training.checkpoint import CHECKPOINT, load_checkpoint
from tisdiss_cli.training.data import Data, Example, load_data, load_examples
from tisdiss_cli.training.export import scale_outputs
from tisdiss_cli.training.recipe import CHANGEABLE, Recipe, read_recipe

# Keys that may change when a run is resumed: they do not change what a step learns, up to rounding.
RESUMABLE = {"precision", "compile", "activation_checkpointing", "checkpoint_minutes"}
BUDGETS = ("minutes", "steps")  # may grow: the learning rate continues on the curve of the larger budget


@dataclass(frozen=True)
class Start:
    """Recipe of a run, with the weights or the checkpoint to continue from."""

    recipe: Recipe
    weights: TISDiSS | None = None  # --init
    state: dict[str, Any] | None = None  # --resume
    # Data of a resumed run; "before": steps, minutes and hours of mixtures behind the initial weights.
    origin: dict[str, Any] = field(default_factory=lambda: {"before": {}})

    def network(self) -> TISDiSS:
        """Builds the network to train: a fresh one, or one with the tensors of --init.

        The Decoder of --init gets the norm of a fresh one: exported weights scale it to the level of the sources, by
        1e-4 or less, and the optimiser's first steps would overwrite it.
        """
        network = TISDiSS(self.recipe.config)
        if self.weights is not None:
            fresh, initial = (float(n.decoder.deconv.weight.detach().norm()) for n in (network, self.weights))
            gain = fresh / initial if initial else 1.0
            network.load_state_dict(scale_outputs(self.weights.state_dict(), gain))
        return network


def start_run(out: Path, *, recipe: str | None, init: str | None, options: dict[str, Any]) -> Start:
    """Starts a run from a recipe and options, with fresh weights or those of `init`.

    Without a recipe, "small" applies with the network of `init`. Repeats and hop, on which no tensor depends, may
    differ from those of `init`. UserError if `out` holds a run, or `init` does not fit the recipe.
    """
    if (out / CHECKPOINT).exists():
        raise UserError(f"{out} already holds a run: continue it with --resume, or name another OUT")
    if "cooldown" in options:
        raise UserError("--cooldown ends an open-ended run: pass it with --resume")
    values = read_recipe(recipe or "small")
    values |= scale_muon_rate(options, Recipe.from_dict(values))
    if init is None:
        return Start(Recipe.from_dict(values))
    network = load_weights(init)
    trained = network.config.to_dict()
    if recipe:
        for key, value in Recipe.from_dict(values).config.to_dict().items():
            if key.endswith("_repeats") or key == "hop_length":
                trained[key] = value
            elif trained[key] != value:
                raise UserError(f"--init {init} has {key} {trained[key]}, --recipe {recipe} {value}: they must agree")
    facts = read_info(find_weights(init)).info.get("training", {})
    entries = facts.items() if isinstance(facts, dict) else ()
    before = {key: value for key, value in entries if isinstance(value, int | float) and 0 <= value < math.inf}
    return Start(Recipe.from_dict({**values, "network": trained}), network, origin={"before": before})


def resume_run(out: Path, options: dict[str, Any]) -> Start:
    """Resumes a run from its checkpoint; a budget may grow, and an open-ended run may change CHANGEABLE keys.

    UserError if another option differs from the run's.
    """
    state = load_checkpoint(out / CHECKPOINT)
    stored = Recipe.from_dict(state["recipe"]).to_dict()  # adds keys of newer versions
    if stored["open_ended"]:
        options = record_changes(options, stored, state["step"])
    grown = {key for key in BUDGETS if options.get(key, 0) > stored[key] > 0}
    for key, value in options.items():
        if key not in RESUMABLE | grown | {"changes"} and value != stored[key]:
            if key == "cooldown":
                raise UserError("--cooldown is for open-ended runs: leave it out to resume this one")
            raise UserError(
                f"--{key.replace('_', '-')} {value} is not this run's {stored[key]}: leave it out to resume"
            )
    recipe = Recipe.from_dict({**stored, **options})
    if grown:
        spent = state["seconds"] / 60 / recipe.minutes if recipe.minutes else state["step"] / recipe.steps
        state["epoch"] = int(spent * recipe.budget_epochs)  # epochs of a larger budget are longer
    return Start(recipe, state=state, origin=state["origin"])


def scale_muon_rate(options: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Returns the options; a new learning rate also scales Muon's, unless the options set that too."""
    if "learning_rate" in options and recipe.muon_learning_rate:
        rate = options["learning_rate"] * recipe.muon_learning_rate / recipe.learning_rate
        return {"muon_learning_rate": rate, **options}
    return options


def record_changes(options: dict[str, Any], stored: dict[str, Any], step: int) -> dict[str, Any]:
    """Returns the options with those that may change recorded as one entry of `changes`, from `step` on."""
    recipe = Recipe.from_dict(stored)
    now = recipe.at(step)
    options = scale_muon_rate(options, now)
    change = {key: value for key, value in options.items() if key in CHANGEABLE and value != getattr(now, key)}
    if now.cooldown and "cooldown" in change:
        raise UserError(f"--cooldown: this run is already in one of {now.cooldown:g} minutes: leave it out to continue")
    kept = {key: value for key, value in options.items() if key not in CHANGEABLE}
    if change:
        kept["changes"] = sorted([*recipe.changes, {"step": step, **change}], key=lambda change: change["step"])
    return kept


@dataclass(frozen=True)
class RunData:
    """Training data and validation examples of a run, with their origin for its checkpoint."""

    data: Data
    examples: list[Example]
    origin: dict[str, Any]


def load_run_data(
    start: Start,
    root: Path,
    valid: Path | None = None,
    *,
    mixture: str | None = None,
    references: Sequence[str] | None = None,
) -> RunData:
    """Reads the data of a run into memory; a resumed run remembers `valid`.

    UserError as from `load_data` and `load_examples`, or if a resumed run has other data than before.
    """
    recipe, config = start.recipe, start.recipe.config
    if valid is None and start.origin.get("valid"):
        valid = Path(start.origin["valid"])
    errors = ErrorCollector()
    examples: list[Example] = []
    if valid:
        with errors.collect():
            examples = load_examples(valid, config.sample_rate, speakers=config.speakers, count=recipe.valid_items)
    with errors.collect():
        data = load_data(root, recipe, mixture=mixture, references=references)
    errors.raise_if_any()
    origin = {
        "valid": str(valid.resolve()) if valid else None,
        "data": data.checksum,
        "examples": sum(example.mixture.shape[0] for example in examples),
        "before": start.origin["before"],
    }
    for key, what in (("data", "DATA is"), ("examples", "--valid is")):
        if start.state and start.origin[key] != origin[key]:
            raise UserError(f"{what} not the data that this run started with: pass the same folders")
    return RunData(data, examples, origin)
