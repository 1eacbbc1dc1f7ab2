"""Dynamic mixing: random speakers, utterances, segments, levels, rooms and noise at every step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tisdiss_cli.data.augment import Noises, Rooms, reverberate
from tisdiss_cli.data.clips import FRAME, OnDevice, active_frames, pick_by_weight
from tisdiss_cli.data.conversation import draw_turns
from tisdiss_cli.data.corpus import Corpus


def generator(device: torch.device, *key: int) -> torch.Generator:
    """Returns a random generator that depends on `key` (seed, step, rank) alone.

    A resumed run therefore needs no stored generator state.
    """
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    return torch.Generator(device).manual_seed(seed)


def draw_speakers(
    compatible: Tensor, batch: int, *, speakers: int, random: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """Draws (batch, speakers) indices of compatible speakers, in proportion to `weights` (P,). Default: uniformly."""
    allowed = torch.ones(batch, compatible.shape[0], device=compatible.device)
    if weights is not None:
        allowed = allowed * weights
    picks: list[Tensor] = []
    for _ in range(speakers):
        pick = pick_by_weight(allowed, 1, random).squeeze(1)
        allowed = allowed * compatible[pick]
        picks.append(pick)
    return torch.stack(picks, dim=1)


def draw_segments(corpus: Corpus, speakers: Tensor, *, samples: int, random: torch.Generator) -> Tensor:
    """Draws a random segment of a random utterance of each speaker: (...) -> (..., samples), float32."""
    count = corpus.counts[speakers]
    uniform = torch.rand(*speakers.shape, device=speakers.device, generator=random)
    # The product may round up to the count itself.
    utterance = corpus.first[speakers] + torch.minimum((uniform * count).long(), count - 1)
    return corpus.clips.draw(utterance, samples, random)[0]


def active_level(x: Tensor) -> Tensor:
    """Returns the root mean square over active frames: (..., L) -> (..., 1); 0 for silence or less than a frame."""
    x = x[..., : x.shape[-1] // FRAME * FRAME]
    if not x.shape[-1]:
        return x.new_zeros(*x.shape[:-1], 1)
    active = active_frames(x)
    energy = x.unflatten(-1, (-1, FRAME)).square().mean(dim=-1)
    return ((energy * active).sum(-1, keepdim=True) / active.sum(-1, keepdim=True).clamp(min=1)).sqrt()


@dataclass(frozen=True)
class DynamicMixing(OnDevice):
    """New mixtures at every step, drawn from a corpus.

    The references are the dry sources, as in WHAMR! (Maciejewski et al. 2020), so the network learns to remove
    reverberation and noise. Impulse responses begin at their direct path, which keeps mixtures and references aligned.
    """

    corpus: Corpus
    level_db: float  # relative levels are uniform within +- this
    rooms: Rooms | None = None
    noises: Noises | None = None
    noise_db: Sequence[float] = (-6.0, 3.0)  # loudest speaker over noise (WHAM!, Wichern et al. 2019)
    speaker_exponent: float = 0.0  # speakers are drawn by length of speech ** this; 0: uniformly
    turn_taking: float = 0.0  # share of mixtures that are windows of conversations

    @property
    def checksum(self) -> str:
        """Checksum of speech, rooms and noise."""
        noises = [self.noises.clips.checksum] if self.noises else []
        rooms = [f"{tuple(self.rooms.responses.shape)}"] if self.rooms else []
        return " ".join([self.corpus.clips.checksum, *noises, *rooms])

    def draw(self, batch: int, speakers: int, samples: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws mixtures (batch, samples) and their references (batch, speakers, samples)."""
        sources = self.sources(batch, speakers, samples, random)
        wet = sources
        if self.rooms:
            wet = reverberate(sources, self.rooms.draw(batch, speakers, random))
        mixture = wet.sum(dim=1)
        if self.noises:
            low, high = self.noise_db
            snr = low + (high - low) * torch.rand(batch, 1, device=mixture.device, generator=random)
            loudest = active_level(sources).amax(dim=1)
            mixture = mixture + self.noises.draw(batch, samples, random) * loudest * 10 ** (-snr / 20)
        return mixture, sources

    def sources(self, batch: int, speakers: int, samples: int, random: torch.Generator) -> Tensor:
        """Draws the dry references; each active level is within +-`level_db` of the first speaker's."""
        corpus = self.corpus
        weights = corpus.speech_samples.pow(self.speaker_exponent) if self.speaker_exponent else None
        picked = draw_speakers(corpus.compatible, batch, speakers=speakers, random=random, weights=weights)
        segments = draw_segments(corpus, picked, samples=samples, random=random)
        segments = segments / active_level(segments).clamp(min=1e-5) * 0.1
        level = (torch.rand(batch, speakers, 1, device=segments.device, generator=random) * 2 - 1) * self.level_db
        level[:, :1].zero_()  # the network ignores the level of the mixture
        sources = segments * 10 ** (level / 20)
        if self.turn_taking:
            taken = torch.rand(batch, 1, 1, device=segments.device, generator=random) < self.turn_taking
            turns = sources * draw_turns(batch, speakers, samples, corpus.sample_rate, random)
            heard = turns.flatten(1).any(1)[:, None, None]  # not only the zeros around short utterances
            sources = torch.where(taken & heard, turns, sources)
        return sources
