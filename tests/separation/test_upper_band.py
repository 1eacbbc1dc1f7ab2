"""The band above the network's: all of it to who talks alone, shares of it to several, and nothing else changes."""

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from tests.cli import tisdiss
from tests.folders import RATE, separate, speech_like
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.folder.settings import Options, choose_settings
from tisdiss_cli.separation.separator import Separator
from tisdiss_cli.separation.upper_band import UpperBand

INSIDE = slice(1000, -1000)  # without the ends, where a resampler's window meets silence


def at_rate(x: Tensor, rate: int, to: int) -> Tensor:
    resampler = Resampler(rate, to)
    return torch.cat((resampler.push(x), resampler.finish()))


def with_band(voices: Tensor, mixture: Tensor, rate: int) -> Tensor:
    band = UpperBand(len(voices), RATE, iter(mixture.split(3333)), rate)
    found = torch.cat([*(band.push(part) for part in voices.split(2000, dim=1)), band.finish()], dim=1)
    assert found.shape[1] == at_rate(voices[0], RATE, rate).shape[0]
    return found[:, : mixture.shape[0]]


def noise(rate: int, seconds: float = 3.0) -> Tensor:
    return torch.randn(round(seconds * rate))


@pytest.mark.parametrize("rate", [16_000, 44_100, 11_025, 8_001, 48_000])
def test_one_who_talks_alone_has_the_whole_band(rate):
    mixture = noise(rate, 1.7)
    alone = at_rate(mixture, rate, RATE)
    found = with_band(torch.stack((alone, torch.zeros_like(alone))), mixture, rate)
    torch.testing.assert_close(found[0], mixture, rtol=0, atol=1e-4)
    assert found[1].abs().max() == 0


def test_voices_that_add_up_to_the_mixture_still_do():
    first, second = noise(16_000), 0.3 * noise(16_000)
    voices = torch.stack([at_rate(x, 16_000, RATE) for x in (first, second)])
    found = with_band(voices, first + second, 16_000)
    torch.testing.assert_close(found.sum(0), first + second, rtol=0, atol=1e-4)


def test_nothing_changes_within_the_networks_band():
    mixture, voices = noise(16_000), torch.stack((noise(RATE), noise(RATE)))
    found = with_band(voices, mixture, 16_000)
    difference = found - torch.stack([at_rate(voice, RATE, 16_000) for voice in voices])
    spectrum = torch.fft.rfft(difference * torch.hann_window(difference.shape[1])).abs().square()
    hertz = torch.linspace(0, 8000, spectrum.shape[1])
    assert (spectrum[:, hertz < 3500].sum(1) < 1e-8 * spectrum.sum(1)).all()


def test_shares_follow_the_amplitudes_in_the_octave_below():
    def tone(hertz: float, rate: int) -> Tensor:
        return (2 * torch.pi * hertz * torch.arange(3 * rate) / rate).sin()

    low, high = tone(3000, RATE), tone(6000, 16_000)
    voices = torch.stack((0.3 * low, 0.1 * low + tone(500, RATE)))  # 500 Hz is not heard for it
    found = with_band(voices, tone(3000, 16_000) + high, 16_000)[:, INSIDE]
    shares = found @ high[INSIDE] / high[INSIDE].square().sum()
    torch.testing.assert_close(shares, torch.tensor([0.75, 0.25]), rtol=0, atol=1e-2)


def test_of_turns_each_has_the_band():
    mixture = noise(16_000, 4)
    low = at_rate(mixture, 16_000, RATE)
    turns = (torch.arange(low.shape[0]) < 2 * RATE).float()
    found = with_band(torch.stack((low * turns, low * (1 - turns))), mixture, 16_000)
    for voice, (begin, end) in ((0, (0, 1.7)), (1, (2.3, 4))):  # shares are means of half a second
        there = slice(round(begin * 16_000), round(end * 16_000))
        torch.testing.assert_close(found[voice, there], mixture[there], rtol=0, atol=1e-4)


def test_silence_stays_silent():
    assert with_band(torch.zeros(2, 9000), torch.zeros(18_000), 16_000).abs().max() == 0


def test_the_mixture_is_read_in_step_with_the_voices():
    read = 0

    def blocks():
        nonlocal read
        while True:  # without an end
            read += 1000
            yield torch.zeros(1000)

    band, done = UpperBand(2, RATE, blocks(), 16_000), 0
    for pushed in range(1000, 100_000, 1000):
        done += band.push(torch.ones(2, 1000)).shape[1]
        assert read <= 2 * pushed + 1000 and band.waiting.shape[1] <= 16_000


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("channels", ["average", "each"])
def test_files_have_the_band(tmp_path, mini_weights, rate, channels):
    recording = speech_like(2.01, 0, rate, 2) + 0.05 * np.random.default_rng(0).standard_normal((round(2.01 * rate), 2))
    soundfile.write(tmp_path / "in.wav", recording, rate, subtype="FLOAT")
    options = {"sample_rate": "input", "channels": channels}
    for band in ("network", "input"):
        separate(tmp_path / "in.wav", tmp_path / band, mini_weights, **options, band=band)
    mixtures = {"in_c1": recording[:, 0], "in_c2": recording[:, 1]} if channels == "each" else {"in": recording.mean(1)}
    for name, samples in mixtures.items():
        without, found = (
            torch.from_numpy(
                np.stack([soundfile.read(tmp_path / band / f"{name}_s{n}.wav")[0] for n in (1, 2)])
            ).float()
            for band in ("network", "input")
        )
        mixture = torch.from_numpy(samples).float()
        above = mixture - at_rate(at_rate(mixture, rate, RATE), RATE, rate)[: mixture.shape[0]]
        torch.testing.assert_close((found - without).sum(0), above, rtol=0, atol=1e-3)


def test_an_input_at_the_networks_rate_stays_as_it_is(tmp_path, mini_weights):
    soundfile.write(tmp_path / "in.wav", speech_like(1, 0), RATE)
    for band in ("network", "input"):
        separate(tmp_path / "in.wav", tmp_path / band, mini_weights, sample_rate="input", band=band)
    assert (tmp_path / "network" / "in_s1.wav").read_bytes() == (tmp_path / "input" / "in_s1.wav").read_bytes()


def test_a_run_goes_on_only_under_the_same_band(tmp_path, mini_weights):
    separator, bands = Separator.load(mini_weights, "cpu", "fp32"), ("network", "input")
    options = [Options(out=tmp_path, sample_rate="input", band=band) for band in bands]
    network, both = (choose_settings(separator, each).recorded for each in options)
    assert network != both


def test_the_networks_rate_cannot_hold_it(tmp_path):
    soundfile.write(tmp_path / "in.wav", speech_like(1, 0), RATE)
    done = tisdiss("separate", tmp_path / "in.wav", tmp_path / "out", "--band", "input", status=2)
    assert "add --sample-rate input" in done.stderr
