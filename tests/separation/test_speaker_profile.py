"""Voices are known again after a pause that is longer than any overlap, by their spectrum and their pitch."""

import pickle

import pytest
import torch

from tests.cli import ROOT
from tisdiss_cli.audio.read import read
from tisdiss_cli.separation.chunking import Chunker, ChunkPlan, Stitcher
from tisdiss_cli.separation.speaker_profile import SpeakerProfiles, octaves

RATE = 8000


def speaker(source: str, index: int, rate: int = 8000) -> torch.Tensor:
    clip = read(sorted((ROOT / "examples" / "mixtures" / source).iterdir())[index], rate)
    return clip / clip.std() * 0.05


def turns(second_is_first: bool = False) -> torch.Tensor:
    """(2, L): each speaks alone for 3 s, then nobody for 12 s, then the second, or the first once more."""
    man, woman, size = speaker("s1", 0), speaker("s2", 0), 24000  # of one mixture: two people
    none = torch.zeros(size)
    again = man[-size:] if second_is_first else woman[-size:]
    later = torch.stack((again, none) if second_is_first else (none, again))
    first = torch.cat((man[:size], none)), torch.cat((none, woman[:size]))
    return torch.cat((torch.stack(first), torch.zeros(2, 97000), later, later), dim=1)


def stitched(voices: torch.Tensor, code: int, sample_rate: int | None) -> tuple[torch.Tensor, list[int]]:
    plan = ChunkPlan(64000, sample_rate)
    chunker, stitcher = Chunker(plan), Stitcher(plan)
    parts = []
    for index, (start, chunk) in enumerate(chunker.push(voices.sum(0)) + chunker.finish()):
        piece = voices[:, start : start + len(chunk)]
        parts.append(stitcher.push(start, piece.flip(0) if code >> index & 1 else piece))
    out = torch.cat([*parts, stitcher.finish()], dim=1)
    return out.flip(0) if code & 1 else out, stitcher.ambiguous


@pytest.mark.parametrize("code", range(0, 32, 3))
@pytest.mark.parametrize("second_is_first", [False, True])
def test_a_voice_is_known_again_after_a_pause(second_is_first, code):
    voices = turns(second_is_first)
    out, ambiguous = stitched(voices, code, 8000)
    assert torch.equal(out, voices)
    assert ambiguous == []


def test_without_a_memory_it_is_not():
    outcomes = [stitched(turns(), code, None) for code in range(0, 32, 3)]
    assert all(ambiguous for _, ambiguous in outcomes)
    assert not all(torch.equal(out, turns()) for out, _ in outcomes)


def test_two_of_one_kind_are_not_told_apart():
    speakers = SpeakerProfiles(2, 8000)
    clip = speaker("s1", 0)[:24000]
    alike = torch.stack((torch.cat((clip, 0 * clip)), torch.cat((0 * clip, clip))))
    speakers.learn(speakers.profiles(alike))
    for before in ((0, 1), (1, 0)):
        assert speakers.order(speakers.profiles(alike), before, 3.0) == (before, pytest.approx(3.0, abs=0.3))


@pytest.mark.parametrize("rate", [8000, 16000])
def test_levels_and_rates_make_no_difference(rate):
    one, other = speaker("s1", 0, rate)[: 3 * rate], speaker("s2", 0, rate)[: 3 * rate]
    voices = torch.stack((torch.cat((one, 0 * other)), torch.cat((0 * one, other))))
    speakers = SpeakerProfiles(2, rate)
    speakers.learn(speakers.profiles(voices))
    for quiet, found in ((0.1 * voices.flip(0), (1, 0)), (0.1 * voices, (0, 1))):
        order, lead = speakers.order(speakers.profiles(quiet), (0, 1), 0.0)
        assert order == found and lead > 8
        stays = lead + 1  # what speaks for the order before outweighs what they sound like, and not by more
        assert speakers.order(speakers.profiles(quiet), found[::-1], stays) == (found[::-1], pytest.approx(1, abs=1e-3))


def test_what_says_nothing_decides_nothing():
    speakers = SpeakerProfiles(2, 8000)
    silence, noise = torch.zeros(2, 32000), torch.randn(2, 32000)
    for voices in (silence, noise, noise[:, :100]):  # no frame is one voice's own
        assert speakers.profiles(voices) == [None, None]
        assert speakers.order(speakers.profiles(voices), (1, 0), 3.0) == ((1, 0), 3.0)
    speakers.learn([None, None])
    assert speakers.learnt == [None, None]


def test_their_size_stays_as_it_is():
    voices, speakers, sizes = turns(), SpeakerProfiles(2, 8000), []
    for _ in range(20):
        speakers.learn(speakers.profiles(voices))
        sizes.append(len(pickle.dumps(speakers)))
    assert sizes[-1] < sizes[0] + 32  # counts may take a byte more


def frames(x: torch.Tensor, size: int = 256) -> torch.Tensor:
    return x[: len(x) // size * size].unflatten(0, (-1, size))


def voice(hertz: float, samples: int = RATE) -> torch.Tensor:
    """Harmonics up to 3.5 kHz, each of its own phase, the first the weakest of them: as through a telephone."""
    random = torch.Generator().manual_seed(round(hertz))
    time = torch.arange(samples) / RATE
    sound = torch.zeros(samples)
    for k in range(1, int(3500 / hertz) + 1):
        phase = float(torch.rand((), generator=random))
        sound += (0.3 if k == 1 else 1 / k) * (2 * torch.pi * (hertz * k * time + phase)).cos()
    return sound


@pytest.mark.parametrize("hertz", [75, 98, 120, 155, 210, 260, 330, 385])
def test_harmonics_have_the_pitch_they_were_made_with(hertz):
    found = octaves(frames(voice(hertz)), RATE)
    assert len(found) > 20
    assert (
        12 * abs(float(found.median()) - torch.tensor(float(hertz)).log2()) < 0.6
    )  # semitones: lags are whole samples


def test_noise_and_silence_have_none():
    assert len(octaves(torch.randn(300, 256), RATE)) < 3
    assert len(octaves(torch.zeros(5, 256), RATE)) == 0


def test_level_and_offset_change_nothing():
    sound = frames(voice(140) + 0.1 * torch.randn(RATE))
    torch.testing.assert_close(octaves(1e-3 * sound + 0.5, RATE), octaves(sound, RATE), atol=1e-3, rtol=0)
