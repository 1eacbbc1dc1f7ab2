"""Ours against the naive network run as the published code runs: float32, one mixture at a time, dense speaker path.

Both run in one process and take turns, so that a machine whose speed drifts is fair to both.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import soundfile
import torch
from torch import Tensor

from tisdiss_cli.audio.read import Source, announced_seconds
from tisdiss_cli.benchmark.measure import seeded_mixture
from tisdiss_cli.benchmark.memory import working_memory
from tisdiss_cli.devices import OutOfMemory, memory_guard, now
from tisdiss_cli.evaluation.metrics import si_snr
from tisdiss_cli.folder.inputs import Input
from tisdiss_cli.folder.jobs import Job, Naming
from tisdiss_cli.folder.names import Template
from tisdiss_cli.folder.record import Record
from tisdiss_cli.folder.run import FolderRun
from tisdiss_cli.folder.settings import choose_settings
from tisdiss_cli.model import naive
from tisdiss_cli.separation.separator import Separator

PAIRS = 3  # turns that each takes at most
ENOUGH = 60.0  # seconds, after which no further turn is begun


@dataclass(frozen=True)
class Comparison:
    """One setting on one shape of input, ours and the naive network's; no figures where memory ran out."""

    precision: str  # ours; the naive network is float32
    batch_size: int
    audio_seconds: float
    repeats: int
    seconds: float | None  # median of our turns
    naive_seconds: float | None  # median of its turns, the mixtures of a batch one after the other
    ratio: float | None  # median of the turns' ratios
    relative_error: float | None  # |ours - naive| / |naive|
    si_snr: float | None  # of our outputs against the naive ones, in dB, the least of all voices
    memory: int | None  # bytes above what was held before, at the peak of a run
    naive_memory: int | None


@dataclass(frozen=True)
class FolderComparison:
    """A folder from its files to its written voices, start-up left out."""

    precision: str
    repeats: int
    files: int
    audio_seconds: float
    seconds: float
    naive_seconds: float
    ratio: float


def compare(
    separator: Separator, repeats: Sequence[int], *, batch_size: int, audio_seconds: float, pairs: int = PAIRS
) -> Iterator[Comparison]:
    """Yields a comparison for each setting, on seeded noise as `benchmark.measure` has it."""
    for setting in repeats:
        comparison = Comparison(separator.precision, batch_size, audio_seconds, setting, *[None] * 7)
        with suppress(OutOfMemory), memory_guard(f"{batch_size} x {audio_seconds:g} s of audio"):
            mixture = seeded_mixture(separator, batch_size, audio_seconds)
            comparison = replace(comparison, **_compare(separator, mixture, repeats=setting, pairs=pairs))
        yield comparison


def _compare(separator: Separator, mixture: Tensor, *, repeats: int, pairs: int) -> dict[str, Any]:
    """A `Comparison`'s fields after the first four."""
    device = separator.device

    def ours() -> Tensor:
        return separator.batch(mixture, repeats)

    def plain() -> Tensor:
        heard = separator.network.heard(mixture)
        voices = torch.cat([naive.separate(separator.network, item[None], repeats) for item in heard])
        return voices[..., : mixture.shape[1]]

    actual, expected = ours(), plain()  # the first runs warm both up
    began = now(device)
    turns: list[tuple[float, float]] = []
    while not turns or (len(turns) < pairs and now(device) - began < ENOUGH):
        turns.append((_seconds(ours, device), _seconds(plain, device)))
    return {
        "seconds": median(a for a, _ in turns),
        "naive_seconds": median(b for _, b in turns),
        "ratio": median(b / a for a, b in turns),
        "relative_error": float((actual - expected).norm() / expected.norm()),
        "si_snr": float(si_snr(actual.cpu(), expected.cpu()).min()),
        "memory": working_memory(ours, device),
        "naive_memory": working_memory(plain, device),
    }


def compare_folder(separator: Separator, paths: Sequence[Path], repeats: int) -> FolderComparison:
    """Separates the files as `tisdiss separate` does, twice, and once as a plain loop in between."""
    with tempfile.TemporaryDirectory() as folder:
        first = _separate(separator, paths, out=Path(folder, "first"), repeats=repeats)
        plain = _separate_naively(separator, paths, out=Path(folder, "naive"), repeats=repeats)
        ours = (first + _separate(separator, paths, out=Path(folder, "second"), repeats=repeats)) / 2
    seconds = sum(announced_seconds(path) for path in paths)
    return FolderComparison(separator.precision, repeats, len(paths), seconds, ours, plain, plain / ours)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    began = now(device)
    run()
    return now(device) - began


def _separate(separator: Separator, paths: Sequence[Path], *, out: Path, repeats: int) -> float:
    out.mkdir()
    jobs = [
        Job(
            Input(path.parent, str(path), elsewhere=str(path)),
            Naming(separator.sources, template=Template(f"{number}_s{{voice}}")),
        )
        for number, path in enumerate(paths, 1)
    ]
    settings = choose_settings(separator, repeats=repeats, inputs=len(paths))
    began = time.perf_counter()
    FolderRun(separator, jobs, out, settings).run(Record(out))
    return time.perf_counter() - began


def _separate_naively(separator: Separator, paths: Sequence[Path], *, out: Path, repeats: int) -> float:
    out.mkdir()
    began = time.perf_counter()
    for number, path in enumerate(paths, 1):
        mixture = torch.cat(list(Source(path, separator.sample_rate).blocks()))[None].to(separator.device)
        voices = naive.separate(separator.network, mixture, repeats)[0].cpu()
        for voice, samples in enumerate(voices, 1):
            soundfile.write(out / f"{number}_s{voice}.wav", samples.numpy(), separator.sample_rate, "FLOAT")
    return time.perf_counter() - began
