"""Hugging Face Hub: download, look-up in the cache and upload of weight files and published checkpoints."""

from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from tisdiss_cli.errors import UserError
from tisdiss_cli.libraries import require


def fetch_files(repository: str, file: str | None = None) -> list[Path]:
    """Downloads a repository's weight file, or a `.pth` and the nearest `config.yaml`, and returns their cached paths.

    Takes files from the hub's cache if the hub cannot be reached, or with HF_HUB_OFFLINE.

    Args:
        repository: "owner/name".
        file: path of the `.safetensors` or `.pth` in the repository. Default: the only one.

    Raises:
        UserError: huggingface_hub is not installed, the hub or the repository cannot be reached, or it does not hold
            exactly one weight file, or one checkpoint with a configuration.
    """
    hub = require("huggingface_hub", "fetching needs", "hub")
    try:
        files = _list_files(hub, repository)
        requested = [file] if file else _only(files, ".safetensors") or _only(files, ".pth")
        if not requested or requested[0] not in files:
            found = ", ".join(sorted(name for name in files if name.endswith((".safetensors", ".pth")))) or "none"
            raise UserError(f"{repository} must hold one .safetensors or .pth, or --file name one; it holds: {found}")
        if requested[0].endswith(".pth"):
            candidates = [str(folder / "config.yaml") for folder in PurePosixPath(requested[0]).parents]
            config = next((name for name in candidates if name in files), None)
            if config is None:
                raise UserError(f"{repository} has no config.yaml beside or above {requested[0]}")
            requested.append(config)
        return [Path(hub.hf_hub_download(repository, name)) for name in requested]
    except UserError:
        raise
    except Exception as error:  # the hub's client, httpx and others each raise their own
        advice = "check the name and the connection, or download its files by hand (see 'tisdiss weights import')"
        raise UserError(f"{repository} cannot be fetched ({_reason(error)}): {advice}") from None


def find_cached(repository: str) -> Path | None:
    """Returns a repository's weight file in the hub's cache, without network access; None if there is none.

    UserError if the cache holds several.
    """
    files: list[Path] = []
    with suppress(Exception):  # no client, no cache, no such repository in it
        hub = require("huggingface_hub", "finding needs", "hub")
        folder = Path(hub.snapshot_download(repository, local_files_only=True))
        files = sorted(folder.rglob("*.safetensors"))
    if len(files) > 1:
        raise UserError(f"{repository} has several weight files in the hub's cache: pass one from {files[0].parent}")
    return files[0] if files else None


def push_weights(path: Path, repository: str, card: Path, *, private: bool = False) -> str:
    """Uploads a weight file and its card to a repository, created if missing, and returns the commit's address.

    Args:
        path: the weight file.
        repository: "owner/name".
        card: the model card, which becomes the repository's README.md.
        private: True to create the repository as private.

    Raises:
        UserError: huggingface_hub is not installed, nobody is logged in, or the hub refuses the upload.
    """
    hub = require("huggingface_hub", "pushing needs", "hub")
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        files = {path.name: path, "README.md": card}
        operations = [hub.CommitOperationAdd(name, str(file)) for name, file in files.items()]
        return str(hub.create_commit(repository, operations, commit_message=f"{path.name} and its card").commit_url)
    except Exception as error:
        advice = "log in with 'hf auth login', and check the name and the connection"
        raise UserError(f"{repository} cannot be pushed to ({_reason(error)}): {advice}") from None


def _only(files: list[str], ending: str) -> list[str]:
    """Returns the only file with that ending; nothing if there are several."""
    matches = [name for name in files if name.endswith(ending)]
    return matches if len(matches) == 1 else []


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _list_files(hub: Any, repository: str) -> list[str]:
    """Returns the paths of a repository's files, or of those in the cache if the hub cannot be reached."""
    try:
        return hub.list_repo_files(repository)
    except Exception as error:
        with suppress(Exception):
            folder = Path(hub.snapshot_download(repository, local_files_only=True))
            return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        raise error
