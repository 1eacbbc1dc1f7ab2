"""Voices of a file of any length end as they go on: no click at the end, whatever the length leaves of a hop."""

import numpy as np
import pytest
import torch

from tisdiss_cli.evaluation.evaluate import every_setting
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import WeightFile
from tisdiss_cli.separation.chunking import ChunkPlan
from tisdiss_cli.separation.separator import Separator
from tisdiss_cli.training.data import Example
from tisdiss_cli.training.validation import validate

HOPS = 6  # of a mixture, and what a residue adds


@pytest.fixture(scope="module", params=[64, 128])
def separator(request, tmp_path_factory):
    """A seeded network, whose estimates are as wrong as can be, so that nothing averages the end's errors away."""
    hop = request.param
    config = Config(
        channels=8, ffn_hidden=8, attention_channels=8, heads=1, norm_groups=1, n_fft=2 * hop, hop_length=hop
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("ends") / "none.safetensors"
    return Separator(TISDiSS(config), WeightFile(path, config), torch.device("cpu"), "fp32")


def mixture(samples: int) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(samples))


def end_over_rest(voices: torch.Tensor, hop: int) -> float:
    """The loudest voice's peak in the last half hop over its peak before."""
    half = hop // 2
    return float((voices[:, -half:].abs().amax(dim=1) / voices[:, :-half].abs().amax(dim=1)).max())


def test_the_end_is_no_louder_than_the_rest_at_any_length(separator):
    hop = separator.config.hop_length
    for residue in range(hop):
        samples = HOPS * hop + residue
        voices = separator.separate(mixture(samples), repeats=1)
        assert voices.shape == (2, samples)
        assert end_over_rest(voices, hop) < 1.5, residue


def test_the_published_function_does_click(separator):
    """Which is why the network hears whole hops, and shows that the test above would see it."""
    hop = separator.config.hop_length
    with torch.no_grad():
        assert end_over_rest(separator.network(mixture(HOPS * hop + hop - 1)[None], 1)[0], hop) > 5


def test_every_way_through_the_network_hears_whole_hops(separator):
    """`separate`, `refine`, `score` and validation are the published function of a mixture centred, padded by hand."""
    hop = separator.config.hop_length
    samples = HOPS * hop + hop - 2
    heard = mixture(samples)
    with torch.no_grad():
        padded = torch.from_numpy(np.pad(heard.numpy() - heard.numpy().mean(), (0, 2)))[None]
        expected = [separator.network(padded, repeats)[0, :, :samples] for repeats in (1, 2)]
    for repeats, voices in enumerate(expected, 1):
        torch.testing.assert_close(separator.separate(heard, repeats=repeats), voices)
        torch.testing.assert_close(separator.batch(heard[None], repeats)[0], voices)
    for voices, (_, scored, _) in zip(expected, every_setting(separator, heard, repeats=[1, 2]), strict=True):
        torch.testing.assert_close(scored, voices)
    for voices, refined in zip(expected, separator.refine(heard, repeats=2), strict=True):
        torch.testing.assert_close(refined, voices)
    validation = validate(separator.network, [Example(heard, expected[1])], repeats=2, device=torch.device("cpu"))
    assert validation.si_snri[2] > 60  # its own voices are its references


def test_the_last_of_several_chunks_ends_quietly_too(separator):
    hop = separator.config.hop_length
    separator.plan = lambda: ChunkPlan(20 * hop)
    voices = separator.separate(mixture(75 * hop + hop - 1), repeats=1)
    assert end_over_rest(voices, hop) < 1.5
