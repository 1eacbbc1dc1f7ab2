"""What comes out of a stream does not depend on where its signal was cut into portions."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.separation.test_speaker_tracking import conversation, scattered
from tests.test_house import ROOT, module_name
from tisdiss_cli.activity.leakage import Around, Comparison, Evidence
from tisdiss_cli.activity.tracker import ActivityTracker
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.separation.chunking import Chunker, ChunkPlan, Stitcher
from tisdiss_cli.separation.quality import QualityMeter
from tisdiss_cli.separation.speaker_tracking import SpeakerTracker
from tisdiss_cli.separation.upper_band import UpperBand
from tisdiss_cli.stream import Stream

OF_CHUNKS = {Stitcher, QualityMeter}  # whose portions are chunks: `Stitched` takes samples


class Stitched(Stream[[Tensor], Tensor, Tensor]):
    """Samples (S, n) of voices in; cut into chunks, and stitched again, out."""

    def __init__(self) -> None:
        plan = ChunkPlan(4000, 8000)
        self.chunker, self.stitcher, self.voices = Chunker(plan), Stitcher(plan), torch.zeros(2, 0)

    def push(self, voices: Tensor) -> Tensor:
        self.voices = torch.cat((self.voices, voices), dim=1)
        return self._joined(self.chunker.push(voices.sum(0)))

    def finish(self) -> Tensor:
        return torch.cat((self._joined(self.chunker.finish()), self.stitcher.finish()), dim=1)

    def _joined(self, chunks: list[tuple[int, Tensor]]) -> Tensor:
        parts = [self.stitcher.push(start, self.voices[:, start : start + len(chunk)]) for start, chunk in chunks]
        return torch.cat([torch.zeros(2, 0), *parts], dim=1)


@dataclass
class Case:
    """A stream and a signal for it.

    make: a new stream.
    signal: tensors that are pushed together, all with time in dimension `time`.
    tolerance: by how much values may differ, as sums are taken in another order.
    read: what comes out, as what can be joined.
    """

    make: Callable[[], Stream]
    signal: tuple[Tensor, ...]
    time: int = 1
    tolerance: float = 0.0
    read: Callable[[Any], Any] = lambda ready: ready


def voices(samples: int = 30_011) -> Tensor:
    """(2, samples) of two people in turns, some of them in the other's voice."""
    clean, places = conversation(1.5, 0.4)
    return scattered(clean, places, 3)[:, :samples]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def windows(ready: Tensor) -> Tensor:
    """(3, k + 10) -> (3, k, 11), which can be joined."""
    return ready.unfold(1, 11, 1) if ready.shape[1] else torch.zeros(3, 0, 11)


WINDOWS = (noise(2, 300).sigmoid(), noise(2, 300, 256))
CASES = {
    "to the same rate": Case(lambda: Resampler(8000, 8000), (noise(9001),), 0),
    "to twice the rate": Case(lambda: Resampler(8000, 16000), (noise(9001),), 0, 1e-5),
    "to less": Case(lambda: Resampler(44100, 8000), (noise(20_001),), 0, 1e-5),
    "to a rate of no small ratio": Case(lambda: Resampler(8001, 8000), (noise(9001),), 0, 1e-5),
    "around": Case(lambda: Around(3, 5), (noise(3, 200),), read=windows),
    "comparison": Case(lambda: Comparison(2, 256, 8000), WINDOWS, 1, 1e-5),
    "evidence": Case(lambda: Evidence(2, 256, 8000), WINDOWS, 1, 1e-5),
    "activity": Case(lambda: ActivityTracker(2, 8000), (voices(),)),
    "activity, resampled": Case(lambda: ActivityTracker(2, 11025), (voices(),)),
    "chunks": Case(lambda: Chunker(ChunkPlan(1000)), (voices(9001)[0],), 0),
    "turns": Case(lambda: SpeakerTracker(2, 8000), (voices(60_000),)),
    "band above": Case(lambda: UpperBand(2, 8000, iter([noise(40_000)]), 11025), (voices(),), 1, 1e-5),
    "chunks, stitched": Case(Stitched, (voices(),)),
}
LITTLE = 900  # samples that are pushed one by one


def portions(length: int, how: str) -> list[int]:
    """Lengths that add up to `length`."""
    if how == "whole":
        return [length]
    if how == "one by one at first":
        return [1] * min(LITTLE, length - 1) + [length - min(LITTLE, length - 1)]
    drawn = torch.Generator().manual_seed(int(how))
    ends = torch.randint(0, length, (7,), generator=drawn).sort().values  # some may be nothing
    return torch.tensor([0, *ends.tolist(), length]).diff().tolist()


def outcome(case: Case, how: str) -> list[Any]:
    stream = case.make()
    cut = [part.split(portions(part.shape[case.time], how), case.time) for part in case.signal]
    return [case.read(ready) for ready in (*(stream.push(*some) for some in zip(*cut, strict=True)), stream.finish())]


def joined(parts: list[Any], time: int) -> list[Any]:
    """What came out, as if at once: tensors and lists end to end, each of several results by itself; then the last."""
    if isinstance(parts[0], Tensor):
        return [torch.cat(parts, min(time, parts[0].dim() - 1))]
    if isinstance(parts[0], list):
        return [part for some in parts for chunk in some for part in chunk]
    if isinstance(parts[0], tuple):
        return [one for several in zip(*parts, strict=True) for one in joined(list(several), time)]
    assert set(parts[:-1]) == {None}
    return parts[-1:]


@pytest.mark.parametrize("how", ["one by one at first", "0", "1", "2"])
@pytest.mark.parametrize("name", CASES)
def test_any_portions_give_the_same(name, how):
    case = CASES[name]
    expected, found = (joined(outcome(case, one), case.time) for one in ("whole", how))
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, Tensor):
            assert one.shape == other.shape and other.numel()
            torch.testing.assert_close(one, other, rtol=0, atol=case.tolerance)
        else:
            assert one == other


def test_every_stream_is_tried():
    tried = {type(case.make()) for case in CASES.values()} | OF_CHUNKS
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] in ("audio", "activity", "separation"):
            for _, kind in inspect.getmembers(import_module(module_name(path)), inspect.isclass):
                if hasattr(kind, "push") and hasattr(kind, "finish") and kind is not Stream:
                    assert Stream in kind.__mro__ and kind in tried, kind
