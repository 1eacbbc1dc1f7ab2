"""`tisdiss mix`: sums, lengths, levels, speakers and seeds of the files it writes."""

import csv

import numpy as np
import pytest
import soundfile

from tests.synthetic import RATE, write_rooms, write_speech
from tisdiss_cli.__main__ import main
from tisdiss_cli.data.datasets import find_dataset


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return write_speech(tmp_path_factory.mktemp("speech"), speakers=3)


def mix(monkeypatch, *arguments, status=0):
    monkeypatch.setattr("sys.argv", ["tisdiss", "mix", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == status


def samples(path):
    values, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    return values.astype(int)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sums_lengths_levels_and_seeds(speech, tmp_path, monkeypatch, capsys):
    for name, options in {"a": (), "again": (), "other": ("--seed", 1), "longer": ("--count", 45)}.items():
        mix(monkeypatch, speech, tmp_path / name, "--count", 40, *options)
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "a")
    assert files(tmp_path / "a") == files(tmp_path / "again")
    assert files(tmp_path / "a").keys() != files(tmp_path / "other").keys()
    assert len(files(tmp_path / "longer").items() & files(tmp_path / "a").items()) == 3 * 40

    dataset = find_dataset(tmp_path / "a")
    assert (dataset.layout, len(dataset.items), dataset.missing) == ("WSJ0-2mix", 40, [])
    rows = {row["id"]: row for row in csv.DictReader((tmp_path / "a" / "mixtures.csv").open())}
    levels = []
    for item in dataset.items:
        mixture, (s1, s2), row = samples(item.mixture), map(samples, item.references), rows[item.id]
        assert np.array_equal(mixture, s1 + s2)
        assert 29000 < np.abs([mixture, s1, s2]).max() < 30000  # 0.9 of full scale
        assert row["speaker_1"] != row["speaker_2"]
        sources = [soundfile.read(speech / row[f"utterance_{k}"])[0] for k in (1, 2)]
        assert len(mixture) == min(map(len, sources)) == int(row["samples"])
        for signal, source in zip((s1, s2), sources, strict=True):
            assert np.corrcoef(signal, source[: len(signal)])[0, 1] > 0.99999
        # The bands' noise is stationary, so its active level is its root mean square.
        relative = 20 * np.log10(np.sqrt(np.mean(s1**2) / np.mean(s2**2)))
        assert relative == pytest.approx(float(row["level_1"]) - float(row["level_2"]), abs=0.3)
        levels.append(relative)
    assert max(levels) < 5.3 and min(levels) > -5.3 and np.ptp(levels) > 7


def test_whamr(speech, tmp_path, monkeypatch):
    rooms = write_rooms(tmp_path / "rirs")
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "n.wav", 0.1 * np.random.default_rng(0).standard_normal(900), RATE)
    out = tmp_path / "out"
    mix(monkeypatch, speech, out, "--count", 3, "--rirs", rooms, "--noise", tmp_path / "noise", "--format", "flac")
    rooms_ = ("anechoic", "reverb")
    kinds = [f"{kind}_{room}" for kind in ("mix_both", "mix_clean", "mix_single", "s1", "s2") for room in rooms_]
    assert sorted(path.name for path in out.iterdir()) == sorted([*kinds, "noise", "mixtures.csv"])
    assert find_dataset(out).layout == "WHAMR!"
    for row in csv.DictReader((out / "mixtures.csv").open()):
        x = {path.name: samples(path / f"{row['id']}.flac") for path in out.iterdir() if path.is_dir()}
        for room in ("anechoic", "reverb"):
            s1, s2 = x[f"s1_{room}"], x[f"s2_{room}"]
            assert np.array_equal(x[f"mix_clean_{room}"], s1 + s2)
            assert np.array_equal(x[f"mix_both_{room}"], s1 + s2 + x["noise"])
            assert np.array_equal(x[f"mix_single_{room}"], s1 + x["noise"])
        assert row["rir_1"] != row["rir_2"] and row["rir_1"].split("/")[0] == row["rir_2"].split("/")[0]
        for k in (1, 2):
            response, _ = soundfile.read(rooms / row[f"rir_{k}"])
            direct = int(np.abs(response).argmax())
            expected = np.convolve(x[f"s{k}_anechoic"], response[direct:] / response[direct])[: int(row["samples"])]
            assert np.abs(x[f"s{k}_reverb"] - expected).max() < 3  # rounding


def test_noise_alone_gives_whams_folders(speech, tmp_path, monkeypatch):
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "n.wav", 0.1 * np.random.default_rng(0).standard_normal(9000), RATE)
    noisy = ("--noise", tmp_path / "noise", "--noise-level", 6, 6)
    mix(monkeypatch, speech, tmp_path / "o", "--count", 2, "--speakers", 3, *noisy)
    folders = {path.name: samples(next(path.glob("00001*"))) for path in (tmp_path / "o").iterdir() if path.is_dir()}
    assert sorted(folders) == ["mix_both", "mix_clean", "mix_single", "noise", "s1", "s2", "s3"]
    power = {name: float(np.mean(x**2)) for name, x in folders.items()}
    loudest = max(power[f"s{k}"] for k in (1, 2, 3))
    assert 10 * np.log10(loudest / power["noise"]) == pytest.approx(6, abs=0.3)


def test_excluded_pairs_and_another_rate(speech, tmp_path, monkeypatch, capsys):
    (tmp_path / "pairs").write_text("spk0 spk1\n")
    mix(monkeypatch, speech, tmp_path / "o", "--count", 12, "--exclude", tmp_path / "pairs", "--sample-rate", 4000)
    for row in csv.DictReader((tmp_path / "o" / "mixtures.csv").open()):
        assert "spk2" in (row["speaker_1"], row["speaker_2"])
    assert soundfile.info(next((tmp_path / "o" / "mix").iterdir())).samplerate == 4000
    assert capsys.readouterr().err.count("resampled to 4000 Hz") == 1


def test_mistakes_are_one_sentence_and_leave_nothing(speech, tmp_path, monkeypatch, capsys):
    one = write_speech(tmp_path / "one", 1)
    silent, bad = write_speech(tmp_path / "silent"), write_speech(tmp_path / "bad")
    soundfile.write(silent / "spk0" / "u1.wav", np.zeros(900), RATE)
    (bad / "spk1" / "u1.wav").write_bytes(b"RIFF")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for arguments, words in (
        ((one, tmp_path / "o"), "folders with speech: 1; mixing needs 2"),
        ((silent, tmp_path / "o"), "u1.wav is silent"),
        ((bad, tmp_path / "o"), "u1.wav is not a sound file"),
        ((tmp_path / "none", tmp_path / "o"), "not a folder"),
        ((speech, tmp_path / "full"), "exists already"),
        ((speech, tmp_path / "o", "--speakers", 4), "folders with speech: 3; mixing needs"),
        ((speech, tmp_path / "o", "--rirs", tmp_path / "none"), "impulse responses"),
        ((speech, tmp_path / "o", "--noise", tmp_path / "full"), "no sound files"),
    ):
        mix(monkeypatch, *arguments, status=2)
        captured = capsys.readouterr()
        assert words in captured.err and captured.err.startswith("tisdiss: ") and captured.err.count("\n") == 1
        assert captured.out == "" and not (tmp_path / "o").exists() and not (tmp_path / ".o.part").exists()


def test_speakers_whose_names_are_too_long_together_are_refused_before_the_work(tmp_path, monkeypatch, capsys):
    speech = write_speech(tmp_path / "speech", speakers=3)
    for number in range(2):
        (speech / f"spk{number}").rename(speech / (str(number) * 200))
    mix(monkeypatch, speech, tmp_path / "o", "--count", 1, status=2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "too long" in said and "0" * 200 in said and "spk2" not in said
    (speech / ("1" * 200)).rename(speech / "one")
    mix(monkeypatch, speech, tmp_path / "o", "--count", 9)
    assert len(list((tmp_path / "o" / "mix").iterdir())) == 9
