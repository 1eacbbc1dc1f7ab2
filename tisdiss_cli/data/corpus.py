"""Clean speech by speaker, in memory on the training device."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.audio.find import find
from tisdiss_cli.data.clips import Clips, OnDevice, read_clips
from tisdiss_cli.data.datasets import is_set, subfolders
from tisdiss_cli.errors import UserError, listed
from tisdiss_cli.libraries import load_torchaudio

log = logging.getLogger("tisdiss")


@dataclass(frozen=True)
class Corpus(OnDevice):
    """Clean speech of P speakers; all tensors on one device."""

    names: list[str]  # speakers, sorted
    sample_rate: int  # Hz
    clips: Clips  # every utterance at every speed
    first: Tensor  # (P,) int64, first utterance of every speaker
    counts: Tensor  # (P,) int64, utterances of every speaker, all speeds
    compatible: Tensor  # (P, P) bool, True where two may be mixed

    @property
    def speech_samples(self) -> Tensor:
        """Number of samples of every speaker, all speeds: (P,) float."""
        before = torch.nn.functional.pad(self.clips.lengths.cumsum(0), (1, 0))
        return (before[self.first + self.counts] - before[self.first]).float()


def find_speakers(root: Path, speakers: int) -> dict[str, list[Path]]:
    """Returns the sound files of `root`/<speaker>/** by speaker, and logs which sets of mixtures it leaves out.

    UserError if `root` cannot be listed, is a set of mixtures, or has files of fewer than `speakers` speakers.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root} is not a folder: pass one that holds a folder of clean speech for each speaker")
    if is_set(root):
        raise UserError(f"{root} is a set of mixtures: pass a folder that holds clean speech for each speaker")
    folders, sets = speech_files(root)
    if len(folders) < speakers:
        beside = f" beside {len(sets)} sets of mixtures, which do not count" if sets else ""
        raise UserError(
            f"{root}: folders with speech: {len(folders)}{beside}; mixing needs {speakers} speakers or more"
        )
    if sets:
        names = listed([path.relative_to(root) for path in sets])
        log.info(f"{root}: ignored sets of mixtures among the speakers: {names}")
    return folders


def speech_files(root: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Returns the sound files of `root`/<speaker>/** by speaker, without sets of mixtures, and those sets."""
    sets: dict[Path, Path | None] = {root: None}

    def outermost_set(folder: Path) -> Path | None:
        if folder not in sets:
            above = outermost_set(folder.parent)
            sets[folder] = above or (folder if is_set(folder) else None)
        return sets[folder]

    files = {}
    for folder in subfolders(root):
        if paths := [path for path in find(folder) if not outermost_set(path.parent)]:
            files[folder.name] = paths
    return files, sorted({path for path in sets.values() if path})


def load_corpus(
    root: Path, sample_rate: int, *, speeds: list[float], speakers: int = 2, exclude: Sequence[Sequence[str]] = ()
) -> Corpus:
    """Reads the sound files of `root`/<speaker>/** at `sample_rate` and every speed, on the CPU.

    `exclude` has pairs of speakers, or patterns with `*` and `?`, never to mix. UserError if there are too few
    speakers, silent or unreadable files, or a speaker without partners.
    """
    folders = find_speakers(root, speakers)
    compatible = compatibility(list(folders), exclude, speakers)

    def copies() -> Iterator[Tensor]:
        for waveform in read_clips(root, [path for files in folders.values() for path in files], sample_rate):
            waveform = waveform / waveform.abs().max() * 0.9
            for speed in speeds:
                faster = waveform
                if speed != 1:
                    faster, _ = load_torchaudio().functional.speed(waveform, sample_rate, speed)
                yield faster.clamp(-1, 1)[None]

    counts = torch.tensor([len(files) * len(speeds) for files in folders.values()])
    return Corpus(list(folders), sample_rate, Clips.pack(copies()), counts.cumsum(0) - counts, counts, compatible)


def compatibility(names: list[str], exclude: Sequence[Sequence[str]], speakers: int) -> Tensor:
    """Returns which speakers may be mixed: (P, P) bool, symmetric, False on the diagonal.

    UserError if a pattern matches no speaker, or a speaker has too few partners left.
    """
    allowed = ~torch.eye(len(names), dtype=torch.bool)
    unmatched = list(
        dict.fromkeys(p for pair in exclude for p in pair if not any(fnmatchcase(name, p) for name in names))
    )
    if unmatched:
        raise UserError(f"the excluded pairs: no speaker is named {listed(list(map(repr, unmatched)))}")
    for a, b in exclude:
        rows, columns = (torch.tensor([fnmatchcase(name, pattern) for name in names]) for pattern in (a, b))
        barred = rows[:, None] & columns
        allowed &= ~(barred | barred.T)
    # With this many partners left, drawing cannot run out of speakers in any order.
    conflicts = (~allowed).sum(dim=1)
    worst = int(conflicts.argmax())
    if len(names) <= (speakers - 1) * int(conflicts[worst]):
        raise UserError(f"the excluded pairs leave {names[worst]!r} too few speakers to mix with: exclude fewer pairs")
    return allowed


def read_exclusions(path: Path) -> list[tuple[str, str]]:
    """Reads pairs of speaker patterns from a text file: two words per line; `#` starts a comment."""
    try:
        # Like file names, speakers' names may have any bytes.
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"--exclude {path} cannot be read as a list of pairs ({error.strerror or error})") from None
    pairs: list[tuple[str, str]] = []
    wrong: list[str] = []
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if len(words) == 2:
            pairs.append((words[0], words[1]))
        elif words:
            wrong.append(f"line {number} has {len(words)}")
    if wrong:
        raise UserError(f"{path}: write two speakers or patterns per line; {listed(wrong)}")
    return pairs
