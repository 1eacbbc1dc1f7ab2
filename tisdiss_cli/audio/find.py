"""Which files of a folder are sound files."""

from pathlib import Path

_NAMES = "wav wave flac ogg oga opus mp3 aiff aif aifc au snd caf w64 rf64 voc nist sph"
EXTENSIONS = frozenset(f".{name}" for name in _NAMES.split())


def find(root: Path) -> list[Path]:
    """Sound files under a folder, by extension, recursively, in a stable order; hidden ones are left out."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not path.is_dir()
    )
