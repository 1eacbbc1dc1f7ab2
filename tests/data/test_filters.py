"""Random filters of the voices, against the cookbook's recursions sample by sample."""

import os
import shutil
import signal
from math import cos, log, pi, sin, sqrt

import numpy as np
import pytest
import torch

from tests.synthetic import RATE, write_recipe
from tisdiss_cli.data.dynamic_mixing import (
    DynamicMixing,
    active_level,
    draw_segments,
    draw_speakers,
    generator,
)
from tisdiss_cli.data.filters import BELL, HIGH_SHELF, LOW_SHELF, Filters
from tisdiss_cli.training.checkpoint import load_checkpoint
from tisdiss_cli.training.loop import Training

CPU = torch.device("cpu")


def biquad(kind: int, gain_db: float, corner: float, rate: int) -> tuple[list[float], list[float]]:
    """b and a of the Audio EQ Cookbook, at a shelf slope of 1, and a bell's Q of 0.707."""
    a, w = 10 ** (gain_db / 40), 2 * pi * corner / rate
    c, alpha = cos(w), sin(w) / sqrt(2)
    if kind == BELL:
        return [1 + alpha * a, -2 * c, 1 - alpha * a], [1 + alpha / a, -2 * c, 1 - alpha / a]
    sign, root = (1 if kind == LOW_SHELF else -1), 2 * sqrt(a) * alpha
    b = [a * (a + 1 - sign * (a - 1) * c + root), sign * 2 * a * (a - 1 - sign * (a + 1) * c)]
    d = [a + 1 + sign * (a - 1) * c + root, -sign * 2 * (a - 1 + sign * (a + 1) * c)]
    return [*b, b[0] - 2 * a * root], [*d, d[0] - 2 * root]


def recursion(x: np.ndarray, b: list[float], a: list[float]) -> np.ndarray:
    y = np.zeros(len(x) + 2)
    x = np.concatenate((np.zeros(2), x))
    for n in range(2, len(x)):
        y[n] = (b[0] * x[n] + b[1] * x[n - 1] + b[2] * x[n - 2] - a[1] * y[n - 1] - a[2] * y[n - 2]) / a[0]
    return y[2:]


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_cascade_is_the_cookbooks_recursions(rate):
    filters = Filters.draw(2, 3, gain_db=12.0, sample_rate=rate, random=generator(CPU, 4))
    signals = torch.randn(2, 3, 1500)
    signals[0, 0] = torch.eye(1, 1500)[0]  # an impulse
    heard = filters.apply(signals)
    for index in np.ndindex(2, 3):
        expected = signals[index].double().numpy()
        for kind, gain, corner in zip(
            filters.kinds[index], filters.gains_db[index], filters.corners[index], strict=True
        ):
            expected = recursion(expected, *biquad(int(kind), float(gain), float(corner), rate))
        assert np.abs(heard[index].numpy() - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_slowest_band_does_not_come_round():
    """What the last sample of a signal rings on, however long the signal is, never reaches the first."""
    for kind in (LOW_SHELF, BELL, HIGH_SHELF):
        filters = Filters(torch.full((3,), kind), torch.full((3,), 12.0), torch.full((3,), 100.0), RATE)
        for samples in range(1200, 2241, 16):
            assert filters.apply(torch.eye(1, samples).flip(1))[0, :-1].abs().max() < 1e-5


def test_shelves_and_bells_have_their_gain_where_they_are_named_for():
    kinds = torch.tensor([[LOW_SHELF] * 3, [BELL] * 3, [HIGH_SHELF] * 3])
    gains = torch.tensor([[6.0, 0.0, 0.0]]).repeat(3, 1)
    filters = Filters(kinds, gains, torch.full((3, 3), 1000.0), RATE)
    db = 20 * filters.response(torch.tensor([0.0, 1000.0, 4000.0])).abs().log10()
    torch.testing.assert_close(db, torch.tensor([[6.0, 3.0, 0.0], [0.0, 6.0, 0.0], [0.0, 3.0, 6.0]]), atol=1e-3, rtol=0)


def test_draws_fill_their_ranges_and_no_response_leaves_its_bounds():
    filters = Filters.draw(400, 2, gain_db=6.0, sample_rate=RATE, random=generator(CPU, 1))
    assert sorted(filters.kinds.unique().tolist()) == [LOW_SHELF, BELL, HIGH_SHELF]
    gains, corners = filters.gains_db.flatten().sort().values, filters.corners.log().flatten().sort().values
    assert (gains - torch.linspace(-6, 6, 2400)).abs().max() < 0.4  # uniform; Kolmogorov-Smirnov, 5 % at 0.33
    assert (corners - torch.linspace(log(100), log(3200), 2400)).abs().max() < 0.12  # log-uniform; 5 % at 0.096
    db = 20 * filters.response(torch.linspace(0, RATE / 2, 500)).abs().log10()
    assert db.abs().max() <= 18.001 and db.abs().amax(dim=-1).median() > 2


def test_at_zero_decibels_a_filter_changes_nothing():
    signals = torch.randn(4, 2, 1000)
    flat = Filters.draw(4, 2, gain_db=0.0, sample_rate=RATE, random=generator(CPU, 2)).apply(signals)
    torch.testing.assert_close(flat, signals, atol=1e-5, rtol=0)


def test_voices_keep_their_levels_and_none_is_drawn_when_off(corpus):
    def draw(random: torch.Generator, **options: float) -> torch.Tensor:
        return DynamicMixing(corpus, 5.0, **options).sources(4, 2, 1600, random)

    randoms = [generator(CPU, 3) for _ in range(3)]
    plain, off = draw(randoms[0]), draw(randoms[1], filter_db=0.0)
    on = draw(randoms[2], filter_db=6.0)
    assert torch.equal(plain, off)
    bare = generator(CPU, 3)  # draws speakers, segments and levels, and nothing else
    draw_segments(corpus, draw_speakers(corpus.compatible, 4, speakers=2, random=bare), samples=1600, random=bare)
    torch.rand(4, 2, 1, generator=bare)
    assert all(torch.equal(random.get_state(), bare.get_state()) for random in randoms[:2])
    assert torch.equal(on, draw(generator(CPU, 3), filter_db=6.0)) and not torch.equal(on, plain)
    level = active_level(on)
    assert ((level[:, 1] / level[:, 0]).log10().abs() * 20 <= 5.001).all()
    mixture, references = DynamicMixing(corpus, 5.0, filter_db=6.0).draw(4, 2, 1600, generator(CPU, 3))
    assert torch.equal(references, on) and torch.equal(mixture, on.sum(dim=1))  # the references are filtered alike


@pytest.mark.usefixtures("no_curve")
def test_a_run_without_filters_takes_them_up_on_resume(speech, valid, train, tmp_path, monkeypatch):
    step = Training.train_step

    def stopping(self, factor):
        step(self, factor)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Training, "train_step", stopping)
    settings = {"segment_seconds": 0.04, "batch_size": 1, "repeats": "1", "warm_up_steps": 2}
    recipe, out = write_recipe(tmp_path / "r.toml", **settings), tmp_path / "out"
    plain = tmp_path / "plain"
    assert train(speech, out, "--recipe", recipe, "--open-ended")[0] == 128 + signal.SIGTERM
    shutil.copytree(out, plain)
    assert train(speech, plain, "--resume")[0] == 128 + signal.SIGTERM
    status, _, error = train(speech, out, "--resume", "--filter-db", 6)
    assert status == 128 + signal.SIGTERM and "from step 1 on: filter_db 0.0 -> 6.0" in error
    with_filters, without = (load_checkpoint(folder / "checkpoint.pt") for folder in (out, plain))
    assert with_filters["recipe"]["changes"] == [{"step": 1, "filter_db": 6.0}]
    losses = [state["pending"][:, 0].tolist() for state in (with_filters, without)]
    assert losses[0][0] == losses[1][0] and losses[0][1] != losses[1][1]

    budgeted = tmp_path / "budgeted"
    assert train(speech, budgeted, "--recipe", recipe, "--steps", 9)[0] == 128 + signal.SIGTERM
    for arguments, words in (
        ((speech, budgeted, "--resume", "--filter-db", 6), "--filter-db 6.0 differs from this run's 0.0"),
        ((valid, tmp_path / "new", "--recipe", recipe, "--filter-db", 3), "filter_db is for mixing clean speech"),
    ):
        status, printed, error = train(*arguments)
        assert (status, printed) == (2, "") and words in error.splitlines()[-1]
