"""Training data (fixed mixtures, or clean speech to mix) and validation data."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.data.augment import Noises, Rooms
from tisdiss_cli.data.clips import ErrorCollector
from tisdiss_cli.data.corpus import load_corpus
from tisdiss_cli.data.dynamic_mixing import DynamicMixing
from tisdiss_cli.data.fixed_mixtures import FixedMixtures, complete_dataset, load_fixed, looks_fixed, read_items
from tisdiss_cli.errors import UserError
from tisdiss_cli.training.recipe import Recipe

log = logging.getLogger("tisdiss")

Data = FixedMixtures | DynamicMixing
# Recipe keys that decide how sources are mixed and may change during a run.
MIXING_OPTIONS = ("level_db", "speaker_exponent", "turn_taking")


@dataclass(frozen=True)
class Example:
    """One fixed mixture and its references."""

    mixture: Tensor  # (L,)
    references: Tensor  # (S, L)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns mixture (1, L) and references (1, S, L) on `device`."""
        return self.mixture.to(device)[None], self.references.to(device)[None]


def load_examples(root: Path, sample_rate: int, *, speakers: int, count: int = 0) -> list[Example]:
    """Reads all mixtures of `root`, or `count` evenly spaced ones; UserError if the dataset is unusable."""
    dataset = complete_dataset(root, speakers)
    items = dataset.items
    if 0 < count < len(items):
        items = [items[index * len(items) // count] for index in range(count)]
    return [Example(signals[0], signals[1:]) for signals in read_items(dataset, items, sample_rate)]


def load_data(
    root: Path, recipe: Recipe, *, mixture: str | None = None, references: Sequence[str] | None = None
) -> Data:
    """Reads the training data into memory, on the CPU, and logs its duration.

    `root` is a set of mixtures, or holds a folder of clean speech for each speaker. UserError if a folder or a file
    cannot be used.
    """
    config = recipe.config
    if mixture is not None or references is not None or looks_fixed(root):
        for name in ("rirs", "noise", "exclude", *MIXING_OPTIONS[1:]):
            if getattr(recipe, name) or any(change.get(name) for change in recipe.changes):
                raise UserError(f"{root} holds fixed mixtures: {name} applies only to clean speech, leave it out")
        dataset = complete_dataset(root, config.speakers, mixture=mixture, references=references)
        data: Data = (fixed := load_fixed(dataset, config.sample_rate))
        clips, description = fixed.clips, f"{dataset.layout}, {len(dataset.items)} mixtures of {dataset.mixture}"
        if recipe.speeds != [1.0]:
            description += "; speeds apply only to clean speech and are ignored"
    else:
        rooms, noises, errors = None, None, ErrorCollector()
        with errors.collect():
            corpus = load_corpus(
                root, config.sample_rate, speeds=recipe.speeds, speakers=config.speakers, exclude=recipe.exclude
            )
        with errors.collect():
            rooms = Rooms.load(Path(recipe.rirs), config.sample_rate, config.speakers) if recipe.rirs else None
        with errors.collect():
            noises = Noises.load(Path(recipe.noise), config.sample_rate) if recipe.noise else None
        errors.raise_if_any()
        data = apply_mixing_options(DynamicMixing(corpus, recipe.level_db, rooms, noises, recipe.noise_db), recipe)
        clips, description = corpus.clips, f"{len(corpus.names)} speakers, all {len(recipe.speeds)} speeds included"
    log.info(f"{root}: {int(clips.lengths.sum()) / config.sample_rate / 60:.1f} min, {description}")
    return data


def apply_mixing_options(data: Data, recipe: Recipe) -> Data:
    """Returns the data with the recipe's MIXING_OPTIONS; fixed mixtures stay as they are."""
    if isinstance(data, FixedMixtures):
        return data
    return replace(data, **{name: getattr(recipe, name) for name in MIXING_OPTIONS})
