"""Segments drawn from clips: pieces of them, where there is speech, and not only where it is densest."""

import numpy as np
import pytest
import soundfile
import torch

from tests.synthetic import RATE, band, write_speech
from tisdiss_cli.data.corpus import load_corpus
from tisdiss_cli.data.dynamic_mixing import draw_segments, generator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return write_speech(tmp_path_factory.mktemp("speech"), speakers=4)


def test_segments_are_pieces_of_the_speakers_utterances(corpus):
    who = torch.arange(4).repeat(3, 1)
    segments = draw_segments(corpus, who, samples=1000, random=generator(CPU, 5))
    assert torch.equal(band(segments), who)
    flat = corpus.clips.samples[0].float() / 32768
    for segment in segments[0]:
        begins = (flat == segment[0]).nonzero().flatten()
        assert any(torch.equal(flat[begin : begin + 1000], segment) for begin in begins)


def test_a_short_utterance_lies_in_silence(corpus):
    segment = draw_segments(corpus, torch.tensor([2]), samples=6000, random=generator(CPU, 0))[0]
    sounding = segment.nonzero().flatten()
    assert 3900 <= int(sounding[-1] - sounding[0]) < 4700 and band(segment) == 2


def test_segments_avoid_silence(tmp_path):
    write_speech(tmp_path, 2, 1, samples=2048)
    for path in tmp_path.rglob("*.wav"):  # a quarter of sound among silence
        sound, _ = soundfile.read(path)
        soundfile.write(path, np.concatenate((np.zeros(3072), sound, np.zeros(3072))), RATE)
    drawn = draw_segments(
        load_corpus(tmp_path, RATE, speeds=[1.0]),
        torch.zeros(200, dtype=torch.long),
        samples=1024,
        random=generator(CPU, 0),
    )
    sounding = (drawn.abs() > 1e-3).float().mean(dim=1) > 0.3
    # One position would do so 1 time in 3, the best of 8 fails less than 1 time in 20.
    assert sounding.float().mean() > 0.9


def test_segments_are_not_only_the_densest_speech(tmp_path):
    """Of places where speech fills half a segment and others where it fills all of it, none is preferred."""
    write_speech(tmp_path, 2, 1, samples=65536)
    for path in tmp_path.rglob("*.wav"):
        sound, _ = soundfile.read(path)
        sparse = sound[32768:].reshape(-1, 1024).copy()
        sparse[:, 640:] = 0
        soundfile.write(path, np.concatenate((sound[:32768], sparse.flatten())), RATE)
    who, random = torch.zeros(400, dtype=torch.long), generator(CPU, 0)
    drawn = draw_segments(load_corpus(tmp_path, RATE, speeds=[1.0]), who, samples=2048, random=random)
    holes = (drawn.unflatten(1, (-1, 128)) == 0).all(dim=-1).float().mean(dim=1)
    assert (holes > 0.2).float().mean() == pytest.approx(0.5, abs=0.08)  # else one time in 2 ** CANDIDATES
