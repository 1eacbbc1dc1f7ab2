"""A constant offset, as a cheap recorder adds, is no part of what is separated: the voices are those without it."""

import numpy as np
import pytest
import soundfile
import torch

from tests.folders import RATE, records, separate, speech_like
from tisdiss_cli.evaluation.evaluate import every_setting
from tisdiss_cli.separation.chunking import Chunker, ChunkPlan
from tisdiss_cli.separation.separator import Separator
from tisdiss_cli.training.data import Example
from tisdiss_cli.training.validation import validate

OFFSETS = [0.03, -0.1]


@pytest.fixture
def separator(mini_weights):
    one = Separator.load(mini_weights, "cpu", "fp32")
    one.plan = lambda seconds=None: ChunkPlan(RATE)
    return one


def distance(voices: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative: a seeded network makes a hundredth of a sample's last bit, and above 1 of an offset that it hears."""
    return float((voices - expected).norm() / expected.norm())


def noise(seconds: float) -> torch.Tensor:
    return torch.from_numpy(speech_like(seconds, 0)[:, 0])


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("seconds", [0.001, 1.03, 4.2])
def test_voices_do_not_know_the_offset(separator, offset, seconds):
    mixture = noise(seconds)
    expected = separator.separate(mixture, repeats=1)
    voices = separator.separate(mixture + offset, repeats=1)
    assert distance(voices, expected) < 0.2


@pytest.mark.parametrize("offset", OFFSETS)
def test_neither_do_refine_score_and_validation(separator, offset):
    mixture = noise(1.2)
    expected = separator.separate(mixture, repeats=2)
    *_, refined = separator.refine(mixture + offset, repeats=2)
    assert distance(refined, expected) < 0.2
    for repeats, scored, _ in every_setting(separator, mixture + offset, repeats=[1, 2]):
        assert distance(scored, separator.separate(mixture, repeats=repeats)) < 0.2
    validation = validate(
        separator.network, [Example(mixture + offset, expected)], repeats=2, device=torch.device("cpu")
    )
    assert validation.si_snri[2] > 60  # its own voices are its references


def test_each_of_a_batch_loses_its_own(separator):
    mixtures = torch.stack([noise(1.0), noise(1.0).flip(0)])
    expected = separator.batch(mixtures, 1)
    voices = separator.batch(mixtures + torch.tensor([[0.5], [-0.2]]), 1)
    assert distance(voices, expected) < 0.2


def test_a_recording_is_cut_where_it_is_without_the_offset():
    """What counts as a pause is no matter of the offset either."""
    mixture = noise(6.0)
    mixture[int(0.6 * RATE) : int(1.3 * RATE)] *= 1e-3

    def starts(x: torch.Tensor) -> list[int]:
        chunker = Chunker(ChunkPlan(RATE))
        return [start for start, _ in chunker.push(x) + chunker.finish()]

    assert starts(mixture) != starts(noise(6.0))
    for offset in OFFSETS:
        assert starts(mixture + offset) == starts(mixture)


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1e-7, 700.0])
@pytest.mark.parametrize("samples", [1, 2, 777, 30_001])
def test_a_constant_is_silence(separator, value, samples):
    voices = separator.separate(torch.full((samples,), value), repeats=1)
    assert voices.shape == (2, samples)
    assert not voices.any()


def test_the_voices_on_disk_do_not_know_it_either(tmp_path, mini_weights):
    mixture = speech_like(4.2, 0)
    for name, signal in (("plain", mixture), ("offset", mixture + np.float32(0.1))):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", signal, RATE, subtype="FLOAT")
        separate(tmp_path / name, tmp_path / f"{name}-out", mini_weights)
    for output in records(tmp_path / "plain-out")["a.wav"]["outputs"]:
        plain, offset = (soundfile.read(tmp_path / f"{name}-out" / output)[0] for name in ("plain", "offset"))
        assert np.linalg.norm(plain - offset) < 0.2 * np.linalg.norm(plain)
