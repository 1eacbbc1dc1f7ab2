"""Each turn comes back in the voice that it sounds like, however a network scattered them and the stream was cut."""

import random

import pytest
import torch

from tests.cli import ROOT
from tisdiss_cli.audio.read import read
from tisdiss_cli.separation.speaker_tracking import SpeakerTracker, TurnSegmenter

RATE = 8000


def speech(source: str, rate: int = RATE) -> torch.Tensor:
    """Two minutes of one speaker of the first example, a man or a woman, equally loud."""
    clip = read(sorted((ROOT / "examples" / "mixtures" / source).iterdir())[0], rate)
    return (0.05 * clip / clip.std()).repeat(30)[: 120 * rate]


def conversation(turn: float, pause: float, rate: int = RATE) -> tuple[torch.Tensor, list[slice]]:
    """(2, L): both in turns, with digital silence between; and where each turn and the pause after it are."""
    clips, none = [speech("s1", rate), speech("s2", rate)], torch.zeros(round(pause * rate))
    size, parts, places = round(turn * rate), [], []
    for number in range(8):
        said = torch.cat((clips[number % 2][number * size // 2 :][:size], none))
        parts.append(torch.stack((said, 0 * said)).roll(number % 2, 0))
        places.append(slice(number * said.shape[0], (number + 1) * said.shape[0]))
    return torch.cat(parts, dim=1), places


def scattered(voices: torch.Tensor, places: list[slice], seed: int) -> torch.Tensor:
    """Turns in a drawn order of the voices; the first as it is."""
    drawn, out = random.Random(seed), voices.clone()
    for place in places[1:]:
        out[:, place] = voices[:, place].roll(drawn.randrange(2), 0)
    return out


def sort(voices: torch.Tensor, portions: list[int], rate: int = RATE, seams: tuple[int, ...] = ()):
    sorter, parts, begin = SpeakerTracker(voices.shape[0], rate), [], 0
    while begin < voices.shape[1]:
        end = begin + portions[len(parts) % len(portions)]
        parts.append(sorter.push(voices[:, begin:end], [seam for seam in seams if begin <= seam < end]))
        begin = end
    return torch.cat([*parts, sorter.finish()], dim=1), sorter.ambiguous


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("turn", "pause", "rate"), [(4, 1, 8000), (5, 3, 8000), (14, 1.5, 8000), (4, 1, 16000)])
def test_turns_come_back_to_their_speakers(turn, pause, rate, seed):
    voices, places = conversation(turn, pause, rate)
    out, ambiguous = sort(scattered(voices, places, seed), [rate], rate)
    assert torch.equal(out, voices)
    assert ambiguous == []


@pytest.mark.parametrize("leak", [0.1, 0.3])
def test_a_leaking_rest_of_the_other_voice_does_not_mislead(leak):
    voices, places = conversation(5, 1)
    leaking = voices + leak * voices.flip(0)
    out, _ = sort(scattered(leaking, places, 1), [RATE])
    assert torch.equal(out, leaking)


@pytest.mark.parametrize(("turn", "pause"), [(4, 1), (14, 1.5)])
@pytest.mark.parametrize("portions", [[1 << 20], [8000], [77, 3001, 12345, 1], [256]])
def test_portions_make_no_difference(portions, turn, pause):
    voices, places = conversation(turn, pause)
    mixed = scattered(voices, places, 2)
    seams = (places[3].start, places[5].start + 9000)
    expected, ambiguous = sort(mixed, [8000], seams=seams)
    out, found = sort(mixed, portions, seams=seams)
    assert torch.equal(out, expected) and found == ambiguous


@pytest.mark.parametrize("length", [0, 1, 255, 256, 8000, 100001])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_gives_no_reason_is_left_as_it_is(length, count):
    torch.manual_seed(0)
    for voices in (torch.randn(count, length), torch.zeros(count, length)):
        out, ambiguous = sort(voices, [9999])
        assert torch.equal(out, voices) and ambiguous == []


def test_overlapping_speech_is_left_as_it_is():
    voices = torch.stack((speech("s1"), speech("s2")))[:, : 20 * RATE]
    assert torch.equal(sort(voices, [RATE])[0], voices)


def test_nothing_is_lost_where_an_order_changes():
    """The voices' sum is the same, and goes over within a hundredth of a second or two."""
    voices, places = conversation(4, 1)
    voices = voices + 1e-4 * torch.randn(voices.shape)  # so that pauses are not silent
    mixed = scattered(voices, places, 3)
    out, _ = sort(mixed, [RATE])
    assert torch.allclose(out.sum(0), voices.sum(0), atol=1e-6)
    changed = (out != voices).any(0).sum()
    assert 0 < changed < 8 * 3 * RATE  # in the pauses, where none tells who is silent
    speaking = torch.stack([voices[0, place].abs() > 0.01 for place in places[::2]])
    kept = torch.stack([out[0, place] == voices[0, place] for place in places[::2]])
    assert kept[speaking].all()


def test_a_seam_that_did_not_tell_is_told_by_the_voices_or_stays_ambiguous():
    voices, places = conversation(8, 1)
    seam = places[4].start + 2 * RATE  # within a turn of the man's, whom it cuts in two
    swapped = voices.clone()
    swapped[:, seam:] = voices[:, seam:].flip(0)
    out, ambiguous = sort(swapped, [RATE], seams=(seam,))
    blended = slice(seam, seam + RATE // 50)
    out[:, blended] = voices[:, blended]
    assert torch.equal(out, voices) and ambiguous == []
    torch.manual_seed(0)
    noise = 0.05 * torch.randn(2, 5 * RATE)
    out, ambiguous = sort(torch.cat((voices, noise), dim=1), [RATE], seams=(voices.shape[1],))
    assert torch.equal(out[:, voices.shape[1] :], noise) and ambiguous == [voices.shape[1]]


def test_what_is_held_does_not_grow():
    voices, sorter, held = torch.cat([conversation(9, 1)[0]] * 4, dim=1), SpeakerTracker(2, RATE), []
    for block in (*voices.split(RATE, dim=1), *torch.ones(2, 60 * RATE).split(RATE, dim=1)):
        sorter.push(block)
        held.append(sorter.held.shape[1])
    assert max(held) < 13 * RATE


@pytest.mark.parametrize(("share", "learnt"), [(0.2, True), (0.5, False)])
def test_a_turn_that_may_be_either_ones_is_not_learnt_from(share, learnt):
    """Both in one voice, so much of it the woman's: what either sounds like stays as it was."""
    man, woman, none = speech("s1"), speech("s2"), torch.zeros(RATE)
    both = share * woman + (1 - share) * man
    sorter = SpeakerTracker(2, RATE)
    for number, clip in enumerate((man[: 5 * RATE], woman[: 5 * RATE], both[6 * RATE : 8 * RATE])):
        said = torch.cat((clip, none))
        sorter.push(torch.stack((said, 0 * said)).roll(number % 2, 0))
    before = [profile and profile.frames for profile in sorter.speakers.learnt]
    sorter.finish()
    assert None not in before
    assert ([profile and profile.frames for profile in sorter.speakers.learnt] != before) == learnt


def naive_ends(powers: list[float]) -> list[int]:
    """The same rule, of all powers at once: frames at which a turn begins."""
    ends, begin, loudest = [], 0, [0.0]
    for power in powers:
        loudest.append(max(power, loudest[-1] * 0.997))
    quiet = [power < 1e-3 * high for power, high in zip(powers, loudest[1:], strict=True)]
    for index in range(1, len(powers)):
        if quiet[index] or not quiet[index - 1]:
            continue
        first = max((k for k in range(index) if not quiet[k]), default=-1) + 1
        sound = sum(not quiet[k] for k in range(begin, first))
        if index - first >= (5 if sound >= 90 else 12 if sound >= 45 else 30):
            ends.append(index - (index - first) // 2)
            begin = ends[-1]
    return ends


@pytest.mark.parametrize("seed", range(20))
def test_turns_end_where_the_rule_says(seed):
    drawn = random.Random(seed)
    powers: list[float] = []
    while len(powers) < 1500:
        powers += [drawn.choice([1.0, 0.02, 1e-4, 0.0])] * int(drawn.expovariate(0.08))
    cutter = TurnSegmenter()
    found = [(index, cutter.push(power)) for index, power in enumerate(powers)]
    assert [index - back for index, back in found if back is not None] == naive_ends(powers)
