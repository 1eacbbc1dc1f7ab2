"""Fixed mixtures: told apart from clean speech, drawn from, validated on, and refused where they are broken."""

import numpy as np
import pytest
import soundfile
import torch

from tests.synthetic import RATE, band, write_mixtures, write_speech
from tisdiss_cli.data.datasets import find_dataset
from tisdiss_cli.data.dynamic_mixing import DynamicMixing, generator
from tisdiss_cli.data.fixed_mixtures import load_fixed, looks_fixed
from tisdiss_cli.errors import UserError
from tisdiss_cli.training.data import load_data, load_examples
from tisdiss_cli.training.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return write_speech(tmp_path_factory.mktemp("speech"), speakers=4)


LAYOUTS = {
    "WSJ0-2mix": "mix s1 s2",
    "Libri2Mix": "mix_clean s1 s2",
    "WHAMR!": "mix_both_reverb s1_anechoic s2_anechoic",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fixed_mixtures_in_three_layouts(tmp_path, layout, said):
    root = write_mixtures(tmp_path / "set" / "tr", folders=LAYOUTS[layout])
    assert looks_fixed(root) and looks_fixed(tmp_path / "set")
    data = load_data(tmp_path / "set", Recipe(network={"n_fft": 32, "hop_length": 16}))
    assert layout in said[-1]
    mixture, sources = data.draw(6, 2, 1000, generator(CPU, 0))
    assert mixture.shape == (6, 1000) and sources.shape == (6, 2, 1000)
    torch.testing.assert_close(sources.sum(1), mixture, atol=2e-4, rtol=0)
    assert torch.equal(band(sources) // 2, torch.tensor([[0, 1]] * 6))
    originals = [soundfile.read(path, dtype="float32")[0] for path in sorted(root.glob("mix*/*.wav"))]
    pieces = torch.cat([torch.tensor(x / np.abs(x).max()).unfold(0, 1000, 1) for x in originals])
    similar = torch.nn.functional.cosine_similarity(pieces[None], mixture[:, None], dim=-1).amax(dim=1)
    assert (similar > 0.9999).all()


def test_folders_can_be_named(tmp_path):
    write_mixtures(tmp_path, folders="noisy one two")
    data = load_data(tmp_path, Recipe(), mixture="noisy", references=["two", "one"])
    _, sources = data.draw(3, 2, 1000, generator(CPU, 0))
    assert torch.equal(band(sources) // 2, torch.tensor([[1, 0]] * 3))


def test_speech_by_speaker_is_not_taken_for_mixtures(speech):
    assert not looks_fixed(speech)
    assert isinstance(load_data(speech, Recipe()), DynamicMixing)


def broken(root, name):
    """A folder of training data with one fault."""
    if name == "speaker":
        return write_speech(root, 1)
    if name == "silent":
        soundfile.write(write_speech(root, 2, 1) / "spk0" / "zero.wav", np.zeros(800), RATE)
    elif name == "unreadable":
        (write_speech(root, 2, 1) / "spk0" / "bad.wav").write_bytes(b"nothing")
    elif name == "no s2":
        write_mixtures(root, folders="mix s1")
    elif name == "no mix":
        write_mixtures(root, folders="s1 s2")
    elif name == "no file":
        (write_mixtures(root) / "s2" / "1.wav").unlink()
    elif name == "short":
        path = write_mixtures(root) / "s2" / "1.wav"
        soundfile.write(path, soundfile.read(path)[0][:-10], RATE)
    elif name == "three":
        write_mixtures(root, folders="mix s1 s2 s3")
    return root


FAULTS = {
    "speaker": "folders with speech: 1; mixing needs 2",
    "silent": "zero.wav is silent",
    "unreadable": "bad.wav is not a sound file",
    "no s2": "one folder of references",
    "no mix": "no known layout",
    "no file": "1: no file in s2",
    "short": r"s2/1.wav has 2390 samples .* its mixture 2400",
    "three": "has 3 speakers and the network 2",
    "absent": "not a folder",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_data_is_one_sentence(tmp_path, fault):
    with pytest.raises(UserError, match=FAULTS[fault]) as error:
        load_data(broken(tmp_path / "data", fault), Recipe())
    assert "\n" not in str(error.value)


def test_validation_examples_are_spread_over_the_set(tmp_path):
    write_mixtures(tmp_path, count=6)
    examples = load_examples(tmp_path, RATE, speakers=2, count=3)
    for example, number in zip(examples, (0, 2, 4), strict=True):
        expected, _ = soundfile.read(tmp_path / "mix" / f"{number}.wav", dtype="float32")
        assert np.array_equal(example.mixture.numpy(), expected)
    assert len(load_examples(tmp_path, RATE, speakers=2)) == 6
    assert load_fixed(find_dataset(tmp_path), RATE).clips.lengths.tolist() == [2400] * 6
