"""Several channels: averaged unless that would lose the sound, chosen, or each by itself."""

import json

import numpy as np
import pytest
import soundfile
import torch

from examples.channel_rule import mono, panned, reverberant, sides, spaced
from tests.cli import tisdiss
from tests.containers import encode, melody, si_snr
from tests.folders import RATE, records, separate, speech_like
from tisdiss_cli.audio.channels import Survey, parse_channels
from tisdiss_cli.audio.read import AudioError, Source, read
from tisdiss_cli.data.clips import read_clips
from tisdiss_cli.errors import UserError
from tisdiss_cli.separation.separator import Separator


def write(path, *channels: np.ndarray, rate: int = RATE, subtype: str = "FLOAT"):
    soundfile.write(path, np.stack(channels, axis=1), rate, subtype=subtype)
    return path


def voice(seed: int, seconds: float = 3.0) -> np.ndarray:
    return speech_like(seconds, seed)[:, 0]


def samples(path) -> np.ndarray:
    return soundfile.read(path)[0]


def told(path, **options) -> tuple[np.ndarray, list[str]]:
    source = Source(path, RATE, **options)
    return torch.cat(list(source.blocks())).numpy(), source.warnings


@pytest.mark.parametrize("residue_db", [None, -45, -90])
@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_an_inverted_channel_does_not_silence_the_file(tmp_path, residue_db, offset):
    x = voice(0)
    inverted = -x if residue_db is None else -x + voice(1) * 10 ** (residue_db / 20) * 2
    y, warnings = told(write(tmp_path / "a.wav", x + offset, inverted + offset))
    assert any(np.allclose(y, channel + offset, atol=1e-6) for channel in (x, inverted))
    (warning,) = warnings
    loss = float("".join(c for c in warning.split("loses")[1].split("dB")[0] if c.isdigit()))
    assert loss >= 120 if residue_db is None else abs(loss + residue_db) < 2
    assert ("more than" in warning) == (residue_db is None)


@pytest.mark.parametrize(
    ("gain", "expected"), [(-0.9, "instead"), (-0.95, "instead"), (-0.5, "partly"), (-0.2, ""), (0.0, ""), (1.0, "")]
)
def test_the_louder_channel_is_taken_beyond_20_db(tmp_path, gain, expected):
    """The average of x and g x is 20 log10(2 / (1 + g)) dB below x: 26 dB at -0.9, 12 dB at -0.5, 6 dB at 0."""
    x = voice(0)
    for channels in ((x, gain * x), (gain * x, x)):
        y, warnings = told(write(tmp_path / "a.wav", *channels))
        assert np.allclose(y, x if expected == "instead" else x * (1 + gain) / 2, atol=1e-6)
        assert len(warnings) == bool(expected) and all(expected in warning for warning in warnings)
        if expected:
            assert f"{20 * np.log10(2 / (1 + gain)):.0f} dB" in warnings[0]
            assert f"channel {1 + (channels[0] is not x)}" in warnings[0].replace("channels", "channel")


def test_more_than_two_channels(tmp_path):
    x, y = voice(0), voice(1)
    mixed, warnings = told(write(tmp_path / "a.wav", x, y, voice(2)))
    assert np.allclose(mixed, (x + y + voice(2)) / 3, atol=1e-6) and not warnings
    mixed, (warning,) = told(write(tmp_path / "b.wav", 0.5 * x, -x, 0.5 * x))
    assert np.array_equal(mixed, -x) and "channel 2" in warning


def test_silence_needs_no_warning(tmp_path):
    _, warnings = told(write(tmp_path / "a.wav", 0 * voice(0), 0 * voice(0)))
    assert not warnings


def test_the_decision_is_the_whole_files(tmp_path, monkeypatch):
    """However it is read; and a file whose end alone is inverted is averaged to its end."""
    x = voice(0, 4.0)
    path = write(tmp_path / "a.wav", x, np.concatenate((x[:100], -x[100:])))
    half = write(tmp_path / "b.wav", x, np.concatenate((x[:16000], -x[16000:])))
    found = []
    for block in (1 << 15, 777):
        monkeypatch.setattr("tisdiss_cli.audio.decode._BLOCK", block)
        found.append((told(path), told(half)))
    assert np.array_equal(found[0][0][0], found[1][0][0]) and np.array_equal(found[0][1][0], found[1][1][0])
    assert found[0][0][1] == found[1][0][1] != [] and found[0][1][1] == found[1][1][1] == []
    assert not found[0][1][0][16000:].any()


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.mka", "pcm_s16le")])
def test_whoever_decodes_the_file(tmp_path, name, codec):
    x = melody(RATE)
    _, (warning,) = told(encode(tmp_path / name, [np.stack((x, -x), axis=1)], RATE, codec))
    assert "instead" in warning
    y, warnings = told(tmp_path / name, selected=(2,))
    assert not warnings and si_snr(-y, x) > 15 and y[1000:9000] @ x[1000:9000] < 0


def test_recordings_joined_end_to_end_decide_by_their_own_channels(tmp_path):
    """One channel, and two that cancel; a channel that is wanted must be there in both."""
    x = melody(44_100)
    mono = encode(tmp_path / "one.mp3", [x], 44_100, "mp3").read_bytes()
    stereo = encode(tmp_path / "two.mp3", [np.stack((x, -x), axis=1)], 44_100, "mp3").read_bytes()
    for order in ((mono, stereo), (stereo, mono)):
        path = tmp_path / "joined.mp3"
        path.write_bytes(b"".join(order))
        y, warnings = told(path)
        assert any("instead" in warning for warning in warnings)
        for half in np.split(y[: len(y) // 2 * 2], 2):
            assert half.std() > 0.5 * x.std()
        with pytest.raises(AudioError, match="no channel 2"):
            told(path, selected=(2,))


def test_every_reader_takes_the_same(tmp_path, mini_weights, said):
    x = voice(0)
    path = write(tmp_path / "a.wav", x, -x)
    assert np.array_equal(read(path, RATE), x)
    assert np.array_equal(next(iter(read_clips("set", [path], RATE))), x)
    assert len(said) == 2 and all(str(path) in sentence and "dB" in sentence for sentence in said)
    separator = Separator.load(mini_weights, "cpu", "fp32")
    stereo = torch.from_numpy(np.stack((x, -x)))
    assert torch.equal(separator.separate(stereo, repeats=1), separator.separate(stereo[0], repeats=1))
    assert "dB" in said[-1]
    line = separate(path, tmp_path / "out", mini_weights, seconds=10)["a.wav"]
    assert any("dB" in warning for warning in line["warnings"])
    alone = separate(write(tmp_path / "b.wav", x), tmp_path / "out", mini_weights, seconds=10)["b.wav"]
    for names in zip(line["outputs"], alone["outputs"], strict=True):
        assert np.array_equal(*(samples(tmp_path / "out" / name) for name in names))


def test_channels_are_chosen_and_missing_ones_fail_alone(tmp_path, mini_weights):
    (tmp_path / "in").mkdir()
    channels = [voice(seed) for seed in range(3)]
    path = write(tmp_path / "in" / "three.wav", *channels)
    write(tmp_path / "in" / "one.wav", channels[0])
    assert np.array_equal(told(path, selected=(2,))[0], channels[1])
    assert np.allclose(told(path, selected=(1, 3))[0], (channels[0] + channels[2]) / 2, atol=1e-7)
    with pytest.raises(AudioError, match=r"three.wav has 3 channels, no channel 4"):
        told(path, selected=(1, 4))
    lines = separate(tmp_path / "in", tmp_path / "out", mini_weights, channels="2")
    assert lines["three.wav"]["status"] == "done"
    assert "one.wav has one channel, no channel 2" in lines["one.wav"]["reason"]


@pytest.mark.parametrize("text", ["0", "-1", "left", "1,", "1;2", "", "each,1", "1.5"])
def test_what_is_no_channel_is_refused(text):
    with pytest.raises(UserError, match="--channels"):
        parse_channels(text)


def test_channels_as_they_are_written():
    assert [parse_channels(text) for text in ("average", "2", "3,1", "1,1", "each")] == [(), (2,), (1, 3), (1,), "each"]


def test_each_channel_is_its_own_mixture(tmp_path, mini_weights):
    """Voices as of files with that channel alone; a line each; done once, resumed by channel."""
    source, alone, out = tmp_path / "in", tmp_path / "alone", tmp_path / "out"
    channels = [voice(seed, 1.0) for seed in range(3)]
    for folder in (source, alone):
        (folder / "sub").mkdir(parents=True)
    write(source / "sub" / "call_s1.wav", *channels)
    write(source / "mono.wav", channels[0])
    (source / "bad.wav").write_text("no sound")
    for index, channel in enumerate(channels, 1):
        write(alone / "sub" / f"call_s1_c{index}.wav", channel)
    options = ("--weights", mini_weights, "--repeats", 1, "--device", "cpu")
    run = tisdiss("separate", source, out, *options, "--channels", "each", status=1)
    assert "call_s1.wav, channel 3" in run.stdout
    tisdiss("separate", alone, tmp_path / "expected", *options)
    for index in (1, 2, 3):
        for name in (f"sub/call_s1_c{index}_s{number}.wav" for number in (1, 2)):
            assert np.array_equal(samples(out / name), samples(tmp_path / "expected" / name))
    lines = [json.loads(line) for line in (out / "tisdiss.jsonl").read_text().splitlines()]
    assert sorted((line["input"], line["channel"], line["status"]) for line in lines) == [
        ("bad.wav", 1, "failed"),
        ("mono.wav", 1, "done"),
        *[("sub/call_s1.wav", channel, "done") for channel in (1, 2, 3)],
    ]
    (source / "bad.wav").unlink()
    (out / "sub" / "call_s1_c2_s2.wav").unlink()
    run = tisdiss("separate", source, out, *options, "--channels", "each")
    assert "1 separated, 0 failed, 3 done before" in run.stdout
    assert (out / "sub" / "call_s1_c2_s2.wav").exists()
    run = tisdiss("separate", source, out, *options, "--channels", "1")
    assert "2 separated" in run.stdout and set(records(out)) == {"bad.wav", "mono.wav", "sub/call_s1.wav"}


# One talker a side ----------------------------------------------------------------------------------


def talkers(turns: bool) -> tuple[np.ndarray, np.ndarray]:
    """Like speech as the rule sees it: syllables and pauses."""
    random = np.random.default_rng(0)
    syllables = random.lognormal(0, 1.2, (2, 100)) * (random.random((2, 100)) < 0.8)
    if turns:
        syllables *= np.stack((np.arange(100) // 10 % 2, 1 - np.arange(100) // 10 % 2))
    first, second = (np.repeat(row, 1200) * random.standard_normal(120_000) * 0.02 for row in syllables)
    return first, second


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize(
    ("make", "apart"),
    [(sides(-40), True), (sides(-20), True), (mono, False), (panned(6), False), (spaced, False), (reverberant, False)],
)
def test_one_talker_a_side_is_told_from_ordinary_stereo(tmp_path, make, apart, turns):
    stereo = make(np.random.default_rng(1), talkers(turns))
    _, warnings = told(write(tmp_path / "a.wav", *stereo.T))
    assert [("--channels each" in warning) for warning in warnings] == [True] * apart
    assert not told(tmp_path / "a.wav", selected=(1,))[1]


@pytest.mark.parametrize("block", [333, 4096, 120_000])
def test_blocks_do_not_matter_to_the_survey(block):
    stereo = sides(-30)(np.random.default_rng(1), talkers(True))
    whole, parts = Survey((), RATE), Survey((), RATE)
    whole.push(stereo)
    for begin in range(0, len(stereo), block):
        parts.push(stereo[begin : begin + block])
    assert np.array_equal(whole.tallies[2].seen, parts.tallies[2].seen)
    assert whole.decide() == parts.decide() != []
