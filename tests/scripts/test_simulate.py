"""Conversations: turns, pauses and overlap as asked for, the same for the same seed, with the truth of who speaks."""

from itertools import pairwise

import pytest
import torch

from scripts.simulate import Style, active_segments, draw_conversation, draw_turns
from tests.synthetic import RATE, write_speech
from tisdiss_cli.data.corpus import find_speakers
from tisdiss_cli.errors import UserError


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return find_speakers(write_speech(tmp_path_factory.mktemp("speech"), speakers=3, samples=12000), 2)


def frames(conversation) -> torch.Tensor:
    """(S, F) bool, one for each 10 ms."""
    found = torch.zeros(len(conversation.segments), round(conversation.mixture.shape[0] / RATE * 100), dtype=torch.bool)
    for row, segments in zip(found, conversation.segments, strict=True):
        for begin, end in segments:
            row[round(begin * 100) : round(end * 100)] = True
    return found


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.4, 0.6])
def test_the_overlap_is_the_share_that_was_asked_for(speech, overlap):
    talk = frames(draw_conversation(speech, Style(seconds=150, overlap=overlap), RATE, 1))
    share = float(talk.all(0).sum() / talk.any(0).sum())
    assert share == pytest.approx(overlap, abs=0.08)
    assert talk.float().mean(1).min() > 0.2  # both talk


def test_the_truth_is_where_the_reference_sounds(speech):
    conversation = draw_conversation(speech, Style(seconds=30, overlap=0.3), RATE, 2)
    assert torch.allclose(conversation.mixture, conversation.references.sum(0))
    assert conversation.mixture.abs().max() <= 1
    talk = frames(conversation)
    energy = conversation.references.unflatten(1, (-1, RATE // 100)).square().sum(-1)
    assert float(energy[talk].sum() / energy.sum()) > 0.9999
    for voice in conversation.segments:
        assert all(begin < end for begin, end in voice)
        assert all(before[1] < after[0] for before, after in pairwise(voice))


def test_pauses_and_turns_are_as_long_as_asked(speech):
    conversation = draw_conversation(speech, Style(seconds=200, overlap=0.0, pause=(1, 2), turn=(5, 10)), RATE, 3)
    talk = frames(conversation).any(0)
    pauses = [len(run) for run in "".join("x" if t else "." for t in talk.tolist()).strip(".").split("x") if run]
    assert min(pauses) >= 95 and max(pauses) <= 205
    assert len(pauses) == pytest.approx(200 / 9, abs=6)  # a turn and a pause are nine seconds


@pytest.mark.parametrize("talkers", [2, 3])
def test_nobody_begins_before_her_own_turn_has_ended(talkers):
    """Where a turn that overlaps hers is short, the wanted overlap would reach back into her own."""
    style = Style(seconds=2000, overlap=0.6, turn=(0.5, 8), talkers=talkers)
    turns = draw_turns(style, torch.Generator().manual_seed(0))
    for speaker in range(talkers):
        own = [(begin, end) for who, begin, end in turns if who == speaker]
        pauses = [after[0] - before[1] for before, after in pairwise(own)]
        assert len(own) > 50 and min(pauses) == pytest.approx(0, abs=1e-9)  # it came to that, and no further


def test_speakers_differ_in_level_as_far_as_asked(speech):
    def difference(level_db: float, seed: int) -> float:
        conversation = draw_conversation(speech, Style(seconds=20, level_db=level_db), RATE, seed)
        talk = frames(conversation)
        energy = conversation.references.unflatten(1, (-1, RATE // 100)).square().mean(-1)
        one, other = (float(10 * row[where].mean().log10()) for row, where in zip(energy, talk, strict=True))
        return one - other

    assert all(abs(difference(0, seed)) < 0.2 for seed in range(3))
    found = [difference(10, seed) for seed in range(8)]
    assert max(map(abs, found)) <= 20.2 and min(found) < -3 and max(found) > 3


def test_it_follows_from_the_seed(speech):
    one, same, other = (draw_conversation(speech, Style(seconds=10), RATE, seed) for seed in (4, 4, 5))
    assert torch.equal(one.references, same.references) and one.segments == same.segments
    assert not torch.equal(one.mixture, other.mixture)


def test_one_talker_leaves_the_second_voice_silent(speech):
    conversation = draw_conversation(speech, Style(seconds=20, talkers=1), RATE, 6)
    assert conversation.references[0].any() and not conversation.references[1].any()
    assert conversation.segments[0] and conversation.segments[1] == []


def test_short_pauses_are_bridged_and_long_ones_are_not():
    x = torch.zeros(3 * RATE)
    for begin, end in ((0.5, 1.0), (1.1, 1.5), (2.0, 2.5)):
        x[int(begin * RATE) : int(end * RATE)] = 0.1 * torch.randn(round((end - begin) * RATE))
    assert active_segments(x, RATE) == [(0.5, 1.5), (2.0, 2.5)]
    assert active_segments(torch.zeros(RATE), RATE) == []


@pytest.mark.parametrize("style", [{"overlap": 0.7}, {"pause": (2, 1)}, {"turn": (0, 1)}])
def test_what_cannot_be_is_refused(style):
    with pytest.raises(UserError):
        Style(**style)
