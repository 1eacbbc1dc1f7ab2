"""Sound files of a folder."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG


def _extensions(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


# What FFmpeg reads: sound, then video with sound.
EXTENSIONS = _extensions(
    "wav wave flac ogg oga opus mp3 aiff aif aifc au snd caf w64 rf64 voc nist sph "
    "m4a m4b m4r aac adts amr awb wma mka ac3 eac3 dts mp2 mpga ape wv tta tak mpc spx ra oma qcp thd mlp dsf "
    "mp4 m4v mov qt webm mkv 3gp 3g2 avi wmv asf flv f4v mpg mpeg ts mts m2ts vob ogv rm rmvb mxf"
)

# Sound by its name, which it does not read, or only with a key or with facts that the file does not have.
UNREADABLE = _extensions(
    "m4p aa aax aaxc mid midi kar rmi mod xm it s3m wpl shn la ofr ofs raw pcm sln gsm g722 g729 ul al vox "
    "dss ds2 dvf msv silk sil slk bwg cda als aup aup3 band logic ptx flp"
)


@dataclass
class Listing:
    """Contents of a folder; names are relative to it, with slashes."""

    names: list[str] = field(default_factory=list)  # of sound files, in the order of their paths
    left_out: Counter[str] = field(default_factory=Counter)  # sound by its extension that nothing reads: {".m4p": 3}
    links: list[str] = field(default_factory=list)  # folders that were entered by a link


def find(root: Path) -> list[Path]:
    """Returns the sound files under a folder, by extension, recursively, in a stable order; hidden ones are left out.

    Linked folders are followed, but no folder is entered twice, however many links lead to it. Of what is no regular
    file (pipes, sockets, devices) nothing is listed; a broken link is, for whoever opens it to say so.
    """
    return [root / name for name in list_folder(root).names]


def list_folder(root: Path) -> Listing:
    """Finds as `find`, in one walk; text, for a million paths take a gigabyte."""
    found = Listing()
    for name in _files(root, found.links):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in EXTENSIONS:
            found.names.append(name)
        elif suffix in UNREADABLE:
            found.left_out[suffix] += 1
    found.names.sort(key=lambda name: name.replace("/", "\0"))  # part by part, as paths are sorted
    return found


def _files(root: Path, links: list[str]) -> Iterator[str]:
    """Yields regular files and broken links below `root`, none hidden; `links` takes the folders that links lead to."""
    seen = {_identity(os.stat(root))} if root.exists() else set()
    # By level: so that a folder inside the tree is entered under its own name rather than that of a link further down.
    level = [(os.fspath(root), "")] if root.is_dir() else []
    while level:
        folders: list[tuple[os.DirEntry[str], str]] = []
        for folder, prefix in level:
            try:
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError:
                continue  # not ours to read
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
    """Tells if it is, or leads to, a folder, and a regular file; OSError of a link that leads nowhere."""
    if entry.is_symlink():
        mode = entry.stat().st_mode
        return S_ISDIR(mode), S_ISREG(mode)
    return entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)  # mostly without asking the disk


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
