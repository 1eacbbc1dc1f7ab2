"""Several processes learn as one would from all of their batches."""

import csv

import pytest
import torch

from tests.cli import start
from tests.synthetic import RATE, TINY, write_recipe, write_speech
from tisdiss_cli.data.corpus import load_corpus
from tisdiss_cli.data.dynamic_mixing import DynamicMixing, generator
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.loss import MultiLoss
from tisdiss_cli.training.recipe import Recipe, read_recipe


def test_two_processes_take_the_mean_of_their_batches(tmp_path):
    speech, out = write_speech(tmp_path / "speech"), tmp_path / "out"
    network = {**TINY, "separator_repeats": 1}  # applied once, its re-injection gets no gradient
    path = write_recipe(
        tmp_path / "two.toml", network, segment_seconds=0.03, batch_size=1, accumulate=2, log_steps=1, steps=2
    )
    process = start("train", speech, out, "--recipe", path, "--devices", 2, "--device", "cpu")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    with (out / "log.csv").open() as file:
        row = next(csv.DictReader(file))

    recipe, cpu = Recipe.from_dict(read_recipe(str(path))), torch.device("cpu")
    torch.manual_seed(recipe.seed)
    alone = TISDiSS(recipe.config)
    mixing = DynamicMixing(load_corpus(speech, RATE, speeds=recipe.speeds), recipe.level_db)
    drawn = [mixing.draw(2, 2, round(0.03 * RATE), generator(cpu, recipe.seed, 0, rank)) for rank in (0, 1)]
    mixture, references = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    loss = MultiLoss(alone)(mixture, references, recipe.config.reconstructor_repeats)  # four mixtures in one batch
    loss.backward()
    gradients = [p.grad.flatten() for p in alone.parameters() if p.grad is not None]
    assert float(row["loss"]) == pytest.approx(loss.item(), rel=1e-4)
    assert float(row["gradient_norm"]) == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-3)
