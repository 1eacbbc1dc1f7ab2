"""No number that an option is given ends in a traceback: each is taken, or refused before any work."""

import pytest

from tests.cli import tisdiss
from tests.mixtures import write_set
from tests.synthetic import write_recipe, write_speech

WHOLE = ["0", "-1", "9" * 30, "9" * 5000, "nan", "1e999", "2.5", "", " ", "0x10"]
REAL = ["-1", "nan", "inf", "-inf", "1e999", "9" * 400, "", " ", "1e", "0x10"]
LISTED = ["0", "-1", "nan", "inf", "9" * 30, "9" * 5000, "1e999", "", ",", "1,,2"]
MEANT = {  # what some take for a number of their own
    "mix --seed": {"0"},
    "train --seed": {"0"},
    "train --valid-items": {"0"},
    "score --workers": {"0"},
    "separate --budget": {"9" * 30},  # all the time in the world
}
OPTIONS = {
    "score": {"--repeats": LISTED, "--separator-repeats": WHOLE, "--workers": WHOLE},
    "bench": {"--repeats": LISTED, "--seconds": LISTED, "--batch-size": LISTED},
    "mix": {"--count": WHOLE, "--speakers": WHOLE, "--level": REAL, "--sample-rate": WHOLE, "--seed": WHOLE},
    "train": {
        **{option: WHOLE for option in ("--steps", "--batch-size", "--valid-items", "--seed", "--devices")},
        **{f"--{name}": REAL for name in ("turn-taking", "filter-db")},
        **{f"--{name}": ["0", *REAL] for name in ("minutes", "cooldown", "segment-seconds", "learning-rate")},
        "--repeats": LISTED,
    },
    "weights calibrate": {"--max-repeats": ["1", *WHOLE], "--chunk": ["0", *REAL]},
    "separate": {
        **{option: WHOLE for option in ("--max-repeats", "--batch-size", "--separator-repeats")},
        **{option: ["0", *REAL] for option in ("--rtf", "--chunk")},
        "--repeats": LISTED,
        "--budget": LISTED,
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("numbers")
    write_set(root / "set")
    write_speech(root / "speech", utterances=1)
    write_recipe(root / "nano.toml", segment_seconds=0.03, batch_size=1)
    return root


def refused(run, words):
    """By a sentence of ours, or where the text is no number of the kind at all, by the parser's."""
    assert "Traceback" not in run.stderr and not run.stdout
    last = run.stderr.strip().splitlines()[-1]
    ours = last.startswith("tisdiss: ") and len(run.stderr.strip().splitlines()) == 1
    assert ours or (f"Invalid value for '{words}'" in run.stderr), run.stderr


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, options in OPTIONS.items() for o in options])
def test_a_number_that_makes_no_sense_is_refused_before_any_work(place, mini_weights, command, option):
    arguments = {
        "score": (place / "set", "--weights", mini_weights),
        "bench": ("--weights", mini_weights),
        "mix": (place / "speech", place / "out"),
        "train": (place / "speech", place / "out", "--recipe", place / "nano.toml", "--device", "cpu"),
        "weights calibrate": (mini_weights, place / "set", "--out", place / "out.safetensors"),
        "separate": (place / "set", place / "out", "--weights", mini_weights),
    }[command]
    for value in OPTIONS[command][option]:
        if value not in MEANT.get(f"{command} {option}", ()):
            # With "=", or a value that begins with a dash is an option.
            run = tisdiss(*command.split(), *arguments, f"{option}={value}", status=2)
            refused(run, option)
    assert {path.name for path in place.iterdir()} == {"set", "speech", "nano.toml"}


@pytest.mark.parametrize("pair", [("nan", "1"), ("-inf", "inf"), ("3", "-3"), ("-1e999", "0"), ("", "1")])
def test_noise_levels_are_two_finite_numbers_in_order(place, pair):
    refused(tisdiss("mix", place / "speech", place / "out", "--noise-level", *pair, status=2), "--noise-level")
