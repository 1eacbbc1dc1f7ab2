"""A library that cannot be loaded is one sentence, and `tisdiss info` says it too."""

import json
import os
from importlib.metadata import version

import pytest

from tests.cli import ROOT, start
from tisdiss_cli.libraries import load_torchaudio

# What a library does when it is imported, as the loader and Python have it.
BROKEN = {
    "soundfile": "raise OSError('libx.so.1: cannot open shared object file: No such file or directory')",
    "torch": "raise AttributeError('module has no attribute')",
    "av": "import a_library_that_is_not_there",
}
# torch's loader, by which torchaudio loads its compiled part and nothing else here is loaded.
NO_COMPILED_PART = """
import torch
def load_library(path):
    raise OSError("libc10_cuda.so: cannot open shared object file: No such file or directory")
torch.ops.load_library = load_library
"""


def run(*arguments, path):
    """The command where `path` holds modules that come before the installed ones."""
    process = start(*arguments, env={"PYTHONPATH": os.pathsep.join((str(path), str(ROOT)))}, cwd=path)
    out, error = process.communicate(timeout=240)
    return process.returncode, out, error


@pytest.mark.parametrize("library", BROKEN)
def test_one_sentence_names_the_library_and_what_to_install(library, tmp_path, folder):
    (tmp_path / f"{library}.py").write_text(BROKEN[library])
    status, out, error = run("separate", folder, tmp_path / "out", "--device", "cpu", path=tmp_path)
    sentences = [line for line in error.splitlines() if line.startswith(f"tisdiss: {library} ")]
    assert (status, out) == (1, "") and "Traceback" not in error and len(sentences) == 1
    assert version(library) in sentences[0] and f"pip install --force-reinstall '{library}>=" in sentences[0]
    status, out, error = run("info", "--json", path=tmp_path)
    assert (status, error) == (0, "") and f"tisdiss: {json.loads(out)['broken'][library]}" == sentences[0]
    if library == "torch":
        status, out, error = run("info", path=tmp_path)
        assert (status, error) == (0, "") and sentences[0].removeprefix("tisdiss: ") in out


def test_torchaudio_resamples_without_its_compiled_part(tmp_path, folder, options):
    voices = []
    for name, script in (("whole", ""), ("part", NO_COMPILED_PART)):
        path = tmp_path / name
        path.mkdir()
        (path / "sitecustomize.py").write_text(script)
        status, _, error = run("separate", folder, path / "out", *options, "--sample-rate", "input", path=path)
        assert status == 0, error
        voices.append({file.name: file.read_bytes() for file in (path / "out").rglob("*_s?.wav")})
    assert voices[0] == voices[1] != {}


def test_torchaudio_does_more_than_we_need_where_its_compiled_part_fits():
    """Else the test above would compare two runs without it."""
    assert load_torchaudio()._extension._IS_TORCHAUDIO_EXT_AVAILABLE
