"""What the command line takes from its surroundings: variables, and a shell that completes."""

import re

import pytest
import yaml

from tests.cli import ROOT, start, tisdiss
from tests.folders import records


def test_variables_stand_for_options_and_options_come_first(folder, tmp_path, mini_weights, monkeypatch):
    monkeypatch.setenv("TISDISS_WEIGHTS", str(mini_weights))
    monkeypatch.setenv("TISDISS_DEVICE", "cpu")
    monkeypatch.setenv("TISDISS_PRECISION", "bf16")
    tisdiss("separate", folder / "a.wav", tmp_path / "one")
    tisdiss("separate", folder / "a.wav", tmp_path / "two", "--precision", "fp32")
    for name, precision in (("one", "bf16"), ("two", "fp32")):
        settings = records(tmp_path / name)["a.wav"]["settings"]
        assert (settings["weights"], settings["precision"]) == (mini_weights.stem, precision)
    monkeypatch.setenv("TISDISS_DEVICE", "abacus")
    for command in (["separate", folder, tmp_path / "three"], ["bench"]):
        assert "abacus" in tisdiss(*command, status=2).stderr


@pytest.mark.parametrize(("typed", "wanted"), [("tisdiss sep", "separate"), ("tisdiss weights cal", "calibrate")])
def test_a_shell_completes_commands(typed, wanted):
    variables = {"_TISDISS_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    told, said = start(env=variables).communicate()
    assert (told.split(), said) == ([wanted], "")


def test_the_version_that_is_cited_is_the_projects():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]


def test_forms_are_ones_that_the_forge_takes():
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir():
        found = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= found.keys()
        assert all({"label"} <= part["attributes"].keys() and part["id"] for part in found["body"])
    assert "tisdiss info" in (ROOT / ".github/ISSUE_TEMPLATE/fault.yml").read_text()
