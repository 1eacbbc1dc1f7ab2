"""Clean speech by speaker, held in memory on the training device, from which mixtures are drawn."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
import torchaudio
from torch import Tensor

from tisdiss_cli import audio
from tisdiss_cli.errors import UserError

FRAME = 256  # samples; activity is known frame by frame
ACTIVE_DB = 30.0  # a frame is active within this much of its utterance's loudest


@dataclass(frozen=True)
class Corpus:
    """Every utterance at every speed, end to end, as 16-bit samples; all tensors on one device."""

    names: list[str]  # speakers, sorted
    samples: Tensor  # (N,) int16; every utterance starts at a multiple of FRAME
    active: Tensor  # (N / FRAME + 1,) int32: active frames before each frame
    starts: Tensor  # (U,) int64, first sample of every utterance
    lengths: Tensor  # (U,) int64, samples
    first: Tensor  # (P,) int64, first utterance of every speaker
    counts: Tensor  # (P,) int64, utterances of every speaker, all speeds
    compatible: Tensor  # (P, P) bool: may be mixed; False on the diagonal

    @property
    def seconds(self) -> float:
        """Seconds of speech at all speeds, at 8 kHz."""
        return int(self.lengths.sum()) / 8000

    def to(self, device: torch.device) -> "Corpus":
        """The same corpus with its tensors on `device`."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Corpus(self.names, **tensors)


def load_corpus(
    root: Path, sample_rate: int, speeds: list[float], speakers: int = 2, exclude: list[tuple[str, str]] | None = None
) -> Corpus:
    """Reads `root`/<speaker>/**/<any sound file>, resampled to `sample_rate`, on the CPU.

    Args:
        root: one folder for each speaker.
        sample_rate: of the network, Hz.
        speeds: factors of the speed perturbation; a copy is kept at each.
        speakers: of a mixture.
        exclude: pairs of patterns (`*` and `?` as in a shell) of speakers never to be mixed.

    Raises:
        UserError: no folder, too few speakers, a silent or unreadable file, a speaker without partners.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: pass one that holds a folder of clean speech for each speaker")
    folders = {path.name: audio.find(path) for path in sorted(root.iterdir()) if path.is_dir()}
    folders = {name: files for name, files in folders.items() if files and not name.startswith(".")}
    if len(folders) < speakers:
        raise UserError(
            f"{root} has {len(folders)} folders with sound files: mixing needs one for each of at least "
            f"{speakers} speakers"
        )
    compatible = compatibility(list(folders), exclude or [], speakers)
    pieces: list[Tensor] = []
    active: list[Tensor] = []
    lengths: list[int] = []
    counts: list[int] = []
    for files in folders.values():
        counts.append(len(files) * len(speeds))
        for path in files:
            waveform = audio.read(path, sample_rate)
            peak = float(waveform.abs().max())
            if peak == 0:
                raise UserError(f"{path} is silent: take it out of the corpus")
            for speed in speeds:
                copy = waveform / peak * 0.9
                if speed != 1:
                    copy, _ = torchaudio.functional.speed(copy, sample_rate, speed)
                frames = -(-copy.shape[0] // FRAME)
                padded = torch.nn.functional.pad(copy, (0, frames * FRAME - copy.shape[0]))
                energy = padded.view(frames, FRAME).square().sum(dim=1)
                active.append(energy > energy.max() * 10 ** (-ACTIVE_DB / 10))
                pieces.append((padded * 32767).round().to(torch.int16))
                lengths.append(copy.shape[0])
    sizes = torch.tensor([piece.shape[0] for piece in pieces])
    totals = torch.tensor(counts)
    return Corpus(
        names=list(folders),
        samples=torch.cat(pieces),
        active=torch.cat((torch.zeros(1, dtype=torch.int32), torch.cat(active).cumsum(0).int())),
        starts=sizes.cumsum(0) - sizes,
        lengths=torch.tensor(lengths),
        first=totals.cumsum(0) - totals,
        counts=totals,
        compatible=compatible,
    )


def compatibility(names: list[str], exclude: list[tuple[str, str]], speakers: int) -> Tensor:
    """Who may be mixed with whom, (P, P) bool, symmetric; UserError names a speaker with too few partners."""
    allowed = ~torch.eye(len(names), dtype=torch.bool)
    for a, b in exclude:
        rows = torch.tensor([fnmatchcase(name, a) for name in names])
        columns = torch.tensor([fnmatchcase(name, b) for name in names])
        barred = rows[:, None] & columns
        allowed &= ~(barred | barred.T)
    # With this many partners left for everyone, no drawing order can run out of them.
    conflicts = (~allowed).sum(dim=1)
    worst = int(conflicts.argmax())
    if len(names) <= (speakers - 1) * int(conflicts[worst]):
        raise UserError(
            f"the excluded pairs leave {names[worst]!r} too few of the {len(names)} speakers to be mixed with: "
            "exclude fewer pairs or take that speaker out"
        )
    return allowed


def read_exclusions(path: Path) -> list[tuple[str, str]]:
    """Pairs of speaker patterns from a text file: two a line, blanks between, `#` starts a comment."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of excluded pairs ({error})") from None
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if len(words) == 2:
            pairs.append((words[0], words[1]))
        elif words:
            raise UserError(f"{path}, line {number}: write two speakers or patterns, not {len(words)}")
    return pairs
