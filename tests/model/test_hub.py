"""The Hugging Face Hub: its own client against a server that answers as it does, and a client that is replaced."""

import base64
import hashlib
import json
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
import torch

from tests.cli import start, tisdiss
from tests.model.test_weights import write_published
from tests.reference_cases import reference_network
from tisdiss_cli.model.weights import load_weights, read_info

COMMIT = "1" * 40


class Hub(BaseHTTPRequestHandler):
    """Repositories of files in memory, as `server.repositories[name][path]`."""

    def log_message(self, *_):
        pass

    def answer(self, content: bytes | dict | list, status: int = 200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = urlsplit(self.path).path.strip("/")
        repository, _, name = path.partition("/resolve/main/")
        files = self.server.repositories
        if path.startswith("api/models/") and "/tree/main" in path:
            found = files.get(path.removeprefix("api/models/").partition("/tree/")[0])
            if found is not None:
                rows = [{"type": "file", "path": key, "size": len(v), "oid": _hash(v)} for key, v in found.items()]
                return self.answer(rows)
        elif name in files.get(repository, {}):
            content = files[repository][name]
            return self.answer(content, X_Repo_Commit=COMMIT, ETag=f'"{_hash(content)}"')
        return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self):
        sent, path = self.rfile.read(int(self.headers["Content-Length"])), urlsplit(self.path).path.strip("/")
        if self.headers["Authorization"] != "Bearer hf_mine":
            return self.answer({"error": "who are you?"}, 401)
        if path == "api/repos/create":
            asked = json.loads(sent)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            return self.answer({"url": f"http://{self.headers['Host']}/{name}"})
        if path == "api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        repository = path.removeprefix("api/models/").rpartition("/")[0].rpartition("/")[0]
        if "/preupload/" in path:
            modes = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(sent)["files"]]
            return self.answer({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})
        for row in map(json.loads, sent.splitlines()):
            if row["key"] == "file":
                content = base64.b64decode(row["value"]["content"])
                self.server.repositories[repository][row["value"]["path"]] = content
        return self.answer(
            {"success": True, "commitOid": COMMIT, "commitUrl": f"http://{self.headers['Host']}/{repository}/commit/1"}
        )


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(tmp_path):
    """A server, and a function that runs the command with it, or offline: what it printed and said."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_mine", "HF_HUB_DISABLE_XET": "1"}

    def run(*arguments, status=0, **environment):
        where = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        process = start(*arguments, env={**where, **home, **environment})
        printed, said = process.communicate()
        assert process.returncode == status, said
        assert "Traceback" not in said
        return printed, said

    yield server, run
    server.shutdown()


def test_weights_go_to_the_hub_and_come_back(hub, tmp_path, mini_weights, folder):
    server, run = hub
    card = tmp_path / "card.md"
    card.write_text("# Mini")
    refused = tisdiss("weights", "push", mini_weights, "me/mini", status=2)
    assert "--card" in refused.stderr
    printed, _ = run("weights", "push", mini_weights, "me/mini", "--card", card)
    assert printed.strip().endswith("/me/mini/commit/1")
    assert server.repositories["me/mini"] == {
        "mini.safetensors": mini_weights.read_bytes(),
        "README.md": card.read_bytes(),
    }
    separating = ("separate", folder / "a.wav", tmp_path / "voices", "--weights", "me/mini", "--device", "cpu")
    assert "run 'tisdiss weights fetch me/mini' first" in tisdiss(*separating, status=2).stderr
    printed, _ = run("weights", "fetch", "me/mini")
    assert "--weights me/mini" in printed
    run(*separating, HF_HUB_OFFLINE="1")
    assert len(list((tmp_path / "voices").glob("a_s*.wav"))) == 2
    refused = tisdiss("weights", "calibrate", "me/mini", folder, status=2)  # it would write into the cache
    assert "--out" in refused.stderr
    run("weights", "fetch", "me/mini", "--out", tmp_path / "copy.safetensors", HF_HUB_OFFLINE="1")
    copy, theirs = load_weights(tmp_path / "copy.safetensors").state_dict(), load_weights(mini_weights).state_dict()
    assert all(torch.equal(copy[name], value) for name, value in theirs.items())
    assert read_info(tmp_path / "copy.safetensors").info == read_info(mini_weights).info


def test_whoever_is_not_known_pushes_nothing(hub, tmp_path, mini_weights):
    server, run = hub
    (tmp_path / "card.md").write_text("# Mini")
    options = ("--card", tmp_path / "card.md")
    _, said = run("weights", "push", mini_weights, "me/mini", *options, status=2, HF_TOKEN="hf_other")
    assert "me/mini cannot be pushed to" in said and "hf auth login" in said and not server.repositories


def test_published_checkpoints_are_imported_from_the_hub(hub, tmp_path):
    server, run = hub
    write_published(tmp_path)
    server.repositories["they/net"] = {
        "exp/a/model.pth": (tmp_path / "model.pth").read_bytes(),
        "exp/config.yaml": (tmp_path / "config.yaml").read_bytes(),
    }
    run("weights", "fetch", "they/net", "--out", tmp_path / "ours.safetensors")
    assert load_weights(tmp_path / "ours.safetensors").config == reference_network("small_re2x2").config


class FakeHub(types.ModuleType):
    """The hub's client, replaced at its boundary: a repository is a folder."""

    def __init__(self, folder, files):
        super().__init__("huggingface_hub")
        self.folder, self.files = folder, files

    def list_repo_files(self, repository):
        if self.folder is None:
            raise ConnectionError("no route to host\nmore")
        return list(self.files)

    def hf_hub_download(self, repository, file):
        assert file in self.files
        return str(self.folder / self.files[file])


def fetch(monkeypatch, hub, out, *options):
    from typer.testing import CliRunner

    from tisdiss_cli.__main__ import all_commands

    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return CliRunner().invoke(all_commands(), ["weights", "fetch", "--out", str(out), *options])


def test_fetch_downloads_and_imports(tmp_path, monkeypatch):
    write_published(tmp_path)
    files = {"README.md": "", "exp/a/model.pth": "model.pth", "exp/config.yaml": "config.yaml"}
    result = fetch(monkeypatch, FakeHub(tmp_path, files), tmp_path / "ours.safetensors")
    assert result.exit_code == 0, result.output
    assert load_weights(tmp_path / "ours.safetensors").config == reference_network("small_re2x2").config
    assert read_info(tmp_path / "ours.safetensors").info["imported_from"] == "WingsingFung/TISDiSS/model.pth"


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({}, "one .safetensors or .pth"),
        ({"a.pth": "", "b.pth": ""}, "a.pth, b.pth"),
        ({"a.pth": "", "other/config.yaml": ""}, "config.yaml"),
        (None, "connection"),
    ],
)
def test_fetch_says_in_one_sentence_what_to_do(tmp_path, monkeypatch, files, word):
    hub = FakeHub(tmp_path if files is not None else None, files)
    result = fetch(monkeypatch, hub, tmp_path / "ours.safetensors")
    assert word in str(result.exception)
    assert "\n" not in str(result.exception)


def test_fetch_without_the_extra(tmp_path, monkeypatch):
    result = fetch(monkeypatch, None, tmp_path / "ours.safetensors")
    assert "tisdiss[hub]" in str(result.exception)


def test_what_the_hubs_cache_holds_is_fetched_without_a_network(tmp_path):
    """By the hub's own client, whose cache is laid out by hand."""
    home = tmp_path / "hub"
    snapshot = home / "models--someone--network" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (home / "models--someone--network" / "refs").mkdir()
    (home / "models--someone--network" / "refs" / "main").write_text("0" * 40)
    write_published(snapshot)
    environment = {"HF_HUB_CACHE": str(home), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    out = tmp_path / "ours.safetensors"
    process = start("weights", "fetch", "someone/network", "--out", out, env=environment)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert load_weights(out).config == reference_network("small_re2x2").config


def test_a_hub_that_cannot_be_reached_is_its_cache(tmp_path, monkeypatch):
    write_published(tmp_path)
    hub = FakeHub(None, {"model.pth": "model.pth", "config.yaml": "config.yaml"})
    hub.snapshot_download = lambda repository, local_files_only: str(tmp_path)
    hub.hf_hub_download = lambda repository, file: str(tmp_path / file)
    result = fetch(monkeypatch, hub, tmp_path / "ours.safetensors")
    assert result.exit_code == 0, result.output
    assert load_weights(tmp_path / "ours.safetensors").config == reference_network("small_re2x2").config
