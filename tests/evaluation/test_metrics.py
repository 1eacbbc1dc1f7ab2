"""Scores against mir_eval, fast_bss_eval, torchmetrics and least squares, on mixtures of speech."""

import warnings
from pathlib import Path

import fast_bss_eval
import mir_eval
import numpy as np
import pytest
import soundfile
import torch
from torchmetrics.functional.audio import scale_invariant_signal_noise_ratio

from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.metrics import LIMIT, score, sdr, trim
from tisdiss_cli.separation.si_snr import si_snr

pytestmark = pytest.mark.usefixtures("one_thread")
SPEECH = Path(__file__).parents[1] / "sounds" / "speech"
RATE = 8000


def load(name: str) -> torch.Tensor:
    paths = sorted((SPEECH / name).glob("*.flac"))
    return [torch.from_numpy(soundfile.read(path, start=4000, frames=12000)[0]) for path in paths]


MIXTURES, REFERENCES = load("mix"), [torch.stack(pair) for pair in zip(load("s1"), load("s2"), strict=True)]
NOISE = torch.from_numpy(np.random.default_rng(0).standard_normal((2, MIXTURES[0].numel() * 2)))


def estimates_of(index: int) -> dict[str, torch.Tensor]:
    """Estimates of mixture `index` as separation systems make them, good and bad."""
    mixture, references = MIXTURES[index], REFERENCES[index]
    noise = NOISE[:, : mixture.numel()]
    leaky = references + 0.1 * references.flip(0) + 0.003 * noise
    return {
        "good": references + 1e-3 * noise,
        "leaky": leaky,
        "near silent": 1e-5 * leaky,
        "scaled": leaky * torch.tensor([[7.0], [-0.2]]),
        "shifted": leaky.roll(3, -1),
        "shifted far": leaky.roll(700, -1),
        "permuted": leaky.flip(0),
        "offset": leaky + 0.05,
        "one lost": torch.stack((leaky[0], 1e-5 * noise[1])),
        "mixture": mixture.expand(2, -1) + 1e-4 * noise,
        "noise": noise,
    }


CASES = [(0, name) for name in estimates_of(0)] + [(1, "leaky"), (1, "mixture")]


@pytest.mark.parametrize(("index", "name"), CASES)
def test_agrees_with_independent_tools(index, name):
    mixture, references, estimate = MIXTURES[index], REFERENCES[index], estimates_of(index)[name]
    (result,) = score(mixture, references, [estimate], sample_rate=RATE)
    matched = estimate[list(result.permutation)]

    assert result.si_snr == pytest.approx(
        float(scale_invariant_signal_noise_ratio(matched, references).mean()), abs=0.001
    )
    before = scale_invariant_signal_noise_ratio(mixture.expand(2, -1), references).mean()
    assert result.si_snri == pytest.approx(result.si_snr - float(before), abs=0.001)

    fast = fast_bss_eval.bss_eval_sources(references, matched, compute_permutation=False)[0]
    assert result.sdr == pytest.approx(float(fast.mean()), abs=0.01)


@pytest.mark.parametrize(("index", "name"), [(0, "near silent"), (1, "shifted"), (1, "permuted")])
def test_agrees_with_mir_eval(index, name):
    mixture, references, estimate = MIXTURES[index], REFERENCES[index], estimates_of(index)[name]
    (result,) = score(mixture, references, [estimate], sample_rate=RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecation: mir_eval drops this module some day
        after, _, _, order = mir_eval.separation.bss_eval_sources(references.numpy(), estimate.numpy())
        mixtures = np.stack((mixture, mixture))
        before = mir_eval.separation.bss_eval_sources(references.numpy(), mixtures, False)[0]
    assert result.permutation == tuple(order)
    assert result.sdr == pytest.approx(after.mean(), abs=0.01)
    assert result.sdri == pytest.approx((after - before).mean(), abs=0.01)


def test_level_does_not_matter_and_permutation_is_undone():
    mixture, references = MIXTURES[0], REFERENCES[0]
    leaky = estimates_of(0)["leaky"]
    results = score(mixture, references, [leaky, 1e-9 * leaky, 1e9 * leaky, leaky.flip(0)], sample_rate=RATE)
    for result in results:
        assert (result.si_snr, result.sdr) == pytest.approx((results[0].si_snr, results[0].sdr), abs=1e-6)
    assert [result.permutation for result in results] == [(0, 1), (0, 1), (0, 1), (1, 0)]


def test_sdr_is_the_projection_on_shifts():
    """BSS Eval's definition, by least squares: the reference's 512 delays explain what they can."""
    generator = np.random.default_rng(1)
    reference, estimate = generator.standard_normal((2, 1500))
    estimate += np.convolve(reference, [0.5, -0.3, 0.0, 0.2])[:1500]
    shifts = np.stack([np.concatenate((np.zeros(d), reference, np.zeros(511 - d))) for d in range(512)], 1)
    padded = np.concatenate((estimate, np.zeros(511)))
    target = shifts @ np.linalg.lstsq(shifts, padded, rcond=None)[0]
    expected = 10 * np.log10((target**2).sum() / ((padded - target) ** 2).sum())
    assert sdr(torch.from_numpy(estimate), torch.from_numpy(reference)).item() == pytest.approx(expected, abs=1e-6)


def test_references_of_narrow_band_or_one_tone_stay_finite():
    """Where the shifts of the reference depend on each other, the projection still exists."""
    time = torch.arange(8000, dtype=torch.float64)
    tone = torch.sin(0.3 * time)
    noise = NOISE[0, :8000]
    narrow = torch.fft.irfft(torch.fft.rfft(noise) * (torch.arange(4001) < 1000), n=8000)  # below 1 kHz
    for reference in (tone, narrow, torch.nn.functional.pad(torch.ones(1), (100, 7899))):
        assert sdr(reference, reference).item() >= 60
        worse = [sdr(reference + level * noise, reference).item() for level in (0.01, 0.1, 1.0)]
        assert worse == sorted(worse, reverse=True) and np.isfinite(worse).all()


def test_perfect_and_silent_estimates_are_bounded():
    mixture, references = MIXTURES[0], REFERENCES[0]
    perfect, silent, half = score(
        mixture,
        references,
        [references, torch.zeros_like(references), references * torch.tensor([[1.0], [0.0]])],
        sample_rate=RATE,
    )
    assert (perfect.si_snr, perfect.sdr) == (LIMIT, LIMIT)
    assert (silent.si_snr, silent.sdr) == (-LIMIT, -LIMIT)
    assert silent.warnings == ["estimate 1 is silent", "estimate 2 is silent"]
    assert half.si_snr == 0.0 and half.permutation == (0, 1)
    assert si_snr(torch.full((100,), 0.5), NOISE[0, :100]) == -LIMIT


def test_a_silent_reference_is_left_out():
    mixture, references = MIXTURES[0], REFERENCES[0]
    quiet = torch.stack((torch.full_like(references[0], 0.01), references[1]))
    estimate = estimates_of(0)["permuted"]
    (result,) = score(mixture, quiet, [estimate], sample_rate=RATE)
    assert result.warnings == ["reference 1 is silent"]
    assert result.permutation == (1, 0)
    assert result.si_snr == pytest.approx(float(si_snr(estimate[0], references[1])))
    with pytest.raises(UserError, match="every reference is silent"):
        score(mixture, torch.zeros_like(references), [estimate], sample_rate=RATE)
    with pytest.raises(UserError, match="NaN"):
        score(mixture, references, [estimate * torch.nan], sample_rate=RATE)


def test_lengths_are_cut_or_refused():
    signals = {"mixture": torch.zeros(8000), "s1": torch.zeros(2, 7995)}
    cut, warning = trim(signals, RATE)
    assert {signal.shape[-1] for signal in cut.values()} == {7995} and "5 samples longer" in warning
    assert trim(cut, RATE)[1] is None
    with pytest.raises(UserError, match="1000 samples longer than s1"):
        trim({**signals, "s1": torch.zeros(7000)}, RATE)


def test_stoi_and_pesq_are_ordered_by_noise():
    pytest.importorskip("pystoi")
    pytest.importorskip("pesq")
    mixture, references = MIXTURES[0], REFERENCES[0]
    good, bad = (references + level * NOISE[:, : mixture.numel()] for level in (0.001, 0.1))
    better, worse = score(mixture, references, [good, bad], sample_rate=RATE, stoi=True, pesq=True)
    assert 0 < worse.stoi < better.stoi <= 1 and 1 <= worse.pesq < better.pesq <= 4.6
