"""Mixtures like conversation: a stretch of each voice, where there is speech, in a share of them."""

import pytest
import torch

from tests.synthetic import RATE, write_speech
from tisdiss_cli.data.clips import FRAME
from tisdiss_cli.data.corpus import load_corpus
from tisdiss_cli.data.dynamic_mixing import DynamicMixing, active_level, generator, take_turns


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return load_corpus(write_speech(tmp_path_factory.mktemp("speech"), speakers=4), RATE, speeds=[1.0])


def test_turns_begin_and_end_where_there_is_speech():
    """Half of the mixtures keep their segments; in the others each voice is a stretch of at least a third of one."""
    torch.manual_seed(0)
    samples = 9600
    segments = torch.rand(400, 2, samples) + 0.5  # never 0: what is 0 afterwards has been taken away
    random = generator(torch.device("cpu"), 1)
    taken = take_turns(segments, 0.5, random)
    kept = taken != 0
    whole = (taken == segments).flatten(1).all(dim=1)
    assert 0.4 < whole.float().mean() < 0.6
    ends = []
    for voice, mask, segment in zip(
        taken[~whole].flatten(0, 1), kept[~whole].flatten(0, 1), segments[~whole].flatten(0, 1), strict=True
    ):
        inside = mask.nonzero().flatten()
        first, last = int(inside[0]), int(inside[-1])
        assert len(inside) == last - first + 1 >= samples / 3 - 2  # one stretch
        middle = slice(first + 80, last - 80)
        assert torch.equal(voice[middle], segment[middle])
        assert (voice[first : first + 80].diff() > -1).all() and voice[first] < 0.01 and voice[last] < 0.01
        ends.append((first, samples - 1 - last))
    assert min(a for a, _ in ends) < 100 and min(b for _, b in ends) < 100
    assert max(a for a, _ in ends) > samples / 2 and max(b for _, b in ends) > samples / 2


def test_no_turn_is_silence():
    """Of a voice that speaks for an eighth of the segment, something is always left."""
    segments = torch.zeros(300, 2, 8192)
    for item in range(300):
        begin = item % 28 * 256
        segments[item, :, begin : begin + 1024] = torch.randn(2, 1024, generator=torch.Generator().manual_seed(item))
    taken = take_turns(segments, 1.0, generator(torch.device("cpu"), 2))
    assert (taken.square().sum(dim=-1) > 0.01 * segments.square().sum(dim=-1)).all()


def turns(speech: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the first and last samples (B,) that are left of voices which speak where `speech` (B, L) is True."""
    segments = torch.where(speech, 1.0, 1e-3)[:, None].repeat(1, 2, 1)  # never 0: what is 0 has been taken away
    kept = take_turns(segments, 1.0, generator(torch.device("cpu"), 3)).flatten(0, 1) != 0
    return kept.int().argmax(1), kept.shape[1] - 1 - kept.flip(1).int().argmax(1)


def test_turns_lie_where_there_is_speech():
    """Of a voice that falls silent after half of the segment, a turn is half speech at least; one place would be so
    three times in four, the best of eight nearly always.
    """
    samples = 64 * FRAME
    first, last = turns((torch.arange(samples) < samples // 2).expand(300, -1))
    spoken = (last.clamp(max=samples // 2) - first).clamp(min=0) / (last - first)
    assert (spoken > 0.45).float().mean() > 0.95


def test_turns_are_not_only_where_speech_is_densest():
    """Of a voice that speaks without a pause and then with pauses, for more than half of the time, all places serve."""
    samples = 64 * FRAME
    position = torch.arange(samples)
    first, last = turns(((position < samples // 2) | (position // FRAME % 8 < 5)).expand(300, -1))
    late = ((first + last) / 2 > samples // 2).float().mean()
    assert late == pytest.approx(0.5, abs=0.08)


def test_without_turns_the_mixtures_are_what_they_were(corpus):
    plain, none, some = (
        DynamicMixing(corpus, 5.0, **share).sources(4, 2, 1600, generator(torch.device("cpu"), 3))
        for share in ({}, {"turn_taking": 0.0}, {"turn_taking": 1.0})
    )
    assert torch.equal(plain, none) and not torch.equal(plain, some)
    level = active_level(some)
    assert ((level[:, 1] / level[:, 0]).log10().abs() * 20 <= 5.001).all()  # of what is left of each voice
