"""Every audio track of every container, beside whatever else it holds: sample by sample what FFmpeg decodes."""

import shutil
import subprocess

import av
import numpy as np
import pytest
from av.audio.plane import AudioPlane

from tests.containers import encode, melody
from tisdiss_cli.audio.decode import Decoder, _in_range, _samples
from tisdiss_cli.audio.header import find_parts
from tisdiss_cli.audio.read import Source

RATE = 48_000
CHANNELS = (1, 2, 3, 6, 7, 8, 9, 16, 24, 64)
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg command is not installed")


def decoded(path, track: int = 1) -> tuple[np.ndarray, Decoder]:
    decoder = Decoder(path, *find_parts(path), track=track)
    sound = np.concatenate([block for _, block in decoder.blocks()])
    decoder.close()
    return sound, decoder


def ffmpeg(*arguments) -> bytes:
    return subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], check=True, capture_output=True).stdout


def by_ffmpeg(path, track: int, channels: int = 1) -> np.ndarray:
    sound = np.frombuffer(ffmpeg("-i", path, "-map", f"0:a:{track - 1}", "-f", "f32le", "-"), np.float32)
    return sound.reshape(-1, channels)


def check(path, track: int, channels: int = 1, padding: int = 0) -> None:
    """All samples are FFmpeg's; before version 9 it keeps padding in the last packet of an mp4."""
    ours, decoder = decoded(path, track)
    theirs = by_ffmpeg(path, track, channels)
    assert (decoder.lost, decoder.gaps) == ([], [])
    assert abs(len(theirs) - len(ours)) <= padding
    length = min(len(ours), len(theirs))
    assert length > RATE and np.abs(ours[:length] - theirs[:length]).max() < 1e-6
    if len(ours) != len(theirs):  # by the header, to the sample
        assert min(len(ours), len(theirs)) == round(decoder.seconds * decoder.samplerate)


@pytest.mark.parametrize("streams", ["a", "av", "va", "ac", "ca", "aa", "vaa", "ava", "aav", "avc"])
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "alac"), ("a.mov", "pcm_s16le"), ("a.mkv", "flac")])
def test_a_track_is_whole_beside_video_covers_chapters_and_others(tmp_path, name, codec, streams):
    if name == "a.mkv":
        streams = streams.replace("c", "v")  # its covers are attachments
    sounds = [melody(RATE, seed=seed) for seed in range(streams.count("a"))]
    path = encode(tmp_path / name, sounds, RATE, codec, streams=streams, chapters=len(sounds) == 1)
    for track, sound in enumerate(sounds, 1):
        heard, decoder = decoded(path, track)
        assert heard.shape == (len(sound), 1)
        assert np.abs(heard[:, 0] - sound).max() <= 2**-15
        assert (decoder.lost, decoder.gaps) == ([], [])


def test_what_a_decoder_keeps_back_is_taken_whatever_its_track_is_beside(tmp_path):
    """WMA's decoder holds a packet back until its end."""
    alone, _ = decoded(encode(tmp_path / "a.wma", [melody(RATE)], RATE, "wmav2", format="asf"))
    for streams in ("av", "va", "vav"):
        path = encode(tmp_path / "a.wmv", [melody(RATE)], RATE, "wmav2", format="asf", streams=streams)
        assert np.array_equal(decoded(path)[0], alone), streams


def test_a_track_that_appears_on_the_way_does_not_end_it(tmp_path):
    """As by a wrong bit in a packet of MPEG-TS; PyAV 18 wants to end that track too, and does not have it."""
    path = encode(tmp_path / "a.ts", [melody(RATE)], RATE, "mp2")
    whole, _ = decoded(path)
    content = bytearray(path.read_bytes())
    begins = [at for at in range(0, len(content), 188) if content[at + 1] == 0x41]
    content[begins[len(begins) // 2] + 1] = 0x42
    path.write_bytes(content)
    heard, _ = decoded(path)
    assert len(whole) / 2 < len(heard) < len(whole)
    assert np.array_equal(heard[: len(whole) // 3], whole[: len(whole) // 3])


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "order", "codec"),
    [
        ("a.m4a", "ac", "aac"),
        ("a.m4a", "ca", "alac"),
        ("a.m4a", "aa", "aac"),
        ("a.m4b", "am", "aac"),
        ("a.m4b", "acm", "aac"),
        ("a.mp4", "av", "aac"),
        ("a.mp4", "vam", "aac"),
        ("a.mp4", "asv", "aac"),
        ("a.mp4", "svaa", "ac3"),
        ("a.mov", "av", "pcm_s24le"),
        ("a.mkv", "av", "libopus"),
        ("a.mkv", "svaa", "ac3"),
        ("a.mkv", "asm", "libmp3lame"),
        ("a.mka", "at", "libopus"),
        ("a.mka", "at", "libvorbis"),
        ("a.webm", "av", "libopus"),
        ("a.webm", "vam", "libvorbis"),
        ("a.wma", "ac", "wmav2"),
        ("a.wmv", "va", "wmav2"),
        ("a.avi", "va", "mp2"),
        ("a.ts", "va", "mp2"),
        ("a.flv", "av", "aac"),
        ("a.mp3", "ac", "libmp3lame"),
        ("a.flac", "ac", "flac"),
        ("a.opus", "a", "libopus"),
    ],
)
def test_a_track_of_the_ffmpeg_command(tmp_path, name, order, codec):
    """Order: a audio, v video, c cover, s subtitles; and m chapters, t an attachment."""
    ffmpeg("-f", "lavfi", "-i", "testsrc=duration=2:size=64x64:rate=10", "-frames:v", "1", tmp_path / "cover.png")
    (tmp_path / "words.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\nwords\n\n")
    (tmp_path / "chapters").write_text(
        ";FFMETADATA1\n" + "".join(f"[CHAPTER]\nTIMEBASE=1/1\nSTART={at}\nEND={at + 1}\ntitle={at}\n" for at in (0, 1))
    )
    inputs, options = [], ["-c:a", codec]
    for number, kind in enumerate(order.replace("t", "")):
        encode(tmp_path / f"{number}.wav", [melody(RATE, seed=number)], RATE, "pcm_s16le")
        pictures = ["-f", "lavfi", "-i", "testsrc=duration=2:size=64x64:rate=10"]
        names = {"a": f"{number}.wav", "c": "cover.png", "s": "words.srt", "m": "chapters"}
        inputs += pictures if kind == "v" else ["-i", tmp_path / names[kind]]
        options += ["-map_chapters" if kind == "m" else "-map", f"{number}"]
    if "c" in order:
        options += ["-c:v", "mjpeg" if name.endswith("wma") else "copy", "-disposition:v", "attached_pic"]
    if "v" in order and name.endswith("webm"):
        options += ["-c:v", "libvpx"]
    if "s" in order:
        options += ["-c:s", "mov_text" if name.endswith("mp4") else "srt"]
    if "t" in order:
        options += ["-attach", tmp_path / "cover.png", "-metadata:s:t", "mimetype=image/png"]
    ffmpeg(*inputs, *options, tmp_path / name)
    for track in range(1, order.count("a") + 1):
        check(tmp_path / name, track, padding=1535 if name[2:] in ("m4a", "m4b", "mp4", "mov") else 0)


@pytest.mark.parametrize(
    ("name", "codec", "format", "bits"),
    [
        ("a.mka", "pcm_u8", "u8", 8),
        ("a.mka", "pcm_s16le", "s16", 16),
        ("a.mka", "pcm_s24le", "s32", 24),
        ("a.mka", "pcm_s32le", "s32", 32),
        ("a.wav", "pcm_s64le", "s64", 64),
        ("a.mka", "pcm_f32le", "flt", 25),
        ("a.mka", "pcm_f64le", "dbl", 25),
        ("a.wv", "wavpack", "u8p", 8),
        ("a.wv", "wavpack", "s16p", 16),
        ("a.wv", "wavpack", "s32p", 32),
        ("a.wv", "wavpack", "fltp", 25),
    ],
)
def test_up_to_64_channels_planar_and_packed(tmp_path, name, codec, format, bits):
    for channels in CHANNELS:
        sound = np.random.default_rng(channels).uniform(-0.9, 0.9, (2345, channels)).astype(np.float32)
        heard, _ = decoded(encode(tmp_path / name, [sound], RATE, codec, sample_format=format))
        assert heard.dtype == np.float32 and heard.shape == sound.shape
        assert np.abs(heard.astype(np.float64) - sound).max() <= max(2.0 ** (1 - bits), 2.0**-24), channels


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "codec", "layout", "channels"),
    [
        ("a.m4a", "aac", "7.1", 8),
        ("a.m4a", "aac", "5.1", 6),
        ("a.mka", "libopus", "7.1", 8),
        ("a.mka", "libvorbis", "7.1", 8),
        ("a.flac", "flac", "7.1", 8),
        ("a.m4a", "alac", "7.1(wide)", 8),
        ("a.mka", "ac3", "5.1", 6),
    ],
)
def test_surround_of_the_ffmpeg_command(tmp_path, name, codec, layout, channels):
    sound = np.stack([melody(RATE, seed=seed) for seed in range(channels)], axis=1)
    raw = tmp_path / "sound"
    raw.write_bytes(sound.tobytes())
    given = ["-f", "f32le", "-ar", RATE, "-ac", channels, "-channel_layout", layout, "-i", raw]
    ffmpeg(*map(str, given), "-c:a", codec, "-b:a", "512k", tmp_path / name)
    check(tmp_path / name, 1, channels, padding=1023 if codec == "aac" else 0)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", ["u8", "s16", "s32", "s64", "flt", "dbl"])
def test_frames_of_every_type_of_sample(kind, planar):
    """Also of those that no encoder at hand makes."""
    random = np.random.default_rng(0)
    for channels in CHANNELS:
        shape = (channels, 64) if planar else (1, 64 * channels)
        if kind in ("flt", "dbl"):
            values = random.uniform(-1, 1, shape).astype(np.float32 if kind == "flt" else np.float64)
            expected = values.astype(np.float64)
        else:
            bits = int(kind[1:])
            zero = 128 if kind == "u8" else 0
            dtype = np.dtype(f"{'u' if kind == 'u8' else 'i'}{bits // 8}")
            values = random.integers(zero - 2 ** (bits - 1), zero + 2 ** (bits - 1), shape, dtype)
            expected = (values.astype(np.float64) - zero) / 2.0 ** (bits - 1)
        frame = av.AudioFrame(f"{kind}p" if planar else kind, f"{channels} channels", 64)
        for index, row in enumerate(values):
            AudioPlane(frame, index).update(row)
        samples = _in_range(_samples(frame))
        expected = expected.T if planar else expected.reshape(64, channels)
        assert samples.dtype == np.float32 and samples.flags.c_contiguous
        assert np.abs(samples - expected).max() <= 2.0**-25


def test_metadata_that_is_no_utf_8_does_not_matter(tmp_path):
    path = encode(tmp_path / "a.mka", [melody(RATE)], RATE, "flac", metadata={"title": "TITLE-TO-SPOIL"})
    path.write_bytes(path.read_bytes().replace(b"TITLE-TO-SPOIL", b"\xff\xfe\xe4 TITLE \xff\xff\xff\xff"))
    assert len(decoded(path)[0]) == 2 * RATE


@pytest.mark.parametrize(
    ("name", "codec", "format", "subtype"),
    [
        ("a.m4a", "alac", "s32p", "PCM_24"),
        ("a.m4a", "alac", "s16p", "PCM_16"),
        ("a.mov", "pcm_s24le", None, "PCM_24"),
        ("a.mka", "pcm_s24le", None, "PCM_24"),
        ("a.mka", "flac", "s32", "PCM_24"),
        ("a.flac", "flac", "s32", "PCM_24"),
        ("a.tta", "tta", "s32", "PCM_24"),
        ("a.wav", "pcm_s24le", None, "PCM_24"),
        ("a.wav", "pcm_s32le", None, "PCM_32"),
        ("a.mka", "pcm_f32le", None, "FLOAT"),
        ("a.wav", "pcm_f64le", None, "DOUBLE"),
        ("a.wav", "pcm_u8", None, "PCM_U8"),
        ("a.wav", "pcm_mulaw", None, "PCM_16"),
        ("a.m4a", "aac", None, "AAC"),
    ],
)
def test_bits_of_the_samples(tmp_path, name, codec, format, subtype):
    path = encode(tmp_path / name, [melody(RATE, 0.5)], RATE, codec, sample_format=format)
    assert decoded(path)[1].subtype == subtype


def test_silence_of_32_bit_is_32_bit(tmp_path):
    path = encode(tmp_path / "a.wav", [np.zeros(RATE, np.float32)], RATE, "pcm_s32le")
    assert decoded(path)[1].subtype == "PCM_32"


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "aac"),
        ("a.mov", "pcm_s16le"),
        ("a.mkv", "flac"),
        ("a.webm", "libopus"),
        ("a.ts", "mp2"),
        ("a.flv", "aac"),
    ],
)
@pytest.mark.parametrize("later", [0, 4])
def test_sound_that_begins_after_its_video_says_so(tmp_path, name, codec, later):
    encode(tmp_path / "a.wav", [melody(RATE)], RATE, "pcm_s16le")
    video = ["-f", "lavfi", "-i", "testsrc=duration=6:size=64x64:rate=10"]
    options = ["-map", "0", "-map", "1", "-c:a", codec] + ["-c:v", "libvpx"] * name.endswith("webm")
    ffmpeg(*video, "-itsoffset", str(later), "-i", tmp_path / "a.wav", *options, tmp_path / name)
    source = Source(tmp_path / name, RATE)
    length = sum(block.shape[0] for block in source.blocks())
    assert source.start == pytest.approx(later, abs=0.05)
    assert [f"begins {source.start:.2f} s after" in warning for warning in source.warnings] == [True] * bool(later)
    assert length == pytest.approx(2 * RATE, abs=3000)
