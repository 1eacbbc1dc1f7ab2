"""Joined recordings are the recordings, one after the other."""

import runpy
import sys

import numpy as np
import pytest
import soundfile

from tests.cli import ROOT


def join(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / "join_speech.py"), run_name="__main__")


def test_joined_recordings_are_cut_to_one_length_and_nothing_else(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    spoken = {}
    for speaker, lengths in {"ann": (5000, 3000, 9500), "ben": (2000,), "cleo": (8000, 8000)}.items():
        (tmp_path / "speech" / speaker).mkdir(parents=True)
        spoken[speaker] = [random.integers(-3000, 3000, length, dtype=np.int16) for length in lengths]
        for number, samples in enumerate(spoken[speaker]):
            soundfile.write(tmp_path / "speech" / speaker / f"{number}.wav", samples, 8000)
    join(monkeypatch, tmp_path / "speech", tmp_path / "all", "--seconds", 1, "--rest")
    for speaker, samples in spoken.items():
        found = [soundfile.read(path, dtype="int16")[0] for path in sorted((tmp_path / "all" / speaker).glob("*"))]
        assert np.array_equal(np.concatenate(found), np.concatenate(samples))
        assert all(len(piece) == 8000 for piece in found[:-1]) and 0 < len(found[-1]) <= 8000
    join(monkeypatch, tmp_path / "speech", tmp_path / "out", "--seconds", 1)
    for speaker, whole in {"ann": 2, "ben": 0, "cleo": 2}.items():
        found = [soundfile.read(path, dtype="int16")[0] for path in sorted((tmp_path / "out" / speaker).glob("*"))]
        assert [len(samples) for samples in found] == [8000] * whole
        if found:
            assert np.array_equal(np.concatenate(found), np.concatenate(spoken[speaker])[: whole * 8000])


def test_rates_that_differ_are_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "ann").mkdir()
    for rate in (8000, 16000):
        soundfile.write(tmp_path / "ann" / f"{rate}.wav", np.ones(100), rate)
    with pytest.raises(SystemExit):
        join(monkeypatch, tmp_path, tmp_path / "out")
    assert "the recordings of ann differ in sample rate" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
