"""Published checkpoints from the Hugging Face Hub."""

from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from tisdiss_cli.errors import UserError


def fetch_checkpoint(repository: str, checkpoint: str | None = None) -> tuple[Path, Path]:
    """Downloads a `.pth` and the `config.yaml` nearest to it; returns their paths in the hub's cache.

    What the cache holds is taken from there where the hub cannot be reached, or must not be (HF_HUB_OFFLINE).

    Args:
        repository: "owner/name".
        checkpoint: the `.pth`'s path in the repository; None: the only one there is.

    Raises:
        UserError: huggingface_hub is not installed, the hub or the repository cannot be reached, or
            it does not hold exactly one checkpoint with a configuration.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("fetching needs the huggingface_hub package: pip install 'tisdiss[hub]'") from None

    try:
        files = _list_files(huggingface_hub, repository)
        checkpoints = sorted(file for file in files if file.endswith(".pth"))
        if checkpoint is None and len(checkpoints) != 1:
            found = ", ".join(checkpoints) or "none"
            raise UserError(f"{repository} must hold one .pth, or --checkpoint name one; it holds: {found}")
        checkpoint = checkpoint or checkpoints[0]
        folders = [str(folder / "config.yaml") for folder in PurePosixPath(checkpoint).parents]
        config = next((file for file in folders if file in files), None)
        if checkpoint not in files or config is None:
            raise UserError(f"{repository} has no {checkpoint}, or no config.yaml beside or above it")
        pth, described = (Path(huggingface_hub.hf_hub_download(repository, file)) for file in (checkpoint, config))
        return pth, described
    except UserError:
        raise
    except Exception as error:  # the hub's client, requests and urllib3 each raise their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{repository} cannot be fetched ({reason}): check the name and the connection, or download its .pth and "
            "config.yaml elsewhere and run 'tisdiss weights import'"
        ) from None


def _list_files(hub: Any, repository: str) -> list[str]:
    """Returns the paths of a repository's files; where it cannot be asked, of those in the cache."""
    try:
        return hub.list_repo_files(repository)
    except Exception as error:
        with suppress(Exception):
            folder = Path(hub.snapshot_download(repository, local_files_only=True))
            return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        raise error
