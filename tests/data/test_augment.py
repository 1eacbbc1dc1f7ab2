"""Rooms and noise: direct paths aligned, places of one room, levels; files that do not do."""

import numpy as np
import pytest
import soundfile
import torch

from tests.synthetic import RATE, write_rooms, write_speech
from tisdiss_cli.data.augment import Noises, Rooms, trim_to_direct_path
from tisdiss_cli.data.dynamic_mixing import DynamicMixing, active_level, generator
from tisdiss_cli.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return write_speech(tmp_path_factory.mktemp("speech"), speakers=4)


def test_rooms_and_noise(corpus, tmp_path):
    rooms = Rooms.load(write_rooms(tmp_path / "rirs"), RATE, 2)
    drawn = rooms.draw(50, 2, generator(CPU, 0))
    which = [[(int(h[1:].abs().argmax()) + 1) // 10 - 5 for h in pair] for pair in drawn]
    assert {tuple(sorted(pair)) for pair in which} == {(0, 1), (2, 3)}  # one room, two places
    assert (drawn[..., 0] == 1).all()

    plain = DynamicMixing(corpus, 5.0).draw(2, 2, 800, generator(CPU, 3))
    mixture, sources = DynamicMixing(corpus, 5.0, rooms).draw(2, 2, 800, generator(CPU, 3))
    assert torch.equal(plain[1], sources) and torch.equal(plain[0], sources.sum(1))  # the references stay dry
    # Oracle: a direct path and one delayed copy of each source explain the mixture wholly.
    delays = [50 + 10 * index for index in range(4)]
    for item in range(2):
        delayed = torch.stack([torch.nn.functional.pad(s, (d, 0))[:800] for s in sources[item] for d in delays])
        residual = mixture[item] - sources[item].sum(0)
        weights = torch.linalg.lstsq(delayed.T, residual[:, None]).solution
        assert (delayed.T @ weights - residual[:, None]).abs().max() < 1e-4
        assert weights.abs().sum() > 0.4

    noise = 0.01 * np.random.default_rng(0).standard_normal(700)
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "n.wav", noise, RATE)
    noises = Noises.load(tmp_path / "noise", RATE)
    mixture, sources = DynamicMixing(corpus, 5.0, None, noises, (-3.0, -3.0)).draw(4, 2, 1024, generator(CPU, 3))
    added = mixture - sources.sum(1)
    torch.testing.assert_close(added[:, :324], added[:, 700:], atol=1e-6, rtol=1e-4)  # short noise goes round
    loudest = active_level(sources).amax(dim=1)[:, 0]
    torch.testing.assert_close(
        20 * torch.log10(loudest / added.square().mean(1).sqrt()), torch.full((4,), -3.0), atol=0.1, rtol=0
    )


def test_an_impulse_response_begins_with_its_direct_path():
    assert trim_to_direct_path(torch.tensor([0.1, -0.5, 0.25, 0.0])).tolist() == [1.0, -0.5, 0.0]


def test_impulse_responses_that_do_not_do(tmp_path):
    (tmp_path / "room").mkdir()
    soundfile.write(tmp_path / "room" / "h.wav", np.ones((10, 2)), RATE)
    with pytest.raises(UserError, match="2 channels"):
        Rooms.load(tmp_path, RATE, 2)
    soundfile.write(tmp_path / "room" / "h.wav", np.ones(10), RATE)
    with pytest.raises(UserError, match="1 impulse response"):
        Rooms.load(tmp_path, RATE, 2)
    with pytest.raises(UserError, match="noise"):
        Noises.load(tmp_path / "nowhere", RATE)
