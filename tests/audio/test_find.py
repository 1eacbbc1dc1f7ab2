"""Reading, resampling and writing sound files."""

import os
import socket

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from tests.folders import bad_files
from tisdiss_cli.audio.find import find, list_folder
from tisdiss_cli.audio.read import AudioError, Source, read
from tisdiss_cli.audio.resample import Resampler


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rates", [(44100, 8000), (48000, 8000), (8000, 16000), (16000, 8000), (8000, 44100), (7, 5)])
@pytest.mark.parametrize("block", [300, 4096])
def test_blocks_resample_as_the_whole(rates, block):
    x = torch.randn(5011)
    resampler = Resampler(*rates)
    joined = torch.cat([resampler.push(part) for part in x.split(block)] + [resampler.finish()])
    whole = torchaudio.functional.resample(x, *rates, 64, 0.9475937167399596, "sinc_interp_kaiser", 14.769656459379492)
    torch.testing.assert_close(joined, whole, rtol=0, atol=1e-4)


def test_no_samples_resample_to_none():
    assert Resampler(44100, 8000).finish().shape == (0,)


ODD = [(44_101, 8000), (37_123, 8000), (7999, 8000), (8001, 8000), (8000, 8001), (1001, 8000), (8000, 47_999)]


@pytest.mark.parametrize("rates", ODD)
def test_odd_rates_keep_every_sample_where_it_belongs(rates):
    hertz, (from_rate, to_rate) = 377.3, rates
    resampler = Resampler(*rates)
    x = torch.from_numpy(tone(from_rate, 10.0, hertz))
    y = torch.cat([resampler.push(part) for part in x.split(5000)] + [resampler.finish()]).double()
    assert y.shape == (to_rate * 10,)
    wanted = 0.5 * torch.sin(2 * np.pi * hertz * torch.arange(to_rate * 10, dtype=torch.float64) / to_rate)
    inner = slice(to_rate, -to_rate)  # one part in a million of the pitch would be 1e-2 after ten seconds
    assert float((y - wanted)[inner].abs().max()) < 1e-4


@pytest.mark.parametrize("rates", [*ODD, (767_999, 8000), (8000, 767_999), (768_000, 1001), (8000, 7993), (1009, 1013)])
def test_the_tables_are_small_for_any_rates(rates):
    resampler = Resampler(*rates)
    resampler.push(torch.randn(10))
    tables = [value for value in vars(resampler).values() if isinstance(value, torch.Tensor)]
    if resampler.whole_periods:
        tables.append(resampler.transform.kernel)
    assert sum(table.numel() for table in tables) < 1 << 19


@pytest.mark.parametrize("rates", [(44_101, 8000), (8000, 8001)])
def test_a_whole_as_noise_in_blocks_of_any_size(rates):
    x = torch.randn(5011)
    whole = Resampler(*rates)
    at_once = torch.cat((whole.push(x), whole.finish()))
    for block in (1, 300, 4096):
        resampler = Resampler(*rates)
        parts = [resampler.push(part) for part in x.split(block)]
        torch.testing.assert_close(torch.cat([*parts, resampler.finish()]), at_once, rtol=0, atol=1e-5)


def test_a_tone_below_the_cutoff_survives_and_one_above_vanishes():
    for hertz, low, high in ((1000, 0.49, 0.51), (3500, 0.49, 0.51), (4500, 0.0, 1e-3), (12_000, 0.0, 1e-3)):
        resampler = Resampler(44_100, 8000)
        y = torch.cat((resampler.push(torch.from_numpy(tone(44_100, 1.0, hertz))), resampler.finish()))
        assert low <= y[1000:7000].abs().max() <= high


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {"subtype": "PCM_U8"}),
        ("a.wav", {"subtype": "PCM_24"}),
        ("a.wav", {"subtype": "PCM_32"}),
        ("a.wav", {"subtype": "DOUBLE"}),
        ("a.wav", {"subtype": "ULAW"}),
        ("a.flac", {}),
        ("a.ogg", {}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {}),
        ("a.aiff", {}),
        ("a.W64", {"format": "W64"}),
    ],
)
def test_any_format_any_rate_any_channels(tmp_path, name, options):
    stereo = np.stack((tone(48_000), np.zeros(48_000, np.float32)), axis=1)
    soundfile.write(tmp_path / name, stereo, 48_000, **options)
    assert find(tmp_path) == [tmp_path / name]
    y = read(tmp_path / name, 8000)
    assert abs(y.shape[0] - 8000) <= 22  # FFmpeg ends a Vorbis of a second up to a packet early or late
    middle = torch.from_numpy(0.5 * tone(8000))[1000:7000]
    assert float((y[1000:7000] - middle).square().mean().sqrt()) < 0.05


def test_bad_files_say_what_is_wrong_with_them(tmp_path):
    for name, word in bad_files(tmp_path).items():
        with pytest.raises(AudioError, match=word) as caught:
            read(tmp_path / name, 8000)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_streamed_wav_without_a_length_is_no_truncated_one(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(8000), 8000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(content)
    assert read(tmp_path / "a.wav", 8000).shape == (8000,)


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in (".hidden/a.wav", ".b.wav", "sub/c.wav", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, tone(8000), 8000, format="WAV")
    (tmp_path / "folder.wav").mkdir()
    assert find(tmp_path) == [tmp_path / "sub/c.wav"]


def test_linked_folders_are_entered_once_and_only_files_are_listed(tmp_path):
    for name in ("in/b/x.wav", "in/a/y.wav", "outside/z.wav", "outside/deep/w.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, tone(8000), 8000)
    root = tmp_path / "in"
    (root / "a/loop").symlink_to(root)
    (root / "a/b_again").symlink_to(root / "b")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "link2").symlink_to(tmp_path / "outside")
    (tmp_path / "outside/back").symlink_to(root / "a")
    (root / "linked.wav").symlink_to(tmp_path / "outside/z.wav")
    (root / "gone.wav").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket.wav"))
        found = [path.relative_to(root).as_posix() for path in find(root)]
    assert found == ["a/y.wav", "b/x.wav", "gone.wav", "link/deep/w.wav", "link/z.wav", "linked.wav"]


def test_what_is_sound_and_yet_left_out_is_counted(tmp_path):
    for name in ("a.m4p", "sub/b.M4P", "c.mid", "d.txt", "e.wav", ".f.mid", "noext"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_folder(tmp_path).left_out == {".m4p": 2, ".mid": 1}


def test_a_source_knows_its_length_before_it_is_read(tmp_path):
    soundfile.write(tmp_path / "a.flac", tone(44_100, 0.5), 44_100)
    source = Source(tmp_path / "a.flac", 8000)
    assert (source.input_rate, source.seconds) == (44_100, 0.5)
