"""Training data, fixed mixtures or clean speech to mix, told apart by the folder; validation data."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.data.augment import Noises, Rooms
from tisdiss_cli.data.clips import Complaints
from tisdiss_cli.data.corpus import load_corpus
from tisdiss_cli.data.dynamic_mixing import DynamicMixing
from tisdiss_cli.data.fixed_mixtures import FixedMixtures, complete_dataset, load_fixed, looks_fixed, read_items
from tisdiss_cli.errors import UserError
from tisdiss_cli.training.recipe import Recipe

log = logging.getLogger("tisdiss")

Data = FixedMixtures | DynamicMixing
# Keys of the recipe by which sources are drawn, which may change during a run.
TUNING = ("level_db", "speaker_exponent", "turn_taking", "silent_share")


@dataclass(frozen=True)
class Example:
    """One fixed mixture and its references."""

    mixture: Tensor  # (L,)
    references: Tensor  # (S, L)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns them as a batch of one there."""
        return self.mixture.to(device)[None], self.references.to(device)[None]


def load_examples(root: Path, sample_rate: int, *, speakers: int, count: int = 0) -> list[Example]:
    """Reads the mixtures of `root`, or `count` of them evenly spread; UserError names what does not fit."""
    dataset = complete_dataset(root, speakers)
    items = dataset.items
    if 0 < count < len(items):
        items = [items[index * len(items) // count] for index in range(count)]
    return [Example(signals[0], signals[1:]) for signals in read_items(dataset, items, sample_rate)]


def load_data(
    root: Path, recipe: Recipe, *, mixture: str | None = None, references: Sequence[str] | None = None
) -> Data:
    """Reads all that mixtures are drawn from into memory, on the CPU; the log says how much it is.

    `root` is a set of mixtures, or a folder of clean speech for each speaker. UserError says in one sentence whatever
    is wrong with a folder or with files.
    """
    config = recipe.config
    if mixture is not None or references is not None or looks_fixed(root):
        for name in ("rirs", "noise", "exclude", *TUNING[1:]):
            if getattr(recipe, name) or any(change.get(name) for change in recipe.changes):
                raise UserError(f"{root} holds fixed mixtures: {name} is for mixing clean speech, leave it out")
        dataset = complete_dataset(root, config.speakers, mixture=mixture, references=references)
        data: Data = (fixed := load_fixed(dataset, config.sample_rate))
        clips, words = fixed.clips, f"{dataset.layout}, {len(dataset.items)} mixtures of {dataset.mixture}"
        if recipe.speeds != [1.0]:
            words += "; speeds are for mixing clean speech and have no effect here"
    else:
        rooms, noises, complaints = None, None, Complaints()
        with complaints.collected():
            corpus = load_corpus(
                root, config.sample_rate, speeds=recipe.speeds, speakers=config.speakers, exclude=recipe.exclude
            )
        with complaints.collected():
            rooms = Rooms.load(Path(recipe.rirs), config.sample_rate, config.speakers) if recipe.rirs else None
        with complaints.collected():
            noises = Noises.load(Path(recipe.noise), config.sample_rate) if recipe.noise else None
        complaints.check()
        data = tuned(DynamicMixing(corpus, recipe.level_db, rooms, noises, recipe.noise_db), recipe)
        clips, words = corpus.clips, f"{len(corpus.names)} speakers, {len(recipe.speeds)} speeds counted"
    log.info(f"{root}: {int(clips.lengths.sum()) / config.sample_rate / 60:.1f} min, {words}")
    return data


def tuned(data: Data, recipe: Recipe) -> Data:
    """Returns the same with the recipe's values of TUNING; what is fixed has its levels, turns and sound."""
    if isinstance(data, FixedMixtures):
        return data
    return replace(data, **{name: getattr(recipe, name) for name in TUNING})
