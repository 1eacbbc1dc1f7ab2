"""Detection and listing of the layouts, on empty files: only names matter."""

from pathlib import Path

import pytest

from tisdiss_cli.data.datasets import find_dataset
from tisdiss_cli.errors import UserError


def make(root: Path, folders: str, ids: str = "a b", suffix: str = ".wav") -> Path:
    for folder in folders.split():
        for name in ids.split():
            path = root / folder / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


WHAMR = "noise s1_anechoic s1_reverb s2_anechoic s2_reverb " + " ".join(
    f"mix_{kind}_{room}" for kind in ("both", "clean", "single") for room in ("anechoic", "reverb")
)


@pytest.mark.parametrize(
    ("folders", "layout", "mixture", "references"),
    [
        ("mix s1 s2", "WSJ0-2mix", "mix", ("s1", "s2")),
        ("mix s1 s2 s3", "WSJ0-2mix", "mix", ("s1", "s2", "s3")),
        ("mix_both mix_clean mix_single noise s1 s2", "Libri2Mix", "mix_clean", ("s1", "s2")),
        ("mix_both noise s1 s2", "Libri2Mix", "mix_both", ("s1", "s2")),
        (WHAMR, "WHAMR!", "mix_both_reverb", ("s1_anechoic", "s2_anechoic")),
    ],
)
def test_layouts(tmp_path, folders, layout, mixture, references):
    dataset = find_dataset(make(tmp_path, folders))
    assert (dataset.layout, dataset.mixture, dataset.references) == (layout, mixture, references)
    assert [item.id for item in dataset.items] == ["a", "b"] and not dataset.missing
    item = dataset.items[0]
    assert item.mixture == tmp_path / mixture / "a.wav"
    assert item.references == tuple(tmp_path / name / "a.wav" for name in references)
    assert dataset.speakers == len(references)


def test_overrides_take_names_and_paths(tmp_path):
    split = make(tmp_path / "set", WHAMR)
    dataset = find_dataset(split, "mix_clean_reverb", ["s1_reverb", "s2_reverb"])
    assert dataset.items[0].mixture.parent.name == "mix_clean_reverb"
    assert [path.parent.name for path in dataset.items[0].references] == ["s1_reverb", "s2_reverb"]
    assert find_dataset(split, "mix_clean_reverb").references == ("s1_anechoic", "s2_anechoic")
    assert find_dataset(split, references=["s1_reverb", "s2_reverb"]).mixture == "mix_both_reverb"

    make(tmp_path / "elsewhere", "voices/one voices/two", suffix=".flac")
    voices = [str(tmp_path / "elsewhere" / "voices" / name) for name in ("one", "two")]
    dataset = find_dataset(split, "mix_both_anechoic", voices)
    assert dataset.layout == "custom" and dataset.items[0].references[1] == Path(voices[1]) / "a.flac"

    dataset = find_dataset(make(tmp_path / "own", "noisy s1 s2"), "noisy")
    assert (dataset.layout, dataset.references) == ("custom", ("s1", "s2"))


def test_one_split_below_is_found_and_several_are_named(tmp_path):
    make(tmp_path / "2speakers" / "wav8k" / "min" / "tt", "mix s1 s2")
    assert find_dataset(tmp_path).root == tmp_path / "2speakers" / "wav8k" / "min" / "tt"
    make(tmp_path / "2speakers" / "wav8k" / "min" / "cv", "mix s1 s2")
    with pytest.raises(UserError, match=r"2 sets.*2speakers/wav8k/min/cv, 2speakers/wav8k/min/tt"):
        find_dataset(tmp_path)


def test_extensions_mix_and_dots_stay_in_ids(tmp_path):
    make(tmp_path, "mix", "050a_0.19_440c_-0.19", ".WAV")
    make(tmp_path, "s1", "050a_0.19_440c_-0.19", ".flac")
    make(tmp_path, "s2", "050a_0.19_440c_-0.19", ".ogg")
    make(tmp_path, "mix s1 s2", "notes", ".txt")
    assert [item.id for item in find_dataset(tmp_path).items] == ["050a_0.19_440c_-0.19"]


def test_missing_counterparts_are_listed(tmp_path):
    make(tmp_path, "mix s1 s2", "a sub/b")
    make(tmp_path, "mix s1", "c")
    make(tmp_path, "s2", "d")
    dataset = find_dataset(tmp_path)
    assert [item.id for item in dataset.items] == ["a", "sub/b"]
    assert dataset.missing == ["c: no file in s2", "d: no file in mix, s1"]


@pytest.mark.parametrize("end", ["_s{}", "_{}", "-s{}", "-{}"])
def test_references_may_end_in_their_speakers_number(tmp_path, end):
    make(tmp_path, "mix", "x x_1 sub/y 0.5_1")
    for number in (1, 2):
        ids = " ".join(id + end.format(number) for id in ("x", "x_1", "sub/y", "0.5_1"))
        make(tmp_path, f"s{number}", ids)
    dataset = find_dataset(tmp_path)
    assert [item.id for item in dataset.items] == ["0.5_1", "sub/y", "x", "x_1"] and not dataset.missing
    for item in dataset.items:
        wanted = tuple(tmp_path / f"s{n}" / f"{item.id}{end.format(n)}.wav" for n in (1, 2))
        assert item.references == wanted


def test_what_does_not_follow_the_rule_of_most_is_missing(tmp_path):
    make(tmp_path, "mix", "x y z")
    make(tmp_path, "s1", "x_1 y_1 z")
    make(tmp_path, "s2", "x_2 y_2 y z_2")
    dataset = find_dataset(tmp_path)
    assert {item.id: [path.name for path in item.references] for item in dataset.items} == {
        "x": ["x_1.wav", "x_2.wav"],
        "y": ["y_1.wav", "y_2.wav"],
        "z": ["z.wav", "z_2.wav"],
    }
    assert dataset.missing == ["y: two files for it, y_2.wav is used and y.wav is ignored"]
    make(tmp_path, "mix", "x_1 v")
    make(tmp_path, "s1", "v_1")
    assert "x_1: no file in s1, s2" in find_dataset(tmp_path).missing  # s1/x_1 is x's


def test_names_that_do_not_meet_are_shown(tmp_path):
    make(tmp_path, "mix", "call7")
    make(tmp_path, "s1", "call7-left")
    (tmp_path / "s2").mkdir()
    with pytest.raises(UserError, match=r"mix has call7\.wav, s1 has call7-left\.wav, s2 has none"):
        find_dataset(tmp_path)


def test_folders_without_a_name_are_refused(tmp_path):
    make(tmp_path, "mix s1 s2")
    for mixture, references in ((None, ["s1", ""]), (None, [""]), ("", None), (None, ["s1", "s1"])):
        with pytest.raises(UserError, match=r"--mixture|--references"):
            find_dataset(tmp_path, mixture, references)


def test_mistakes_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        find_dataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no known layout.*--mixture"):
        find_dataset(make(tmp_path / "speech", "spk1 spk2"))
    with pytest.raises(UserError, match="clean"):
        find_dataset(make(tmp_path / "wsj", "mix s1 s2"), "clean")
    with pytest.raises(UserError, match="--references"):
        find_dataset(tmp_path / "wsj", references=["s1"])
    with pytest.raises(UserError, match="one folder of references"):
        find_dataset(make(tmp_path / "single", "mix s1"))
    with pytest.raises(UserError, match="counterpart"):
        find_dataset(make(make(tmp_path / "odd", "mix", "a"), "s1 s2", "b"))
