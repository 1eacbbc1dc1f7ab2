"""WAV, AIFF and AU: the size that their header has for the samples, and the size that the file has."""

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from struct import pack
from typing import Literal

from tisdiss_cli.audio.part import NotHere, Part, count_bytes

_Order = Literal["little", "big"]
# Recorders that stream write a size of these and mean "unknown".
_UNKNOWN = (range(0x7FFF0000, 0x80000101), range(0xFFFF0000, 0x1_0000_0000), range(1 << 62, 1 << 64))
# Chunks that may stand behind the samples; a size that leads anywhere else was wrong.
_BEHIND = re.compile(
    rb"LIST|fact|cue |bext|iXML|axml|id3 |ID3 |JUNK|junk|PAD |FLLR|smpl|inst|plst|labl|note|ltxt|PEAK|levl|umid|"
    rb"_PMX|aXML|chna|qlty|minf|elm1|regn|DGDA|SAUR|MARK|COMT|INST|MIDI|AESD|APPL|NAME|AUTH|ANNO|\(c\) |CHAN|afsp|"
    rb"FVER|strc|acid|ResU|SyLp|Fake|LGWV|SNDM|cart|link|DISP|slnt|wavl|COMM|SSND|data|fmt "
)


@dataclass
class _Samples:
    """The chunk of the samples as the header has it."""

    begin: int  # in the file
    promised: int  # bytes
    byte_rate: float
    frame: int  # bytes of one frame, or of one block of a coded one


def wav(data: mmap.mmap, start: int) -> Part:
    """A RIFF, RIFX or RF64 file from `start` on."""
    magic = data[start : start + 4]
    order: _Order = "big" if magic == b"RIFX" else "little"
    samples, wide = None, -1
    byte_rate, frame = 0.0, 1
    for name, at, length in _chunks(data, start + 12, order):
        if name == b"ds64" and magic == b"RF64":
            wide = at
        elif name == b"fmt ":
            frame = max(1, int.from_bytes(data[at + 12 : at + 14], order))
            # The second is right for PCM, and far too much for what is coded in blocks.
            rates = (int.from_bytes(data[i : i + 4], order) for i in (at + 8, at + 4))
            byte_rate = float(min((rate for rate in (next(rates), next(rates) * frame) if rate), default=0))
        elif name == b"data":
            if wide >= 0 and length == 0xFFFFFFFF:
                length = int.from_bytes(data[wide + 8 : wide + 16], "little")
            samples = _Samples(at, length, byte_rate, frame)
            break
    if samples is None:
        raise NotHere
    part, held = _compare(data, "wav", start, samples, order, magic)
    if held is not None:
        riff = samples.begin + held - 8 - start
        if wide >= 0:
            part.patches = {wide - start: pack("<QQQ", riff, held, held // frame)}
            part.patches[samples.begin - 4 - start] = b"\xff\xff\xff\xff"
        elif riff < 1 << 32:
            part.patches = {4: riff.to_bytes(4, order), samples.begin - 4 - start: held.to_bytes(4, order)}
        else:  # libsndfile goes to the end of the file by itself
            part.patches = {4: b"\xff\xff\xff\xff", samples.begin - 4 - start: b"\xff\xff\xff\xff"}
    return part


def aiff(data: mmap.mmap, start: int) -> Part:
    """An AIFF or AIFF-C file from `start` on."""
    samples, frames_at, frame, rate, coded = None, -1, 1, 0.0, False
    for name, at, length in _chunks(data, start + 12, "big"):
        if name == b"COMM":
            channels, bits = (int.from_bytes(data[i : i + 2], "big") for i in (at, at + 6))
            frames_at, frame = at + 2, max(1, channels * -(-bits // 8))
            exponent, mantissa = (int.from_bytes(data[at + i : at + j], "big") for i, j in ((8, 10), (10, 18)))
            rate = mantissa * 2.0 ** max(-99, min(99, (exponent & 0x7FFF) - 16446))
            plain = (b"NONE", b"twos", b"sowt", b"in24", b"in32", b"fl32", b"FL32", b"fl64", b"FL64")
            coded = length >= 22 and data[at + 18 : at + 22] not in plain
        elif name == b"SSND":
            offset = int.from_bytes(data[at : at + 4], "big") if length else 0
            samples = _Samples(at + 8 + offset, max(0, length - 8 - offset), rate * frame, frame)
            break
    if samples is None or frames_at < 0:
        raise NotHere
    if coded:  # how many bytes its frames take is the codec's affair
        end = samples.begin + samples.promised
        return Part("aiff", start, len(data), missing=max(0, end - len(data)))
    part, held = _compare(data, "aiff", start, samples, "big", b"FORM")
    promised = int.from_bytes(data[frames_at : frames_at + 4], "big")
    if held is None and not part.missing and promised != samples.promised // frame:
        held = samples.promised
        part.note = f"its header announces {promised} frames, there are {held // frame}"
    if held is not None:
        chunk = held + samples.begin - at
        part.patches = {
            4: pack(">I", min(0xFFFFFFFF, samples.begin + held - 8 - start)),
            at - 4 - start: pack(">I", min(0xFFFFFFFF, chunk)),
            frames_at - start: pack(">I", min(0xFFFFFFFF, held // frame)),
        }
    return part


def au(data: mmap.mmap, start: int) -> Part:
    """A NeXT/Sun file from `start` on."""
    order: _Order = "big" if data[start] == 0x2E else "little"
    numbers = [int.from_bytes(data[start + i : start + i + 4], order) for i in range(4, 24, 4)]
    offset, size, coding, rate, channels = numbers
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(coding)
    if width is None or offset < 24:
        raise NotHere
    samples = _Samples(start + offset, size, float(rate * channels * width), max(1, channels * width))
    part, held = _compare(data, "au", start, samples, order, data[start : start + 4])
    if held is not None:
        part.patches = {8: (held if held < 1 << 32 else 0xFFFFFFFF).to_bytes(4, order)}
    return part


def _chunks(data: mmap.mmap, at: int, order: _Order) -> Iterator[tuple[bytes, int, int]]:
    """(name, place of the content, size) of each chunk from `at` on, up to the first of an impossible name."""
    while at + 8 <= len(data) and re.fullmatch(rb"[ -~]{4}", data[at : at + 4]):
        length = int.from_bytes(data[at + 4 : at + 8], order)
        yield data[at : at + 4], at + 8, length
        at += 8 + length + length % 2


def _compare(
    data: mmap.mmap, kind: str, start: int, samples: _Samples, order: _Order, magic: bytes
) -> tuple[Part, int | None]:
    """The part, and the bytes of samples that it holds where the header has that wrong."""
    size, begin, promised = len(data), samples.begin, samples.promised
    part = Part(kind, start, size, byte_rate=samples.byte_rate)
    there = size - begin
    if promised > there:
        if not any(promised in sizes for sizes in _UNKNOWN):
            part.missing = promised - there
            part.note = f"its header announces {count_bytes(part.missing)} more than there are"
            return part, there
        part.note = "its header has no length"
        return part, there
    # One byte more or less than was written: the chunks behind the samples tell.
    for off in (promised % 2, 0, *(sign * n for n in range(1, min(samples.frame, 16) + 2) for sign in (-1, 1))):
        end = begin + promised + off
        if not begin <= end <= size:
            continue
        joined = _end_of_chunks(data, end, order, magic, any_name=off == promised % 2)
        if joined is not None:
            part.end = joined
            # An odd size whose last byte is a sample's, or is there to make it even.
            if off == promised % 2 and not (promised % samples.frame and (promised + off) % samples.frame == 0):
                return part, None
            if joined == size:  # what stands at an odd place behind the samples would only confuse
                part.end = end
            if off:
                part.note = f"its header is wrong by {count_bytes(abs(off))}"
            return part, promised + off
    if promised and data[begin + promised :][:8].startswith((b"TAG", b"ID3", b"APETAGEX")):
        return part, None
    there -= there % samples.frame
    if promised == 0:
        part.note = "its header has no length"
    elif there - promised >= samples.frame or promised % samples.frame:
        part.note = f"its header announces {promised} bytes of samples, there are {there}"
    else:
        return part, None
    return part, there


def _end_of_chunks(data: mmap.mmap, at: int, order: _Order, magic: bytes, *, any_name: bool) -> int | None:
    """The end of the chunks from `at` on: that of the file, or where another begins; None if these are none."""
    size = len(data)
    while at < size:
        head = data[at : at + 12]
        if head[:4] == magic and (magic in (b".snd", b"dns.") or head[8:] in (b"WAVE", b"AIFF", b"AIFC")):
            return at
        length = int.from_bytes(head[4:8], order)
        fits = any_name and at + 8 + length <= size and re.fullmatch(rb"[ -~]{4}", head[:4])
        if not fits and not _BEHIND.match(head):
            return None
        at += 8 + length + (length % 2 if at + 8 + length < size else 0)
    return size
