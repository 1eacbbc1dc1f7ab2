"""Where the recordings of a file begin and end by its own bytes: joined files, cut files, wrong headers.

A decoder believes the header and stops where that says. So what the header promises is compared with what is there
first, box by box, never by decoding:

- A second header where the first recording ends (`cat a.wav b.wav`) begins another part of the recording.
- A header that promises a little more than there is, up to SLACK seconds, or less than there is, or nothing (written to
  a pipe, or the recorder died), is not believed: all that is there is read, and the part says so.
- One that promises more is that of a cut file: `missing` bytes.
"""

import mmap
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tisdiss_cli.audio.part import NotHere, Part, count_bytes
from tisdiss_cli.audio.wave import aiff, au, wav

_SEARCHED = 1 << 24  # bytes at a time


def find_parts(path: Path, search: bool = True) -> list[Part]:
    """The recordings in a file that is not empty, in order, almost always one; OSError where it cannot be read.

    Where no header says how long a recording is in bytes (flac, ogg, amr), the next is searched for in all of the file;
    without `search` those count as one.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        parts = [_part(data, 0, search)]
        while parts[-1].end < len(data):
            part = _part(data, parts[-1].end, search)
            if part.kind != parts[-1].kind or not part.kind:
                break  # what follows is no recording
            parts.append(part)
        return parts


def _part(data: mmap.mmap, start: int, search: bool) -> Part:
    start = _after_id3(data, start)
    head = data[start : start + 16]
    walkers: list[tuple[bytes, Callable[[mmap.mmap, int], Part]]] = [
        (rb"(RIFF|RIFX|RF64)....WAVE", wav),
        (rb"FORM....AIF[FC]", aiff),
        (rb"\.snd|dns\.", au),
        (rb"riff\x2e\x91\xcf\x11", _w64),
        (rb"NIST_1A\n", _nist),
        (rb"Creative Voice F", _voc),
        (rb"RIFF....AVI ", _avi),
        (rb"fLaC", partial(_flac, search=search)),
        (rb"OggS\0", partial(_ogg, search=search)),
        (rb"....(ftyp|moov|mdat|free|skip|wide|pnot)", _mp4),
        (rb"\x1a\x45\xdf\xa3", _matroska),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _asf),
        (rb"caff", _caf),
        (rb"#!AMR", partial(_amr, search=search)),
        (rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]", _mp3),
    ]
    for magic, walk in walkers:
        if re.match(magic, head, re.DOTALL):
            try:
                return walk(data, start)
            except (NotHere, ValueError, IndexError):
                break
    return Part("", start, len(data))


def _after_id3(data: mmap.mmap, at: int) -> int:
    """Behind the ID3v2 tags that begin here."""
    while data[at : at + 3] == b"ID3" and at + 10 < len(data):
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        footer = 10 if data[at + 5] & 0x10 else 0
        if at + 10 + size + footer >= len(data):
            break
        at += 10 + size + footer
    return at


def _big(data: mmap.mmap, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")


def _little(data: mmap.mmap, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _find(data: mmap.mmap, needles: list[bytes], start: int) -> int:
    """The first place of any of them from `start` on, or the end; what was searched leaves the memory again."""
    size, longest = len(data), max(map(len, needles))
    begin = start - start % _SEARCHED
    while begin < size:
        end = min(size, begin + _SEARCHED)
        places = [data.find(needle, max(start, begin), min(size, end + longest - 1)) for needle in needles]
        if found := [at for at in places if at >= 0]:
            return min(found)
        if sys.platform != "win32":
            data.madvise(mmap.MADV_DONTNEED, begin, end - begin)
        begin = end
    return size


def _until(data: mmap.mmap, kind: str, start: int, end: int) -> Part:
    """A part with its promised end."""
    part = Part(kind, start, min(end, len(data)), missing=max(0, end - len(data)))
    if part.missing:
        part.note = f"its header announces {count_bytes(part.missing)} more than there are"
    return part


def _avi(data: mmap.mmap, start: int) -> Part:
    end, size = start, len(data)
    while end + 12 <= size and data[end : end + 4] == b"RIFF" and (end == start or data[end + 8 : end + 12] == b"AVIX"):
        length = _little(data, end + 4, 4)
        if length in (0, 0xFFFFFFFF):
            return Part("avi", start, size)
        end += 8 + length + length % 2
    return _until(data, "avi", start, end)


def _w64(data: mmap.mmap, start: int) -> Part:
    length = _little(data, start + 16, 8)
    if length < 40 or length >= 1 << 62:
        return Part("w64", start, len(data), note="its header has no length")
    return _until(data, "w64", start, start + length)


def _nist(data: mmap.mmap, start: int) -> Part:
    header = int(data[start + 8 : start + 16])
    text = data[start : start + header]
    numbers = [re.search(name + rb" -i (\d+)", text) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    count, channels, width = (int(number[1]) if number else 0 for number in numbers)
    coding = re.search(rb"sample_coding -s\d+ (\S+)", text)
    if not count or not width or (coding and coding[1] not in (b"pcm", b"ulaw", b"alaw")):
        return Part("nist", start, len(data))
    return _until(data, "nist", start, start + header + count * max(1, channels) * width)


def _voc(data: mmap.mmap, start: int) -> Part:
    at = start + _little(data, start + 20, 2)
    while at < len(data):
        if data[at] == 0:
            return Part("voc", start, at + 1)
        if data[at] > 9:
            return Part("voc", start, at)
        at += 4 + _little(data, at + 1, 3)
    return _until(data, "voc", start, at)


def _flac(data: mmap.mmap, start: int, search: bool) -> Part:
    # "fLaC" and a STREAMINFO of 34 bytes, last of its headers or not.
    heads = [b"fLaC" + last + b"\0\0\x22" for last in (b"\0", b"\x80")]
    end = _find(data, heads, start + 4) if search else len(data)
    length = _big(data, start + 21, 5) & (1 << 36) - 1
    return Part("flac", start, end, note="" if length else "its header has no length")


def _ogg(data: mmap.mmap, start: int, search: bool) -> Part:
    """A chain's link: pages that begin streams, then others, up to where streams begin again."""
    size, at = len(data), start
    while data[at : at + 5] == b"OggS\0" and data[at + 5] & 2 and (after := _after_page(data, at)) <= size:
        at = after
    heads = [b"OggS\0" + bytes([flags]) for flags in (2, 6)]
    end = _find(data, heads, max(at, start + 1)) if search else size
    last = data.rfind(b"OggS\0", start, end)
    part = Part("ogg", start, end)
    if (after := _after_page(data, last)) > end:
        part.missing = after - end
    elif not data[last + 5] & 4:
        part.note = "the end of its stream is not marked"
    return part


def _after_page(data: mmap.mmap, at: int) -> int:
    if at + 27 > len(data):
        return at + 27
    segments = data[at + 26]
    table = data[at + 27 : at + 27 + segments]
    return at + 27 + segments + sum(table) + (segments - len(table))


def _mp4(data: mmap.mmap, start: int) -> Part:
    at, size, seen = start, len(data), set[bytes]()
    while at + 8 <= size:
        length, name = _big(data, at, 4), data[at + 4 : at + 8]
        if name == b"ftyp" and seen & {b"moov", b"mdat"}:
            return Part("mp4", start, at)
        if not re.fullmatch(rb"[ -~\xa9]{4}", name):
            return Part("mp4", start, at)
        seen.add(name)
        if length == 1:
            length = _big(data, at + 8, 8)
        elif length == 0:
            return Part("mp4", start, size)
        if length < 8:
            raise NotHere
        at += length
        if at > size and name in (b"free", b"skip", b"wide", b"uuid"):
            at = size
    return _until(data, "mp4", start, max(at, size))


def _matroska(data: mmap.mmap, start: int) -> Part:
    at = start
    while at < len(data):
        if data[at : at + 4] == b"\x1a\x45\xdf\xa3" and at > start:
            return Part("matroska", start, at)
        length_at = at + _vint_length(data[at])
        width = _vint_length(data[length_at])
        length = _big(data, length_at, width) & ((1 << 7 * width) - 1)
        if length == (1 << 7 * width) - 1:  # unknown, as of what is streamed
            return Part("matroska", start, len(data))
        at = length_at + width + length
    return _until(data, "matroska", start, at)


def _vint_length(first: int) -> int:
    if first == 0:
        raise NotHere
    return 9 - first.bit_length()


def _asf(data: mmap.mmap, start: int) -> Part:
    at, size = start, len(data)
    facts = data.find(b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65", start, start + (1 << 16))
    if facts >= 0 and data[facts + 88] & 1:  # a broadcast, whose lengths mean nothing
        return Part("asf", start, size)
    header, content = data[start : start + 16], b"\x36\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
    while at + 24 <= size:
        name, length = data[at : at + 16], _little(data, at + 16, 8)
        if name == header and at > start:
            return Part("asf", start, at)
        if name == content and length < 24 + 26:  # a broadcast has no length
            return Part("asf", start, size)
        if length < 24:
            return Part("asf", start, at)
        at += length
    return _until(data, "asf", start, max(at, size))


def _caf(data: mmap.mmap, start: int) -> Part:
    at = start + 8
    while at + 12 <= len(data):
        if data[at : at + 4] == b"caff":
            return Part("caf", start, at)
        length = _big(data, at + 4, 8)
        if length >= 1 << 63:  # -1: to the end
            return Part("caf", start, len(data), note="its header has no length")
        at += 12 + length
    return _until(data, "caf", start, at)


def _amr(data: mmap.mmap, start: int, search: bool) -> Part:
    magic = data[start : data.find(b"\n", start) + 1]
    return Part("amr", start, _find(data, [magic], start + 6) if search else len(data))


def _mp3(data: mmap.mmap, start: int) -> Part:
    """All of it is FFmpeg's to find, but the frames that a Xing, Info or VBRI header promises."""
    part = Part("mp3", 0 if start == _after_id3(data, 0) else start, len(data))
    head = data[start : start + 200]
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at > 0 and head[at + 7] & 1:
        part.frames = _big(data, start + at + 8, 4)
    elif (at := head.find(b"VBRI")) > 0:
        part.frames = _big(data, start + at + 14, 4)
    return part
