"""`separate --shifts`: the voices that the engine gives, whatever shares the batch, and a setting of its own."""

import numpy as np
import pytest
import soundfile
import torch

from tests.cli import ROOT, tisdiss
from tests.folders import records
from tisdiss_cli.audio.read import read
from tisdiss_cli.separation.separator import Separator

OPTIONS = ("--device", "cpu", "--precision", "fp32", "--repeats", 1, "--subtype", "float")  # with trained weights


@pytest.fixture
def calls(tmp_path):
    """Two short mixtures; seeded weights would make much of float32's rounding."""
    (tmp_path / "calls").mkdir()
    for path in sorted((ROOT / "examples" / "mixtures" / "mix").iterdir())[:2]:
        soundfile.write(tmp_path / "calls" / path.name, read(path, 8000)[:6000].numpy(), 8000)
    return tmp_path / "calls"


def voices(out) -> dict[str, torch.Tensor]:
    found = {}
    for name, line in records(out).items():
        assert line["settings"]["shifts"] == 3
        found[name] = torch.from_numpy(np.stack([soundfile.read(out / path)[0] for path in line["outputs"]]))
    return found


def test_the_voices_are_the_engines(calls, tmp_path):
    tisdiss("separate", calls, tmp_path / "out", *OPTIONS, "--shifts", 3)
    engine = Separator.load(device="cpu", precision="fp32", shifts=3)
    found = voices(tmp_path / "out")
    assert len(found) == 2
    for name, samples in found.items():
        expected = engine.separate(read(calls / name, 8000), repeats=1).double()
        torch.testing.assert_close(samples, expected, rtol=0, atol=1e-5)


def test_neither_batches_nor_neighbours_change_them_and_other_numbers_are_done_anew(calls, tmp_path):
    for name, size in (("one", 1), ("many", 5)):
        tisdiss("separate", calls, tmp_path / name, *OPTIONS, "--chunk", 0.5, "--shifts", 3, "--batch-size", size)
    one, many = voices(tmp_path / "one"), voices(tmp_path / "many")
    assert len(one) == 2
    for name, samples in one.items():
        torch.testing.assert_close(samples, many[name], rtol=0, atol=1e-5)
    again = tisdiss("separate", calls, tmp_path / "one", *OPTIONS, "--chunk", 0.5, "--shifts", 3)
    assert "2 done before" in again.stdout
    other = tisdiss("separate", calls, tmp_path / "one", *OPTIONS, "--chunk", 0.5)
    assert "0 done before" in other.stdout
