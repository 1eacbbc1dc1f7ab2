"""`--shifts`: the mean over passes that hear the mixture a part of a hop later, against passes made by hand."""

from itertools import permutations

import pytest
import torch

from tests.cli import ROOT
from tests.reference_cases import relative_error
from tisdiss_cli.audio.read import read
from tisdiss_cli.errors import UserError
from tisdiss_cli.separation.separator import Separator
from tisdiss_cli.separation.si_snr import si_snr


@pytest.fixture(scope="module")
def separator():
    return Separator.load(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def mixtures() -> list[str]:
    return sorted(path.name for path in (ROOT / "examples" / "mixtures" / "mix").iterdir())


def example(name: str, source: str, seconds: float = 1.0) -> torch.Tensor:
    return read(ROOT / "examples" / "mixtures" / source / name, 8000)[: round(8000 * seconds)]


def shifted(separator: Separator, shifts: int) -> Separator:
    other = Separator(separator.network, separator.weights, torch.device("cpu"), "fp32")
    other.shifts = shifts
    return other


def passes_by_hand(separator: Separator, mixture: torch.Tensor, shifts: int, repeats: int) -> torch.Tensor:
    """Zeros before the mixture, each result cut and ordered by every permutation's distance to the first."""
    mixture, hop, found = mixture - mixture.mean(), separator.config.hop_length, []
    for number in range(shifts):
        delay = hop * number // shifts
        late = torch.cat((torch.zeros(delay), mixture))
        late = torch.cat((late, torch.zeros(-len(late) % hop)))
        with torch.inference_mode():
            voices = separator.network(late[None], repeats)[0, :, delay : delay + len(mixture)]
        orders = [voices[list(order)] for order in permutations(range(2))]
        found.append(min(orders, key=lambda order: float((order - found[0]).square().sum())) if found else voices)
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("shifts", [2, 3])
def test_they_are_the_mean_of_passes_made_by_hand(separator, mixtures, shifts):
    mixture = example(mixtures[0], "mix")
    voices = shifted(separator, shifts).separate(mixture, repeats=1)
    assert relative_error(voices, passes_by_hand(separator, mixture, shifts, 1)) < 1e-4


def test_one_is_what_no_option_gives(separator, mixtures):
    mixture = example(mixtures[0], "mix")
    assert torch.equal(shifted(separator, 1).separate(mixture, repeats=2), separator.separate(mixture, repeats=2))


def test_an_items_voices_do_not_depend_on_the_others_of_its_batch(separator, mixtures):
    engine, batch = shifted(separator, 2), torch.stack([example(name, "mix") for name in mixtures[:3]])
    together, used = engine.run(batch, 1)
    assert used == [1, 1, 1]
    for voices, mixture in zip(together, batch, strict=True):
        assert relative_error(voices, engine.run(mixture[None], 1)[0][0]) < 1e-4


def test_every_repeat_is_the_mean_that_asking_for_it_gives(separator, mixtures):
    engine, mixture = shifted(separator, 2), example(mixtures[1], "mix")
    for repeats, voices in enumerate(engine.refine(mixture, repeats=2), 1):
        assert relative_error(voices, engine.separate(mixture, repeats=repeats)) < 1e-4


def test_two_are_better_than_one_on_the_examples(separator, mixtures):
    means = []
    for shifts in (1, 2):
        engine, found = shifted(separator, shifts), []
        for name in mixtures[:5]:
            references = torch.stack([example(name, source, 2.0) for source in ("s1", "s2")])
            voices = engine.separate(example(name, "mix", 2.0), repeats=1)
            found.append(max(si_snr(voices[list(order)], references).mean() for order in permutations(range(2))))
        means.append(torch.stack(found).mean())
    assert means[1] > means[0] + 0.1


@pytest.mark.parametrize("shifts", [0, -1, 65])
def test_what_is_no_number_of_passes_is_refused(shifts):
    with pytest.raises(UserError, match=f"--shifts {shifts}"):
        Separator.load(device="cpu", shifts=shifts)
