"""The start of a run: from a recipe, from weights to fine-tune, or from its own checkpoint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tisdiss_cli.data.clips import Complaints
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import find_weights, load_weights, read_info
from tisdiss_cli.training.checkpoint import CHECKPOINT, load_checkpoint
from tisdiss_cli.training.data import Data, Example, load_data, load_examples
from tisdiss_cli.training.export import scale_outputs
from tisdiss_cli.training.recipe import CHANGEABLE, Recipe, read_recipe

# What may change when a run is resumed: none of it changes what a step learns, up to rounding.
RESUMABLE = {"precision", "compile", "activation_checkpointing", "checkpoint_minutes"}
BUDGETS = ("minutes", "steps")  # may grow: the learning rate goes on from where the larger one has it


@dataclass(frozen=True)
class Start:
    """The recipe, and what there is to continue from."""

    recipe: Recipe
    weights: TISDiSS | None = None  # --init
    state: dict[str, Any] | None = None  # --resume
    # Of a resumed run its data; "before": steps, minutes and hours of mixtures behind the weights that it began with.
    origin: dict[str, Any] = field(default_factory=lambda: {"before": {}})

    def network(self) -> TISDiSS:
        """Builds the network to train: fresh, or with --init's tensors under the recipe's repeats.

        Of those the Decoder is brought to the length of a fresh one: exported weights have it at the sources' level, a
        ten-thousandth of that or less, which the optimiser's first steps would overwrite.
        """
        network = TISDiSS(self.recipe.config)
        if self.weights is not None:
            fresh, given = (float(n.decoder.deconv.weight.detach().norm()) for n in (network, self.weights))
            gain = fresh / given if given else 1.0
            network.load_state_dict(scale_outputs(self.weights.state_dict(), gain))
        return network


def start_new(out: Path, *, recipe: str | None, init: str | None, options: dict[str, Any]) -> Start:
    """Starts from a recipe ("small" if none is named) with options on top, on fresh weights or those of `init`.

    Without a recipe, `init` decides the network; its trained repeats and its hop, on which no tensor depends, give way
    to those of the options or the recipe. UserError if OUT holds a run, or the two do not fit.
    """
    if (out / CHECKPOINT).exists():
        raise UserError(f"{out} holds a run already: go on with --resume, or name another OUT")
    if "cooldown" in options:
        raise UserError("--cooldown ends an open-ended run: pass it with --resume")
    values = read_recipe(recipe or "small")
    values |= in_proportion(options, Recipe.from_dict(values))
    if init is None:
        return Start(Recipe.from_dict(values))
    network = load_weights(init)
    trained = network.config.to_dict()
    if recipe:
        for key, value in Recipe.from_dict(values).config.to_dict().items():
            if key.endswith("_repeats") or key == "hop_length":
                trained[key] = value
            elif trained[key] != value:
                raise UserError(
                    f"--init {init} has {key} {trained[key]}, and --recipe {recipe} {value}: they must agree"
                )
    facts = read_info(find_weights(init)).info.get("training", {})
    known = facts.items() if isinstance(facts, dict) else ()
    before = {key: value for key, value in known if isinstance(value, int | float) and 0 <= value < math.inf}
    return Start(Recipe.from_dict({**values, "network": trained}), network, origin={"before": before})


def start_again(out: Path, options: dict[str, Any]) -> Start:
    """Goes on from a checkpoint, perhaps with a larger budget, or from here on otherwise if it is open-ended.

    UserError if an option would make it another run.
    """
    state = load_checkpoint(out / CHECKPOINT)
    stored = Recipe.from_dict(state["recipe"]).to_dict()  # with the keys that have come since
    if stored["open_ended"]:
        options = changed(options, stored, state["step"])
    grown = {key for key in BUDGETS if options.get(key, 0) > stored[key] > 0}
    for key, value in options.items():
        if key not in RESUMABLE | grown | {"changes"} and value != stored[key]:
            if key == "cooldown":
                raise UserError("--cooldown is for open-ended runs, and this one has an end: leave it out to resume")
            raise UserError(
                f"--{key.replace('_', '-')} {value} differs from this run's {stored[key]}: leave it out to resume, "
                "or start a run in another OUT"
            )
    recipe = Recipe.from_dict({**stored, **options})
    if grown:
        spent = state["seconds"] / 60 / recipe.minutes if recipe.minutes else state["step"] / recipe.steps
        state["epoch"] = int(spent * recipe.budget_epochs)  # those of the larger budget are longer
    return Start(recipe, state=state, origin=state["origin"])


def in_proportion(options: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Returns the options, where they name one rate with Muon's in the proportion that the recipe has."""
    if "learning_rate" in options and recipe.muon_learning_rate:
        rate = options["learning_rate"] * recipe.muon_learning_rate / recipe.learning_rate
        return {"muon_learning_rate": rate, **options}
    return options


def changed(options: dict[str, Any], stored: dict[str, Any], step: int) -> dict[str, Any]:
    """Returns the options with which an open-ended run is resumed, those that may change as a change from `step` on."""
    recipe = Recipe.from_dict(stored)
    now = recipe.at(step)
    options = in_proportion(options, now)
    change = {key: value for key, value in options.items() if key in CHANGEABLE and value != getattr(now, key)}
    if now.cooldown and "cooldown" in change:
        raise UserError(
            f"--cooldown {change['cooldown']:g}: this run is in a cooldown of {now.cooldown:g} minutes already: "
            "leave it out to go on"
        )
    kept = {key: value for key, value in options.items() if key not in CHANGEABLE}
    if change:
        kept["changes"] = sorted([*recipe.changes, {"step": step, **change}], key=lambda one: one["step"])
    return kept


@dataclass(frozen=True)
class Material:
    """The data of a run, and where they came from, for its checkpoint."""

    data: Data
    examples: list[Example]
    origin: dict[str, Any]


def gather(
    start: Start,
    root: Path,
    valid: Path | None = None,
    *,
    mixture: str | None = None,
    references: Sequence[str] | None = None,
) -> Material:
    """Reads what a run needs into memory, as `load_data` and `load_examples` do; a resumed run remembers `valid`.

    UserError as theirs, or if a resumed run would train or validate on other data than before.
    """
    recipe, config = start.recipe, start.recipe.config
    if valid is None and start.origin.get("valid"):
        valid = Path(start.origin["valid"])
    complaints = Complaints()
    examples: list[Example] = []
    if valid:
        with complaints.collected():
            examples = load_examples(valid, config.sample_rate, speakers=config.speakers, count=recipe.valid_items)
    with complaints.collected():
        data = load_data(root, recipe, mixture=mixture, references=references)
    complaints.check()
    origin = {
        "valid": str(valid.resolve()) if valid else None,
        "data": data.checksum,
        "examples": sum(example.mixture.shape[0] for example in examples),
        "before": start.origin["before"],
    }
    for key, what in (("data", "DATA is"), ("examples", "--valid is")):
        if start.state and start.origin[key] != origin[key]:
            raise UserError(
                f"{what} not what this run began with: pass the same folders, or start a run in another OUT"
            )
    return Material(data, examples, origin)
