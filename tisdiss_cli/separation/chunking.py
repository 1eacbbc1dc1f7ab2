"""Chunking of long recordings, and overlap-add of their voices (continuous source separation), both as streams.

The network may return the sources of each chunk in another order. So chunks overlap, the sources of each are reordered
to match the previous chunk, and the overlap is cross-faded.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tisdiss_cli.separation.permutation import Order, best_permutation
from tisdiss_cli.separation.speaker_tracking import SpeakerTracker
from tisdiss_cli.stream import Stream

Chunk = tuple[int, Tensor]  # its first sample's position in the stream, and its samples (n,)

OVERLAP = 0.25  # share of a chunk
LONGEST_OVERLAP = 0.75  # share of a chunk, where the mixture is too quiet to tell the speakers apart
LAST = 1.5  # chunks; a rest at the end of a stream, up to this length, is one chunk
_QUIET = 0.05  # share of the chunk's RMS (-26 dB); a quieter overlap does not tell who is who
_MARGIN = 0.1  # least lead of the best order over the next, as a correlation, that is not ambiguous


@dataclass(frozen=True)
class ChunkPlan:
    """Lengths of chunks and their overlaps."""

    chunk: int  # samples of a chunk, at least 2
    sample_rate: int | None = None  # Hz; enables speaker tracking. Default: no tracking

    @property
    def overlap(self) -> int:
        """Samples that a chunk usually shares with the one before."""
        return max(1, int(self.chunk * OVERLAP))

    @property
    def longest(self) -> int:
        """Samples that it shares at most, where the overlap is quiet."""
        return max(1, int(self.chunk * LONGEST_OVERLAP))


class Chunker(Stream[[Tensor], list[Chunk], list[Chunk]]):
    """Cutter of a stream of samples into overlapping chunks of one length; the last has up to 1.5 times that."""

    def __init__(self, plan: ChunkPlan) -> None:
        self.plan = plan
        self.buffer = torch.zeros(0)
        self.start = 0  # position of the buffer in the stream
        self.next = 0  # position of the next chunk

    def push(self, x: Tensor) -> list[Chunk]:
        """Adds samples (n,); returns the chunks that are now complete."""
        self.buffer = torch.cat((self.buffer, x))
        chunks = []
        while self.start + self.buffer.shape[0] > self.next + int(LAST * self.plan.chunk):
            self.buffer = self.buffer[self.next - self.start :]
            self.start = self.next
            piece = self.buffer[: self.plan.chunk].clone()
            chunks.append((self.start, piece))
            self.next += self.plan.chunk - self._audible_overlap(piece)
        return chunks

    def finish(self) -> list[Chunk]:
        """Returns the last chunk; none if there were no samples."""
        left = self.buffer[self.next - self.start :].clone()
        return [(self.next, left)] if left.shape[0] else []

    def _audible_overlap(self, piece: Tensor) -> int:
        """Returns the shortest of overlap, 2 x overlap, ... at the end of `piece` (n,) that is not too quiet."""
        piece = piece - piece.mean()  # an offset is inaudible
        floor = _QUIET**2 * piece.square().mean()
        overlap = self.plan.overlap
        while overlap < self.plan.longest and piece[-overlap:].square().mean() <= floor:
            overlap = min(2 * overlap, self.plan.longest)
        return overlap


def align(before: Tensor, after: Tensor) -> tuple[Order, float]:
    """Returns the order of the sources `after` (S, n) that matches `before` (S, n) best, and its lead over the next.

    The best order has the greatest sum of inner products. The lead is a correlation, 0 to 2; inf for one source.
    Silence on either side gives the present order and lead 0.
    """
    before, after = before.double(), after.double()
    order, lead = best_permutation(before @ after.T)
    norm = float((before.square().sum() * after.square().sum()).sqrt())
    return order, lead / norm if norm else lead


class Stitcher(Stream[[int, Tensor], Tensor, Tensor]):
    """Overlap-add of a `Chunker`'s chunks, in their order, to one stream of S voices.

    If the plan has a rate, the voices go through a `SpeakerTracker`, which also decides, if it can, at seams whose
    permutation is ambiguous.
    """

    def __init__(self, plan: ChunkPlan) -> None:
        self.fade, self.longest, self.sample_rate = plan.overlap, plan.longest, plan.sample_rate
        self.tracker: SpeakerTracker | None = None
        ramp = torch.linspace(0, torch.pi, self.fade + 2)[1:-1]
        self.ramp = (1 - ramp.cos()) / 2  # (fade,), rising
        self.history: Tensor | None = None  # (S, <= longest), the newest samples, with the unsent tail
        self.end = self.sent = 0
        self.loudest = 0.0  # mean power of the loudest chunk so far
        self.seams: list[int] = []  # with an ambiguous permutation

    @property
    def ambiguous(self) -> list[int]:
        """Positions, in samples, of seams at which the speakers may be swapped; complete at the end."""
        return self.tracker.ambiguous if self.tracker else self.seams

    def push(self, start: int, voices: Tensor) -> Tensor:
        """Adds a chunk's voices (S, n) from sample `start` on; returns the samples (S, m) that are now final."""
        seams_before = len(self.seams)
        if self.history is None:
            fresh = voices
            if self.sample_rate:
                self.tracker = SpeakerTracker(voices.shape[0], self.sample_rate)
        else:
            overlap = self.end - start
            voices = self._reordered(self.history, start, overlap=overlap, voices=voices)
            tail = self.history[:, -self.fade :]
            blended = tail + self.ramp * (voices[:, overlap - self.fade : overlap] - tail)
            fresh = torch.cat((self.history[:, : -self.fade], blended, voices[:, overlap:]), dim=1)
        self.end = start + voices.shape[1]
        final = fresh[:, fresh.shape[1] - (self.end - self.sent) : max(0, fresh.shape[1] - self.fade)]
        self.sent += final.shape[1]
        self.history = fresh[:, -self.longest :].clone()
        return self.tracker.push(final, self.seams[seams_before:]) if self.tracker else final.clone()

    def finish(self) -> Tensor:
        """Returns the remaining samples (S, m)."""
        if self.history is None:
            return torch.zeros(0, 0)
        last = self.history[:, self.history.shape[1] - (self.end - self.sent) :]
        return torch.cat((self.tracker.push(last), self.tracker.finish()), dim=1) if self.tracker else last

    def _reordered(self, history: Tensor, start: int, *, overlap: int, voices: Tensor) -> Tensor:
        shared = min(overlap, history.shape[1])
        before, after = history[:, -shared:], voices[:, overlap - shared : overlap]
        order, margin = align(before, after)
        power = float(voices.double().square().mean())
        self.loudest = max(self.loudest, float(history.double().square().mean()))
        quiet = min(float(before.double().square().mean()), float(after.double().square().mean()))
        # With one side of the seam silent, nothing can be swapped.
        audible = min(power, self.loudest) > 1e-6 * max(power, self.loudest)
        sure = not audible or (margin >= _MARGIN and quiet >= 1e-6 * max(power, self.loudest))
        if not sure:
            self.seams.append(start + overlap - self.fade // 2)
        return voices[list(order)]
