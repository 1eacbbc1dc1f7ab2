"""What a file that should hold tensors is instead: a pointer, a page, half a download; and tensors that are none."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tisdiss_cli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_AGAIN = "download it again, whole"
_MOST_HEADER = 100_000_000  # bytes; safetensors takes no longer one
_NAMED = 3
_OTHERS = {
    b"\x1f\x8b": "is compressed (gzip): unpack it first",
    b"\xfd7zXZ\0": "is compressed (xz): unpack it first",
    b"BZh": "is compressed (bzip2): unpack it first",
    b"7z\xbc\xaf": "is a 7z archive: unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed (zstd): unpack it first",
    b"\x89HDF": "is an HDF5 file: it holds no weights of this network",
    b"\x93NUMPY": "is a NumPy file: it holds no weights of this network",
}


def check_readable(path: Path) -> None:
    """UserError where the file is not there or is, by its first bytes, no container of tensors."""
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder: name the file in it")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if reason := stranger(head):
        raise UserError(f"{path} {reason}")
    if head.startswith(b"PK\3\4") and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is cut short at {size} bytes, the end of its archive is missing: {_AGAIN}")


def stranger(head: bytes, text: bool = False) -> str | None:
    """What a file is that begins with these bytes, as the end of a sentence, where it is neither tensors nor, if it may
    be, plain text.
    """
    if not head:
        return f"is empty (0 bytes): {_AGAIN}"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file that it points to: run 'git lfs pull', or download the file itself"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return "is a web page (HTML), not the file that the page is about: download the file itself"
    if start.startswith(b"<?xml"):
        return "is an XML page, as a server answers in place of a file: download the file itself"
    for magic, reason in _OTHERS.items():
        if head.startswith(magic):
            return reason
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it first"
    if not text and not any(byte < 9 or 13 < byte < 32 or byte > 126 for byte in head):
        return "is a text file, not one of tensors: name another, or download the file itself"
    return None


def is_checkpoint(path: Path) -> bool:
    """Whether a file is torch's: a zip archive or, as of old, a pickle."""
    with path.open("rb") as file:
        head = file.read(4)
    return head == b"PK\3\4" or head[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as .safetensors does."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _MOST_HEADER


def check_safetensors(path: Path) -> None:
    """UserError where the file is no .safetensors, or not as long as its header says."""
    check_readable(path)
    if not is_safetensors(path):
        if is_checkpoint(path):
            raise UserError(f"{path} is a checkpoint: turn it into weights with 'tisdiss weights import' first")
        raise UserError(f"{path} cannot be read as .safetensors: it begins otherwise")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
    if len(header) < length:
        raise UserError(f"{path} is cut short at {size} bytes, within its header: {_AGAIN}")
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        needed = 8 + length + max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise UserError(f"{path} cannot be read as .safetensors: its header is damaged") from None
    if size < needed:
        raise UserError(f"{path} is cut short, it holds {size} of {needed} bytes: {_AGAIN}")
    if size > needed:
        raise UserError(f"{path} is damaged, it holds {size} bytes where its header has {needed}: {_AGAIN}")


def check_values(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    """UserError, with the first of them, where tensors are no floating point numbers or hold NaN or infinity."""
    kinds = [f"{name} ({value.dtype})" for name, value in tensors.items() if not _usual(value)]
    if kinds:
        raise UserError(f"{path} has tensors that are not of floating point numbers: {first(kinds)}")
    # As the network holds them, in single precision.
    bad = [name for name, value in tensors.items() if not value.float().isfinite().all()]
    if bad:
        raise UserError(f"{path} has NaN or infinite values in {first(bad)}: whatever trained it had failed by then")


def first(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _usual(value: "Tensor") -> bool:
    return value.is_floating_point() and not value.is_sparse and not value.is_quantized
