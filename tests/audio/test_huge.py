"""Sound files of more than 4 GiB, which is as far as 32 bits count: sparse ones, read at their far end."""

import struct

import numpy as np
import pytest

from tisdiss_cli.audio.decode import Decoder
from tisdiss_cli.audio.header import find_parts
from tisdiss_cli.audio.read import Source

RATE, CHANNELS = 48_000, 16
FRAME = 4 * CHANNELS  # 32-bit integers
SECONDS = (1 << 32) // (RATE * FRAME) + 300
SIZE = SECONDS * RATE * FRAME
END = np.random.default_rng(0).integers(
    -(2**31), 2**31, (RATE, CHANNELS), np.int32
)  # the last second; before it, silence
W64 = bytes.fromhex("f3acd3118cd100c04f8edb8a")
FORM = struct.pack("<HHIIHH", 1, CHANNELS, RATE, RATE * FRAME, FRAME, 32)


def wav(size: int) -> bytes:
    riff = struct.pack("<I", min(size + 36, 0xFFFFFFFF))
    return b"RIFF" + riff + b"WAVEfmt \x10\0\0\0" + FORM + b"data" + struct.pack("<I", size)


def rf64() -> bytes:
    sizes = struct.pack("<IQQQI", 28, SIZE + 72, SIZE, SIZE // FRAME, 0)
    return b"RF64\xff\xff\xff\xffWAVEds64" + sizes + b"fmt \x10\0\0\0" + FORM + b"data\xff\xff\xff\xff"


def w64() -> bytes:
    riff = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000") + struct.pack("<Q", SIZE + 104)
    return (
        riff
        + b"wave"
        + W64
        + b"fmt "
        + W64
        + struct.pack("<Q", 40)
        + FORM
        + b"data"
        + W64
        + struct.pack("<Q", SIZE + 24)
    )


def au(size: int) -> bytes:
    return b".snd" + struct.pack(">5I", 24, size, 5, RATE, CHANNELS)


def aiff(size: int) -> bytes:
    rate = struct.pack(">HQ", 16383 + 15, RATE << 48)
    common = struct.pack(">IHIH", 18, CHANNELS, SIZE // FRAME, 32) + rate
    return (
        b"FORM"
        + struct.pack(">I", min(size + 46, 0xFFFFFFFF))
        + b"AIFFCOMM"
        + common
        + b"SSND"
        + struct.pack(">III", size, 0, 0)
    )


@pytest.mark.parametrize(
    ("header", "order", "warns"),
    [
        (wav(0xFFFFFFFF), "<", "no length"),
        (wav(SIZE % 2**32), "<", "bytes of samples"),
        (wav(0), "<", "no length"),
        (rf64(), "<", ""),
        (w64(), "<", ""),
        (au(0xFFFFFFFF), ">", ""),
        (au(SIZE % 2**32), ">", ""),
        (aiff(0xFFFFFFFF), ">", ""),
        (aiff((SIZE + 8) % 2**32), ">", ""),
    ],
    ids=[
        "wav unknown",
        "wav wrapped",
        "wav zero",
        "rf64",
        "w64",
        "au unknown",
        "au wrapped",
        "aiff full",
        "aiff wrapped",
    ],
)
def test_the_last_second_of_a_huge_file(tmp_path, header, order, warns):
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.write(header)
        file.seek(len(header) + SIZE - END.nbytes)
        file.write(END.astype(f"{order}i4").tobytes())
    decoder = Decoder(path, *find_parts(path))
    decoder.container.seek(round((SECONDS - 1) / decoder.stream.time_base), stream=decoder.stream)
    rest = np.concatenate([block for _, block in decoder.blocks()])
    decoder.close()
    assert np.array_equal(rest[-RATE:], (END / 2.0**31).astype(np.float32))
    assert not rest[:-RATE].any() and len(rest) < 2 * RATE
    source = Source(path, RATE)
    source.close()
    assert [warns in warning for warning in source.warnings] == [True] * bool(warns)
    if header[:4] != b".snd" or warns:
        assert source.seconds == pytest.approx(SECONDS, abs=0.1)
