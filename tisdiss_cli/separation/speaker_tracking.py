"""Speaker tracking: assigns each turn of a recording to the voice that it sounds like, as a stream.

Where people talk one after the other, the network may put the next turn into either voice. So the stream is segmented
into turns, at pauses and at seams with an ambiguous permutation, and the sources of each turn are reordered to match
the speakers before.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tisdiss_cli.separation.speaker_profile import FRAME, SpeakerProfiles
from tisdiss_cli.stream import Stream

STAYS = 4.0  # prior log odds that a turn has the order of the one before
_LEARNS = 3.0  # least lead of an order with which its profiles are learnt
_SURE = 8.0  # least lead that resolves an ambiguous seam
_QUIET = 1e-3  # of the loudest frame's power (-30 dB); quieter frames are a pause
_DECAY = 0.997  # of the loudest power, each frame; 25 dB a minute
# A pause of this many frames (1, 0.4, 0.16 s) ends a turn with this many frames of sound (0, 1.4, 2.9 s)
_ENDS = ((30, 0), (12, 45), (5, 90))
_MOST = 320  # frames (10 s) after which the order of a longer turn is decided
_HELD = 30  # frames (1 s) that are held back after that, as the turn may have ended within a pause
_BLEND = 0.016  # seconds of the cross-fade from one order to another


class TurnSegmenter:
    """Segmentation into turns by the powers of frames."""

    def __init__(self) -> None:
        self.loudest = 0.0
        self.pause = self.sound = 0  # frames of the present pause, and of sound in the turn

    def push(self, power: float) -> int | None:
        """Returns how many frames before this one the turn ended; None if it goes on."""
        self.loudest = max(power, self.loudest * _DECAY)
        if power < _QUIET * self.loudest:
            self.pause += 1
            return None
        pause, self.pause = self.pause, 0
        ends = any(pause >= length and self.sound >= sound for length, sound in _ENDS)
        self.sound = 1 if ends else self.sound + 1
        return pause // 2 if ends else None


class SpeakerTracker(Stream[[Tensor], Tensor, Tensor]):
    """Reordering of S voices at a rate in Hz, turn by turn, in constant memory.

    Attributes:
        ambiguous: positions, in samples, of seams at which the voices may still be swapped.
    """

    def __init__(self, voices: int, sample_rate: int) -> None:
        self.speakers, self.segmenter = SpeakerProfiles(voices, sample_rate), TurnSegmenter()
        self.size, self.blend = round(FRAME * sample_rate), round(_BLEND * sample_rate)
        self.held = torch.zeros(voices, 0)
        self.sent = self.free = 0  # samples sent on, and samples that may be, as no turn can end before them
        self.frames = 0  # taken in
        self.order = self.before = tuple(range(voices))  # of the present turn, and of the samples sent last
        self.decided = False  # whether `order` was decided for the present turn
        self.open: int | None = None  # ambiguous seam before the present turn
        self.seams: list[int] = []  # ambiguous seams to come
        self.ambiguous: list[int] = []

    def push(self, voices: Tensor, ambiguous: Sequence[int] = ()) -> Tensor:
        """Adds samples (S, n) and ambiguous seams, in samples of the stream; returns samples (S, k)."""
        self.held = torch.cat((self.held, voices), dim=1)
        self.seams += ambiguous
        begin = self.frames * self.size - self.sent
        frames = self.held[:, begin : begin + (self.held.shape[1] - begin) // self.size * self.size]
        parts = []
        for power in frames.unflatten(1, (-1, self.size)).square().mean(-1).sum(0).tolist():
            back = self.segmenter.push(power)
            if back is not None:
                parts.append(self._end((self.frames - back) * self.size))
            if self.seams and self.seams[0] <= self.frames * self.size:
                parts.append(self._end(self.seams[0]))
                self._close()
                self.segmenter.sound = 0
                self.open = self.seams.pop(0)
            self.frames += 1
            ready = (self.frames - _HELD) * self.size
            if not self.decided and ready - self.sent >= _MOST * self.size:
                self._decide(self.held[:, : ready - self.sent])
            if self.decided:
                self.free = max(self.free, ready)
        parts.append(self._send(self.free))
        self.held = self.held.clone()  # not a view of samples that were sent
        return torch.cat(parts, dim=1)

    def finish(self) -> Tensor:
        """Returns the remaining samples (S, k)."""
        last = self._send(self.sent + self.held.shape[1])
        self._close()
        return last

    def _end(self, sample: int) -> Tensor:
        """Ends the turn at a sample of the stream; returns its remaining samples."""
        last = self._send(max(sample, self.free))
        self.decided = False
        return last

    def _send(self, sample: int) -> Tensor:
        """Returns the samples before a position in the stream that were not sent yet, in the turn's order."""
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
        """Decides the order of the turn from its voices (S, n) so far, and learns from them if it is sure."""
        profiles = self.speakers.profiles(voices)
        order, lead = self.speakers.order(profiles, self.order, STAYS)
        self.order, self.decided = order, True
        if lead >= _LEARNS:
            self.speakers.learn([profiles[voice] for voice in order])
        if any(profiles):
            if lead >= _SURE:
                self.open = None
            self._close()

    def _close(self) -> None:
        """Leaves an open seam ambiguous."""
        if self.open is not None:
            self.ambiguous.append(self.open)
            self.open = None
