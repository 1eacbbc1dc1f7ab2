"""Windows, macOS and containers, as far as this machine can play them; `scripts/lint` has mypy look for the rest."""

import ast
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.cli import tisdiss
from tisdiss_cli import devices, files
from tisdiss_cli.benchmark.measure import peak_memory
from tisdiss_cli.devices import choose_device, cores
from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.evaluate import default_workers
from tisdiss_cli.files import replacing
from tisdiss_cli.folder import naming

PACKAGE = Path(__file__).parent.parent / "tisdiss_cli"
MODES = {"read_text": "r", "write_text": "w", "open": "r"}


def _text_without_encoding(call: ast.Call) -> bool:
    """Whether it opens a text file in whatever encoding the machine has."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if name not in MODES or (isinstance(owner, ast.Name) and owner.id in ("os", "av", "codec", "webbrowser", "Image")):
        return False
    given = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    mode = next((text for text in given if name == "open" and set(text) <= set("rwaxb+")), MODES[name])
    return "b" not in mode and all(keyword.arg not in ("encoding", None) for keyword in call.keywords)


def test_text_files_have_an_encoding():
    tried = 0
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                assert not _text_without_encoding(call), f"{path}:{call.lineno}"
                tried += any(keyword.arg == "encoding" for keyword in call.keywords)
    assert tried > 10


def test_what_is_handed_to_the_disk_was_opened_to_be_written(tmp_path, monkeypatch):
    """Windows refuses others; Linux does not mind."""
    fcntl = pytest.importorskip("fcntl")
    modes = []
    monkeypatch.setattr(os, "fsync", lambda number: modes.append(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE))
    with replacing(tmp_path / "checkpoint.pt", durable=True) as part:
        part.write_bytes(b"whole")
    assert modes and os.O_RDONLY not in modes
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"whole"


def test_a_file_that_another_program_has_open_is_said(tmp_path, monkeypatch):
    """Windows neither replaces nor removes it."""
    monkeypatch.setattr(files, "WINDOWS", True)

    def locked(*paths: Path, **options: object) -> None:
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(os, "replace", locked)
    monkeypatch.setattr(Path, "unlink", locked)
    path = tmp_path / "scores.json"
    with pytest.raises(OSError, match="another program has it open") as caught, replacing(path) as part:
        part.write_text("{}", encoding="utf-8")
    assert caught.value.filename == str(path)


def test_a_disk_that_no_command_reckoned_with_is_a_sentence(tmp_path, monkeypatch):
    def denied(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "tree")

    monkeypatch.setattr(Path, "iterdir", denied)
    (tmp_path / "o").mkdir()
    done = tisdiss("mix", tmp_path, tmp_path / "o", status=1)
    assert done.stderr == "tisdiss: tree cannot be read or written: Permission denied\n"


@pytest.mark.parametrize("name", ["{stem}:{voice}", "what?/{stem}_{voice}", "CON/{stem}_{voice}", "a./{stem}_{voice}"])
def test_names_that_windows_cannot_write(monkeypatch, name):
    naming.parse_name(name, "wav", repeats="2", each_channel=False)
    monkeypatch.setattr(naming, "WINDOWS", True)
    with pytest.raises(UserError, match="Windows does not allow"):
        naming.parse_name(name, "wav", repeats="2", each_channel=False)
    naming.parse_name("contents/{stem}.x_{voice}", "wav", repeats="2", each_channel=False)


def test_auto_is_a_macs_cpu_until_its_gpu_was_tried(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "cpu"
    assert choose_device("mps").type == "mps"


@pytest.mark.parametrize(
    ("text", "expected"), [("150000 100000\n", 2), ("1000 100000\n", 1), ("max 100000\n", 8), (None, 8)]
)
def test_a_containers_quota_bounds_the_cores(tmp_path, monkeypatch, threads, text, expected):
    if text is not None:
        (tmp_path / "cpu.max").write_text(text, encoding="ascii")
    monkeypatch.setattr(devices, "_CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert cores() == expected
    assert default_workers(SimpleNamespace(items=range(1000))) == max(1, expected - 1)
    threads(4)
    choose_device("cpu")
    assert torch.get_num_threads() == min(4, expected)


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 1), ("freebsd", 1024), ("win32", None)])
def test_peak_memory_where_there_is_no_proc(monkeypatch, platform, unit):
    resource = pytest.importorskip("resource")

    def none(self: Path, *arguments: object, **options: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "write_text", none)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=7))
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_memory(lambda: None, torch.device("cpu")) == (None if unit is None else 7 * unit)
