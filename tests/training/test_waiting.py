"""Nothing in a training step, and only one thing a repeat of `auto`, reads from the device and so waits for it.

Where there is a card, tests/test_cuda.py asks CUDA itself. Here it is the operators that would read or copy.
"""

import traceback
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from lightning_fabric import Fabric
from torch.utils._python_dispatch import TorchDispatchMode

from tests.reference_cases import drawn_network
from tests.synthetic import RATE, TINY, write_mixtures, write_rooms, write_speech
from tisdiss_cli.data.clips import pick_by_weight
from tisdiss_cli.data.dynamic_mixing import generator
from tisdiss_cli.libraries import load_torchaudio
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.separation.early_exit import Auto, stop_early
from tisdiss_cli.training.data import load_data
from tisdiss_cli.training.loss import best_mean
from tisdiss_cli.training.recipe import Recipe
from tisdiss_cli.training.trainer import Trainer

# Operators that give their caller a number or a size that depends on values, or that take a tensor from the host.
READS = ("_local_scalar_dense", "nonzero", "multinomial", "lift_fresh", "equal", "masked_select", "unique")


class Reads(TorchDispatchMode):
    """Counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        # torch's optimisers hold their counters on the CPU, whatever the device.
        if name.startswith(READS) and not any("/torch/optim/" in frame.filename for frame in traceback.extract_stack()):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    """With everything that a step may have."""
    folder = tmp_path_factory.mktemp("noise")
    for number in range(2):
        soundfile.write(folder / f"{number}.wav", 0.1 * np.random.default_rng(number).standard_normal(4000), RATE)
    rooms = write_rooms(tmp_path_factory.mktemp("rooms"))
    return Recipe(
        network=TINY,
        segment_seconds=0.05,
        batch_size=1,
        turn_taking=0.5,
        rirs=str(rooms),
        noise=str(folder),
        muon_learning_rate=0.01,
        ema_decay=[0.9, 0.99],
        accumulate=3,
        separator_loss=True,
        speaker_exponent=0.5,
        splitter_weight=0.1,
    )


@pytest.mark.parametrize("kind", ["mixed as it trains", "fixed mixtures"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_reads_nothing(tmp_path, recipe, kind, checkpointing):
    changes = {"activation_checkpointing": checkpointing}
    if kind == "fixed mixtures":
        nothing = dict.fromkeys(("turn_taking", "speaker_exponent"), 0.0)
        changes |= {**nothing, "rirs": "", "noise": ""}
        root = write_mixtures(tmp_path / "fixed")
    else:
        root = write_speech(tmp_path / "speech", speakers=3)
    recipe = Recipe.from_dict({**recipe.to_dict(), **changes})
    load_torchaudio()  # its import makes a tensor
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    data, trainer = load_data(root, recipe), Trainer(fabric, TISDiSS(recipe.config), recipe)
    for step in range(3):  # optimisers begin in the first
        random = generator(torch.device("cpu"), 0, step)
        with Reads() as reads:
            mixture, references = data.draw(3, 2, recipe.segment_samples, random)
            trainer.step(mixture, references, repeats=2, recipe=recipe, factor=1.0, step=step)
        assert not reads.found, step


def test_auto_reads_once_a_repeat(monkeypatch):
    """All items at once: a list of the values is one copy to the host."""
    network, lists, tolist = drawn_network(Config(**TINY), "auto"), [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda values: lists.append(values.shape) or tolist(values))
    with torch.inference_mode(), Reads() as reads:
        mixtures = torch.randn(4, 500)
        _, used = stop_early(network.estimates(mixtures, 5), Auto(200.0, 5), mixtures)
    assert used == [5] * 4 and len(lists) == 5 and not reads.found


def test_picks_are_multinomials_draws():
    """So runs that were begun before go on as they would have."""
    weights = (torch.rand(500, 7) > 0.4).float()
    weights[:, :3] = 1
    for count in (1, 2, 3):
        expected = torch.multinomial(weights, count, generator=torch.Generator().manual_seed(count))
        assert torch.equal(pick_by_weight(weights, count, torch.Generator().manual_seed(count)), expected)
    picked = pick_by_weight(weights, 3, torch.Generator().manual_seed(0))
    assert weights.gather(1, picked).all()
    assert all(len(set(row)) == 3 for row in picked.tolist())


def test_the_best_mean_is_that_of_the_best_order():
    scores = torch.randn(4, 3, 3)
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    for item, found in zip(scores.tolist(), best_mean(scores).tolist(), strict=True):
        means = [sum(item[row][column] for row, column in enumerate(order)) / 3 for order in orders]
        assert found == pytest.approx(max(means), abs=1e-6)
