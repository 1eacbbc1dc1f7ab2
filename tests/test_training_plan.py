"""Recipes, schedules, the mean of the best weights, the log and checkpoints: everything around the steps."""

import time
from types import SimpleNamespace

import pytest
import torch

from tisdiss_cli.devices import choose_precision
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.checkpoint import load_checkpoint, save_checkpoint
from tisdiss_cli.training.curve import CURVE, plot_curve
from tisdiss_cli.training.export import Best
from tisdiss_cli.training.learner import decay_after
from tisdiss_cli.training.log import LOG, Log, Losses, read_log
from tisdiss_cli.training.recipe import Recipe, read_recipe, recipe_names
from tisdiss_cli.training.schedule import Clock, Schedule


def test_the_packages_recipes():
    assert {"released", "small", "light", "gpu"} <= set(recipe_names())
    for name in recipe_names():
        assert Recipe.from_dict(read_recipe(name)).config.sample_rate == 8000
    paper = Recipe.from_dict(read_recipe("released"))
    assert (paper.batch_size, paper.segment_seconds, paper.learning_rate, paper.weight_decay) == (6, 4.0, 1e-3, 1e-2)
    assert (paper.clip_norm, paper.warm_up_steps, paper.patience, paper.stop_after) == (5.0, 2000, 3, 10)
    assert (paper.epochs, paper.average_best, paper.repeat_range, paper.precision) == (150, 5, (6, 6), "bf16")
    assert paper.activation_checkpointing
    assert paper.config == Config()
    with torch.device("meta"):
        assert TISDiSS(paper.config).parameter_count == 8_011_827  # table 2
    assert paper.epoch_steps * paper.batch_size == pytest.approx(20000, rel=1e-3)


def test_drawn_repeats_are_recorded_as_the_most():
    recipe = Recipe(network={"reconstructor_repeats": 2}, repeats="1-6")
    assert recipe.repeat_range == (1, 6) and recipe.config.reconstructor_repeats == 6
    assert Recipe(network={"reconstructor_repeats": 2}).repeat_range == (2, 2)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("batchsize = 3", "unknown key 'batchsize'"),
        ("[network]\nchanels = 3", "unknown key 'chanels'"),
        ("[network]\nchannels = 6", "multiple of norm_groups"),
        ("batch_size = 0", "batch_size must be at least 1"),
        ("batch_size = 2.5", "batch_size must be of type int"),
        ("learning_rate = nan", "learning_rate must be a finite number"),
        ("learning_rate = '1e-3'", "learning_rate must be of type float"),
        ("ema_decay = 1.0", "ema_decay must be at least 0 and below 1"),
        ("ema_decay = [0.9, 1]", "ema_decay must be at least 0 and below 1"),
        ("ema_decay = []", "ema_decay must be at least 0 and below 1"),
        ("open_ended = true\nchanges = [{step = 9, ema_decay = [0.9, 0.99]}]", "number of moving averages"),
        ("accumulate = 0", "accumulate must be at least 1"),
        ("loss = 'l2'", "loss must be 'si-snr' or 'sa-sdr'"),
        ("silent_share = 0.1", "silent_share needs loss"),
        ("decay_share = 0", "decay_share must be above 0 and at most 1"),
        ("splitter_weight = -1", "splitter_weight must be at least 0"),
        ("repeats = '6-1'", "repeats must be"),
        ("repeats = 0", "repeats must be"),
        ("minutes = 1\nsteps = 1", "either minutes or steps"),
        ("minutes = 1\nopen_ended = true", "or is open_ended"),
        ("cooldown = 1", "only an open_ended run"),
        ("turn_taking = 1.1", "turn_taking must be at least 0 and at most 1"),
        ("filter_db = 12.5", "filter_db must be at least 0 and at most 12"),
        ("open_ended = true\nchanges = [{repeats = '2'}]", "needs its step"),
        ("open_ended = true\nchanges = [{step = 9}, {step = 8}]", "ascending"),
        ("open_ended = true\nchanges = [{step = 9, seed = 1}]", "seed cannot change"),
        ("open_ended = true\nchanges = [{step = 9, batch_size = 0}]", "batch_size must be at least 1"),
        ("open_ended = true\nchanges = [{step = 9, muon_learning_rate = 0.1}]", "from or to 0"),
        ("precision = 'fp16'", "'tf32' or 'bf16', not"),
        ("speeds = []", "speeds must be"),
        ("speeds = 1.0", "speeds must be of type list"),
        ("noise_db = [3, -6]", "noise_db must be"),
        ("exclude = ['a']", "exclude must be"),
        ("segment_seconds = 0.001", "segment_seconds"),
        ("average_best = 0", "average_best must be at least 1"),
        ("seed = -1", "seed must be at least 0"),
        ("seed", "cannot be read as TOML"),
        pytest.param("a = " + "[" * 3000, "cannot be read as TOML", id="deep"),
        ("network = 3", "network must be of type dict"),
        ("[network]\nchannels = 'many'", "channels must be of type int"),
        ("noise_db = [-inf, inf]", "noise_db must be"),
        ("learning_rate = 1e300", "learning_rate must be above 0 and at most 100"),
        ("seed = 9999999999999999999", "seed must be at least 0 and at most"),
        ("batch_size = true", "batch_size must be of type int"),
    ],
)
def test_a_bad_recipe_is_one_sentence_that_names_the_file(tmp_path, toml, words):
    (tmp_path / "mine.toml").write_text(toml)
    with pytest.raises(UserError, match=words) as error:
        read_recipe(str(tmp_path / "mine.toml"))
    assert str(error.value).startswith(str(tmp_path / "mine.toml")) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="no recipe 'nope'"):
        read_recipe("nope")


def test_a_recipe_of_other_bytes_or_of_a_windows_editor(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\nseed = 3\n")
    with pytest.raises(UserError, match=r"latin\.toml cannot be read as TOML"):
        read_recipe(str(tmp_path / "latin.toml"))
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfseed = 3\r\n")
    assert read_recipe(str(tmp_path / "bom.toml")) == {"seed": 3}
    for path in (tmp_path, tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match="no recipe"):
            read_recipe(str(path))


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
    assert ends == 20 and not schedule.exhausted
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
        assert not schedule.exhausted
        schedule.plateau.update(loss)
        rates.append(schedule.factor(1000, 0))
    # Three epochs without improvement after -2, then 3, 6 and 9 after -3; the tenth ends the run.
    assert rates == [1] * 4 + [0.5] * 4 + [0.25] * 3 + [0.125] * 3 + [0.0625] * 2
    assert schedule.exhausted
    assert schedule.progress(400, 0, 0) == 1


def test_an_open_ended_run_keeps_its_rate_until_its_cooldown():
    recipe = Recipe(open_ended=True, warm_up_steps=4, epoch_steps=10, changes=[{"step": 50, "cooldown": 2.0}])
    schedule = Schedule(recipe)
    factors = [schedule.factor(step, schedule.progress(step, 1e9, 5.0)) for step in (0, 1, 2, 3, 10**6)]
    assert factors == [0.25, 0.5, 0.75, 1, 1] and not schedule.exhausted
    assert schedule.advance(49, 990.0) == "" and schedule.advance(50, 1000.0) == "cooldown 0.0 -> 2.0"
    assert schedule.advance(51, 1001.0) == ""
    seconds, reserve = [1000, 1025, 1050, 1090, 1100], 20.0
    progress = [schedule.progress(50, second, reserve) for second in seconds]
    assert progress == pytest.approx([0, 0.25, 0.5, 0.9, 1.0])  # a reserve before the end is kept free
    assert [schedule.factor(50, share) for share in progress] == pytest.approx([1, 0.75, 0.5, 0.1, 0])
    assert [step for step in range(1, 31) if schedule.ends_epoch(step, 0, 0)] == [10, 20, 30]


def test_a_recipe_is_that_of_its_step():
    changes = [{"step": 5, "repeats": "1-4"}, {"step": 5, "batch_size": 3}, {"step": 9, "repeats": "2"}]
    recipe = Recipe(open_ended=True, repeats="1", batch_size=1, changes=changes)
    found = [(recipe.at(step).repeat_range, recipe.at(step).batch_size) for step in (0, 4, 5, 8, 9)]
    assert found == [((1, 1), 1), ((1, 1), 1), ((1, 4), 3), ((1, 4), 3), ((2, 2), 3)]
    assert recipe.deepest == 4 and recipe.config.reconstructor_repeats == 1


def test_a_segment_is_whole_hops():
    for hop, seconds, samples in ((128, 1.5, 12032), (64, 4.0, 32000), (64, 0.03, 256)):
        recipe = Recipe(network={"n_fft": 2 * hop, "hop_length": hop}, segment_seconds=seconds)
        assert recipe.segment_samples == samples


def test_the_mean_of_the_best():
    best, values = Best(3), [5.0, 1.0, 4.0, 2.0, 3.0, 6.0]
    for value in values:
        best.add(-value, {"w": torch.tensor([value]), "n": torch.tensor([2.0])})
    assert best.losses == [-6, -5, -4]
    assert best.mean()["w"].item() == 5 and best.mean()["n"].item() == 2
    last = Best(1)
    live = torch.zeros(1)
    assert last.add(0.0, {"w": live}) and not last.add(1.0, {"w": live})
    live.add_(1)
    assert last.mean()["w"].item() == 0  # a copy
    assert last.add(0.0, {"w": live}) and last.mean()["w"].item() == 1


def test_checkpoints_are_whole_or_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    state = {"tensor": torch.randn(3), "nested": {"numbers": [1.5, float("inf")]}, "name": None}
    save_checkpoint(path, state)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["tensor"], state["tensor"]) and loaded["nested"] == state["nested"]
    with pytest.raises(Exception, match=r"pickle|serialize"):  # an interrupted save leaves the former
        save_checkpoint(path, {"tensor": torch.zeros(10**4), "bad": lambda: None})
    assert torch.equal(load_checkpoint(path)["tensor"], state["tensor"])
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"checkpoint.pt cannot be read"):
        load_checkpoint(path)
    torch.save({"objects": Recipe()}, path)
    with pytest.raises(UserError, match=r"checkpoint.pt cannot be read") as error:
        load_checkpoint(path)
    assert "weights_only" not in str(error.value)
    torch.save({"other": 1}, path)
    with pytest.raises(UserError, match="is not a checkpoint"):
        load_checkpoint(path)
    with pytest.raises(UserError, match=r"no .* to resume from"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_resumed_log_goes_back_to_its_checkpoint(tmp_path):
    log = Log(tmp_path / LOG, 1, 0)
    for step in (10, 20, 30):
        log.add(step, 60.0, loss=f"{-step}")
    log.add_validation(20, 60.0, ema_decay=0.9, loss=-3.0, si_snri=[1.0, 2.0])
    with (tmp_path / LOG).open("a") as file:
        file.write("40,0.1")  # cut short
    Log(tmp_path / LOG, 1, 20)
    assert [(row["step"], row["loss"], row["si_snri_1"]) for row in read_log(tmp_path / LOG)] == [
        ("10", "-10", ""),
        ("20", "-20", ""),
        ("20", "", "2.0000"),
    ]
    assert not plot_curve(tmp_path) and (tmp_path / CURVE).read_bytes()[1:4] == b"PNG"


def test_the_moving_average_soon_forgets_the_first_weights():
    """Of what it begins with, a ten-thousandth is left after forty steps; later a step counts as the recipe has it."""
    left = [1.0]
    for step in range(40):
        left.append(left[-1] * decay_after(step, 0.999))
    assert left[40] < 1e-4
    assert left == sorted(left, reverse=True) and left[1] > 0
    assert decay_after(10**6, 0.99) == 0.99
    decays = [decay_after(step, 0.99) for step in range(2000)]
    assert decays == sorted(decays) and max(decays) == 0.99


def test_pending_losses_give_means_and_what_is_not_finite():
    losses = Losses(SimpleNamespace(world_size=1, device=torch.device("cpu")))
    assert losses.settle() is None
    for loss, norm in ((1.0, 2.0), (3.0, 6.0)):
        losses.add(torch.tensor(loss), torch.tensor(norm))
    assert losses.settle() is None and losses.close() == (2.0, 4.0) and not losses.pending
    for loss, norm in ((1.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0), (1.0, 1.0)):
        losses.add(torch.tensor(loss), torch.tensor(norm))
    assert losses.settle() == 3


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


@pytest.mark.parametrize(
    ("units", "chosen"), [({}, "fp32"), ({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16")]
)
def test_a_cpu_trains_in_bf16_where_it_has_units_for_it(monkeypatch, units, chosen):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False, "avx512_bf16": False, **units})
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu)[0] == chosen
    assert choose_precision("fp32", cpu)[0] == "fp32"
