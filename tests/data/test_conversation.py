"""Windows of conversations: turns, pauses and overlap, in a share of the mixtures."""

import pytest
import torch

from tests.synthetic import RATE, write_speech
from tisdiss_cli.data.conversation import ALONE, FADE, MOST_OVERLAP, PAUSE, SHORTEST, TURN, draw_turns
from tisdiss_cli.data.corpus import load_corpus
from tisdiss_cli.data.dynamic_mixing import DynamicMixing, generator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return load_corpus(write_speech(tmp_path_factory.mktemp("speech"), speakers=4), RATE, speeds=[1.0])


def stretches(spoken: torch.Tensor) -> list[tuple[int, int]]:
    """Returns (first, end) of every run of True in (L,)."""
    edges = torch.nn.functional.pad(spoken.int(), (1, 1)).diff()
    return list(zip((edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist(), strict=True))


@pytest.mark.parametrize("speakers", [2, 3])
def test_speakers_take_turns_as_long_as_people_do(speakers):
    """In a minute, every stretch of one voice within the window is a turn or more, every pause of all a pause."""
    rate, seconds = 100, 60
    gains = draw_turns(60, speakers, seconds * rate, rate, generator(CPU, 1))
    assert gains.shape == (60, speakers, seconds * rate) and gains.min() == 0 and gains.max() == 1
    spoken = gains > 0.5
    assert spoken[..., seconds * rate // 2].any(1).all()  # the middle
    lengths, pauses = list[int](), list[int]()
    for window in spoken:
        for voice in window:
            lengths += [end - first for first, end in stretches(voice) if first > 0 and end < seconds * rate]
        nobody = stretches(~window.any(0)) if window[1:].any() else []  # one alone is silent in the others' turns
        pauses += [end - first for first, end in nobody if first > 0 and end < seconds * rate]
    in_seconds = torch.tensor(lengths) / rate
    assert in_seconds.min() > TURN[0] - 2 * FADE - 2 / rate and in_seconds.max() > 0.9 * TURN[1]
    in_seconds = torch.tensor(pauses) / rate
    assert PAUSE[0] - 2 / rate < in_seconds.min() < 0.2 and 1.3 < in_seconds.max() < PAUSE[1] + 2 * FADE + 2 / rate
    overlap = (spoken.sum(1) > 1).float().mean(1) / spoken.any(1).float().mean(1)
    assert overlap.min() < 0.03 and 0.2 < overlap.max() < MOST_OVERLAP


def test_every_voice_is_heard_for_long_enough_or_not_at_all():
    """As in a window of a tenth of a second, of a turn and of several."""
    for seconds in (0.1, 1.5, 4.0, 12.0):
        gains = draw_turns(400, 2, round(seconds * 500), 500, generator(CPU, 2))
        heard = gains.sum(-1) / 500
        silent = heard == 0
        assert heard[~silent].min() > 0.999 * min(SHORTEST, seconds / 4)
        assert not silent.all(1).any()  # somebody always speaks
        assert silent.any(1).float().mean() > ALONE + 0.05 or seconds > TURN[1]  # a window may lie in one turn


def test_in_a_share_of_the_windows_only_the_first_speaker_speaks():
    """In a minute the others would have spoken, too."""
    for speakers in (2, 3):
        spoken = draw_turns(1000, speakers, 60 * 10, 10, generator(CPU, 6)).any(-1)
        assert spoken[:, 0].all()
        assert torch.equal(spoken[:, 1], spoken[:, -1])
        assert (~spoken[:, 1]).float().mean().item() == pytest.approx(ALONE, abs=0.05)


def test_voices_fade_in_and_out():
    rate = 8000
    gains = draw_turns(20, 2, 8 * rate, rate, generator(CPU, 3))
    assert gains.diff(dim=-1).abs().max() < torch.pi / 2 / (FADE * rate) * 1.01


def test_in_a_share_of_the_mixtures_voices_take_turns(corpus):
    """The others are as without, and a cut voice is what it was where it is heard."""
    draws = (
        DynamicMixing(corpus, 5.0, **share).sources(400, 2, 1600, generator(CPU, 4))
        for share in ({}, {"turn_taking": 0.0}, {"turn_taking": 0.3}, {"turn_taking": 1.0})
    )
    plain, none, some, every = draws
    assert torch.equal(plain, none)
    taken, cut = ((draw != plain).flatten(1).any(1) for draw in (some, every))
    assert not taken[~cut].any() and taken[cut].float().mean() == pytest.approx(0.3, abs=0.08)
    assert torch.equal(some[~taken], plain[~taken])
    for sources in (some, every):
        assert (sources.abs() <= plain.abs()).all() and (sources * plain >= 0).all()
        assert sources.flatten(1).any(1).all()


def test_somebody_speaks_in_every_mixture(tmp_path):
    """Even where turns fall into the zeros around utterances shorter than the segment."""
    speech = write_speech(tmp_path, speakers=2)
    corpus = load_corpus(speech, RATE, speeds=[1.0])
    longest = int(corpus.clips.lengths.max())
    mixture, _ = DynamicMixing(corpus, 5.0, turn_taking=1.0).draw(100, 2, 5 * longest, generator(CPU, 5))
    assert mixture.any(1).all()
