"""Dynamic mixing on the training device: random speakers, utterances, segments and levels."""

import numpy as np
import torch
from torch import Tensor

from tisdiss_cli.training.corpus import ACTIVE_DB, FRAME, Corpus

CANDIDATES = 8  # positions tried for a segment that is not mostly silence


def generator(device: torch.device, *key: int) -> torch.Generator:
    """Random numbers that follow from `key` alone (seed, step, rank): the step is the position in the data.

    Nothing else has to be stored to resume a run exactly.
    """
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    return torch.Generator(device).manual_seed(seed)


def draw_speakers(compatible: Tensor, batch: int, speakers: int, random: torch.Generator) -> Tensor:
    """(batch, speakers) indices, all compatible with each other; the first is uniform."""
    allowed = torch.ones(batch, compatible.shape[0], device=compatible.device)
    picks: list[Tensor] = []
    for _ in range(speakers):
        pick = torch.multinomial(allowed, 1, generator=random).squeeze(1)
        allowed = allowed * compatible[pick]
        picks.append(pick)
    return torch.stack(picks, dim=1)


def draw_segments(corpus: Corpus, speakers: Tensor, samples: int, random: torch.Generator) -> Tensor:
    """A random segment of a random utterance of each speaker: indices (...) -> (..., samples), float32.

    Of CANDIDATES positions one is taken where at least half of the frames are active, or else the
    most active. An utterance shorter than the segment lies at a random place in silence.
    """
    device = speakers.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, device=device, generator=random)

    count = corpus.counts[speakers]
    # A product with a float below 1 may still round up to the count itself.
    utterance = corpus.first[speakers] + torch.minimum((uniform(*speakers.shape) * count).long(), count - 1)
    start, length = corpus.starts[utterance], corpus.lengths[utterance]
    slack = (length - samples)[..., None]
    offset = (uniform(*speakers.shape, CANDIDATES) * slack).long()  # (..., C), negative for a short utterance
    inside = offset.clamp(min=0)
    frame = (start[..., None] + inside) // FRAME
    frames = torch.minimum(length[..., None] - inside, torch.tensor(samples, device=device)) // FRAME
    activity = (corpus.active[frame + frames] - corpus.active[frame]).clamp(max=samples // FRAME // 2)
    offset = offset.gather(-1, activity.argmax(dim=-1, keepdim=True))  # (..., 1)
    position = offset + torch.arange(samples, device=device)
    valid = (position >= 0) & (position < length[..., None])
    index = (start[..., None] + position).clamp(0, corpus.samples.shape[0] - 1)
    return corpus.samples[index].float() / 32768 * valid


def active_level(x: Tensor) -> Tensor:
    """Root mean square over the active frames, (..., L) -> (..., 1)."""
    energy = x[..., : x.shape[-1] // FRAME * FRAME].unflatten(-1, (-1, FRAME)).square().mean(dim=-1)
    active = energy > energy.amax(dim=-1, keepdim=True) * 10 ** (-ACTIVE_DB / 10)
    return ((energy * active).sum(-1, keepdim=True) / active.sum(-1, keepdim=True).clamp(min=1)).sqrt()


def draw_sources(
    corpus: Corpus, batch: int, speakers: int, samples: int, level_db: float, random: torch.Generator
) -> Tensor:
    """(batch, speakers, samples): the mixtures' references; each mixture is their sum.

    Active levels are drawn uniformly so that two speakers' relative level is uniform in +-`level_db`.
    """
    who = draw_speakers(corpus.compatible, batch, speakers, random)
    segments = draw_segments(corpus, who, samples, random)
    segments = segments / active_level(segments).clamp(min=1e-5) * 0.1
    level = (torch.rand(batch, speakers, 1, device=segments.device, generator=random) * 2 - 1) * level_db
    level[:, 0] = 0  # relative to the first speaker; the network is blind to the mixture's own level
    return segments * 10 ** (level / 20)
