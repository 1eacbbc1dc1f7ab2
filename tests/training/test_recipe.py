"""Recipes: the package's, and what is refused."""

import pytest
import torch

from tisdiss_cli.errors import UserError
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.recipe import Recipe, read_recipe, recipe_names


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
        ("ema_decay = 1.0", "ema_decay must be one or several numbers from 0 to below 1"),
        ("ema_decay = [0.9, 1]", "ema_decay must be one or several numbers from 0 to below 1"),
        ("ema_decay = []", "ema_decay must be one or several numbers from 0 to below 1"),
        ("open_ended = true\nchanges = [{step = 9, ema_decay = [0.9, 0.99]}]", "number of moving averages"),
        ("accumulate = 0", "accumulate must be at least 1"),
        ("decay_share = 0", "decay_share must be above 0 and at most 1"),
        ("splitter_weight = -1", "splitter_weight must be at least 0"),
        ("repeats = '6-1'", "repeats must be"),
        ("repeats = 0", "repeats must be"),
        ("minutes = 1\nsteps = 1", "either minutes or steps"),
        ("minutes = 1\nopen_ended = true", "or is open_ended"),
        ("cooldown = 1", "only an open_ended run"),
        ("turn_taking = 1.1", "turn_taking must be at least 0 and at most 1"),
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
