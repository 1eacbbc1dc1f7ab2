"""The multi-loss and its module against torchmetrics and the published implementation's numbers."""

import pytest
import torch
from torchmetrics.functional.audio import permutation_invariant_training, scale_invariant_signal_noise_ratio

from tests.reference_cases import CASES, load_case, reference_network
from tests.synthetic import TINY
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.training.loss import CLAMP, MultiLoss, best_mean, multi_loss, pairwise_si_snr, prepare


@pytest.mark.parametrize("speakers", [2, 3])
def test_every_term_is_torchmetrics_pit(speakers):
    torch.manual_seed(0)
    references = torch.randn(5, speakers, 900) + 0.3
    estimates = [references[:, torch.randperm(speakers)] + s * torch.randn(5, speakers, 900) for s in (0.1, 1.0, 5.0)]
    terms = multi_loss(estimates, references)
    for term, estimate in zip(terms, estimates, strict=True):
        best, _ = permutation_invariant_training(estimate, references, scale_invariant_signal_noise_ratio)
        torch.testing.assert_close(term, -best.mean(), rtol=1e-4, atol=1e-3)


def test_items_choose_their_permutations_independently():
    references = torch.randn(2, 2, 500)
    estimate = torch.stack((references[0], references[1].flip(0))) + 0.1 * torch.randn(2, 2, 500)
    assert multi_loss([estimate], references) < -15


def test_clamped_and_silence_gives_no_gradient():
    references = torch.randn(1, 2, 500)
    assert best_mean(pairwise_si_snr(3 * references, references)).item() == pytest.approx(CLAMP, abs=0.01)
    estimate = torch.zeros(1, 2, 500, requires_grad=True)
    loss = multi_loss([estimate], references).mean()
    assert loss.item() == pytest.approx(CLAMP, abs=0.01)
    loss.backward()
    assert (estimate.grad == 0).all()


@pytest.mark.parametrize("name", [name for name in CASES if name != "released"])
@torch.no_grad()
def test_published_loss(name):
    case, arrays = load_case(name)
    references = torch.from_numpy(arrays["reference_sources"])
    estimates = [*arrays["auxiliary"], arrays[f"estimate_repeats{max(case['repeats'])}"]]
    terms = multi_loss(map(torch.from_numpy, estimates), references)
    torch.testing.assert_close(terms, torch.tensor(case["loss_terms"]), rtol=1e-4, atol=1e-3)
    assert terms.mean().item() == pytest.approx(case["loss"], abs=1e-3)


@torch.no_grad()
def test_published_loss_from_the_mixture():
    case, arrays = load_case("small_re1x3")
    mixture, references = (torch.from_numpy(arrays[name]) for name in ("mixture", "reference_sources"))
    terms = MultiLoss(reference_network("small_re1x3"), False)(mixture, references, max(case["repeats"]))
    torch.testing.assert_close(terms, torch.tensor(case["loss_terms"]), rtol=1e-3, atol=1e-2)


def gradients(network, separator_outputs=False):
    torch.manual_seed(1)
    references = torch.randn(2, 2, 400)
    terms = MultiLoss(network, separator_outputs)(references.sum(1), references, 2)
    terms.mean().backward()
    return terms, [parameter.grad for parameter in network.parameters()]


def test_activation_checkpointing_changes_no_gradient():
    networks = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = TISDiSS(Config(**TINY))
        prepare(network, compile=False, activation_checkpointing=checkpointing, device=torch.device("cpu"))
        networks.append(network)
    (terms, expected), (again, actual) = map(gradients, networks)
    assert torch.equal(terms, again)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


def test_separator_outputs_add_terms_before_the_splitters():
    torch.manual_seed(0)
    network = TISDiSS(Config(**TINY, separator_repeats=3))
    plain, _ = gradients(network)
    more, _ = gradients(network, separator_outputs=True)
    assert plain.shape == (3,) and more.shape == (5,)  # Splitter, 2 repeats; and the Separator's first two
    torch.testing.assert_close(more[2:], plain)
    shallow = TISDiSS(Config(**{**TINY, "separator_repeats": 1}))
    shallow.load_state_dict(network.state_dict())
    first, _ = gradients(shallow)
    torch.testing.assert_close(more[0], first[0])  # one Separator repeat, then the Splitter
