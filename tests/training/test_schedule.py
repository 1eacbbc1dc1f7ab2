"""Learning rates by budget, plateau and cooldown, and the clock of a run."""

import time

import pytest
import torch

from tisdiss_cli.training.recipe import Recipe
from tisdiss_cli.training.schedule import Clock, Schedule


@pytest.mark.parametrize("budget", [{"steps": 200}, {"minutes": 5.0}])
def test_a_budget_warms_up_and_decays_to_zero(budget):
    schedule = Schedule(Recipe(**budget, learning_rate=0.01, warm_up_share=0.1))
    reserve, rates, ends = 20.0, [], 0
    for step in range(201):
        seconds = step / 200 * (5 * 60 - reserve)
        progress = schedule.progress(step, seconds, reserve)
        assert progress == pytest.approx(step / 200)
        rates.append(0.01 * schedule.factor(step, progress))
        ends += schedule.ends_epoch(step, progress, ends)
    assert max(rates) == pytest.approx(0.01) and rates.index(max(rates)) == 20
    assert rates[:21] == sorted(set(rates[:21]))
    fall = torch.tensor(rates[20:]).diff()
    torch.testing.assert_close(fall, torch.full((180,), -0.01 / 180), atol=1e-6, rtol=0)
    assert rates[-1] == 0 and rates[0] > 0
    assert ends == 20 and not schedule.stops_early
    assert schedule.progress(10**9, 10**9, reserve) == 1


def test_a_budgets_rate_may_fall_in_its_last_quarter_only():
    schedule = Schedule(Recipe(steps=200, warm_up_share=0.1, decay_share=0.25))
    factors = [schedule.factor(step, schedule.progress(step, 0.0, 0.0)) for step in range(201)]
    assert factors[:21] == sorted(set(factors[:21])) and factors[20:151] == [1.0] * 131
    torch.testing.assert_close(torch.tensor(factors[150:]), torch.linspace(1, 0, 51))
    late = Schedule(Recipe(steps=10, warm_up_share=0.9, decay_share=0.25))  # the warm-up is not cut short
    assert [late.factor(step, step / 10) for step in (8, 9, 10)] == pytest.approx([8 / 9, 1, 0])


def test_the_papers_schedule_warms_up_halves_and_stops():
    recipe = Recipe(learning_rate=1e-3, warm_up_steps=4, epoch_steps=10, epochs=40, patience=3, stop_after=10)
    schedule = Schedule(recipe)
    assert [schedule.factor(step, 0) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert [step for step in range(1, 31) if schedule.ends_epoch(step, 0, 0)] == [10, 20, 30]
    losses = [-1, -2, -2, -1, -2, -3] + [0] * 10
    rates = []
    for loss in losses:
        assert not schedule.stops_early
        schedule.plateau.update(loss)
        rates.append(schedule.factor(1000, 0))
    # Three epochs without improvement after -2, then 3, 6 and 9 after -3; the tenth ends the run.
    assert rates == [1] * 4 + [0.5] * 4 + [0.25] * 3 + [0.125] * 3 + [0.0625] * 2
    assert schedule.stops_early
    assert schedule.progress(400, 0, 0) == 1


def test_an_open_ended_run_keeps_its_rate_until_its_cooldown():
    recipe = Recipe(open_ended=True, warm_up_steps=4, epoch_steps=10, changes=[{"step": 50, "cooldown": 2.0}])
    schedule = Schedule(recipe)
    factors = [schedule.factor(step, schedule.progress(step, 1e9, 5.0)) for step in (0, 1, 2, 3, 10**6)]
    assert factors == [0.25, 0.5, 0.75, 1, 1] and not schedule.stops_early
    assert schedule.advance(49, 990.0) == "" and schedule.advance(50, 1000.0) == "cooldown 0.0 -> 2.0"
    assert schedule.advance(51, 1001.0) == ""
    seconds, reserve = [1000, 1025, 1050, 1090, 1100], 20.0
    progress = [schedule.progress(50, second, reserve) for second in seconds]
    assert progress == pytest.approx([0, 0.25, 0.5, 0.9, 1.0])  # a reserve before the end is kept free
    assert [schedule.factor(50, share) for share in progress] == pytest.approx([1, 0.75, 0.5, 0.1, 0])
    assert [step for step in range(1, 31) if schedule.ends_epoch(step, 0, 0)] == [10, 20, 30]


def test_the_clock_leaves_out_interruptions_and_epoch_ends(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(90.0)
    clock.before = 50.0  # of the part before an interruption
    assert clock.elapsed == 60.0 and clock.unsaved_minutes == 0.0
    clock.begin_rows(7)
    now[0] += 8
    began = now[0]
    now[0] += 5
    clock.end_epoch(began)
    now[0] += 2
    clock.end_row(12)
    assert clock.step_seconds == 2.0  # 10 seconds of 5 steps; the epoch's end is not theirs
    assert clock.epoch_end_seconds == 5.0 and clock.reserve >= 5.0 + 2.0
    now[0] += 6
    clock.end_row(14)
    assert clock.step_seconds == 3.0 and clock.unsaved_minutes == pytest.approx(21 / 60)
