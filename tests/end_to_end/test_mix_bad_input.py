"""`tisdiss mix` and `tisdiss train` where files are bad, sets lie among the speech, or names are odd."""

import csv
import os
import shutil

import numpy as np
import pytest
import soundfile

from tests.cli import tisdiss
from tests.synthetic import RATE, write_mixtures, write_recipe, write_rooms, write_speech
from tisdiss_cli.data.corpus import find_speakers, read_exclusions
from tisdiss_cli.data.datasets import find_dataset
from tisdiss_cli.data.fixed_mixtures import looks_fixed
from tisdiss_cli.errors import UserError


def spoil(root, count):
    """So many bad files of four kinds, and their names."""
    names = []
    for number in range(count):
        path = root / f"spk{number % 2}" / f"bad{number:02}.wav"
        if number % 4 == 0:
            path.write_bytes(b"")
        elif number % 4 == 1:
            path.write_text("<!doctype html>\n")
        elif number % 4 == 2:
            soundfile.write(path, np.full(900, np.nan), RATE, subtype="FLOAT")
        else:
            soundfile.write(path, np.zeros(900), RATE)
        names.append(path.name)
    return names


def sentence(run):
    """The one line that a command ends with."""
    lines = run.stderr.splitlines()
    assert lines[-1].startswith("tisdiss: ") and "Traceback" not in run.stderr
    return lines[-1]


@pytest.fixture
def tiny(tmp_path):
    return write_recipe(tmp_path / "nano.toml", segment_seconds=0.03, batch_size=1)


@pytest.mark.parametrize("count", [1, 3, 13])
def test_all_bad_files_are_in_one_message(tmp_path, tiny, count):
    speech = write_speech(tmp_path / "speech", utterances=1)
    names = spoil(speech, count)
    for command in (
        ("mix", speech, tmp_path / "o", "--count", 300),
        ("train", speech, tmp_path / "o", "--recipe", tiny, "--device", "cpu"),
    ):
        said = sentence(tisdiss(*command, status=2))
        assert sum(name in said for name in names) == min(count, 10)
        assert ("and 3 more" in said) == (count == 13)
        assert count == 1 or f"{count} files" in said
        assert not (tmp_path / "o").exists()


def test_bad_files_that_no_mixture_takes_are_named_too(tmp_path):
    speech = write_speech(tmp_path / "speech", utterances=20, samples=900)
    for path in speech.glob("*/u1*.wav"):
        path.write_bytes(b"")
    said = sentence(tisdiss("mix", speech, tmp_path / "o", "--count", 1, status=2))
    assert "22 files" in said and "and 12 more" in said


def test_bad_rooms_noise_and_validation_are_in_the_message_with_the_speech(tmp_path, tiny):
    speech, rooms = write_speech(tmp_path / "speech", utterances=1), write_rooms(tmp_path / "rooms")
    noise, valid = tmp_path / "noise", write_mixtures(tmp_path / "valid", samples=800)
    noise.mkdir()
    soundfile.write(noise / "n1.wav", np.ones(900), RATE)
    (noise / "n2.wav").write_bytes(b"RIFF")
    (rooms / "room0" / "0.wav").write_bytes(b"")
    (speech / "spk1" / "u0.wav").write_bytes(b"")
    soundfile.write(valid / "s1" / "0.wav", np.zeros(800), RATE)
    (valid / "mix" / "2.wav").write_bytes(b"no sound")
    both = ("--rirs", rooms, "--noise", noise)
    said = sentence(tisdiss("mix", speech, tmp_path / "o", "--count", 60, *both, status=2))
    assert "3 files" in said and all(name in said for name in ("n2.wav", "room0/0.wav", "spk1/u0.wav"))
    command = ("train", speech, tmp_path / "o", "--recipe", tiny, "--valid", valid, "--device", "cpu")
    said = sentence(tisdiss(*command, *both, status=2))
    assert "5 files" in said
    for name in ("n2.wav", "room0/0.wav", "spk1/u0.wav", "s1/0.wav", "mix/2.wav"):
        assert name in said


def test_all_rooms_that_do_not_do_are_named(tmp_path):
    rooms = write_rooms(tmp_path / "rooms")
    soundfile.write(rooms / "room0" / "0.wav", np.ones((10, 2)), RATE)
    (rooms / "room1" / "2.wav").unlink()
    speech = write_speech(tmp_path / "speech", utterances=1)
    said = sentence(tisdiss("mix", speech, tmp_path / "o", "--rirs", rooms, status=2))
    assert "room0/0.wav has 2 channels" in said and "room1 has 1 impulse" in said


def test_all_mixtures_of_other_lengths_or_without_counterparts_are_named(tmp_path, tiny):
    data = write_mixtures(tmp_path / "data", count=4)
    for name in ("s1/1.wav", "s2/3.wav"):
        samples, _ = soundfile.read(data / name)
        soundfile.write(data / name, samples[:-5], RATE)
    command = ("train", data, tmp_path / "o", "--recipe", tiny, "--device", "cpu")
    said = sentence(tisdiss(*command, status=2))
    assert "s1/1.wav has 2395" in said and "s2/3.wav has 2395" in said
    for name in ("s1/0.wav", "s2/2.wav"):
        (data / name).unlink()
    said = sentence(tisdiss(*command, status=2))
    assert "0: no file in s1" in said and "2: no file in s2" in said


def test_an_utterance_too_short_to_have_a_level_is_named(tmp_path):
    speech = write_speech(tmp_path / "speech", utterances=1)
    for name in ("spk0/click.wav", "spk1/tick.wav"):
        soundfile.write(speech / name, np.ones(200), RATE)
    said = sentence(tisdiss("mix", speech, tmp_path / "o", "--count", 60, status=2))
    assert "click.wav is too short" in said and "tick.wav is too short" in said


def test_a_set_within_the_speech_is_refused(tmp_path):
    speech = write_speech(tmp_path / "speech")
    (tmp_path / "link").symlink_to(speech)
    for out in (speech / "train", speech / "spk0" / "deep" / "er", tmp_path / "link" / "train"):
        said = sentence(tisdiss("mix", speech, out, "--count", 2, status=2))
        assert "inside SPEECH" in said and not out.exists() and not list(speech.rglob(".*"))
    noise = tmp_path / "noise"
    noise.mkdir()
    soundfile.write(noise / "n.wav", np.ones(900), RATE)
    run = tisdiss("mix", speech, noise / "out", "--count", 2, "--noise", noise, status=2)
    assert "inside --noise" in sentence(run)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """What `tisdiss mix` writes, but for its folder of mixtures."""
    folder = tmp_path_factory.mktemp("ours")
    tisdiss("mix", write_speech(folder / "speech"), folder / "set", "--count", 2)
    shutil.rmtree(folder / "set" / "mix")
    return folder / "set"


@pytest.mark.parametrize("made", ["mix s1 s2", "mix_both_reverb s1_anechoic s2_anechoic", "mix_clean s1 s2", "ours"])
def test_sets_are_no_speakers(tmp_path, made, ours, said):
    speech = write_speech(tmp_path / "speech")
    for place in ("train", "sets/valid", "spk0/sets"):
        if made == "ours":
            shutil.copytree(ours, speech / place)
        else:
            write_mixtures(speech / place, count=1, samples=800, folders=made)
    found = find_speakers(speech, 2)
    assert {name: len(files) for name, files in found.items()} == {"spk0": 3, "spk1": 3}
    (told,) = said
    assert "sets/valid, spk0/sets, train" in told
    assert not looks_fixed(speech)  # train means the speech too
    tisdiss("mix", speech, tmp_path / "o", "--count", 8)
    with (tmp_path / "o" / "mixtures.csv").open() as file:
        assert {row["speaker_1"] for row in csv.DictReader(file)} <= {"spk0", "spk1"}
    for name in ("spk0", "spk1"):
        shutil.rmtree(speech / name)
    with pytest.raises(UserError, match="sets of mixtures, which do not count"):
        find_speakers(speech, 2)


def test_a_set_is_no_folder_of_speakers_and_sessions_are_no_set(tmp_path):
    mixtures = write_mixtures(tmp_path / "set")
    assert "is a set of mixtures" in sentence(tisdiss("mix", mixtures, tmp_path / "o", status=2))
    for speaker in "ab":
        write_speech(tmp_path / "sessions" / speaker, 2, 1)
        for number in (0, 1):
            (tmp_path / "sessions" / speaker / f"spk{number}").rename(
                tmp_path / "sessions" / speaker / f"s{number + 1}"
            )
    assert {name: len(files) for name, files in find_speakers(tmp_path / "sessions", 2).items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("out", ["file/o", "file", "full", "link", ".", "n" * 300])
def test_a_place_that_cannot_be_made_is_said_before_anything_is_read(tmp_path, out, monkeypatch):
    monkeypatch.chdir(tmp_path)
    speech = tmp_path / "speech"
    for name in "ab":
        (speech / name).mkdir(parents=True)
        (speech / name / "bad.wav").touch()
    (tmp_path / "file").touch()
    (tmp_path / "full" / "x").mkdir(parents=True)
    (tmp_path / "link").symlink_to("link")
    assert "OUT" in sentence(tisdiss("mix", speech, out, status=2))
    if out not in ("full", "."):
        command = ("train", speech, out, "--recipe", "light", "--device", "cpu")
        assert "OUT" in sentence(tisdiss(*command, status=2))


def test_an_empty_folder_behind_a_link_is_filled(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    tisdiss("mix", write_speech(tmp_path / "speech"), tmp_path / "link", "--count", 2)
    assert len(find_dataset(tmp_path / "there").items) == 2 and (tmp_path / "link").is_symlink()


ODD = [b"caf\xe9", b'with, comma "and" quotes', b"two\nlines\r", "naïve".encode()]


def test_names_of_any_bytes_are_mixed_and_listed(tmp_path):
    speech = write_speech(tmp_path / "speech", speakers=4, utterances=1)
    names = [os.fsdecode(name) for name in ODD]
    for number, name in enumerate(names):
        (speech / f"spk{number}").rename(speech / name)
    out = tmp_path / os.fsdecode(b"s\xe9t")
    tisdiss("mix", speech, out, "--count", 20)
    with (out / "mixtures.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert {row["speaker_1"] for row in rows} == set(names)
    assert [item.id for item in find_dataset(out).items] == sorted(row["id"] for row in rows)
    assert all((speech / row["utterance_2"]).is_file() for row in rows)
    pairs = tmp_path / "pairs"
    pairs.write_bytes(b"caf\xe9 na\xc3\xafve  # never\n")
    assert read_exclusions(pairs) == [(names[0], names[3])]


def test_exclusions_that_do_not_do_are_named_all(tmp_path):
    speech = write_speech(tmp_path / "speech", utterances=1)
    pairs = tmp_path / "pairs"
    for content, words in (
        ("a b\nspk0 nobody\n", ("'a'", "'b'", "'nobody'")),
        ("a\nb c\nd e f\n", ("line 1", "line 3")),
    ):
        pairs.write_text(content)
        said = sentence(tisdiss("mix", speech, tmp_path / "o", "--exclude", pairs, status=2))
        assert all(word in said for word in words)
    for path in (tmp_path / "none", tmp_path):
        assert str(path) in sentence(tisdiss("mix", speech, tmp_path / "o", "--exclude", path, status=2))


@pytest.mark.parametrize("folder", ["file", "none", "n" * 300, "circle", "empty"])
def test_folders_that_are_none_are_one_sentence_everywhere(tmp_path, tiny, mini_weights, folder):
    speech, mixtures = write_speech(tmp_path / "speech", utterances=1), write_mixtures(tmp_path / "set", count=1)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "empty").mkdir()
    bad, out = tmp_path / folder, tmp_path / "o"
    training = ("--recipe", tiny, "--device", "cpu")
    for command in (
        ("score", bad, "--weights", mini_weights),
        ("score", mixtures, "--estimates", bad),
        ("score", mixtures, "--weights", mini_weights, "--mixture", bad),
        ("score", mixtures, "--weights", mini_weights, "--references", f"{bad},s2"),
        ("mix", bad, out),
        ("mix", speech, out, "--noise", bad),
        ("mix", speech, out, "--rirs", bad),
        ("train", bad, out, *training),
        ("train", speech, out, "--valid", bad, *training),
        ("train", speech, out, "--noise", bad, *training),
        ("train", speech, out, "--rirs", bad, *training),
        ("weights", "calibrate", mini_weights, bad, "--out", tmp_path / "x.safetensors"),
    ):
        said = sentence(tisdiss(*command, status=2))
        assert folder in said
        assert not out.exists()
