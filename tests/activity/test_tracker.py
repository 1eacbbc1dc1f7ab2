"""Who speaks when in voices that hold a rest of each other."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.simulate import active_segments
from tests.cli import ROOT
from tisdiss_cli.activity import leakage
from tisdiss_cli.activity.leakage import (
    FAR,
    FEATURES,
    NEAR,
    Comparison,
    Evidence,
    compressed_spectra,
    log_odds,
    spectral_correlation,
)
from tisdiss_cli.activity.tracker import ActivityTracker, Speech, find_segments
from tisdiss_cli.audio.read import read

LEAK = 10 ** (-22 / 20)  # of one voice into the other


def talk(rate: int) -> torch.Tensor:
    """(2, L) clean: the first talks, then the second, then both; half a second of pause between."""
    first, second = (
        read(sorted((ROOT / "examples" / "mixtures" / source).iterdir())[index], rate)[: 3 * rate]
        for source, index in (("s1", 0), ("s2", 4))
    )
    first, second = first / first.std() * 0.05, second / second.std() * 0.05
    pause, none = torch.zeros(rate // 2), torch.zeros(max(len(first), len(second)))
    size = len(none)
    pad = [torch.nn.functional.pad(voice, (0, size - len(voice))) for voice in (first, second)]
    return torch.stack(
        (torch.cat((pad[0], pause, none, pause, pad[0])), torch.cat((none, pause, pad[1], pause, pad[1])))
    )


def listen(voices: torch.Tensor, rate: int, block: int) -> Speech:
    tracker = ActivityTracker(len(voices), rate)
    for part in voices.split(block, dim=1):
        tracker.push(part)
    return tracker.finish()


def mask(segments, rate: int, length: int) -> torch.Tensor:
    found = torch.zeros(len(segments), length, dtype=torch.bool)
    for row, voice in zip(found, segments, strict=True):
        for begin, end in voice:
            row[round(begin * rate) : round(end * rate)] = True
    return found


def other_alone(truth: torch.Tensor, rate: int) -> torch.Tensor:
    """Where only the other voice talks, and this one not for a while to both sides."""
    side = rate // 2
    own = torch.nn.functional.max_pool1d(truth.float(), 2 * side + 1, 1, side) > 0
    return truth.flip(0) & ~own


@pytest.fixture(scope="module", params=[8000, 16000, 11025])
def case(request):
    rate = request.param
    clean = talk(rate)
    return rate, clean, clean + LEAK * clean.flip(0)


def test_a_rest_of_the_other_voice_is_not_speech(case):
    rate, clean, voices = case
    speech = listen(voices, rate, 10**6)
    truth = mask([active_segments(voice, rate) for voice in clean], rate, clean.shape[1])
    found = mask(speech.segments, rate, clean.shape[1])
    assert (truth == found).float().mean() > 0.92
    alone = other_alone(truth, rate)
    assert (found & alone).sum() < 0.03 * alone.sum()
    assert speech.talkers == 2
    assert speech.seconds == pytest.approx(clean.shape[1] / rate)


@pytest.mark.parametrize("samples", [0, 1, 255, 300, 8000])
def test_short_and_silent_ones(samples):
    speech = listen(torch.zeros(2, samples), 8000, 4000)
    assert speech.segments == [[], []] and speech.talkers == 0 and speech.overlap_seconds == 0
    assert speech.silence_seconds == pytest.approx(samples / 8000, abs=1e-3)


def test_one_talker_and_a_rest_of_it():
    clean = talk(8000)[0]
    speech = listen(torch.stack((clean, LEAK * clean)), 8000, 8000)
    assert speech.talkers == 1 and speech.segments[1] == []


def test_memory_does_not_grow():
    tracker = ActivityTracker(2, 8000)
    voices = talk(8000)
    sizes = []
    for _ in range(6):
        tracker.push(voices)
        evidence = tracker.evidence
        held = [
            tracker.rest,
            *(part.buffer for part in (evidence.comparison.around, evidence.steady)),
            tracker.probability.before,
        ]
        sizes.append(sum(tensor.numel() for tensor in held))
    assert max(sizes) < 2 * 8000 * 3


def test_sums_of_time():
    speech = Speech([[(0.0, 2.0), (5.0, 6.0)], [(1.0, 3.0), (6.0, 7.0)], [(1.5, 1.6)]], 10.0)
    assert speech.speech_seconds == [3.0, 3.0, 0.1]
    assert speech.overlap_seconds == 1.0  # three at once count once
    assert speech.silence_seconds == 5.0
    assert speech.talkers == 2


def test_short_pauses_are_bridged_and_clicks_left_out():
    row = "xxxxxx..xxxx.............x..............xxxxx"
    (found,) = find_segments(torch.tensor([[letter == "x" for letter in row]]))
    windows = [(begin / 0.032, end / 0.032) for begin, end in found]
    assert windows == [pytest.approx((0, 12)), pytest.approx((40, 45))]


def evidence_of(windows: torch.Tensor) -> torch.Tensor:
    evidence = Evidence(len(windows), windows.shape[-1], 8000)
    sure = torch.full(windows.shape[:2], 0.9999)
    parts = [evidence.push(sure[:, part], windows[:, part]) for part in torch.arange(windows.shape[1]).split(70)]
    return torch.cat((*parts, evidence.finish()), dim=1)


def test_evidence_is_of_what_is_near_and_the_same_for_voices_in_any_order():
    windows = torch.randn(2, 400, 256) * torch.rand(2, 400, 1)
    windows[:, 0] = 3  # the loudest, in both: what comes later changes no level against it
    found = evidence_of(windows)
    assert found.shape == (2, 400)
    assert torch.allclose(found, evidence_of(windows.flip(0)).flip(0), atol=1e-4)
    windows[0, 200] *= 3
    changed = evidence_of(windows)
    far = torch.arange(400).sub(200).abs() > FAR + 2 * NEAR
    assert torch.allclose(changed[:, far], found[:, far], atol=1e-4)
    assert not torch.allclose(changed[0, 200], found[0, 200], atol=1e-2)


def test_evidence_is_more_for_louder_voices_and_less_for_quieter_ones():
    """Two people, one of whom grows louder; in the middle, and while the detector is sure of both."""
    clean = talk(8000)[:, -3 * 8000 :]
    clean = (clean[:, : clean.shape[1] // 256 * 256] + 0.1 * clean.flip(0)[:, : clean.shape[1] // 256 * 256]).unflatten(
        1, (-1, 256)
    )
    odds, more = evidence_of(clean), evidence_of(clean * torch.tensor([3.0, 1.0])[:, None, None])
    assert (more[0] - odds[0]).mean() > 0.1 and (more[1] - odds[1]).mean() < -0.1


def compared(voices: torch.Tensor, rate: int) -> torch.Tensor:
    """Features, (S, m, 12)."""
    windows = voices[:, : voices.shape[1] // 256 * 256].unflatten(1, (-1, 256))
    comparison = Comparison(len(windows), 256, rate)
    parts = [comparison.push(torch.ones(windows.shape[:2]), windows), comparison.finish()]
    return torch.cat([features for _, features in parts], dim=1)


def test_features_are_what_they_are_called():
    """Against means in a loop: two tones and noise, which are periodic and are not."""
    time = torch.arange(200 * 256) / 8000
    tone = sum((2 * torch.pi * 150 * k * time).sin() / k for k in range(1, 6)) * 0.05
    noise = 0.02 * torch.randn(time.shape) * (1 + (time * 2).floor() % 3)
    voices = torch.stack((tone, noise))
    found = dict(zip(FEATURES, compared(voices, 8000).unbind(-1), strict=True))
    power = voices.unflatten(1, (-1, 256)).square().mean(-1)
    for index in (0, 5, 100, 199):
        for side, name in ((NEAR, FEATURES[0]), (FAR, FEATURES[1])):
            near = power[:, max(0, index - side) : index + side + 1].mean(1)
            assert found[name][0, index] == pytest.approx(10 * float((near[0] / near[1]).log10()), abs=1e-3)
            assert found[name][1, index] == pytest.approx(-float(found[name][0, index]), abs=1e-3)
    own, other = found["near periodicity of own"][:, 10:-10], found["near periodicity of the other"][:, 10:-10]
    assert own[0].min() > 0.9 and own[1].max() < 0.5
    assert torch.allclose(own, other.flip(0))


def test_a_network_of_one_layer_is_what_its_file_says():
    """Against numpy."""
    layers = json.loads(Path(leakage.__file__).with_suffix(".json").read_text())["layers"]
    features = 10 * torch.randn(2, 7, len(FEATURES))
    hidden = np.tanh(features.numpy() @ np.array(layers["weight"]).T + np.array(layers["bias"]))
    expected = hidden @ np.array(layers["out"]) + layers["constant"]
    assert log_odds(features).numpy() == pytest.approx(expected, abs=1e-4)


def test_what_is_fitted_to_windows_tells_others_apart():
    """By a rule that no sum of the features tells: the first two differ in sign."""
    script = runpy.run_path(str(ROOT / "scripts" / "fit-activity"), run_name="fit_activity")
    features = torch.randn(4000, len(FEATURES)) * 5 + 3
    talks = ((features[:, 0] - 3) * (features[:, 1] - 3) < 0).float()
    layers = script["fit"](features[:3000], talks[:3000], steps=600)
    wrong = (log_odds(features[3000:], layers) > 0) != talks[3000:].bool()
    assert wrong.float().mean() < 0.1


def test_spectral_correlation_is_that_of_what_changes():
    """Against a loop over windows, with numpy's corrcoef; a quiet copy is as alike as can be."""
    voices = torch.randn(3, 30, 64) * torch.rand(3, 30, 1)
    voices[1] = 0.05 * voices[0]
    spectra = compressed_spectra(voices)
    pad = torch.nn.functional.pad(spectra, (NEAR, NEAR))
    found = spectral_correlation(pad, torch.nn.functional.pad(torch.ones(30), (NEAR, NEAR)))
    assert found[:2].min() > 0.999
    for index in range(30):
        near = spectra[:, :, max(0, index - NEAR) : index + NEAR + 1]
        rest = (near - near.mean(-1, keepdim=True)).flatten(1).numpy()
        assert found[2, index] == pytest.approx(np.corrcoef(rest)[2, :2].max(), abs=1e-4)


def test_two_who_talk_at_once_are_two_though_one_is_quieter():
    clean = talk(8000)[:, -3 * 8000 :]
    clean[1] *= 10 ** (-9 / 20)
    truth = mask([active_segments(voice, 8000) for voice in clean], 8000, clean.shape[1])
    speech = listen(clean + LEAK * clean.flip(0), 8000, 8000)
    found = mask(speech.segments, 8000, clean.shape[1])
    assert speech.talkers == 2
    assert (found & truth).sum(1).div(truth.sum(1)).min() > 0.8
