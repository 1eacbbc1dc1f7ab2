"""Recordings as phones, meetings and video have them: every container and codec, all of the sound, aligned."""

import shutil
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile
import torch

from tests.cli import ROOT, tisdiss
from tests.containers import encode, lag, melody, si_snr
from tests.folders import records
from tisdiss_cli.audio.find import find
from tisdiss_cli.audio.read import AudioError, Source, read, read_header

# name, codec, rate, how far codec and container may lengthen it (samples), least SI-SNR in dB
KINDS = [
    ("a.m4a", "aac", 44_100, 1024, 20),
    ("a.mp4", "aac", 48_000, 1024, 20),
    ("a.mov", "aac", 44_100, 1024, 20),
    ("a.m4a", "alac", 44_100, 0, 60),
    ("a.mov", "pcm_s16be", 44_100, 0, 60),
    ("a.mov", "pcm_f32le", 44_100, 0, 60),
    ("a.mov", "pcm_s24le", 44_100, 0, 60),
    ("a.mka", "flac", 44_100, 0, 60),
    ("a.mka", "pcm_u8", 44_100, 0, 25),
    ("a.webm", "libopus", 48_000, 0, 20),
    ("a.mkv", "libopus", 48_000, 0, 20),
    ("a.mkv", "ac3", 48_000, 1536, 20),
    ("a.mp3", "libmp3lame", 44_100, 0, 20),
    ("a.mp3", "libmp3lame", 8000, 0, 20),
    ("a.wv", "wavpack", 44_100, 0, 60),
    ("a.tta", "tta", 44_100, 0, 60),
]


def has_encoder(codec: str) -> bool:
    try:
        av.Codec(codec, "w")
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("name", "codec", "rate", "longer", "least"), KINDS)
def test_every_codec_gives_the_sound_that_went_in(tmp_path, name, codec, rate, longer, least):
    if not has_encoder(codec):
        pytest.skip(f"this FFmpeg does not encode {codec}")
    sound = melody(rate)
    path = encode(tmp_path / name, [sound], rate, codec, bit_rate=128_000)
    source = Source(path, rate)
    heard = torch.cat(list(source.blocks())).numpy()
    assert source.input_rate == rate
    assert source.warnings == []
    assert 0 <= len(heard) - len(sound) <= longer
    assert lag(heard, sound) == 0
    assert si_snr(heard, sound) > least
    assert np.square(heard).sum() == pytest.approx(
        np.square(sound).sum(), rel=0.12
    )  # SI-SNR knows no level; LAME takes 0.45 dB off
    assert find(tmp_path) == [path]


@pytest.mark.parametrize(
    ("name", "format", "codec", "late"),
    [
        ("a.aac", "adts", "aac", 1024),
        ("a.ts", "mpegts", "aac", 1024),
        ("a.wma", "asf", "wmav2", 2048),
        ("a.mp2", "mp2", "mp2", 481),
        ("a.avi", "avi", "mp2", 481),
    ],
)
def test_containers_that_cannot_tell_the_priming_samples_keep_all_else(tmp_path, name, format, codec, late):
    sound = melody(44_100)
    heard = read(encode(tmp_path / name, [sound], 44_100, codec, format=format), 44_100).numpy()
    shift = lag(heard, sound)  # FFmpeg takes a frame too many off what it gave to WMA
    assert (-late if codec == "wmav2" else 0) <= shift <= late
    assert len(heard) >= len(sound) - 2048
    assert si_snr(heard[max(0, shift) :], sound[max(0, -shift) :]) > 15


@pytest.mark.skipif(not has_encoder("libopencore_amrnb"), reason="this FFmpeg does not encode AMR")
@pytest.mark.parametrize("name", ["a.amr", "a.3gp"])
def test_speech_of_old_phones(tmp_path, name):
    sound = melody(8000)
    heard = read(encode(tmp_path / name, [sound], 8000, "libopencore_amrnb", bit_rate=12_200), 8000).numpy()
    assert 0 <= len(heard) - len(sound) <= 160
    shift = lag(heard, sound)  # by the codec's look-ahead, of which 3gp has more taken off
    assert abs(shift) <= 50
    assert si_snr(heard[max(0, shift) :], sound[max(0, -shift) :]) > 5


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="compares with the ffmpeg command, which is not installed")
@pytest.mark.parametrize("cut", [(), ("-ss", "0.7", "-i")])
@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.mp3", "libmp3lame"), ("a.webm", "libopus")])
def test_frames_are_those_of_ffmpeg_edit_lists_too(tmp_path, name, codec, cut):
    path = encode(tmp_path / name, [melody(48_000)], 48_000, codec)
    if cut:
        subprocess.run(["ffmpeg", "-v", "error", *cut, path, "-c", "copy", tmp_path / f"cut_{name}"], check=True)
        path = tmp_path / f"cut_{name}"
    command = ["ffmpeg", "-v", "error", "-i", path, "-map", "0:a:0", "-f", "f32le", "-"]
    theirs = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.float32)
    source = Source(path, 48_000)
    ours = torch.cat(list(source.blocks())).numpy()
    # An edit list ends within the last packet: FFmpeg before version 9, here or there, gives all of that packet.
    whole = [round(source.seconds * 48_000), len(theirs)] if codec == "aac" else [len(theirs)]
    assert len(ours) in whole and len(theirs) - whole[0] < 1024
    length = min(len(ours), len(theirs))
    assert np.abs(ours[:length] - theirs[:length]).max() < 1e-4


def test_stereo_is_averaged_whatever_the_layout_of_the_samples(tmp_path):
    left, right = melody(44_100), melody(44_100, seed=1)
    stereo = np.stack((left, right), axis=1)
    for name, codec in (("a.m4a", "alac"), ("a.mov", "pcm_s16le"), ("a.mka", "flac"), ("a.wv", "wavpack")):
        heard = read(encode(tmp_path / name, [stereo], 44_100, codec), 44_100).numpy()
        assert np.abs(heard - stereo.mean(axis=1)).max() < 2e-4, name


def test_the_first_audio_track_of_a_video_or_the_one_asked_for(tmp_path, mini_weights):
    first, second = melody(48_000), melody(48_000, seed=1)
    path = encode(tmp_path / "film.mp4", [first, second], 48_000, "aac", streams="vaa")
    for track, sound in ((None, first), (1, first), (2, second)):
        source = Source(path, 48_000, track=track)
        assert si_snr(torch.cat(list(source.blocks())).numpy(), sound) > 20
    with pytest.raises(AudioError, match="has 2 audio tracks: choose another --track"):
        Source(path, 8000, track=3)
    for track in (1, 2):
        tisdiss("separate", path, tmp_path / f"{track}", "--weights", mini_weights, "--track", track)
    voices = [soundfile.read(tmp_path / f"{track}/film_s1.wav")[0] for track in (1, 2)]
    assert np.abs(voices[0] - voices[1]).max() > 1e-3
    assert "--track" in tisdiss("separate", path, tmp_path / "0", "--track", 0, status=2).stderr
    # Another track is another input.
    assert "1 separated" in tisdiss("separate", path, tmp_path / "1", "--weights", mini_weights, "--track", 2).stdout


def test_what_cannot_be_decoded_has_its_sentence(tmp_path):
    encode(tmp_path / "silent.mp4", [], 8000, "aac", streams="v")
    whole = encode(tmp_path / "a.m4a", [melody(44_100)], 44_100, "aac").read_bytes()
    (tmp_path / "locked.m4a").write_bytes(whole.replace(b"mp4a", b"enca", 1))
    (tmp_path / "no_index.m4a").write_bytes(whole[: len(whole) // 2])
    flac = encode(tmp_path / "a.mka", [melody(44_100)], 44_100, "flac").read_bytes()
    (tmp_path / "unknown.mka").write_bytes(flac.replace(b"A_FLAC", b"A_XLAC"))
    (tmp_path / "text.m4a").write_text("not a sound file\n" * 20)
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:5,\na.m4a\n")
    (tmp_path / "script.mp4").write_text("ffconcat version 1.0\nfile 'a.m4a'\n")
    for name, words in {
        "silent.mp4": "has no audio track: only video",
        "locked.m4a": "is encrypted",
        "no_index.m4a": "damaged or truncated",
        "unknown.mka": "has audio of a codec that FFmpeg does not know",
        "text.m4a": "is not a sound file",
        "list.mp4": "is not a sound file",
        "script.mp4": "is not a sound file",
    }.items():
        with pytest.raises(AudioError, match=words) as caught:
            read(tmp_path / name, 8000)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert read_header(tmp_path / name)[0] == 0


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "aac", {"movflags": "faststart"}),
        ("a.mka", "flac", {}),
        ("a.wma", "wmav2", {}),
        ("a.mp3", "libmp3lame", {}),
        ("a.webm", "libopus", {}),
    ],
)
def test_cut_containers_fail_unless_what_is_there_is_wanted(tmp_path, name, codec, options):
    rate = 48_000
    whole = encode(tmp_path / name, [melody(rate)], rate, codec, options=options).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(AudioError, match="truncated"):
        read(tmp_path / name, rate)
    source = Source(tmp_path / name, rate, partial=True)
    heard = torch.cat(list(source.blocks())).numpy()
    assert 0.4 < len(heard) / rate < 1.6
    assert "truncated" in " ".join(source.warnings)
    skipped = 2048 if codec == "wmav2" else 0
    # The last packet may be cut as well.
    assert si_snr(heard[: len(heard) - 4096], melody(rate)[skipped:]) > 15


def test_a_damaged_container_is_not_passed_off_as_whole(tmp_path):
    for name, codec, rate in (("a.mka", "flac", 44_100), ("b.mp4", "aac", 44_100), ("c.mka", "libopus", 48_000)):
        content = bytearray(encode(tmp_path / name, [melody(rate)], rate, codec).read_bytes())
        middle = len(content) // 2
        content[middle : middle + 400] = np.random.default_rng(0).bytes(400)
        (tmp_path / name).write_bytes(content)
        try:
            source = Source(tmp_path / name, rate)
            length = sum(block.shape[0] for block in source.blocks())
            assert source.warnings or length >= 2 * rate
        except AudioError as error:
            assert "damaged or truncated" in str(error)


def test_another_rate_or_other_channels_on_the_way(tmp_path):
    first, second = melody(44_100), melody(22_050, seed=1)
    one = encode(tmp_path / "1.aac", [first], 44_100, "aac", format="adts").read_bytes()
    two = encode(tmp_path / "2.aac", [np.stack((second, second), 1)], 22_050, "aac", format="adts").read_bytes()
    (tmp_path / "both.aac").write_bytes(one + two)
    source = Source(tmp_path / "both.aac", 16_000)
    heard = torch.cat(list(source.blocks())).numpy()
    assert abs(len(heard) / 16_000 - 4.1) < 0.1
    assert abs(source.frames / 44_100 - len(heard) / 16_000) < 1e-3
    assert any("22050 Hz, 2 channels" in warning for warning in source.warnings)
    expected = melody(16_000, seed=1)
    rest = heard[32_000:]
    assert si_snr(rest[lag(rest, expected) :], expected) > 15


def test_twelve_containers_in_one_folder(tmp_path, mini_weights):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    sound = melody(48_000, 0.5)
    for number, (name, codec, *_) in enumerate(KINDS):
        if has_encoder(codec):
            encode(folder / f"{number}_{codec}_{name}", [sound], 48_000, codec)
    soundfile.write(folder / "w.wav", sound, 48_000)
    tisdiss("separate", folder, out, "--weights", mini_weights)
    lines = records(out)
    assert len(lines) == len(find(folder)) >= 12
    wanted = soundfile.read(out / "w_s1.wav")[0]
    for line in lines.values():
        assert (line["status"], line["warnings"]) == ("done", [])
        heard = soundfile.read(out / line["outputs"][0])[0]
        assert 0 <= len(heard) - len(wanted) <= 300


def test_a_long_container_takes_no_more_memory_than_a_short_one(tmp_path):
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from tisdiss_cli.audio.read import Source\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name in sys.argv[1:]:\n"
        "    for block in Source(Path(name), 8000).blocks(): pass\n"
        "    print(peak())\n"
    )
    short = encode(tmp_path / "short.m4a", [melody(8000, 20)], 8000, "alac")
    long = encode(tmp_path / "long.m4a", [np.tile(melody(8000, 20), 30)], 8000, "alac")
    command = [sys.executable, "-c", program, short, long]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before < 6 * 1024  # KiB; the samples alone would be 19 MB
