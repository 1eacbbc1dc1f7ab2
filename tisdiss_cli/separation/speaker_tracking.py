"""Speaker tracking: each turn of a recording to the voice that it sounds like, as a stream.

Where people talk one after the other a network has nothing to hold on to: it may put the next turn into either voice,
inside a chunk as well as at a seam. So the stream is cut into turns, at pauses and at seams that did not tell the
order, and each turn's voices are brought into the order in which they sound like the voices before.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tisdiss_cli.separation.speaker_profile import FRAME, SpeakerProfiles
from tisdiss_cli.stream import Stream

STAYS = 4.0  # log odds that a turn is in the order of the one before, as far as nothing else is known
_LEARNS = 3.0  # lead of an order over the next from which on it is learnt from
_SURE = 8.0  # lead from which on a seam that did not tell the order is no longer uncertain
_QUIET = 1e-3  # of the loudest frame, which fades: a pause (-30 dB)
_FADES = 0.997  # a frame; 25 dB a minute
# Frames of a pause (1, 0.4 and 0.16 s) that ends a turn with at least this many frames of sound (none, 1.4 and 2.9 s)
_ENDS = ((30, 0), (12, 45), (5, 90))
_MOST = 320  # frames (10 s) of a longer turn that are waited for; the rest follows them
_HELD = 30  # frames (1 s) of it that are kept back: it may have ended within a pause
_BLEND = 0.016  # seconds in which one order goes over into another


class TurnCutter:
    """Powers of frames in, where turns end out."""

    def __init__(self) -> None:
        self.loudest = 0.0
        self.pause = self.sound = 0  # frames: so far, and of the turn

    def push(self, power: float) -> int | None:
        """Returns how many frames before this one, which is not counted, the turn ended; None: it goes on."""
        self.loudest = max(power, self.loudest * _FADES)
        if power < _QUIET * self.loudest:
            self.pause += 1
            return None
        pause, self.pause = self.pause, 0
        ends = any(pause >= length and self.sound >= sound for length, sound in _ENDS)
        self.sound = 1 if ends else self.sound + 1
        return pause // 2 if ends else None


class TurnSorter(Stream[[Tensor], Tensor, Tensor]):
    """Takes S voices at a rate in Hz, in any portions, and gives them back turn by turn, in memory that does not grow.

    Attributes:
        uncertain: positions, in samples, of seams at which the voices may still be swapped.
    """

    def __init__(self, voices: int, sample_rate: int) -> None:
        self.speakers, self.cutter = SpeakerProfiles(voices, sample_rate), TurnCutter()
        self.size, self.blend = round(FRAME * sample_rate), round(_BLEND * sample_rate)
        self.held = torch.zeros(voices, 0)
        self.sent = self.free = 0  # samples: gone on, and that may go on, as no later end of a turn lies before them
        self.heard = 0  # frames
        self.order = self.before = tuple(range(voices))  # of the turn that is coming in, and of what went on last
        self.decided = False  # whether that order is the turn's own yet
        self.doubtful: int | None = None  # the seam before the turn that did not tell the order
        self.seams: list[int] = []  # such seams to come
        self.uncertain: list[int] = []

    def push(self, voices: Tensor, uncertain: Sequence[int] = ()) -> Tensor:
        """Adds samples (S, n) and the seams, in samples of the stream, that did not tell; returns samples (S, k)."""
        self.held = torch.cat((self.held, voices), dim=1)
        self.seams += uncertain
        begin = self.heard * self.size - self.sent
        frames = self.held[:, begin : begin + (self.held.shape[1] - begin) // self.size * self.size]
        parts = []
        for power in frames.unflatten(1, (-1, self.size)).square().mean(-1).sum(0).tolist():
            back = self.cutter.push(power)
            if back is not None:
                parts.append(self._end((self.heard - back) * self.size))
            if self.seams and self.seams[0] <= self.heard * self.size:
                parts.append(self._end(self.seams[0]))
                self._doubt()
                self.cutter.sound = 0
                self.doubtful = self.seams.pop(0)
            self.heard += 1
            ready = (self.heard - _HELD) * self.size
            if not self.decided and ready - self.sent >= _MOST * self.size:
                self._decide(self.held[:, : ready - self.sent])
            if self.decided:
                self.free = max(self.free, ready)
        parts.append(self._send(self.free))
        self.held = self.held.clone()  # not a view of all that went on
        return torch.cat(parts, dim=1)

    def finish(self) -> Tensor:
        """Returns the samples (S, k) that are left."""
        last = self._send(self.sent + self.held.shape[1])
        self._doubt()
        return last

    def _end(self, sample: int) -> Tensor:
        """Ends the turn at a sample of the stream; returns what is left of it."""
        last = self._send(max(sample, self.free))
        self.decided = False
        return last

    def _send(self, sample: int) -> Tensor:
        """Returns what has not gone on yet before a sample of the stream, in the turn's order."""
        count = max(0, sample - self.sent)
        voices, self.held = self.held[:, :count], self.held[:, count:]
        self.sent += count
        self.free = self.sent
        if count and not self.decided:
            self._decide(voices)
        out = voices[list(self.order)]
        if count and self.order != self.before:
            steps = min(self.blend, count)
            rise = (1 - torch.linspace(0, torch.pi, steps + 2)[1:-1].cos()) / 2
            out[:, :steps] = torch.lerp(voices[list(self.before), :steps], out[:, :steps], rise)
            self.before = self.order
        return out

    def _decide(self, voices: Tensor) -> None:
        """Finds the order of the turn whose voices (S, n) have come so far, and learns from it where it is sure."""
        profiles = self.speakers.profiles(voices)
        order, lead = self.speakers.order(profiles, self.order, STAYS)
        self.order, self.decided = order, True
        if lead >= _LEARNS:
            self.speakers.learn([profiles[voice] for voice in order])
        if any(profiles):
            if lead >= _SURE:
                self.doubtful = None
            self._doubt()

    def _doubt(self) -> None:
        """Leaves the seam before this turn uncertain."""
        if self.doubtful is not None:
            self.uncertain.append(self.doubtful)
            self.doubtful = None
