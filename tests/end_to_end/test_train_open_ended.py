"""Training without an end date: stopped as often as one likes, changed on the way, and cooled down at the end."""

import csv
import json
import os
import signal
import time
from itertools import pairwise

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.synthetic import losses, write_recipe
from tisdiss_cli.training.checkpoint import load_checkpoint
from tisdiss_cli.training.loop import Training

pytestmark = pytest.mark.usefixtures("no_curve")
STOPPED = 128 + signal.SIGTERM
CHANGE = {"repeats": "1-3", "batch_size": 2, "turn_taking": 0.5}


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """The recipe of a run without an end."""
    return write_recipe(tmp_path_factory.mktemp("recipe") / "endless.toml", **SETTINGS)


SETTINGS = {
    "open_ended": True,
    "segment_seconds": 0.04,
    "batch_size": 1,
    "muon_learning_rate": 0.02,
    "repeats": "1",
    "ema_decay": 0.9,
    "warm_up_steps": 2,
    "epoch_steps": 4,
    "log_steps": 1,
    "checkpoint_minutes": 1e-6,
}


@pytest.fixture
def stop(monkeypatch):
    """Has the run told to stop after a step."""
    step = Training.train_step

    def at(number):
        def stopping(self, factor):
            step(self, factor)
            if self.state.step == number:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Training, "train_step", stopping)

    return at


def assert_same_run(a, b):
    assert losses(a) == losses(b)
    first, second = load_file(a / "weights.safetensors"), load_file(b / "weights.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    first, second = load_checkpoint(a / "checkpoint.pt"), load_checkpoint(b / "checkpoint.pt")
    assert first["step"] == second["step"] and first["mixture_seconds"] == second["mixture_seconds"]
    for one, other in zip(*([state["network"], *state["averages"]] for state in (first, second)), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_stopped_twice_it_is_the_run_that_never_was(speech, valid, endless, train, stop, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    stop(11)
    assert train(speech, whole, "--recipe", endless, "--valid", valid)[0] == STOPPED
    stop(3)
    status, _, error = train(speech, parts, "--recipe", endless, "--valid", valid)
    assert status == STOPPED and "after step 3, saved in" in error
    stop(8)  # just after a validation
    assert train(speech, parts, "--resume")[0] == STOPPED
    stop(11)
    assert train(speech, parts, "--resume")[0] == STOPPED
    assert_same_run(whole, parts)
    rows = losses(whole)
    assert [float(row["learning_rate"]) for row in rows if row["loss"]] == pytest.approx([5e-4] + [1e-3] * 10)
    assert [row["step"] for row in rows if row["valid_loss"]] == ["4", "8"]


def test_a_change_on_resume_is_the_change_that_a_recipe_foresees(speech, valid, endless, train, stop, tmp_path):
    foreseen, made = tmp_path / "foreseen", tmp_path / "made"
    recipe = tmp_path / "foreseen.toml"
    change = ", ".join(f"{key} = {json.dumps(value)}" for key, value in CHANGE.items())
    recipe.write_text(f"changes = [{{step = 5, {change}}}]\n" + endless.read_text())
    stop(9)
    assert train(speech, foreseen, "--recipe", recipe, "--valid", valid)[0] == STOPPED
    stop(5)
    assert train(speech, made, "--recipe", endless, "--valid", valid)[0] == STOPPED
    stop(9)
    options = [word for key, value in CHANGE.items() for word in (f"--{key.replace('_', '-')}", value)]
    status, _, error = train(speech, made, "--resume", *options)
    assert status == STOPPED and "from step 5 on: " in error
    assert_same_run(foreseen, made)

    with (made / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = [row for row in rows if row["change"]]
    assert row["step"] == "5" and "repeats 1 -> 1-3" in row["change"] and "batch_size 1 -> 2" in row["change"]
    assert rows[-1]["si_snri_3"] if rows[-1]["valid_loss"] else True
    checks = {row["step"]: row for row in rows if row["valid_loss"]}
    assert checks["8"]["si_snri_3"] and not checks["4"]["si_snri_3"]
    with safe_open(made / "weights.safetensors", "pt") as file:
        info, config = (json.loads(file.metadata()[key]) for key in ("info", "config"))
    assert info["recipe"]["changes"] == [{"step": 5, **CHANGE}]
    assert config["reconstructor_repeats"] == 3
    assert info["training"]["mixture_hours"] == pytest.approx((5 + 3 * 2) * 0.04 / 3600, abs=1e-3)


def test_a_moving_average_may_begin_later(speech, endless, train, stop, tmp_path):
    recipe = tmp_path / "later.toml"
    later = "changes = [{step = 2, ema_decay = 0.9}]\n"
    recipe.write_text(later + endless.read_text().replace("ema_decay = 0.9", "ema_decay = 0.0"))
    stop(4)  # an epoch's end
    assert train(speech, tmp_path / "o", "--recipe", recipe)[0] == STOPPED
    state = load_checkpoint(tmp_path / "o" / "checkpoint.pt")
    name = "decoder.deconv.weight"
    assert not torch.equal(state["averages"][0][name], state["network"][name])


def test_the_rates_change_in_proportion(speech, endless, train, stop, tmp_path):
    out = tmp_path / "out"
    stop(2)
    train(speech, out, "--recipe", endless, "--learning-rate", 5e-4)
    assert load_checkpoint(out / "checkpoint.pt")["recipe"]["muon_learning_rate"] == pytest.approx(0.01)
    stop(3)
    train(speech, out, "--resume", "--learning-rate", 1e-4)
    adamw, muon = load_checkpoint(out / "checkpoint.pt")["optimizers"]
    assert adamw["param_groups"][0]["lr"] == pytest.approx(1e-4)
    assert muon["param_groups"][0]["lr"] == pytest.approx(0.002)


@pytest.fixture
def clock(monkeypatch):
    """A clock that steps move, not the machine's speed: two seconds each."""
    now, step = [1000.0], Training.train_step
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def slow(self, factor):
        now[0] += 2
        step(self, factor)

    monkeypatch.setattr(Training, "train_step", slow)
    return now


def test_a_cooldown_takes_its_minutes_and_can_be_stopped_too(clock, stop, speech, valid, endless, train, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out in (whole, parts):
        clock[0] = 1000.0
        stop(4)
        assert train(speech, out, "--recipe", endless, "--valid", valid)[0] == STOPPED
    began = clock[0]
    stop(0)
    status, printed, _ = train(speech, whole, "--resume", "--cooldown", 1)
    assert status == 0 and printed.strip() == str(whole / "weights.safetensors")
    assert 50 < clock[0] - began <= 60
    stop(15)
    assert train(speech, parts, "--resume", "--cooldown", 1)[0] == STOPPED
    stop(0)
    assert train(speech, parts, "--resume")[0] == 0
    assert_same_run(whole, parts)
    falling = [float(row["learning_rate"]) for row in losses(whole) if row["loss"] and int(row["step"]) > 4]
    assert falling == sorted(falling, reverse=True) and falling[0] == pytest.approx(1e-3)
    differences = [a - b for a, b in pairwise(falling)]
    assert max(differences) < 1.05 * min(differences) and falling[-1] < 2 * max(differences)  # a line, to zero
    assert losses(whole)[-1]["valid_loss"]
    status, _, error = train(speech, whole, "--resume", "--cooldown", 2)
    assert status == 2 and "already in one of 1 minutes" in error


def test_what_no_open_ended_run_takes(speech, endless, nano, train, stop, tmp_path, monkeypatch):
    out = tmp_path / "out"
    stop(1)
    train(speech, out, "--recipe", endless)
    budgeted = tmp_path / "budgeted"
    train(speech, budgeted, "--recipe", nano, "--steps", 1)
    monkeypatch.setattr(Training, "run", lambda *_: pytest.fail("training began"))
    for arguments, words in (
        ((speech, tmp_path / "new", "--recipe", endless, "--cooldown", 1), "pass it with --resume"),
        ((speech, tmp_path / "new", "--recipe", endless, "--minutes", 1), "or is open_ended"),
        ((speech, tmp_path / "new", "--recipe", nano, "--steps", 1, "--open-ended"), "or is open_ended"),
        ((speech, out, "--resume", "--seed", 3), "--seed 3 is not"),
        ((speech, out, "--resume", "--minutes", 5), "--minutes 5.0 is not"),
        ((speech, out, "--resume", "--segment-seconds", 0), "segment_seconds must be above 0"),
        ((speech, budgeted, "--resume", "--cooldown", 1), "--cooldown is for open-ended runs"),
    ):
        status, printed, error = train(*arguments)
        assert (status, printed) == (2, "") and words in error.splitlines()[-1]
