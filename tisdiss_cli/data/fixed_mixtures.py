"""Fixed mixtures with references, held in memory on the training device, from which segments are drawn."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.data.clips import Clips, Complaints, OnDevice, read_clips
from tisdiss_cli.data.corpus import speech_files
from tisdiss_cli.data.datasets import LAYOUTS, Dataset, Item, find_dataset, subfolders
from tisdiss_cli.errors import UserError, listed


@dataclass(frozen=True)
class FixedMixtures(OnDevice):
    """Every mixture and its references; those of one item keep their levels relative to each other."""

    clips: Clips  # of 1 + S signals, mixture first

    @property
    def checksum(self) -> str:
        """A few digits of all samples."""
        return self.clips.checksum

    def draw(self, batch: int, speakers: int, samples: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws random segments of random items: mixture (batch, samples), references (batch, speakers, samples)."""
        starts = self.clips.starts
        item = torch.randint(len(starts), (batch,), device=starts.device, generator=random)
        segments = self.clips.draw(item, samples, random)  # (1 + S, batch, samples)
        return segments[0], segments[1:].transpose(0, 1)


def looks_fixed(root: Path) -> bool:
    """Tells whether `root` is meant as a set of mixtures: a known layout at it, whole or in part, or below it.

    Sets below it that lie beside the clean speech of two speakers or more are no reason: then the speech is meant.
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
    """Finds a dataset; UserError also where files lack counterparts or the number of speakers is another."""
    dataset = find_dataset(root, mixture, references)
    if dataset.missing:
        raise UserError(f"{dataset.root} is incomplete: {listed(dataset.missing, '; ')}")
    if dataset.speakers != speakers:
        raise UserError(
            f"{dataset.root} has references of {dataset.speakers} speakers, and the recipe's network {speakers}"
        )
    return dataset


def read_items(dataset: Dataset, items: Sequence[Item], sample_rate: int) -> Iterator[Tensor]:
    """Yields every item as (1 + S, L) float32, mixture first; BadFiles at the end, of another length among them."""
    paths = [path for item in items for path in (item.mixture, *item.references)]
    clips = read_clips(dataset.root, paths, sample_rate)
    complaints = Complaints()
    with complaints.collected():
        for item in items:
            signals = [next(clips) for _ in range(1 + len(item.references))]
            odd = [
                f"{path} has {signal.shape[0]} samples at {sample_rate} Hz and its mixture {signals[0].shape[0]}: "
                "they must be of one length"
                for path, signal in zip(item.references, signals[1:], strict=True)
                if signal.shape != signals[0].shape
            ]
            complaints.sentences += odd
            if not complaints.sentences:
                yield torch.stack(signals)
        next(clips, None)  # to its end, where it says what was resampled
    complaints.check()


def load_fixed(dataset: Dataset, sample_rate: int) -> FixedMixtures:
    """Reads all of a complete dataset, on the CPU; errors as `read_items`."""
    items = read_items(dataset, dataset.items, sample_rate)
    return FixedMixtures(Clips.pack((signals / signals.abs().max() for signals in items), first=1))
