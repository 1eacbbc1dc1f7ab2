"""`tisdiss info` and `--version` say what is true of this machine and this program."""

import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import tomllib

import pytest
import soundfile
import torch
import torchaudio

from tests.cli import ROOT, tisdiss
from tisdiss_cli import Separator

OPTIONAL = {
    "lightning-fabric": "lightning_fabric",
    "matplotlib": "matplotlib",
    "pystoi": "pystoi",
    "pesq": "pesq",
    "huggingface-hub": "huggingface_hub",
}


def told() -> dict:
    return json.loads(tisdiss("info", "--json").stdout)


def test_versions_are_the_libraries_own():
    versions = told()["versions"]
    assert torch.__version__.split("+")[0] == versions["torch"]
    assert torchaudio.__version__.split("+")[0] == versions["torchaudio"]
    assert versions["libsndfile"] == soundfile.__libsndfile_version__
    assert versions["python"] == platform.python_version()


def test_the_version_is_pyprojects():
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert tisdiss("--version").stdout == f"tisdiss {version}\n"
    assert told()["versions"]["tisdiss"] == version


def test_torch_is_not_imported_for_the_version():
    program = (
        "import sys; from tisdiss_cli.__main__ import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "False") and "tisdiss" in done.stdout


def test_device_and_precision_are_what_separate_takes():
    facts, separator = told(), Separator.load()  # the bundled default's: what others' agreement with bf16 is varies
    assert facts["machine"]["device"] == str(separator.device)
    assert facts["precision"]["precision"] == separator.precision
    assert facts["machine"]["threads"] == torch.get_num_threads()
    assert facts["cuda"]["available"] == torch.cuda.is_available()
    assert len(facts["cuda"]["cards"]) == torch.cuda.device_count()


@pytest.mark.parametrize(("units", "expected"), [(True, "bf16"), (False, "fp32")])
def test_the_reason_is_the_cpus(units, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": units, "avx512_bf16": units})
    precision = told()["precision"]
    assert precision["precision"] == expected
    assert ("no bf16 units" in precision["why"]) is not units and ("has bf16 units" in precision["why"]) is units


def test_weights_are_those_that_are_bundled():
    listed = tisdiss("weights", "list").stdout.split()[0]
    first, *others = told()["weights"]
    assert first["name"] == listed and first["default"] and not any(other["default"] for other in others)
    content = (ROOT / "weights" / f"{listed}.safetensors").read_bytes()
    assert first["digest"] == hashlib.sha256(content).hexdigest()[:16]


def test_a_damaged_weight_file_is_told_and_the_rest_goes_on(tmp_path, mini_weights, monkeypatch):
    shutil.copy(mini_weights, tmp_path / "whole.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing of the kind")
    monkeypatch.setattr("tisdiss_cli.model.weights.bundled_directory", lambda: tmp_path)
    rows = {row["name"]: row for row in told()["weights"]}
    assert "broken.safetensors" in rows["broken"]["error"] and rows["whole"]["trained"] is False
    assert "broken.safetensors" in tisdiss("info").stdout


def test_no_optional_package_is_needed(monkeypatch):
    found = importlib.metadata.version

    def version(name: str) -> str:
        if name in OPTIONAL:
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    for module in OPTIONAL.values():
        monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    assert told()["optional"] == dict.fromkeys(OPTIONAL)
    assert all(f"optional {name} " in tisdiss("info").stdout for name in OPTIONAL)


def test_what_is_printed_holds_the_same_facts():
    facts, printed = told(), tisdiss("info").stdout
    told_facts = [*facts["versions"].values(), *facts["machine"].values()]
    told_facts += [facts["precision"]["why"]]
    told_facts += [version for version in facts["optional"].values() if version]
    told_facts += [file["digest"] for file in facts["weights"]]
    assert [fact for fact in told_facts if str(fact) not in printed] == []
    assert all(len(line.split(maxsplit=1)) == 2 for line in printed.splitlines())


def test_the_drivers_cards_are_asked_of_the_driver(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'A card, 1.2, 3 MiB'\necho 'Another, 1.2, 3 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert told()["cuda"]["driver"] == ["A card, 1.2, 3 MiB", "Another, 1.2, 3 MiB"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert told()["cuda"]["driver"] is None
