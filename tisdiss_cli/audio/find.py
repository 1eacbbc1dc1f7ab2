"""Which files of a folder are sound files."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG


def _extensions(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


# What libsndfile reads, and what FFmpeg reads: sound, then video with sound.
EXTENSIONS = _extensions(
    "wav wave flac ogg oga opus mp3 aiff aif aifc au snd caf w64 rf64 voc nist sph "
    "m4a m4b m4r aac adts amr awb wma mka ac3 eac3 dts mp2 mpga ape wv tta tak mpc spx ra oma qcp thd mlp dsf "
    "mp4 m4v mov qt webm mkv 3gp 3g2 avi wmv asf flv f4v mpg mpeg ts mts m2ts vob ogv rm rmvb mxf"
)

# Sound by its name, which neither of them reads, or only with a key or with facts that the file does not have.
UNREADABLE = _extensions(
    "m4p aa aax aaxc mid midi kar rmi mod xm it s3m wpl shn la ofr ofs raw pcm sln gsm g722 g729 ul al vox "
    "dss ds2 dvf msv silk sil slk bwg cda als aup aup3 band logic ptx flp"
)


def find(root: Path) -> list[Path]:
    """Sound files under a folder, by extension, recursively, in a stable order; hidden ones are left out.

    Linked folders are followed, but no folder is entered twice, however many links lead to it. Of what is no regular
    file (pipes, sockets, devices) nothing is listed; a broken link is, for whoever opens it to say so.
    """
    return sorted(path for path in _files(root) if path.suffix.lower() in EXTENSIONS)


def left_out(root: Path) -> Counter[str]:
    """How many files under a folder are sound by their extension and yet nothing that `find` lists: {".m4p": 3}."""
    return Counter(path.suffix.lower() for path in _files(root) if path.suffix.lower() in UNREADABLE)


def _files(root: Path) -> Iterator[Path]:
    """Regular files and broken links below `root`, none hidden."""
    seen = {_identity(os.stat(root))} if root.exists() else set()
    # By level: so that a folder inside the tree is entered under its own name rather than that of a link further down.
    level = [root] if root.is_dir() else []
    while level:
        folders: list[os.DirEntry[str]] = []
        for folder in level:
            try:
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError:
                continue  # not ours to read
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    mode = entry.stat().st_mode
                except OSError:
                    yield Path(entry.path)
                    continue
                if S_ISDIR(mode):
                    folders.append(entry)
                elif S_ISREG(mode):
                    yield Path(entry.path)
        level = []
        for entry in sorted(folders, key=lambda entry: entry.is_symlink()):
            identity = _identity(os.stat(entry.path))
            if identity not in seen:
                seen.add(identity)
                level.append(Path(entry.path))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
