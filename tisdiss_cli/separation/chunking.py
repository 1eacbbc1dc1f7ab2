"""Long recordings as overlapping chunks, and their voices stitched together again, both as streams.

A network knows no speaker's name, so each chunk may return the voices in another order. Chunks therefore overlap; the
order that agrees best with what is written already is taken, and the overlap is blended smoothly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tisdiss_cli.separation.permutation import Order, best_permutation
from tisdiss_cli.separation.speaker_tracking import TurnSorter
from tisdiss_cli.stream import Stream

Chunk = tuple[int, Tensor]  # the sample of the stream that it starts at, and its samples (n,)

OVERLAP = 0.25  # of a chunk
LONGEST_OVERLAP = 0.75  # of a chunk, where the mixture is too quiet to tell the speakers apart
LAST = 1.5  # of a chunk: what is left at the end of a stream is one chunk up to this length
_QUIET = 0.05  # an overlap whose RMS is below this share of its chunk's says little about who is who (-26 dB)
_MARGIN = 0.1  # the least lead of the best order over the next, as a correlation, to be called certain


@dataclass(frozen=True)
class ChunkPlan:
    """Lengths by which recordings are cut into chunks."""

    chunk: int  # its samples, at least 2
    sample_rate: int | None = None  # Hz, to bring turns to the voices that they sound like; None: they stay

    @property
    def overlap(self) -> int:
        """Samples that a chunk shares with the one before, where they tell the speakers apart."""
        return max(1, int(self.chunk * OVERLAP))

    @property
    def longest(self) -> int:
        """Samples that it shares at most."""
        return max(1, int(self.chunk * LONGEST_OVERLAP))


class Chunker(Stream[[Tensor], list[Chunk], list[Chunk]]):
    """Cuts a stream of samples into chunks of one length, each overlapping the one before.

    What is left at the end, at most 1.5 times a chunk, is the last one: nothing is computed twice but the overlaps, and
    no seam is made for the sake of a short rest.
    """

    def __init__(self, plan: ChunkPlan) -> None:
        self.plan = plan
        self.buffer = torch.zeros(0)
        self.start = 0  # of the buffer, in the stream
        self.next = 0  # where the next chunk starts

    def push(self, x: Tensor) -> list[Chunk]:
        """Adds samples (n,); returns the chunks that are complete."""
        self.buffer = torch.cat((self.buffer, x))
        chunks = []
        while self.start + self.buffer.shape[0] > self.next + int(LAST * self.plan.chunk):
            self.buffer = self.buffer[self.next - self.start :]
            self.start = self.next
            piece = self.buffer[: self.plan.chunk].clone()
            chunks.append((self.start, piece))
            self.next += self.plan.chunk - self._telling_overlap(piece)
        return chunks

    def finish(self) -> list[Chunk]:
        """Returns the last chunk, unless there were no samples."""
        left = self.buffer[self.next - self.start :].clone()
        return [(self.next, left)] if left.shape[0] else []

    def _telling_overlap(self, piece: Tensor) -> int:
        """Returns the shortest of overlap, 2 x overlap, ... at the end of `piece` that is not too quiet."""
        piece = piece - piece.mean()  # an offset is not heard
        floor = _QUIET**2 * piece.square().mean()
        overlap = self.plan.overlap
        while overlap < self.plan.longest and piece[-overlap:].square().mean() <= floor:
            overlap = min(2 * overlap, self.plan.longest)
        return overlap


def align(before: Tensor, after: Tensor) -> tuple[Order, float]:
    """Returns the order of `after` (S, n) that is nearest in mean square to `before` (S, n), and its lead.

    It has the greatest sum of inner products. The lead over the next order is a correlation, 0 to 2; inf for one voice.
    Silence on either side gives the order as it is and lead 0.
    """
    before, after = before.double(), after.double()
    order, lead = best_permutation(before @ after.T)
    norm = float((before.square().sum() * after.square().sum()).sqrt())
    return order, lead / norm if norm else lead


class Stitcher(Stream[[int, Tensor], Tensor, Tensor]):
    """Joins the estimates of a `Chunker`'s chunks, in their order, to one stream of S voices.

    Where the plan has a rate, what is joined goes through a `TurnSorter`, which also decides at seams whose overlap is
    too quiet or too alike to tell the order, if it can.
    """

    def __init__(self, plan: ChunkPlan) -> None:
        self.fade, self.longest, self.sample_rate = plan.overlap, plan.longest, plan.sample_rate
        self.turns: TurnSorter | None = None
        ramp = torch.linspace(0, torch.pi, self.fade + 2)[1:-1]
        self.ramp = (1 - ramp.cos()) / 2  # (fade,), rising
        self.history: Tensor | None = None  # (S, <= longest), the newest voices, the unsent tail among them
        self.end = self.sent = 0
        self.heard = 0.0  # mean power of the loudest chunk so far
        self.seams: list[int] = []  # that did not tell the order

    @property
    def uncertain(self) -> list[int]:
        """Positions, in samples, of the seams at which the speakers may be swapped; complete at the end."""
        return self.turns.uncertain if self.turns else self.seams

    def push(self, start: int, voices: Tensor) -> Tensor:
        """Adds a chunk's voices (S, n) that begin at sample `start`; returns the voices (S, m) now final."""
        told = len(self.seams)
        if self.history is None:
            fresh = voices
            if self.sample_rate:
                self.turns = TurnSorter(voices.shape[0], self.sample_rate)
        else:
            overlap = self.end - start
            voices = self._in_order(self.history, start, overlap=overlap, voices=voices)
            tail = self.history[:, -self.fade :]
            blended = tail + self.ramp * (voices[:, overlap - self.fade : overlap] - tail)
            fresh = torch.cat((self.history[:, : -self.fade], blended, voices[:, overlap:]), dim=1)
        self.end = start + voices.shape[1]
        final = fresh[:, fresh.shape[1] - (self.end - self.sent) : max(0, fresh.shape[1] - self.fade)]
        self.sent += final.shape[1]
        self.history = fresh[:, -self.longest :].clone()
        return self.turns.push(final, self.seams[told:]) if self.turns else final.clone()

    def finish(self) -> Tensor:
        """Returns the voices (S, m) that are left."""
        if self.history is None:
            return torch.zeros(0, 0)
        last = self.history[:, self.history.shape[1] - (self.end - self.sent) :]
        return torch.cat((self.turns.push(last), self.turns.finish()), dim=1) if self.turns else last

    def _in_order(self, history: Tensor, start: int, *, overlap: int, voices: Tensor) -> Tensor:
        shared = min(overlap, history.shape[1])
        before, after = history[:, -shared:], voices[:, overlap - shared : overlap]
        order, margin = align(before, after)
        power = float(voices.double().square().mean())
        self.heard = max(self.heard, float(history.double().square().mean()))
        quiet = min(float(before.double().square().mean()), float(after.double().square().mean()))
        # Nothing can be swapped where one side of the seam has not a voice in it.
        audible = min(power, self.heard) > 1e-6 * max(power, self.heard)
        sure = not audible or (margin >= _MARGIN and quiet >= 1e-6 * max(power, self.heard))
        if not sure:
            self.seams.append(start + overlap - self.fade // 2)
        return voices[list(order)]
