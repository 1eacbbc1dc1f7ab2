"""Sound files of a folder, found by extension."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG


def _extensions(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


# Extensions that FFmpeg reads: sound, then video with sound.
EXTENSIONS = _extensions(
    "wav wave flac ogg oga opus mp3 aiff aif aifc au snd caf w64 rf64 voc nist sph "
    "m4a m4b m4r aac adts amr awb wma mka ac3 eac3 dts mp2 mpga ape wv tta tak mpc spx ra oma qcp thd mlp dsf "
    "mp4 m4v mov qt webm mkv 3gp 3g2 avi wmv asf flv f4v mpg mpeg ts mts m2ts vob ogv rm rmvb mxf"
)

# Extensions of sound that FFmpeg does not read, or only with a key or with facts that the file lacks.
UNREADABLE = _extensions(
    "m4p aa aax aaxc mid midi kar rmi mod xm it s3m wpl shn la ofr ofs raw pcm sln gsm g722 g729 ul al vox "
    "dss ds2 dvf msv silk sil slk bwg cda als aup aup3 band logic ptx flp"
)


@dataclass
class Listing:
    """Listing of a folder; names are relative to it, with slashes."""

    names: list[str] = field(default_factory=list)  # of sound files, in the order of their paths
    left_out: Counter[str] = field(default_factory=Counter)  # unreadable sound by extension: {".m4p": 3}
    links: list[str] = field(default_factory=list)  # linked folders that were entered


def find(root: Path) -> list[Path]:
    """Returns the sound files below a folder, by extension, in a stable order, without hidden ones.

    Linked folders are followed, each once. Pipes, sockets and devices are left out; broken links are listed, so that
    opening them reports an error.
    """
    return [root / name for name in list_folder(root).names]


def list_folder(root: Path) -> Listing:
    """Lists as `find` does, with names as text, as a million Path objects take a gigabyte."""
    listing = Listing()
    for name in _files(root, listing.links):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in EXTENSIONS:
            listing.names.append(name)
        elif suffix in UNREADABLE:
            listing.left_out[suffix] += 1
    listing.names.sort(key=lambda name: name.replace("/", "\0"))  # part by part, as paths are sorted
    return listing


def _files(root: Path, links: list[str]) -> Iterator[str]:
    """Yields regular files and broken links below `root`, none hidden; adds linked folders to `links`."""
    seen = {_identity(os.stat(root))} if root.exists() else set()
    # By level, so that a folder in the tree is entered under its own name rather than by a link further down.
    level = [(os.fspath(root), "")] if root.is_dir() else []
    while level:
        folders: list[tuple[os.DirEntry[str], str]] = []
        for folder, prefix in level:
            try:
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError:
                continue  # no permission
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    is_folder, is_file = _kind(entry)
                except OSError:
                    is_folder, is_file = False, True
                if is_folder:
                    folders.append((entry, prefix + entry.name))
                elif is_file:
                    yield prefix + entry.name
        level = []
        for entry, name in sorted(folders, key=lambda folder: folder[0].is_symlink()):
            identity = _identity(os.stat(entry.path))
            if identity not in seen:
                seen.add(identity)
                level.append((entry.path, f"{name}/"))
                if entry.is_symlink():
                    links.append(name)


def _kind(entry: "os.DirEntry[str]") -> tuple[bool, bool]:
    """Returns whether an entry is, or links to, a folder, and a regular file; OSError for a broken link."""
    if entry.is_symlink():
        mode = entry.stat().st_mode
        return S_ISDIR(mode), S_ISREG(mode)
    return entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)  # mostly without a system call


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
