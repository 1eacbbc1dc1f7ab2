"""Headers that are wrong, files that are joined, cut or no files at all: all of the sound, or a sentence."""

import os
import struct
import threading

import numpy as np
import pytest
import soundfile
import torch

from tests.cli import tisdiss
from tests.containers import encode, melody
from tests.folders import records
from tisdiss_cli.audio.read import AudioError, Source, read, read_header

RATE = 8000
SAMPLES = (melody(RATE) * 32767).astype(np.int16)[:-1]  # an odd number, so that one byte more or less is odd as well
LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0"


def wav(size=None, riff=None, *, tail=b"", rate=RATE, channels=1, content=None) -> bytes:
    content = SAMPLES.tobytes() if content is None else content
    size = len(content) if size is None else size
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels * 2 & 0xFFFFFFFF, channels * 2 & 0xFFFF, 16)
    body = b"WAVEfmt " + form + b"data" + struct.pack("<I", size) + content + tail
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def written(path, format, sound=SAMPLES, rate=RATE):
    soundfile.write(path, sound, rate, format=format)
    return path.read_bytes()


def patched(content: bytes, *places: tuple[int, bytes]) -> bytes:
    for at, value in places:
        content = content[:at] + value + content[at + len(value) :]
    return content


def heard(path, **options) -> tuple[np.ndarray, list[str]]:
    source = Source(path, RATE, **options)
    sound = torch.cat(list(source.blocks())).numpy()
    assert source.frames == len(sound) or source.input_rate != RATE
    return sound, source.warnings


def same(sound: np.ndarray, *wanted: np.ndarray) -> bool:
    return np.array_equal(sound, np.concatenate(wanted) / np.float32(32768))


BYTES = SAMPLES.nbytes


@pytest.mark.parametrize(
    "content",
    [
        wav(0, 0),
        wav(0),
        wav(0xFFFFFFFF, 0xFFFFFFFF),
        wav(0x7FFFFFFF, 0),
        wav(BYTES + 1),
        wav(BYTES - 1),
        wav(BYTES + 3),
        wav(BYTES + 1, tail=LIST),
        wav(BYTES - 1, tail=LIST),
        wav(BYTES // 2),
        wav(1000, 1036),
    ],
)
def test_a_wav_header_that_is_wrong_is_not_believed(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    sound, warnings = heard(tmp_path / "a.wav")
    assert same(sound, SAMPLES)
    assert len(warnings) == 1
    assert "header" in warnings[0]


@pytest.mark.parametrize(
    "content",
    [
        wav(),
        wav(tail=LIST),
        wav(tail=LIST)[:-5],
        wav(tail=b"TAG" + b" " * 125),
        wav(tail=b"abCD" + struct.pack("<I", 6) + b"zzzzzz"),
        wav(riff=0),
    ],
)
def test_whole_wav_files_have_no_warning_whatever_follows_the_samples(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    sound, warnings = heard(tmp_path / "a.wav")
    assert same(sound, SAMPLES)
    assert warnings == []


@pytest.mark.parametrize(("name", "rate"), [("a.flac", 48_000), ("a.wav", 48_000), ("a.aiff", 1001)])
def test_a_long_whole_file_has_no_warning(tmp_path, name, rate):
    written(tmp_path / name, name[2:].upper(), np.zeros(65_536 * 40 + 17, np.int16), rate)
    source = Source(tmp_path / name, rate)
    assert sum(block.shape[0] for block in source.blocks()) == 65_536 * 40 + 17
    assert source.warnings == []


def other_formats(tmp_path) -> dict[str, bytes]:
    """Wrong headers of other formats than WAV, and recordings of them joined end to end."""
    aiff, au, w64, flac = (written(tmp_path / name, name) for name in ("AIFF", "AU", "W64", "FLAC"))
    sound_at, frames_at = aiff.index(b"SSND") + 4, aiff.index(b"COMM") + 10
    long = written(tmp_path / "OGG", "OGG", np.tile(SAMPLES, 10))
    joined = {
        f"joined.{name}": b"".join(written(tmp_path / name, name.upper(), each) for each in (SAMPLES, SAMPLES[::-1]))
        for name in ("aiff", "au", "flac", "ogg", "caf", "w64", "mp3")
    }
    for name, codec in (("m4a", "alac"), ("mka", "flac")):
        sound = SAMPLES / np.float32(32768)
        joined[f"joined.{name}"] = 2 * encode(tmp_path / f"one.{name}", [sound], RATE, codec).read_bytes()
    return joined | {
        "zero.aiff": patched(aiff, (4, bytes(4)), (sound_at, bytes(4)), (frames_at, bytes(4))),
        "long.aiff": patched(aiff, (sound_at, struct.pack(">I", BYTES + 9)), (frames_at, struct.pack(">I", 1 << 20))),
        "short.aiff": patched(aiff, (sound_at, struct.pack(">I", BYTES + 7))),
        "frames.aiff": patched(aiff, (frames_at, struct.pack(">I", 5))),
        "zero.au": patched(au, (8, bytes(4))),
        "endless.au": patched(au, (8, b"\xff" * 4)),
        "long.au": patched(au, (8, struct.pack(">I", BYTES + 1))),
        "half.au": patched(au, (8, struct.pack(">I", BYTES // 2))),
        "endless.w64": patched(w64, (16, b"\xff" * 8)),
        "piped.flac": patched(flac, (21, bytes([flac[21] & 0xF0]) + bytes(4))),
        "unended.ogg": long[: long.rindex(b"OggS")],
    }


# What is heard of SAMPLES, or of two of them joined; what is said of it; and what is given up, as FFmpeg reads them: of
# WAV files nothing is.
OTHERS = [
    ("zero.aiff", 0, "not a sound file", "the sound: FFmpeg takes no AIFF without sizes"),
    ("zero.au", 0, "not a sound file", "the sound: FFmpeg takes no AU whose size is 0 and not ffffffff"),
    ("long.aiff", 0, "truncated: it has 2.00 s of 131.07 s", "the number of frames is believed; --partial takes all"),
    ("short.aiff", 1, "", "its last sample, and a warning"),
    ("frames.aiff", 1, "header promises", ""),
    ("endless.au", 1, "", "a warning"),
    ("long.au", 1, "", "a warning"),
    ("half.au", 1, "header promises", ""),
    ("endless.w64", 1, "", "a warning"),
    ("piped.flac", 1, "", "a warning"),
    ("unended.ogg", 9.3, "end is not marked", ""),
    ("joined.aiff", 1, "", "the second, and a warning"),
    ("joined.au", 2, "header promises", "the second's header is heard, 12 samples of noise"),
    ("joined.flac", 1.7, "header promises", "a block of the second"),
    ("joined.ogg", 2, "", "a warning"),
    ("joined.caf", 0, "truncated: it has 2.00 s of", "the second; --partial takes the first"),
    ("joined.w64", 0, "truncated: it has 2.00 s of", "the second; --partial takes the first"),
    ("joined.mp3", 2, "", "a warning"),
    ("joined.m4a", 1, "", "the second, and a warning"),
    ("joined.mka", 2, "", "a warning; of three the last"),
]


@pytest.mark.parametrize(("name", "heard_of", "words", "given_up"), OTHERS)
def test_other_formats_come_out_as_ffmpeg_has_them(tmp_path, name, heard_of, words, given_up):
    (tmp_path / name).write_bytes(other_formats(tmp_path)[name])
    if not heard_of:
        with pytest.raises(AudioError, match=words):
            read(tmp_path / name, RATE)
        return
    sound, warnings = heard(tmp_path / name)
    assert words in " ".join(warnings) and len(warnings) == bool(words)
    slack = 0.2 if name.endswith(("mp3", "ogg")) else 0.05  # the encoder's delay, or a page
    assert heard_of - 0.05 < len(sound) / len(SAMPLES) < heard_of + slack
    if not name.endswith(("mp3", "ogg")):
        assert np.array_equal(sound[: len(SAMPLES) - 1], SAMPLES[:-1] / np.float32(32768))


@pytest.mark.parametrize(
    "codec", ["pcm_mulaw", "pcm_alaw", "adpcm_ima_wav", "adpcm_ms", "mp2", "libmp3lame", "ac3", "flac", "wmav2"]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_coded_sound_in_a_whole_wav_has_no_warning(tmp_path, codec, channels):
    rate = 44_100
    sound = np.stack([melody(rate)] * channels, axis=1)
    path = encode(tmp_path / "a.wav", [sound], rate, codec, sample_format="s16" if codec == "flac" else None)
    source = Source(path, rate)
    length = sum(block.shape[0] for block in source.blocks())
    assert source.warnings == []
    assert len(sound) - 2048 <= length < len(sound) + 4096


def test_a_codec_whose_tag_is_no_text_has_a_sentence(tmp_path):
    """AAC has the number 255 in a WAV, where FFmpeg writes it and cannot read it."""
    path = encode(tmp_path / "a.wav", [melody(RATE)], RATE, "aac")
    with pytest.raises(AudioError, match="damaged"):
        read(path, RATE)


@pytest.mark.parametrize("name", ["RF64", "WAV"])
@pytest.mark.parametrize("tail", [b"", LIST])
def test_wav_files_joined_end_to_end_are_all_there(tmp_path, name, tail):
    one, two = (written(tmp_path / "1", name, each) for each in (SAMPLES, SAMPLES[::-1]))
    (tmp_path / "a.wav").write_bytes(one + tail + two)
    sound, warnings = heard(tmp_path / "a.wav")
    assert same(sound, SAMPLES, SAMPLES[::-1])
    assert warnings == ["it is 2 recordings joined end to end: all are read"]
    assert read_header(tmp_path / "a.wav")[0] == pytest.approx(4, abs=0.1)


def test_joined_rates(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav() + wav(rate=2 * RATE))
    sound, warnings = heard(tmp_path / "a.wav")
    assert len(sound) == len(SAMPLES) + (len(SAMPLES) + 1) // 2
    assert any("16000 Hz" in warning for warning in warnings)


def test_a_recording_joined_to_a_damaged_header_says_so(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav() + wav().replace(b"data", b"\0\0\0\0", 1))
    with pytest.raises(AudioError, match="not a sound file"):
        read(tmp_path / "a.wav", RATE)


def test_an_mp3_without_a_length_is_read_to_its_end_tags_or_not(tmp_path):
    sound = melody(44_100, 3.0)
    plain = encode(
        tmp_path / "a.mp3", [sound], 44_100, "libmp3lame", options={"write_xing": "0", "id3v2_version": "0"}
    ).read_bytes()
    noise = np.random.default_rng(0).bytes(20_000)
    tag = b"ID3\3\0\0" + bytes([0, 1, 0x1C, 0x20]) + noise  # a cover, say: 20,000 bytes
    for name, content in {
        "plain.mp3": plain,
        "joined.mp3": plain * 2,
        "tags.mp3": tag + plain + b"TAG" + b" " * 125 + tag + plain + b"TAG" + b" " * 125,
    }.items():
        (tmp_path / name).write_bytes(content)
        length = read(tmp_path / name, 44_100).shape[0] / 44_100
        times = 1 if name == "plain.mp3" else 2
        assert 3.0 * times <= length < 3.1 * times, name


def test_a_variable_mp3_is_not_cut_where_its_bitrate_would_end_it(tmp_path):
    sound = np.concatenate((melody(44_100, 2.0), np.zeros(44_100 * 4, np.float32), melody(44_100, 2.0)))
    options = {"write_xing": "0", "id3v2_version": "0"}
    path = encode(tmp_path / "a.mp3", [sound], 44_100, "libmp3lame", bit_rate=0, options=options)
    assert 8.0 <= read(path, 44_100).shape[0] / 44_100 < 8.1


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au", "a.flac", "a.ogg", "a.w64", "a.caf", "a.voc", "a.nist"])
def test_truncated_files_fail_or_are_separated_as_far_as_they_go(tmp_path, name):
    whole = np.tile(SAMPLES, 10)
    content = written(tmp_path / name, name[2:].upper(), whole)
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(AudioError, match="truncated") as caught:
        read(tmp_path / name, RATE)
    assert str(tmp_path / name) in str(caught.value)
    sound, warnings = heard(tmp_path / name, partial=True)
    assert 0.3 < len(sound) / len(whole) < 0.8
    assert "truncated" in " ".join(warnings)
    if name[2:] not in ("ogg", "flac"):
        assert same(sound, whole[: len(sound)])


def test_a_tenth_of_a_second_is_the_border_of_truncated(tmp_path):
    for excess, fails in ((RATE * 2 // 10, False), (RATE * 2 // 10 + 2, True)):
        (tmp_path / "a.wav").write_bytes(wav(BYTES + excess))
        if fails:
            with pytest.raises(AudioError, match="truncated"):
                read(tmp_path / "a.wav", RATE)
        else:
            assert same(read(tmp_path / "a.wav", RATE).numpy(), SAMPLES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (wav(rate=470_000_000), "470000000 Hz"),
        (wav(rate=10_000_000), "10000000 Hz"),
        (wav(rate=768_001), "768001 Hz"),
        (wav(rate=999), "999 Hz"),
        (wav(rate=0), "not a sound file"),
        (wav(channels=65), "65 channels"),
        (wav(channels=1000), "cannot decode"),
        (wav(content=b""), "no samples"),
        (wav(content=b"", tail=LIST), "no samples"),
        (wav()[:44], "truncated"),
        (wav()[:30], "not a sound file"),
        (b"RIFF", "not a sound file"),
        (b"\0", "not a sound file"),
        (b"", "empty"),
        (b"\xff\xfb", "not a sound file"),
        (b"fLaC", "not a sound file"),
        (b"OggS\0\2", "not a sound file|truncated"),
        (b"ID3\3\0\0\x7f\x7f\x7f\x7f", "not a sound file"),
        (b"\x1a\x45\xdf\xa3\0\0", "not a sound file|truncated"),
        (b"\0\0\0\1ftyp\xff\xff\xff\xff\xff\xff\xff\xff", "not a sound file|truncated"),
    ],
)
def test_absurd_headers_and_scraps_have_a_sentence(tmp_path, content, words):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=words) as caught:
        read(tmp_path / "a.wav", RATE)
    assert "\n" not in str(caught.value)
    assert 0 <= read_header(tmp_path / "a.wav")[0] < 1e6


def test_legal_rates_and_channels_are_read(tmp_path):
    for rate, channels in ((1000, 1), (768_000, 1), (RATE, 64)):
        (tmp_path / "a.wav").write_bytes(wav(rate=rate, channels=channels, content=bytes(1280 * channels)))
        assert read(tmp_path / "a.wav", RATE).shape == (-(-640 * 2 * RATE // (2 * rate)),)


def test_one_sample_is_a_recording(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(content=b"\0\x40"))
    assert read(tmp_path / "a.wav", RATE).tolist() == [0.5]


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    for path in (tmp_path / "a.wav", tmp_path):
        with pytest.raises(AudioError, match="not a regular file"):
            Source(path, RATE)
    assert read_header(tmp_path / "a.wav")[0] == 0


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac"])
def test_a_file_that_grows_or_shrinks_while_it_is_read(tmp_path, name):
    path = tmp_path / name
    content = written(path, name[2:].upper(), np.tile(SAMPLES, 20))
    whole = read(path, RATE).shape
    source = Source(path, RATE)
    blocks = source.blocks()
    first = next(blocks)
    with path.open("ab") as file:
        file.write(content)
    assert first.shape[0] + sum(block.shape[0] for block in blocks) == whole[0]
    path.write_bytes(content)
    source = Source(path, RATE)
    blocks = source.blocks()
    next(blocks)
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(AudioError, match="became shorter"):
        list(blocks)


def test_a_replaced_file_is_read_as_it_was(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(content=np.tile(SAMPLES, 20).tobytes()))
    source = Source(path, RATE)
    blocks = source.blocks()
    first = next(blocks)
    (tmp_path / "b.wav").write_bytes(wav())
    (tmp_path / "b.wav").replace(path)
    assert first.shape[0] + sum(block.shape[0] for block in blocks) == 20 * len(SAMPLES)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_no_text(tmp_path):
    for end in (b".wav", b".m4a"):
        encode(tmp_path / "a.m4a", [melody(44_100)], 44_100, "alac")
        content = wav() if end == b".wav" else (tmp_path / "a.m4a").read_bytes()
        path = tmp_path / os.fsdecode(b"\xff\xfe" + end)
        path.write_bytes(content)
        assert read(path, RATE).shape[0] > RATE


def test_separate_says_what_it_did_not_believe_and_takes_parts_when_told(tmp_path, mini_weights):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    os.mkfifo(folder / "pipe.wav")
    (folder / "zero.wav").write_bytes(wav(0, 0))
    (folder / "cut.wav").write_bytes(wav()[: BYTES // 2])
    (folder / "fast.wav").write_bytes(wav(rate=470_000_000))
    done = []
    thread = threading.Thread(
        target=lambda: done.append(tisdiss("separate", folder, out, "--weights", mini_weights, status=1)), daemon=True
    )
    thread.start()
    thread.join(60)
    assert done, "it hangs"
    lines = records(out)
    assert {name: line["status"] for name, line in lines.items()} == {
        "zero.wav": "done",
        "cut.wav": "failed",
        "fast.wav": "failed",
    }
    assert "header has no length" in lines["zero.wav"]["warnings"][0]
    assert "header has no length" in " ".join(done[0].stdout.split())
    assert "--partial" in lines["cut.wav"]["reason"]
    (folder / "fast.wav").unlink()
    again = tisdiss("separate", folder, out, "--weights", mini_weights, "--partial")
    assert "1 separated, 0 failed, 1 done before" in again.stdout
    assert "truncated" in records(out)["cut.wav"]["warnings"][0]
    assert soundfile.info(out / "cut_s1.wav").frames == (BYTES // 2 - 44) // 2
