"""Predicted SI-SNRi: right where it can be, the same from any level, kept in the weight file."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tests.cli import tisdiss
from tests.synthetic import write_mixtures
from tisdiss_cli.evaluation.calibrate import LEAST, fit, rank_correlation
from tisdiss_cli.model.weights import load_weights, read_info, save_weights
from tisdiss_cli.separation.quality import INPUTS, QualityMeter, QualityModel, describe
from tisdiss_cli.separation.si_snr import si_snr


def separated(share: float, seed: int, samples: int = 8000) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A mixture of two modulated noises, voices that keep `share` of each other, and their true SI-SNRi."""
    random = torch.Generator().manual_seed(seed)
    envelope = torch.nn.functional.interpolate(torch.rand(1, 2, 20, generator=random), samples, mode="linear")[0]
    colour = torch.randn(2, 1, 9, generator=random)
    noise = torch.randn(1, 2, samples + 8, generator=random)
    sources = torch.nn.functional.conv1d(noise, colour, groups=2)[0] * envelope**2
    sources = sources / sources.std(1, keepdim=True) * 0.1
    voices = (1 - share) * sources + share * sources.flip(0)
    mixture = sources.sum(0)
    gain = si_snr(voices, sources).mean() - si_snr(mixture.expand_as(sources), sources).mean()
    return mixture, voices, float(gain)


@pytest.fixture(scope="module")
def examples():
    shares = torch.rand(120, generator=torch.Generator().manual_seed(0)) * 0.45
    return [separated(float(share), seed) for seed, share in enumerate(shares)]


@pytest.fixture(scope="module")
def model(examples):
    inputs = np.array([describe(mixture, voices).tolist() for mixture, voices, _ in examples[:80]])
    return fit(inputs, np.array([gain for _, _, gain in examples[:80]]), np.arange(80))


def test_it_ranks_what_it_has_not_seen_and_its_band_holds(examples, model):
    predicted = np.array([model.predict(describe(mixture, voices)) for mixture, voices, _ in examples[80:]])
    true = np.array([gain for _, _, gain in examples[80:]])
    assert spearmanr(predicted, true).statistic > 0.8
    inside = (true >= predicted + model.low) & (true <= predicted + model.high)
    assert 0.6 <= inside.mean() <= 0.95
    assert model.rank_correlation > 0.8 and model.mean_error < 0.5 * true.std() * 2


def test_it_hears_neither_the_level_nor_the_voices_order(examples):
    mixture, voices, _ = examples[0]
    told = describe(mixture, voices)
    assert torch.allclose(told, describe(mixture * 0.01, voices * 0.01), atol=1e-2)
    assert torch.allclose(told, describe(mixture, voices.flip(0)), atol=1e-4)


def test_noise_teaches_nothing():
    random = np.random.default_rng(0)
    model = fit(random.standard_normal((80, len(INPUTS))), random.standard_normal(80), np.arange(80))
    assert abs(model.rank_correlation) < 0.35  # judged on what was held out: nothing is learnt by heart


def test_examples_of_one_mixture_are_held_out_together():
    """Twins whose truth no input tells are not predicted from each other."""
    random = np.random.default_rng(1)
    twins = np.repeat(random.standard_normal((40, len(INPUTS))), 2, axis=0)
    truths = np.repeat(random.standard_normal(40), 2)
    assert fit(twins, truths, np.repeat(np.arange(40), 2)).rank_correlation < 0.3


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_extremes_stay_finite(share):
    mixture, voices, _ = separated(share, 3)
    for pair in (voices, torch.stack((mixture, torch.zeros_like(mixture))), torch.zeros_like(voices)):
        assert torch.isfinite(describe(mixture, pair)).all()
    assert describe(torch.zeros(8000), voices) is None
    assert describe(mixture[:100], voices[:, :100]) is None
    assert torch.isfinite(describe(mixture, torch.cat((voices, voices[:1])))).all()


def test_a_short_recording_is_the_mean_of_its_chunks(examples, model):
    meter = QualityMeter(model, 8000)
    good, bad = separated(0.02, 500), separated(0.4, 501)
    for index, (mixture, voices, _) in enumerate((good, bad, good)):
        meter.push(index * 6000, mixture, voices)
    meter.push(18000, torch.zeros(8000), torch.zeros(2, 8000))
    quality = meter.finish()
    each = [model.predict(describe(mixture, voices)) for mixture, voices, _ in (good, bad, good)]
    assert quality["si_snri"] == pytest.approx(sum(each) / 3, abs=0.01)
    assert quality["worst"] == {"si_snri": quality["si_snri"], "from": 0, "to": 3.25}  # ten seconds are more than all
    assert quality["low"] < quality["si_snri"] < quality["high"]
    assert QualityMeter(model, 8000).finish() is None


class Scripted:
    """Predicts what it is told to, one chunk after the other."""

    low, high = -1.0, 1.0

    def __init__(self, values):
        self.values = iter(values)

    def predict(self, inputs):
        return next(self.values)


@pytest.mark.parametrize("length", [2.0, 8.0, 12.0, 33.0])
def test_the_worst_ten_seconds_are_those_that_a_search_finds(length):
    """Chunks that overlap, silence among them and after them; every eighth of a second is tried as the beginning."""
    rate, random = 256, np.random.default_rng(int(length))
    noise = torch.randn(2, round(length * rate))
    values = random.normal(5, 4, 30)
    begins = np.arange(30) * (length - 0.5)
    silent = random.random(30) < 0.3
    silent[0], silent[-2:] = False, True
    meter = QualityMeter(Scripted(values[~silent]), rate)
    for begin, quiet in zip(begins, silent, strict=True):
        chunk = 0 * noise if quiet else noise
        meter.push(round(begin * rate), chunk.sum(0), chunk)
    worst = meter.finish()["worst"]

    def mean(begin):
        shares = (np.minimum(begins + length, begin + 10) - np.maximum(begins, begin)).clip(0) * ~silent
        return (shares @ values) / shares.sum() if shares.sum() > 0.1 else np.inf

    tried = [mean(begin) for begin in np.arange(0, begins[-1] + length - 10 + 1e-9, 0.125)]
    assert worst["si_snri"] == pytest.approx(mean(worst["from"]), abs=0.02)
    assert worst["to"] - worst["from"] == pytest.approx(10) and worst["to"] <= begins[-1] + length
    assert worst["si_snri"] <= min(tried) + 0.02
    assert len(meter._recent) < 15


def test_spearman():
    random = np.random.default_rng(2)
    a = random.standard_normal(50)
    b = a + random.standard_normal(50)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation(a, np.ones(50)) == 0


def test_calibrate_stores_it_and_info_tells_it(mini_weights, tmp_path):
    data, out = write_mixtures(tmp_path / "data", count=LEAST), tmp_path / "out.safetensors"
    tisdiss("weights", "calibrate", mini_weights, data, "--out", out, "--max-repeats", 2, "--device", "cpu")
    model = QualityModel.of(read_info(out).info["quality"])
    assert model is not None and model.low < model.high and model.mixtures > LEAST
    shown = " ".join(tisdiss("weights", "info", out).stdout.split())
    assert str(model) in shown and all(name in shown for name in INPUTS)
    state = load_weights(out).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in load_weights(mini_weights).state_dict().items())


def test_too_few_mixtures_are_said(mini_weights, tmp_path):
    stale = tmp_path / "stale.safetensors"
    info = read_info(mini_weights)
    save_weights(stale, info.config, load_weights(mini_weights).state_dict(), info={"quality": {"inputs": []}})
    data = write_mixtures(tmp_path / "data", count=2)
    done = tisdiss("weights", "calibrate", stale, data, "--max-repeats", 2, "--device", "cpu")
    assert "too few to predict" in done.stderr
    assert "quality" not in read_info(stale).info
