"""Every import looks down: no circles, and each wing knows only what stands below it."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "tisdiss_cli"
FLOOR = {"errors", "files", "libraries", "stream"}
WINGS = {
    "audio": set(),
    "model": {"audio", "devices"},
    "separation": {"model", "audio", "devices"},
    "data": {"separation", "model", "audio", "devices"},
    "activity": {"separation", "model", "audio", "devices"},
    "evaluation": {"activity", "data", "separation", "model", "audio", "devices"},
    "folder": {"activity", "data", "separation", "model", "audio", "devices"},
    "training": {"data", "separation", "model", "audio", "devices"},
    "report": {"activity", "evaluation", "folder", "separation", "audio"},
    "benchmark": {"evaluation", "folder", "activity", "data", "separation", "model", "audio", "devices"},
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports() -> dict[str, set[str]]:
    """What every module imports of the package, within functions and for type checkers too."""
    files = {module_name(path): path for path in ROOT.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in files}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: write imports in full"
                for alias in node.names:
                    module = f"{node.module}.{alias.name}"
                    found[name] |= {module if module in files else node.module} & files.keys()
    assert len(found) > 40 and sum(map(len, found.values())) > 100
    return found


def test_no_import_leads_back():
    try:
        list(TopologicalSorter(imports()).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_knows_what_stands_below_it(wing):
    known = {
        (name, other)
        for name, others in imports().items()
        for other in others
        if name.startswith(f"tisdiss_cli.{wing}.") and other.split(".")[1:2] != [wing]
    }
    assert not {pair for pair in known if pair[1] == "tisdiss_cli" or pair[1].split(".")[1] not in WINGS[wing] | FLOOR}


FORBIDDEN = {"Of", "What", "Which", "Whose", "Whether", "How"}


def docstrings() -> list[tuple[str, ast.AST, str]]:
    """The place, the node and the first word of every docstring."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"
                found.append((place, node, re.split(r"[\s,.:;]", text, maxsplit=1)[0]))
    assert len(found) > 700
    return found


def test_docstrings_begin_as_contributing_says():
    """A function's with a verb, "Returns"; a command's is its help; a property is a noun; none with a question."""
    wrong = [(place, word) for place, _, word in docstrings() if word in FORBIDDEN]
    for place, node, word in docstrings():
        decorators = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
        noun = any(re.search(r"property|command|callback", one) for one in decorators)
        if isinstance(node, ast.FunctionDef) and not noun and not re.fullmatch("[A-Z][a-z]+s", word):
            wrong.append((place, word))
    assert wrong == []


def test_help_is_instant_for_it_imports_no_torch():
    script = "import runpy, sys; sys.argv = ['tisdiss', '--help']\n"
    script += "try: runpy.run_module('tisdiss_cli', run_name='__main__')\n"
    script += "except SystemExit: pass\n"
    script += "heavy = {'torch', 'torchaudio', 'numpy', 'soundfile', 'matplotlib'} & set(sys.modules)\n"
    script += "assert 'tisdiss_cli.commands.train' in sys.modules\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "separate" in done.stdout
