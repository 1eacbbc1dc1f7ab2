"""The multi-loss and its module against torchmetrics and the published implementation's numbers."""

import pytest
import torch
from torchmetrics.functional.audio import (
    permutation_invariant_training,
    scale_invariant_signal_noise_ratio,
)

from tests.reference_cases import CASES, load_case, reference_network
from tests.synthetic import TINY
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.loss import CLAMP, MOST_SNR, MultiLoss, best_score, prepare


@pytest.mark.parametrize("speakers", [2, 3])
def test_every_term_is_torchmetrics_pit(speakers):
    torch.manual_seed(0)
    references = torch.randn(5, speakers, 900) + 0.3
    for noise in (0.1, 1.0, 5.0):
        estimate = references[:, torch.randperm(speakers)] + noise * torch.randn(5, speakers, 900)
        best, _ = permutation_invariant_training(estimate, references, scale_invariant_signal_noise_ratio)
        torch.testing.assert_close(best_score(estimate, references), best, rtol=1e-4, atol=1e-3)


def test_items_choose_their_permutations_independently():
    references = torch.randn(2, 2, 500)
    estimate = torch.stack((references[0], references[1].flip(0))) + 0.1 * torch.randn(2, 2, 500)
    assert (best_score(estimate, references) > 15).all()


def test_clamped_and_silence_gives_no_gradient():
    references = torch.randn(1, 2, 500)
    assert best_score(3 * references, references).item() == pytest.approx(CLAMP, abs=0.01)
    estimate = torch.zeros(1, 2, 500, requires_grad=True)
    best = best_score(estimate, references).mean()
    assert best.item() == pytest.approx(-CLAMP, abs=0.01)
    best.backward()
    assert (estimate.grad == 0).all()


@pytest.mark.parametrize("speakers", [2, 3])
def test_silent_sources_are_scored_by_the_level_of_their_estimates(speakers):
    """By the formula, at any scale; the other items of the batch have their SI-SNR."""
    torch.manual_seed(0)
    references = torch.randn(6, speakers, 900)
    references[:3, -1] *= 1e-3  # inaudible
    references[0, -1] = 0
    order = torch.randperm(speakers)
    estimates = 500 * (references + torch.logspace(0, -2, 6)[:, None, None] * torch.randn(6, speakers, 900))[:, order]
    found = best_score(estimates, references)
    best, _ = permutation_invariant_training(estimates[3:], references[3:], scale_invariant_signal_noise_ratio)
    torch.testing.assert_close(found[3:], best, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(best_score(1e-4 * estimates, references), found)
    inverse = [order.tolist().index(source) for source in range(speakers)]
    for estimate, reference, value in zip(
        estimates[:3, inverse].double(), references[:3].double(), found[:3], strict=True
    ):
        e, r = (x - x.mean(1, keepdim=True) for x in (estimate, reference))
        target = ((e * r).sum(1) / r.square().sum(1))[:, None] * r
        worse = (e - target).square().sum(1) / target.square().sum(1)
        scores = -10 * torch.log10(worse + 10 ** (-MOST_SNR / 10))
        scores[-1] = -10 * torch.log10(e[-1].square().sum() / e.square().sum() + 10 ** (-MOST_SNR / 10))
        assert value.item() == pytest.approx(scores.mean().item(), abs=1e-3)


def test_where_a_source_is_silent_so_should_its_estimate_be():
    """Whichever it is; as its level falls, the score rises, to MOST_SNR at most."""
    references = torch.stack((torch.randn(500), torch.zeros(500)))[None]
    scores = []
    for level in (1.0, 0.1, 0.01, 0.0):
        estimate = (references + level * torch.randn(1, 2, 500)).flip(1).requires_grad_()
        score = best_score(estimate, references).sum()
        score.backward()
        assert (estimate.grad[0, 0] * estimate[0, 0]).sum() < 0 or level == 0  # less of it is better
        scores.append(score.item())
    assert scores[0] + 10 < scores[1] < scores[2] - 5 and scores[2] < scores[3] <= MOST_SNR + 1e-3


@pytest.mark.parametrize("name", [name for name in CASES if name != "released"])
@torch.no_grad()
def test_published_loss(name):
    case, arrays = load_case(name)
    references = torch.from_numpy(arrays["reference_sources"])
    estimates = [*arrays["auxiliary"], arrays[f"estimate_repeats{max(case['repeats'])}"]]
    terms = torch.stack([-best_score(torch.from_numpy(one), references).mean() for one in estimates])
    torch.testing.assert_close(terms, torch.tensor(case["loss_terms"]), rtol=1e-4, atol=1e-3)
    assert terms.mean().item() == pytest.approx(case["loss"], abs=1e-3)


@torch.no_grad()
def test_published_loss_from_the_mixture():
    case, arrays = load_case("small_re1x3")
    mixture, references = (torch.from_numpy(arrays[name]) for name in ("mixture", "reference_sources"))
    loss = MultiLoss(reference_network("small_re1x3"))(mixture, references, max(case["repeats"]))
    assert loss.item() == pytest.approx(case["loss"], abs=1e-2)


def gradients(network):
    torch.manual_seed(1)
    references = torch.randn(2, 2, 400)
    loss = MultiLoss(network)(references.sum(1), references, 2)
    loss.backward()
    return loss, [parameter.grad for parameter in network.parameters()]


def test_activation_checkpointing_changes_no_gradient():
    networks = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = TISDiSS(Config(**TINY))
        prepare(network, compile=False, activation_checkpointing=checkpointing, device=torch.device("cpu"))
        networks.append(network)
    (loss, expected), (again, actual) = map(gradients, networks)
    assert torch.equal(loss, again)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_exits_before_the_reconstructor_have_their_weight():
    """Of each exit torchmetrics' best mean, then the weighted mean in plain numbers."""
    network = TISDiSS(Config(**TINY, separator_repeats=3))
    references = torch.randn(2, 2, 400)
    mixture, terms = references.sum(1), []
    for estimate in network.estimates(mixture, 2, separator_outputs=True):
        best, _ = permutation_invariant_training(estimate.waveforms(), references, scale_invariant_signal_noise_ratio)
        terms.append(-best.mean().item())
    assert len(terms) == 5  # the Separator's first two, the Splitter's, two repeats'
    for weight in (1.0, 0.1, 0.0):
        for outputs, early in ((True, terms[:3]), (False, terms[2:3])):
            loss = MultiLoss(network, outputs, splitter_weight=weight)(mixture, references, 2).item()
            expected = (weight * sum(early) + sum(terms[3:])) / (weight * len(early) + 2)
            assert loss == pytest.approx(expected, abs=1e-3)


@torch.no_grad()
def test_separator_outputs_are_the_splitters_of_a_shallower_separator():
    network = TISDiSS(Config(**TINY, separator_repeats=3))
    shallow = TISDiSS(Config(**{**TINY, "separator_repeats": 1}))
    shallow.load_state_dict(network.state_dict())
    mixture = torch.randn(2, 400)
    first = next(network.estimates(mixture, 2, separator_outputs=True))
    torch.testing.assert_close(first.waveforms(), next(shallow.estimates(mixture, 2)).waveforms())
