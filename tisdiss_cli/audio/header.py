"""Headers of sound files against their size: wrong lengths, joined recordings, truncated files.

FFmpeg trusts the length in a WAV's header, and does not report when the end of some containers is missing.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from struct import pack, unpack_from
from typing import BinaryIO

SLACK = 0.1  # seconds that a header may promise in excess before the file counts as truncated

_WAVE = re.compile(rb"(RIFF|RF64|BW64)....WAVE", re.DOTALL)
_ENDLESS = b"\xff" * 4  # a size with which FFmpeg reads to the end
_ENDLESS_NOTE = "its header has no length"
# Sizes that streaming recorders write for "unknown".
_UNKNOWN = (range(1), range(0x7FFF0000, 0x80000101), range(0xFFFF0000, 0x1_0000_0000), range(1 << 62, 1 << 64))
# Chunks and tags that may follow the samples; a size that leads anywhere else is wrong.
_CHUNKS = re.compile(rb"LIST|fact|cue |bext|iXML|axml|id3 |ID3 |JUNK|junk|PAD |FLLR|smpl|inst|plst|PEAK|levl|umid|acid")
_PLAIN = (1, 3, 0xFFFE)  # codecs of PCM
_TAGS = (b"TAG", b"APETAGEX", b"ID3\3", b"ID3\4")
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FACTS = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_LONGEST_PAGE = 27 + 255 + 255 * 255  # of Ogg, bytes


@dataclass
class Part:
    """Part of a file: one recording."""

    start: int  # position of its first byte
    end: int  # position after its last byte
    format: str = ""  # FFmpeg's name of its format, if known
    head: bytes = b""  # replaces its first bytes for the decoder
    note: str = ""  # why the header is not trusted
    missing: int = 0  # bytes that the header promises in excess
    byte_rate: float = 0.0  # bytes per second; 0 if unknown

    @property
    def truncated(self) -> bool:
        """True if more is missing than SLACK."""
        return self.missing > SLACK * self.byte_rate


class Window:
    """Part of a file as a file for reading."""

    def __init__(self, path: Path, part: Part) -> None:
        self.file, self.part, self.at, self.size = path.open("rb", buffering=0), part, 0, part.end - part.start

    def tell(self) -> int:
        """Returns the position, in bytes from the part's start."""
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position, as in a file with only this part."""
        self.at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence])
        return self.at

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes of the part; OSError if the file has become shorter."""
        content = self.part.head[self.at : self.at + size]
        if not content and (size := min(size, self.size - self.at)) > 0:
            self.file.seek(self.part.start + self.at)
            content = self.file.read(size)
            if not content:
                raise OSError("it became shorter while it was read")
        self.at += len(content)
        return content

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


def find_parts(path: Path) -> list[Part]:
    """Returns the recordings in a file: one, except for WAV files joined end to end; OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(64)
        if _WAVE.match(head):
            parts, start = list[Part](), 0
            while _WAVE.match(_read(file, start, 12)):
                part, start = _wav(file, start, size)
                parts.append(part)
            return parts
        part = Part(0, size)
        if re.match(rb"FORM....AIF[FC]", head, re.DOTALL) and size > 1 << 32:
            _extend_aiff(file, part)
        elif re.match(rb"RIFF....AVI ", head, re.DOTALL):
            length = int.from_bytes(head[4:8], "little")
            part.missing = max(0, 8 + length - size) if length != 0xFFFFFFFF else 0
        elif head.startswith(_ASF):
            facts = _read(file, 0, 1 << 16).partition(_ASF_FACTS)[2]
            if len(facts) > 72 and not facts[72] & 1:  # not a broadcast, which has no lengths
                part.missing = max(0, int.from_bytes(facts[24:32], "little") - size)
        elif head.startswith(b"OggS\0"):
            _check_ogg(file, part)
        return [part]


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def _wav(file: BinaryIO, start: int, size: int) -> tuple[Part, int]:
    """Returns the WAV from `start` on, and the position after it."""
    at, wide, byte_rate, frame = start + 12, 0, 1, 1
    while re.match(rb"[ -~]{4}", (chunk := _read(file, at, 36))):
        length = int.from_bytes(chunk[4:8], "little")
        if chunk.startswith(b"data"):
            break
        if chunk.startswith(b"ds64") and len(chunk) == 36:
            wide = unpack_from("<Q", chunk, 16)[0]
        elif chunk.startswith(b"fmt ") and len(chunk) >= 24:
            codec, _, rate, byte_rate, frame = unpack_from("<HHIIH", chunk, 8)
            # The second is right for PCM, and far too high for block codecs.
            byte_rate = min(filter(None, (byte_rate, rate * frame)), default=1)
            frame = frame or 1 if codec in _PLAIN else 1
        at += 8 + length + length % 2
    else:
        return Part(start, size), size  # FFmpeg reports the fault
    if wide and length == 0xFFFFFFFF:
        length = wide
    # As a plain WAV without a length: with a wrong one FFmpeg looks for chunks through hours of silence.
    head = b"RIFF" + _read(file, start, at + 4 - start)[4:] + _ENDLESS
    part, begin = Part(start, size, "wav", head, byte_rate=byte_rate), at + 8
    excess = begin + length - size
    if excess <= 0:
        part.end, after, part.note = _end_of_samples(file, begin, length, frame, size)
        return part, after
    part.note = _ENDLESS_NOTE
    if not any(length in sizes for sizes in _UNKNOWN):
        part.missing, part.note = excess, f"its header promises {_count(excess)} more than the file has"
    return part, size


def _end_of_samples(file: BinaryIO, begin: int, length: int, frame: int, size: int) -> tuple[int, int, str]:
    """Returns the end of a WAV's samples, the position after its chunks, and what is wrong in its header."""
    pad = length % 2
    # Tries a few bytes more or less: the chunks after the samples show which is right.
    for off in (pad, 0, *(sign * n for n in range(1, min(frame, 16) + 2) for sign in (-1, 1))):
        end = begin + length + off
        after = _after_chunks(file, end, size, any_name=off == pad) if begin <= end <= size else None
        if after is not None:
            right = off == 0 or (off == pad and length % frame == 0)
            return (begin + length, after, "") if right else (end, after, f"its header is wrong by {_count(abs(off))}")
    if any(length in sizes for sizes in _UNKNOWN):
        return size, size, _ENDLESS_NOTE
    actual = size - begin
    if actual - length < frame and length % frame == 0:
        return begin + length, size, ""
    return size, size, f"its header promises {length} bytes of samples, the file has {actual}"


def _after_chunks(file: BinaryIO, at: int, size: int, *, any_name: bool) -> int | None:
    """Returns the end of the chunks from `at` on (end of file, or begin of a WAV); None if there are other bytes."""
    while at < size:
        head = _read(file, at, 12)
        if _WAVE.match(head):
            return at
        if head.startswith(_TAGS):
            return size
        length = int.from_bytes(head[4:8], "little")
        fits = any_name and at + 8 + length <= size and re.match(rb"[ -~]{4}", head)
        if not fits and not _CHUNKS.match(head):
            return None
        at += 8 + length + length % 2
    return size


def _extend_aiff(file: BinaryIO, part: Part) -> None:
    """Presents plain samples beyond 4 GiB, the limit of AIFF's sizes, as an AU file without a length."""
    at, coding = 12, 0
    while re.match(rb"[ -~]{4}", (chunk := _read(file, at, 30))) and len(chunk) == 30:
        length = int.from_bytes(chunk[4:8], "big")
        if chunk.startswith(b"COMM"):
            channels, _, bits, exponent, mantissa, kind = unpack_from(">HIHHQ4s", chunk, 8)
            kinds = {b"NONE": (8, 16, 24, 32), b"fl32": (0, 0, 0, 0, 32), b"fl64": (0, 0, 0, 0, 0, 64)}
            sizes = kinds.get(kind if length >= 22 else b"NONE", ())
            coding, rate = 2 + sizes.index(bits) if bits in sizes else 0, mantissa >> max(0, min(63, 16446 - exponent))
        elif chunk.startswith(b"SSND") and coding:
            begin = at + 16 + int.from_bytes(chunk[8:12], "big")
            part.format, part.head = "au", b".snd" + pack(">I4s3I", begin, _ENDLESS, coding, rate, channels)
            return
        at += 8 + length + length % 2


def _check_ogg(file: BinaryIO, part: Part) -> None:
    """Checks whether the last page is whole, and ends its stream."""
    tail = _read(file, max(0, part.end - _LONGEST_PAGE), _LONGEST_PAGE)
    page = tail[max(0, tail.rfind(b"OggS\0")) :]
    segments = page[26] if len(page) > 26 else 255
    part.missing = max(0, 27 + segments + sum(page[27 : 27 + segments]) - len(page))
    part.note = "" if part.missing or page[5] & 4 else "its end is not marked"


def _count(number: int) -> str:
    return f"{number} byte{'s' * (number != 1)}"
