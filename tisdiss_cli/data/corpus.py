"""Clean speech by speaker, held in memory on the training device, from which mixtures are drawn."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
import torchaudio
from torch import Tensor

from tisdiss_cli.audio.find import find
from tisdiss_cli.data.clips import active_frames, padded, read_clips, to_device, to_int16
from tisdiss_cli.errors import UserError


@dataclass(frozen=True)
class Corpus:
    """Every utterance at every speed, end to end, as 16-bit samples; all tensors on one device."""

    names: list[str]  # speakers, sorted
    sample_rate: int  # Hz
    samples: Tensor  # (N,) int16; every utterance starts at a multiple of FRAME
    active: Tensor  # (1, N / FRAME + 1) int32: active frames before each frame
    starts: Tensor  # (U,) int64, first sample of every utterance
    lengths: Tensor  # (U,) int64, samples
    first: Tensor  # (P,) int64, first utterance of every speaker
    counts: Tensor  # (P,) int64, utterances of every speaker, all speeds
    compatible: Tensor  # (P, P) bool: may be mixed; False on the diagonal

    def to(self, device: torch.device) -> "Corpus":
        """The same corpus with its tensors on `device`."""
        return to_device(self, device)


def find_speakers(root: Path, speakers: int) -> dict[str, list[Path]]:
    """The sound files of `root`/<speaker>/**, by speaker; UserError if fewer than `speakers` have any."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: pass one that holds a folder of clean speech for each speaker")
    folders = {path.name: find(path) for path in sorted(root.iterdir()) if path.is_dir()}
    folders = {name: files for name, files in folders.items() if files and not name.startswith(".")}
    if len(folders) < speakers:
        raise UserError(
            f"{root} has sound files of {len(folders)} speaker{'' if len(folders) == 1 else 's'}: mixing needs a "
            f"folder for each of at least {speakers} speakers"
        )
    return folders


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
    folders = find_speakers(root, speakers)
    compatible = compatibility(list(folders), exclude or [], speakers)
    pieces: list[Tensor] = []
    active: list[Tensor] = []
    lengths: list[int] = []
    for waveform in read_clips(root, [path for files in folders.values() for path in files], sample_rate):
        waveform = waveform / waveform.abs().max() * 0.9
        for speed in speeds:
            copy = waveform
            if speed != 1:
                copy, _ = torchaudio.functional.speed(waveform, sample_rate, speed)
            lengths.append(copy.shape[0])
            copy = padded(copy.clamp(-1, 1))
            active.append(active_frames(copy))
            pieces.append(to_int16(copy))
    sizes = torch.tensor([piece.shape[0] for piece in pieces])
    counts = torch.tensor([len(files) * len(speeds) for files in folders.values()])
    return Corpus(
        names=list(folders),
        sample_rate=sample_rate,
        samples=torch.cat(pieces),
        active=active_before(torch.cat(active)[None]),
        starts=sizes.cumsum(0) - sizes,
        lengths=torch.tensor(lengths),
        first=counts.cumsum(0) - counts,
        counts=counts,
        compatible=compatible,
    )


def active_before(active: Tensor) -> Tensor:
    """How many frames are active before each, (K, F) -> (K, F + 1)."""
    return torch.nn.functional.pad(active.cumsum(dim=1), (1, 0)).int()


def compatibility(names: list[str], exclude: list[tuple[str, str]], speakers: int) -> Tensor:
    """Who may be mixed with whom, (P, P) bool, symmetric.

    Raises:
        UserError: a pattern matches nobody, or a speaker has too few partners left.
    """
    allowed = ~torch.eye(len(names), dtype=torch.bool)
    for a, b in exclude:
        rows, columns = (torch.tensor([fnmatchcase(name, pattern) for name in names]) for pattern in (a, b))
        for pattern, matches in ((a, rows), (b, columns)):
            if not matches.any():
                raise UserError(f"the excluded pair {a!r}, {b!r}: no speaker is named {pattern!r}")
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
