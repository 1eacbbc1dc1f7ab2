"""Fixed mixtures with references, in memory on the training device."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.data.clips import Clips, ErrorCollector, OnDevice, read_clips
from tisdiss_cli.data.corpus import speech_files
from tisdiss_cli.data.datasets import LAYOUTS, Dataset, Item, find_dataset, subfolders
from tisdiss_cli.errors import UserError, listed


@dataclass(frozen=True)
class FixedMixtures(OnDevice):
    """Mixtures and their references; the signals of one item keep their relative levels."""

    clips: Clips  # 1 + S signals, mixture first

    @property
    def checksum(self) -> str:
        """Checksum of all samples."""
        return self.clips.checksum

    def draw(self, batch: int, speakers: int, samples: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws random segments of random items: mixture (batch, samples), references (batch, speakers, samples)."""
        starts = self.clips.starts
        item = torch.randint(len(starts), (batch,), device=starts.device, generator=random)
        segments = self.clips.draw(item, samples, random)  # (1 + S, batch, samples)
        return segments[0], segments[1:].transpose(0, 1)


def looks_fixed(root: Path) -> bool:
    """Returns True if `root` has a known layout, perhaps incomplete, or one is below it.

    A layout below it does not count beside clean speech of two or more speakers.
    """
    if not os.path.isdir(root):
        return False
    names = {name for layout in LAYOUTS for name in layout.mixtures}
    speakers = {layout.references.format(number) for layout in LAYOUTS for number in range(1, 10)}
    folders = {path.name for path in subfolders(root)}
    if folders & names or (folders and folders <= speakers):
        return True
    speech, sets = speech_files(root)
    return bool(sets) and len(speech) < 2


def complete_dataset(
    root: Path, speakers: int, *, mixture: str | None = None, references: Sequence[str] | None = None
) -> Dataset:
    """Finds a dataset; UserError also if files lack counterparts or the number of speakers differs."""
    dataset = find_dataset(root, mixture, references)
    if dataset.missing:
        raise UserError(f"{dataset.root} is incomplete: {listed(dataset.missing, '; ')}")
    if dataset.speakers != speakers:
        raise UserError(f"{dataset.root} has {dataset.speakers} speakers and the network {speakers}: pass other data")
    return dataset


def read_items(dataset: Dataset, items: Sequence[Item], sample_rate: int) -> Iterator[Tensor]:
    """Yields every item as (1 + S, L) float32, mixture first; BadFiles at the end, also for unequal lengths."""
    paths = [path for item in items for path in (item.mixture, *item.references)]
    clips = read_clips(dataset.root, paths, sample_rate)
    errors = ErrorCollector()
    with errors.collect():
        for item in items:
            signals = [next(clips) for _ in range(1 + len(item.references))]
            unequal = [
                f"{path} has {signal.shape[0]} samples at {sample_rate} Hz, its mixture {signals[0].shape[0]}: "
                "they must have the same length"
                for path, signal in zip(item.references, signals[1:], strict=True)
                if signal.shape != signals[0].shape
            ]
            errors.sentences += unequal
            if not errors.sentences:
                yield torch.stack(signals)
        next(clips, None)  # runs to the end, which logs the resampling
    errors.raise_if_any()


def load_fixed(dataset: Dataset, sample_rate: int) -> FixedMixtures:
    """Reads a complete dataset, on the CPU; errors as from `read_items`."""
    items = read_items(dataset, dataset.items, sample_rate)
    return FixedMixtures(Clips.pack((signals / signals.abs().max() for signals in items), first=1))
