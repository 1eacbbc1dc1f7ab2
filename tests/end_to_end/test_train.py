"""`tisdiss train` as a whole, on noise in bands: it resumes exactly, never loses work, and refuses early."""

import csv
import json
import os
import shutil
import signal
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.cli import start
from tests.synthetic import losses, write_mixtures, write_recipe
from tisdiss_cli.__main__ import main
from tisdiss_cli.training.checkpoint import load_checkpoint
from tisdiss_cli.training.loop import Training
from tisdiss_cli.training.recipe import Recipe
from tisdiss_cli.training.schedule import budget_factor
from tisdiss_cli.training.validation import Validation

pytestmark = pytest.mark.usefixtures("no_curve")


def assert_same_run(a, b):
    assert losses(a) == losses(b)
    first, second = load_file(a / "weights.safetensors"), load_file(b / "weights.safetensors")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_time_budget_ends_with_the_rate_near_zero(speech, valid, nano, train, tmp_path, monkeypatch):
    """On a clock that steps and validations move, not the machine's speed."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    step, validations = Training.train_step, Training.validations

    def slow_step(self, rate):
        now[0] += 2
        step(self, rate)

    def slow_validation(self):
        now[0] += 3
        return validations(self)

    monkeypatch.setattr(Training, "train_step", slow_step)
    monkeypatch.setattr(Training, "validations", slow_validation)
    status, _, _ = train(speech, tmp_path / "o", "--recipe", nano, "--minutes", 1, "--valid", valid)
    assert status == 0
    assert 50 < now[0] - 1000 <= 60  # saved within the budget, and little of it unused
    with (tmp_path / "o" / "log.csv").open() as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file) if row["learning_rate"]]
    assert rates[-1] < 0.2 * max(rates)
    assert (tmp_path / "o" / "weights.safetensors").exists()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, speech, valid, nano):
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    arguments = (speech, out, "--recipe", nano, "--steps", 12, "--valid", valid, "--device", "cpu")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit:
        patch.setattr("sys.argv", ["tisdiss", "train", *map(str, arguments)])
        patch.setattr("tisdiss_cli.training.loop.plot_curve", lambda out: None)
        main()
    assert not exit.value.code
    assert len(losses(out)) == 12 + 3 * 2
    return out


def test_signals_save_first_and_resuming_repeats_the_run(
    uninterrupted, speech, valid, nano, train, tmp_path, monkeypatch
):
    out, step = tmp_path / "out", Training.train_step

    def interrupt(at, number):
        def interrupted(self, rate):
            step(self, rate)
            if self.state.step == at:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(Training, "train_step", interrupted)

    interrupt(3, signal.SIGTERM)
    status, printed, error = train(speech, out, "--recipe", nano, "--steps", 12, "--valid", valid)
    assert status == 128 + signal.SIGTERM and printed == ""
    assert f"stopped by SIGTERM after step 3, saved in {out / 'checkpoint.pt'}" in error
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 3
    interrupt(7, signal.SIGINT)
    status, _, error = train(speech, out, "--resume")
    assert status == 130 and "SIGINT after step 7" in error
    interrupt(0, 0)
    status, printed, _ = train(speech, out, "--resume")  # --valid is remembered
    assert status == 0 and printed.strip() == str(out / "weights.safetensors")
    assert_same_run(out, uninterrupted)
    assert train(speech, out, "--resume")[0] == 0  # a finished run stays as it is
    assert_same_run(out, uninterrupted)


def test_a_budget_may_grow(uninterrupted, speech, train, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out)
    assert train(speech, out, "--resume", "--steps", 16)[0] == 0
    before, after = losses(uninterrupted), losses(out)
    assert after[: len(before)] == before
    rates = {int(row["step"]): float(row["learning_rate"]) for row in after if row["learning_rate"]}
    recipe = Recipe(steps=16)  # the larger budget's rates, from the 13th step on
    for step in range(13, 17):
        expected = recipe.learning_rate * budget_factor((step - 1) / 16, recipe.warm_up_share)
        assert rates[step] == pytest.approx(expected, rel=1e-3)
    assert after[-1]["valid_loss"]  # epochs go on too


def test_killed_at_any_moment_a_run_resumes_to_the_same_end(uninterrupted, speech, valid, nano, train, tmp_path):
    out = tmp_path / "out"
    arguments = ("train", speech, out, "--recipe", nano, "--steps", 12, "--valid", valid, "--device", "cpu")
    process = start(*arguments, env={"OMP_NUM_THREADS": str(torch.get_num_threads())})
    while (process.poll() is None and not (out / "log.csv").exists()) or len(losses(out)) < 4:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert train(speech, out, "--resume")[0] == 0
    assert_same_run(out, uninterrupted)


def test_a_loss_that_is_not_finite_stops_the_run(speech, nano, train, tmp_path, monkeypatch):
    step = Training.train_step

    def poisoned(self, rate):
        step(self, rate)
        if self.state.step == 6:
            self.state.metrics.pending[-1] *= float("nan")

    monkeypatch.setattr(Training, "train_step", poisoned)
    out = tmp_path / "out"
    status, _, error = train(speech, out, "--recipe", nano, "--steps", 20)
    assert status == 2
    assert f"gradient of step 6 is not finite: the last good checkpoint is {out / 'checkpoint.pt'}, of step 5" in error
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 5
    assert all(value.isfinite().all() for value in load_checkpoint(out / "checkpoint.pt")["network"].values())


def test_the_papers_schedule_stops_early_and_averages(speech, valid, train, tmp_path, monkeypatch):
    recipe = write_recipe(
        tmp_path / "paper.toml",
        **{"segment_seconds": 0.03, "batch_size": 1, "epoch_steps": 1, "warm_up_steps": 1, "log_steps": 1},
        **{"patience": 1, "stop_after": 2, "average_best": 2, "epochs": 30},
    )
    scripted = iter([-1.0, -3.0, -2.0, -2.5, -9.0])
    states = []

    def fake(self):
        states.append({name: value.clone() for name, value in self.state.trainer.network.state_dict().items()})
        return [Validation(next(scripted), [0.0] * 3)]

    monkeypatch.setattr(Training, "validations", fake)
    assert train(speech, tmp_path / "o", "--recipe", recipe, "--valid", valid)[0] == 0
    assert len(states) == 4  # two epochs without improvement after the second
    rates = [float(row["learning_rate"]) for row in losses(tmp_path / "o") if row["learning_rate"]]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4])
    saved = load_file(tmp_path / "o" / "weights.safetensors")
    assert_levelled(saved, {name: (states[1][name] + states[3][name]) / 2 for name in saved})
    with safe_open(tmp_path / "o" / "weights.safetensors", "pt") as file:
        assert json.loads(file.metadata()["info"])["trained"]


def assert_levelled(saved, expected):
    """The same tensors but for one factor on the Decoder."""
    level = saved["decoder.deconv.weight"].sum() / expected["decoder.deconv.weight"].sum()
    for name, value in saved.items():
        scale = level if name.startswith("decoder.deconv.") else 1
        torch.testing.assert_close(value, scale * expected[name], rtol=1e-4, atol=1e-6)


def test_the_best_of_several_averages_is_exported(speech, valid, nano, train, tmp_path, monkeypatch):
    """By its validation, at whichever epoch; each validation is a row of the log."""
    scripted = iter([(-1.0, -2.0), (-3.0, -1.0), (-2.0, -2.5)])  # the first average is the best, at the second epoch
    states = []

    def fake(self):
        states.append([{k: v.clone() for k, v in one.state_dict().items()} for one in self.state.trainer.averages])
        return [Validation(loss, [0.0, 0.0, -loss]) for loss in next(scripted)]

    monkeypatch.setattr(Training, "validations", fake)
    recipe = tmp_path / "one.toml"
    recipe.write_text(nano.read_text().replace("average_best = 2", "average_best = 1"))
    out = tmp_path / "o"
    assert train(speech, out, "--recipe", recipe, "--valid", valid, "--steps", 6)[0] == 0
    assert_levelled(load_file(out / "weights.safetensors"), states[1][0])
    assert not torch.equal(states[1][0]["decoder.deconv.weight"], states[1][1]["decoder.deconv.weight"])
    rows = [(row["step"], row["ema_decay"], float(row["valid_loss"])) for row in losses(out) if row["valid_loss"]]
    assert rows == [
        (str(2 * e + 2), d, v)
        for e, vs in enumerate([(-1, -2), (-3, -1), (-2, -2.5)])
        for d, v in zip(("0.1", "0.9"), vs, strict=True)
    ]
    with safe_open(out / "weights.safetensors", "pt") as file:
        told = json.loads(file.metadata()["info"])["validation"]
    assert (told["step"], told["ema_decay"], told["si_snri"][-1]) == (4, 0.1, 3.0)
    assert [len(load_checkpoint(out / "checkpoint.pt")[key]) for key in ("averages",)] == [2]


@pytest.mark.parametrize("recipe", ["light", "gpu"])
def test_the_packages_own_networks_train(speech, valid, train, tmp_path, recipe):
    """A first step and a validation, at a length and a batch that take a second."""
    short = ("--segment-seconds", 0.1, "--batch-size", 1, "--no-compile", "--precision", "fp32", "--valid-items", 1)
    status, _, error = train(
        speech, tmp_path / "o", "--recipe", recipe, "--no-open-ended", "--steps", 1, "--valid", valid, *short
    )
    assert status == 0, error
    with safe_open(tmp_path / "o" / "weights.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    assert (config["encoder_stride"], config["output"]) == ([1, 2], "mask")
    assert losses(tmp_path / "o")[-1]["si_snri_1"]


def test_from_fixed_mixtures(valid, nano, train, tmp_path):
    options = ("--activation-checkpointing", "--separator-loss")
    status, _, error = train(valid, tmp_path / "o", "--recipe", nano, "--steps", 2, *options)
    assert status == 0 and "WSJ0-2mix, 3 mixtures of mix" in error and "speeds apply only" in error
    status, _, error = train(valid, tmp_path / "p", "--recipe", nano, "--noise", valid)
    assert status == 2 and "holds fixed mixtures: noise applies only to clean speech" in error


def test_refusals_come_before_training(uninterrupted, speech, valid, nano, train, tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "run", lambda *_: pytest.fail("training began"))
    (tmp_path / "file").touch()
    (tmp_path / "pairs").write_text("spk0 nobody\n")
    new, other = tmp_path / "o", write_mixtures(tmp_path / "other", count=2, samples=800)
    for arguments, words in (
        ((speech, new, "--recipe", "nope"), "no recipe 'nope'"),
        ((speech, new, "--recipe", nano, "--segment-seconds", 0), "segment_seconds must be above 0"),
        ((speech, new, "--recipe", nano, "--repeats", "0-3"), "repeats must be"),
        ((speech, new, "--recipe", nano, "--minutes", 1, "--steps", 1), "either minutes or steps"),
        ((speech, new, "--recipe", nano, "--exclude", tmp_path / "pairs"), "no speaker is named 'nobody'"),
        ((speech, new, "--recipe", nano, "--valid", tmp_path / "none"), "not a folder"),
        ((speech, tmp_path / "file", "--recipe", nano), "is a file"),
        ((speech, new, "--resume"), "to resume from"),
        ((speech, uninterrupted, "--recipe", nano), "already holds a run"),
        ((speech, uninterrupted, "--resume", "--recipe", nano), "leave --recipe and --init out"),
        ((speech, uninterrupted, "--resume", "--steps", 6), "--steps 6 is not this run's 12"),
        ((speech, uninterrupted, "--resume", "--batch-size", 2), "--batch-size 2 is not this run's 1"),
        ((speech, uninterrupted, "--resume", "--valid", other), "--valid is not the data that this run started with"),
        ((valid, uninterrupted, "--resume"), "DATA is not the data that this run started with"),
    ):
        status, printed, error = train(*arguments)
        message = error.splitlines()[-1]
        assert (status, printed) == (2, "") and message.startswith("tisdiss: ") and words in message
    assert not new.exists()
