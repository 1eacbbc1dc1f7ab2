"""What README.md and docs/ tell a user to do works: every command is run, or at least understood."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from itertools import groupby
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch
import typer.main
import yaml

from tests.cli import ROOT, tisdiss
from tests.folders import RATE, speech_like
from tests.reference_cases import load_case, reference_network
from tests.synthetic import write_mixtures, write_speech
from tisdiss_cli.__main__ import all_commands
from tisdiss_cli.model.published import published_name
from tisdiss_cli.model.weights import load_weights, read_info, save_weights
from tisdiss_cli.separation.quality import QualityModel

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BESIDES = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "RELEASE.md")]

# Not run here but parsed, as the command line would be: an option or argument that there is not fails.
ONLY_PARSED = {
    "tisdiss separate --devices": "starts Ray, or needs a cluster",
    "tisdiss status": "needs a run before it",
    "tisdiss score --merge": "needs the shards' sheets",
    "tisdiss bench": "measures each setting for at least a second",
    "tisdiss train": "takes minutes, or has no end",
    "tisdiss report": "reads what a run has left",
    "tisdiss weights fetch": "needs a network",
    "tisdiss weights push": "needs a network",
    "tisdiss weights export": "traces the network for a minute",
}

FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def blocks(page: Path, language: str) -> list[str]:
    return [text for _, found, text in FENCED.findall(page.read_text()) if found == language]


def inline(page: Path) -> list[str]:
    """What stands in backticks in running text, but for what is told to be given up."""
    text = re.sub(r"^### Given up\n.*?(?=^##|\Z)", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCED.sub("", text))]


def commands(*programs: str) -> list[str]:
    """The documented commands, each once, of the given programs or of any; comments are cut off."""
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    lines += [code for page in PAGES for code in inline(page) if code.startswith("python ")]
    found = []
    for line in lines:
        for chained, words in groupby(shlex.split(line, comments=True), key="&&".__eq__):
            command = [] if chained else list(words)
            if command and (not programs or command[0] in programs):
                found.append(shlex.join(command))
    return list(dict.fromkeys(found))


def only_parsed(command: str) -> bool:
    return any(command.startswith(f"{prefix} ") for prefix in ONLY_PARSED)


def runs_tests(command: str) -> bool:
    """Whether it runs tests, as all of them are run."""
    return command.startswith("python -m pytest")


@cache
def find_command(*words: str) -> tuple[object, int]:
    """The (sub)command that the words name, and how many they are."""
    found, used = typer.main.get_command(all_commands()), 0
    for word in words:
        if word in getattr(found, "commands", {}):
            found, used = found.commands[word], used + 1
        else:
            break
    return found, used


def options_of(command: object) -> set[str]:
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in names if name.startswith("-")} | {"--help"}


def every_option(command: object) -> set[str]:
    return options_of(command).union(*map(every_option, getattr(command, "commands", {}).values()))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, mini_weights) -> Path:
    """A folder as the documents presuppose it, with little in each file, and the weights `light` that are mini."""
    root = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "examples", root / "examples", ignore=shutil.ignore_patterns("mixtures", "training"))
    write_mixtures(root / "set", count=2, samples=1600)
    names = sorted(path.stem for path in (ROOT / "examples" / "mixtures" / "mix").iterdir())[:2]
    for folder in ("mix", "s1", "s2"):
        (root / "examples" / "mixtures" / folder).mkdir(parents=True)
        for source, name in zip(sorted((root / "set" / folder).iterdir()), names, strict=True):
            soundfile.write(root / "examples/mixtures" / folder / f"{name}.flac", *soundfile.read(source))
    for seed, name in enumerate(("recordings/call.wav", "recordings/sub/call.wav", "meetings/team.wav")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, speech_like(0.6, seed), RATE)
    (root / "list.txt").write_text("recordings/call.wav\nrecordings/sub/call.wav\n")
    shutil.copytree(root / "set", root / "wsj0-2mix" / "wav8k" / "min" / "tt")
    (root / "voices").mkdir()
    for source in (1, 2):
        for path in (root / "set" / f"s{source}").iterdir():
            noisy = soundfile.read(path)[0] + 0.01 * np.random.default_rng(source).standard_normal(1600)
            soundfile.write(root / "voices" / f"{path.stem}_s{source}.wav", noisy, RATE)
    write_speech(root / "speech" / "valid", samples=800)
    shutil.copytree(root / "speech" / "valid", root / "joined")
    file, state = read_info(mini_weights), load_weights(mini_weights).state_dict()
    said = QualityModel([0.0] * 7, [1.0] * 7, [0.0] * 7, 4.0, -3.0, 2.0, 0.8, 1.0, 100)
    for name in ("run/weights", "1/weights", "2/weights", "bundled/light"):
        path = (root / name).with_suffix(".safetensors")
        path.parent.mkdir()
        save_weights(path, file.config, state, info={"auto_threshold_db": 30.0, "repeats": 2, "quality": said.facts()})
    theirs = reference_network("small_re2x2").state_dict()
    torch.save({f"separator.{published_name(name)}": value for name, value in theirs.items()}, root / "checkpoint.pth")
    sizes = {"n_fft": 128, "hop_length": 64}
    options = {"encoder_conf": sizes, "separator_conf": load_case("small_re2x2")[0]["config"], "sample_rate": 8000}
    (root / "config.yaml").write_text(yaml.safe_dump(options))
    return root


@pytest.fixture
def scratch(prepared, tmp_path, monkeypatch) -> Path:
    """A copy of that folder to work in."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tisdiss_cli.model.weights.bundled_directory", lambda: tmp_path / "bundled")
    return tmp_path


def run(command: str) -> None:
    """In this process; the exit status is 0."""
    words = shlex.split(command)
    if words[0] == "tisdiss":
        tisdiss(*words[1:])
    else:
        with mock.patch.object(sys, "argv", words[1:]):
            runpy.run_path(words[1], run_name="__main__")


def parse(command: str) -> None:
    """As the command line does, without the work; raises what it would complain of."""
    words = shlex.split(command)[1:]
    found, used = find_command(*words)
    assert used and not hasattr(found, "commands"), f"there is no such command: {command}"
    found.make_context(words[used - 1], words[used:])


@pytest.mark.parametrize("command", [c for c in commands("tisdiss", "python") if not (only_parsed(c) or runs_tests(c))])
def test_every_command_runs(command, scratch):
    if not command.startswith("tisdiss mix "):  # whose OUT must be new
        shutil.copytree("set", "sets/long")
        shutil.move("set", "sets/valid")
    if command.startswith("tisdiss score "):  # of what a command before it has separated
        shutil.copytree("voices", "by8")
    run(command)


@pytest.mark.parametrize("command", list(filter(only_parsed, commands("tisdiss"))))
def test_every_command_is_understood(command):
    parse(command)


def test_nothing_is_documented_that_is_not_checked_here():
    kinds = ("tisdiss", "python", "pip")
    assert [command for command in commands() if command.split()[0] not in kinds] == []
    files = [name for command in filter(runs_tests, commands("python")) for name in command.split()[3:]]
    assert [name for name in files if not (ROOT / name).is_file()] == []
    assert all(any(command.startswith(prefix) for command in commands("tisdiss")) for prefix in ONLY_PARSED)


def test_extras_are_pyprojects():
    with (ROOT / "pyproject.toml").open("rb") as file:
        known = set(tomllib.load(file)["project"]["optional-dependencies"])
    text = "".join(page.read_text() for page in PAGES + BESIDES)
    named = {
        extra
        for group in re.findall(r"pip install (?:-c constraints.txt )?(?:-e )?'(?:tisdiss|\.)\[(.*?)\]'", text)
        for extra in group.split(",")
    }
    assert {"train", "plot", "test"} <= named <= known


@pytest.mark.parametrize("page", PAGES + BESIDES, ids=lambda page: page.name)
def test_options_in_running_text_exist(page):
    for code in inline(page):
        if code.startswith("pip "):
            continue
        words = code.partition("tisdiss ")[2].split()
        found, used = find_command(*words)
        assert used or not words or words[0].startswith("-"), f"{page.name}: there is no such command: {code}"
        unknown = set(OPTION.findall(code)) - (options_of(found) if used else every_option(found))
        assert not unknown, f"{page.name}: {code}: no such option: {unknown}"


@pytest.mark.parametrize("page", PAGES + BESIDES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles], f"{page.name}: {link}"


def test_every_path_named_in_running_text_is_there():
    for page in PAGES + BESIDES:
        for code in inline(page):
            if re.fullmatch(r"(tisdiss_cli|tests|examples|docs|scripts)/[\w./-]*", code) and page.name != "RELEASE.md":
                assert (ROOT / code).exists(), f"{page.name}: {code}"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "python.md"], ids=lambda page: page.name)
def test_the_python_examples(page, scratch):
    first, *others = blocks(page, "python")
    names: dict = {}
    exec(first, names)
    (path,) = re.findall(r'"(.*\.flac)"', first)
    assert names["voices"].shape == (2, soundfile.info(path).frames)
    for example in others:
        exec(example, names)
        assert names["event"].status == "done"


def test_every_module_has_its_line():
    (tree,) = blocks(ROOT / "docs" / "how-it-is-built.md", "text")
    folder, named = "", set()
    for line in tree.splitlines()[1:]:
        name = line.split()[0]
        if name.endswith("/"):
            folder = name
        else:
            named.add((folder if line.startswith("    ") else "") + name)
    package = ROOT / "tisdiss_cli"
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    assert named == {name for name in modules if not name.endswith("/__init__.py")}


def sections(page: Path) -> dict[str, str]:
    parts = re.split(r"^## (.*)\n", page.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_cli_md_has_what_help_says(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    described = sections(ROOT / "docs" / "cli.md")
    names = [name.split()[1:] for name in described]
    for words in names:
        helped = tisdiss(*words, "--help").stdout
        text = described[" ".join(["tisdiss", *words])]
        assert set(OPTION.findall(helped)) - {"--help"} == set(OPTION.findall(text)), words
    found = {tuple(words) for words in names}
    root = typer.main.get_command(all_commands())
    assert {(name,) for name in root.commands} <= found and {
        ("weights", n) for n in root.commands["weights"].commands
    } <= found


def test_help_arrives_as_it_is_written(monkeypatch):
    """In docs/cli.md, and on a terminal, where rich would take "[cluster]" for a style."""
    monkeypatch.setenv("COLUMNS", "300")
    described, brackets = sections(ROOT / "docs" / "cli.md"), 0
    for name, page in described.items():
        words = name.split()[1:]
        command, _ = find_command(*words)
        terminal = "".join(re.sub("[│╭╮╰╯─]", "", tisdiss(*words, "--help").stdout).split())
        texts = [command.help, *(parameter.help for parameter in command.params), *summaries(command)]
        for text in filter(None, texts):
            assert "".join(text.split()) in terminal, text
            plain = " ".join(re.sub(r" ?\[default: .*]$", "", text).split())
            assert plain in " ".join(page.replace("\\|", "|").split()), text
            brackets += "[" in plain
    assert brackets  # or nothing was tried


def summaries(command: object) -> list[str]:
    return [under.help.split("\n\n")[0] for under in getattr(command, "commands", {}).values()]


def cli_docs(script: Path, *options: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, script, *options], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_cli_md_is_fresh_and_staleness_is_said(tmp_path):
    script, page = tmp_path / "scripts" / "cli-docs", tmp_path / "docs" / "cli.md"
    for original, copy in ((ROOT / "scripts" / "cli-docs", script), (ROOT / "docs" / "cli.md", page)):
        copy.parent.mkdir()
        shutil.copy(original, copy)
    assert cli_docs(script, "--check").returncode == 0
    fresh = page.read_text()
    page.write_text(fresh.replace("--overwrite", "--overwrites"))
    stale = cli_docs(script, "--check")
    assert stale.returncode == 1 and "scripts/cli-docs" in stale.stderr
    assert cli_docs(script).returncode == 0 and page.read_text() == fresh
