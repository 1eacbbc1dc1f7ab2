"""Conversations made from clean speech by speaker: turns, pauses and overlap, with the truth of who speaks when.

A conversation is drawn from its style and seed alone. The speakers take turns; a turn begins before the one before it
has ended, as far as the wanted share of overlap asks for it, else after a pause.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.audio.read import read
from tisdiss_cli.data.dynamic_mixing import generator
from tisdiss_cli.errors import UserError

_STEP = 0.01  # seconds; the truth's resolution
_FLOOR_DB = -35.0  # of speech below a turn's loudest tenth of a second
_BRIDGED = 0.25  # seconds; a shorter pause within a turn is speech
_LEAST = 0.05  # seconds; anything shorter is a click
_FADE = 0.01  # seconds, at both ends of a turn
_STAYS = 0.15  # chance that the same speaker goes on after a pause


@dataclass(frozen=True)
class Style:
    """How people talk; lengths in seconds, ranges are uniform."""

    seconds: float = 60.0
    overlap: float = 0.2  # share of the time with speech in which two turns overlap, 0 to 0.6
    pause: tuple[float, float] = (0.2, 1.5)
    turn: tuple[float, float] = (1.5, 8.0)
    level_db: float = 2.5  # relative levels of the speakers are uniform in +-this
    talkers: int = 2  # of which at most two at once; the second of one is silent

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= 0.6:
            raise UserError(f"an overlap of {self.overlap:g}: it must be 0 to 0.6 of the time with speech")
        for name, (low, high) in (("pause", self.pause), ("turn", self.turn)):
            if not 0 < low <= high:
                raise UserError(f"a {name} of {low:g} to {high:g} s: give two numbers above 0, the smaller one first")


@dataclass(frozen=True)
class Conversation:
    """What is heard, who said it, and when."""

    mixture: Tensor  # (L,), the sum of the references
    references: Tensor  # (S, L), S at least 2
    segments: list[list[tuple[float, float]]]  # of each speaker: (begin, end) in seconds, in order, disjoint
    speakers: list[str]
    sample_rate: int  # Hz


def draw_conversation(speech: dict[str, list[Path]], style: Style, sample_rate: int, *seed: int) -> Conversation:
    """Returns a conversation of `style.talkers` speakers of `speech`, at `sample_rate` Hz; the same seed, the same."""
    random = generator(torch.device("cpu"), *seed)
    names = list(speech)
    chosen = [names[index] for index in torch.randperm(len(names), generator=random)[: style.talkers].tolist()]
    voices = [_Voice(speech[name], sample_rate, random) for name in chosen]
    length = round(style.seconds * sample_rate)
    references = torch.zeros(max(2, style.talkers), length)
    levels = (torch.rand(style.talkers, generator=random) * 2 - 1) * style.level_db
    for speaker, begin, end in draw_turns(style, random):
        first, last = round(begin * sample_rate), min(length, round(end * sample_rate))
        if last - first > 2 * _FADE * sample_rate:
            references[speaker, first:last] = voices[speaker].say(last - first)
    segments = [active_segments(reference, sample_rate) for reference in references]
    for index in range(style.talkers):
        inside = torch.zeros(length, dtype=torch.bool)
        for begin, end in segments[index]:
            inside[int(begin * sample_rate) : int(end * sample_rate)] = True
        if inside.any():
            level = references[index, inside].square().mean().sqrt().clamp_min(1e-9)
            references[index] *= 0.1 / level * 10 ** (levels[index] / 20)
    references *= 0.9 / max(0.9, float(references.sum(0).abs().max()))
    return Conversation(references.sum(0), references, segments, chosen, sample_rate)


def active_segments(reference: Tensor, sample_rate: int) -> list[tuple[float, float]]:
    """Returns where a clean voice (L,) is heard, in seconds: by its level, short pauses bridged."""
    step = round(_STEP * sample_rate)
    level = (
        torch.nn.functional.pad(reference, (0, -reference.shape[0] % step)).unflatten(0, (-1, step)).square().mean(1)
    )
    if not level.any():
        return []
    loud = level.sort(descending=True).values[: max(1, int(0.05 * int((level > 0).sum())))].mean()
    frames = (level > loud * 10 ** (_FLOOR_DB / 10)).tolist()
    segments: list[tuple[float, float]] = []
    begin: int | None = None
    for index, active in enumerate([*frames, False]):
        if active and begin is None:
            begin = index
        elif not active and begin is not None:
            if segments and begin * _STEP - segments[-1][1] < _BRIDGED:
                segments[-1] = (segments[-1][0], round(index * _STEP, 2))
            else:
                segments.append((round(begin * _STEP, 2), round(index * _STEP, 2)))
            begin = None
    return [(begin, end) for begin, end in segments if end - begin >= _LEAST]


class _Voice:
    """One speaker's utterances, one after the other for as long as is asked, in a drawn order that goes round."""

    def __init__(self, paths: list[Path], sample_rate: int, random: torch.Generator) -> None:
        self.paths, self.sample_rate, self.random = paths, sample_rate, random
        self.waiting: list[int] = []
        self.rest = torch.zeros(0)

    def say(self, samples: int) -> Tensor:
        """Returns (samples,), faded at both ends."""
        while self.rest.shape[0] < samples:
            if not self.waiting:
                self.waiting = torch.randperm(len(self.paths), generator=self.random).tolist()
            clip = read(self.paths[self.waiting.pop()], self.sample_rate)
            clip = clip / clip.square().mean().sqrt().clamp_min(1e-9) * 0.1
            pause = torch.zeros(int((0.03 + 0.17 * torch.rand((), generator=self.random)) * self.sample_rate))
            self.rest = torch.cat((self.rest, clip, pause))
        said, self.rest = self.rest[:samples].clone(), self.rest[samples:]
        fade = round(_FADE * self.sample_rate)
        ramp = (1 - torch.linspace(0, torch.pi, fade).cos()) / 2
        said[:fade] *= ramp
        said[-fade:] *= ramp.flip(0)
        return said


def draw_turns(style: Style, random: torch.Generator) -> list[tuple[int, float, float]]:
    """Returns (speaker, begin, end) in seconds, by begin; no speaker overlaps herself."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=random))

    turns: list[tuple[int, float, float]] = []
    free = [0.0] * style.talkers  # when each has ended
    speaker, union, overlapped, now = 0, 0.0, 0.0, uniform(0.0, style.pause[0])
    while now < style.seconds:
        length = uniform(*style.turn)
        begin = now
        if turns:
            _, before, end = turns[-1]
            stays = style.talkers == 1 or uniform(0, 1) < _STAYS * (1 - style.overlap)
            if not stays:
                others = [index for index in range(style.talkers) if index != speaker]
                speaker = others[int(torch.randint(len(others), (), generator=random))]
            wanted = (style.overlap * (union + length) - overlapped) / (1 + style.overlap) * uniform(0.5, 1.5)
            shared = 0.0 if stays else max(0.0, min(wanted, 0.95 * length, 0.95 * (end - before), end - free[speaker]))
            begin = end - shared if shared > 0.2 else end + uniform(*style.pause)
            overlapped += max(0.0, end - begin)
            union += length - max(0.0, end - begin)
        else:
            union = length
        turns.append((speaker, begin, min(begin + length, style.seconds)))
        free[speaker] = now = begin + length
    return turns
