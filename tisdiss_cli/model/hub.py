"""The Hugging Face Hub: weight files and published checkpoints, fetched, found in its client's cache, and pushed."""

from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from tisdiss_cli.errors import UserError


def fetch_files(repository: str, file: str | None = None) -> list[Path]:
    """Downloads a repository's weight file, or a `.pth` and the `config.yaml` nearest to it, into the hub's cache.

    What the cache holds is taken from there where the hub cannot be reached, or must not be (HF_HUB_OFFLINE).

    Args:
        repository: "owner/name".
        file: the path of the `.safetensors` or `.pth` in the repository; None: the only one there is.

    Returns:
        Their paths in the cache.

    Raises:
        UserError: huggingface_hub is not installed, the hub or the repository cannot be reached, or it does not hold
            exactly one weight file, or one checkpoint with a configuration.
    """
    hub = _client("fetching")
    try:
        files = _list_files(hub, repository)
        wanted = [file] if file else _only(files, ".safetensors") or _only(files, ".pth")
        if not wanted or wanted[0] not in files:
            found = ", ".join(sorted(name for name in files if name.endswith((".safetensors", ".pth")))) or "none"
            raise UserError(f"{repository} must hold one .safetensors or .pth, or --file name one; it holds: {found}")
        if wanted[0].endswith(".pth"):
            folders = [str(folder / "config.yaml") for folder in PurePosixPath(wanted[0]).parents]
            config = next((name for name in folders if name in files), None)
            if config is None:
                raise UserError(f"{repository} has no config.yaml beside or above {wanted[0]}")
            wanted.append(config)
        return [Path(hub.hf_hub_download(repository, name)) for name in wanted]
    except UserError:
        raise
    except Exception as error:  # the hub's client, httpx and others each raise their own
        advice = "check the name and the connection, or download its files elsewhere (see 'tisdiss weights import')"
        raise UserError(f"{repository} cannot be fetched ({_reason(error)}): {advice}") from None


def find_cached(repository: str) -> Path | None:
    """Returns the weight file of a repository in the hub's cache, without a network; None where there is none.

    Raises:
        UserError: the cache holds several of that repository.
    """
    found: list[Path] = []
    with suppress(Exception):  # no client, no cache, no such repository in it
        folder = Path(_client("finding").snapshot_download(repository, local_files_only=True))
        found = sorted(folder.rglob("*.safetensors"))
    if len(found) > 1:
        raise UserError(f"{repository} has several weight files in the hub's cache: name one of {found[0].parent}")
    return found[0] if found else None


def push_weights(path: Path, repository: str, card: Path, *, private: bool = False) -> str:
    """Uploads a weight file and its card to a repository of the hub, made where there is none; returns an address.

    Args:
        path: of the weight file.
        repository: "owner/name".
        card: the model card, which becomes the repository's README.md.
        private: whether a repository that is made is.

    Raises:
        UserError: huggingface_hub is not installed, nobody is logged in, or the hub takes nothing.
    """
    hub = _client("pushing")
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        files = {path.name: path, "README.md": card}
        operations = [hub.CommitOperationAdd(name, str(file)) for name, file in files.items()]
        return str(hub.create_commit(repository, operations, commit_message=f"{path.name} and its card").commit_url)
    except Exception as error:
        advice = "log in with 'hf auth login', and check the name and the connection"
        raise UserError(f"{repository} cannot be pushed to ({_reason(error)}): {advice}") from None


def _client(doing: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{doing} needs the huggingface_hub package: pip install 'tisdiss[hub]'") from None
    return huggingface_hub


def _only(files: list[str], ending: str) -> list[str]:
    """Returns the one file of that ending; none where there are several."""
    found = [name for name in files if name.endswith(ending)]
    return found if len(found) == 1 else []


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _list_files(hub: Any, repository: str) -> list[str]:
    """Returns the paths of a repository's files; where it cannot be asked, of those in the cache."""
    try:
        return hub.list_repo_files(repository)
    except Exception as error:
        with suppress(Exception):
            folder = Path(hub.snapshot_download(repository, local_files_only=True))
            return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        raise error
