"""Mixtures drawn from a corpus: by whom, and at which levels."""

import numpy as np
import pytest
import soundfile
import torch

from tests.synthetic import RATE, write_speech
from tisdiss_cli.data.corpus import load_corpus
from tisdiss_cli.data.dynamic_mixing import DynamicMixing, active_level, draw_speakers, generator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return write_speech(tmp_path_factory.mktemp("speech"), speakers=4)


@pytest.mark.parametrize(("exponent", "shares"), [(0.0, (1, 1, 1)), (0.5, (1, 2, 3)), (1.0, (1, 4, 9))])
def test_speakers_are_drawn_by_their_minutes(tmp_path, exponent, shares):
    """The first of a mixture, in proportion to the power of what each has said."""
    for number, seconds in enumerate((1, 4, 9)):
        (tmp_path / f"{number}").mkdir()
        for half in range(2):
            noise = np.random.default_rng(number).uniform(-0.5, 0.5, seconds * 500)
            soundfile.write(tmp_path / f"{number}" / f"{half}.wav", noise, RATE)
    corpus = load_corpus(tmp_path, RATE, speeds=[1.0])
    assert corpus.speech_samples.tolist() == [1000, 4000, 9000]
    weights = corpus.speech_samples.pow(exponent)
    pairs = draw_speakers(corpus.compatible, 20000, speakers=2, random=generator(CPU, 0), weights=weights)
    counts = torch.bincount(pairs[:, 0], minlength=3) / 20000
    torch.testing.assert_close(counts, torch.tensor(shares) / sum(shares), atol=0.02, rtol=0)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    draws = [
        DynamicMixing(corpus, 5.0, **options).sources(3, 2, 500, generator(CPU, 1))
        for options in ({}, {"speaker_exponent": exponent})
    ]
    assert torch.equal(*draws) == (exponent == 0)


def test_levels_are_uniform(corpus):
    sources = DynamicMixing(corpus, 5.0).sources(600, 2, 2000, generator(CPU, 2))
    level = 20 * torch.log10(active_level(sources))[..., 0]
    relative = (level[:, 1] - level[:, 0]).sort().values
    expected = torch.linspace(-5, 5, 600)
    assert (relative - expected).abs().max() < 0.7  # Kolmogorov-Smirnov, 5 % at 0.55
    draw = DynamicMixing(corpus, 5.0).sources
    assert torch.equal(*(draw(2, 2, 500, generator(CPU, 7, 1)) for _ in range(2)))
    assert not torch.equal(*(draw(2, 2, 500, generator(CPU, 7, step)) for step in (1, 2)))
