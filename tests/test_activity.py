"""Who speaks when in voices that hold a rest of each other, and gating where only the other talks."""

import numpy as np
import pytest
import torch

from tests.cli import ROOT
from tisdiss_cli.activity.gate import Gate
from tisdiss_cli.activity.levels import FAR, NEAR, Evidence, compressed_spectra, log_odds, spectral_correlation
from tisdiss_cli.activity.listener import Listener
from tisdiss_cli.activity.segments import Segmenter, Speech
from tisdiss_cli.audio.read import read
from tisdiss_cli.data.conversations import active_segments

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


def listen(voices: torch.Tensor, rate: int, block: int, gate: bool = False) -> tuple[torch.Tensor, Speech]:
    listener = Listener(len(voices), rate, gate=gate)
    parts = [listener.push(part) for part in voices.split(block, dim=1)]
    rest, speech = listener.finish()
    return torch.cat([*parts, rest], dim=1), speech


def mask(segments, rate: int, length: int) -> torch.Tensor:
    found = torch.zeros(len(segments), length, dtype=torch.bool)
    for row, voice in zip(found, segments, strict=True):
        for begin, end in voice:
            row[round(begin * rate) : round(end * rate)] = True
    return found


def other_alone(truth: torch.Tensor, rate: int) -> torch.Tensor:
    """Where only the other voice talks, and this one not for half a second to both sides."""
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
    _, speech = listen(voices, rate, 10**6)
    truth = mask([active_segments(voice, rate) for voice in clean], rate, clean.shape[1])
    found = mask(speech.segments, rate, clean.shape[1])
    assert (truth == found).float().mean() > 0.92
    alone = other_alone(truth, rate)
    assert (found & alone).sum() < 0.03 * alone.sum()
    assert speech.talkers == 2
    assert speech.seconds == pytest.approx(clean.shape[1] / rate)


def test_the_gate_silences_the_rest_and_leaves_speech_alone(case):
    rate, clean, voices = case
    gated, _ = listen(voices, rate, 4000, gate=True)
    assert gated.shape == voices.shape
    truth = mask([active_segments(voice, rate) for voice in clean], rate, clean.shape[1])
    alone = other_alone(truth, rate)
    before, after = voices[alone].square().sum(), gated[alone].square().sum()
    assert after < before / 100  # 20 dB
    assert ((gated - voices).square()[truth].sum() / voices.square()[truth].sum()) < 1e-3
    # No click: the gain that was applied moves by no more than a raised cosine of one window does.
    loud = voices.abs() > 1e-3
    steps = (gated / voices).nan_to_num().diff(dim=1)[loud[:, 1:] & loud[:, :-1]].abs()
    assert steps.max() < 1.1 * torch.pi / 2 / (0.032 * rate) + 1e-4


@pytest.mark.parametrize("block", [1000, 4097])
def test_blocks_make_no_difference(block):
    voices = talk(8000) + LEAK * talk(8000).flip(0)
    whole, speech = listen(voices, 8000, 10**6, gate=True)
    parts, same = listen(voices, 8000, block, gate=True)
    assert torch.allclose(whole, parts, atol=1e-6)
    assert speech.segments == same.segments


def test_without_a_gate_nothing_is_changed_or_late():
    voices = torch.randn(2, 5000)
    listener = Listener(2, 8000)
    assert torch.equal(listener.push(voices), voices)
    rest, _ = listener.finish()
    assert rest.shape == (2, 0)


@pytest.mark.parametrize("samples", [0, 1, 255, 300, 8000])
def test_short_and_silent_ones(samples):
    gated, speech = listen(torch.zeros(2, samples), 8000, 4000, gate=True) if samples else listen_to_nothing()
    assert gated.shape == (2, samples) and not gated.any()
    assert speech.segments == [[], []] and speech.talkers == 0 and speech.overlap_seconds == 0
    assert speech.silence_seconds == pytest.approx(samples / 8000, abs=1e-3)


def listen_to_nothing():
    listener = Listener(2, 8000, gate=True)
    return listener.finish()


def test_one_talker_and_a_rest_of_it():
    clean = talk(8000)[0]
    _, speech = listen(torch.stack((clean, LEAK * clean)), 8000, 8000)
    assert speech.talkers == 1 and speech.segments[1] == []


def test_memory_does_not_grow():
    listener = Listener(2, 8000, gate=True)
    voices = talk(8000)
    sizes = []
    for _ in range(6):
        listener.push(voices)
        gate = listener.gate
        held = [
            listener.rest,
            listener.evidence.buffer,
            gate.samples,
            gate.gains,
            gate.raw,
            listener.probability.buffer,
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
    segmenter = Segmenter(1)
    row = "xxxxxx..xxxx.............x..............xxxxx"
    odds = torch.tensor([[1.0 if letter == "x" else -1.0 for letter in row]])
    for part in odds.split(7, dim=1):
        segmenter.push(part)
    windows = [(begin / 0.032, end / 0.032) for begin, end in segmenter.finish(10.0).segments[0]]
    assert windows == [pytest.approx((0, 12)), pytest.approx((40, 45))]


def evidence_of(windows: torch.Tensor) -> torch.Tensor:
    evidence = Evidence(len(windows), windows.shape[-1])
    sure = torch.full(windows.shape[:2], 0.9999)
    parts = [evidence.push(sure[:, part], windows[:, part]) for part in torch.arange(windows.shape[1]).split(70)]
    return torch.cat((*parts, evidence.finish()), dim=1)


def test_evidence_is_of_what_is_near_and_the_same_for_voices_in_any_order():
    windows = torch.randn(2, 200, 256) * torch.rand(2, 200, 1)
    found = evidence_of(windows)
    assert found.shape == (2, 200)
    assert torch.allclose(found, evidence_of(windows.flip(0)).flip(0), atol=1e-4)
    windows[0, 100] *= 30
    changed = evidence_of(windows)
    far = torch.arange(200).sub(100).abs() > FAR
    assert torch.allclose(changed[:, far], found[:, far], atol=1e-4) and changed[0, 100] > found[0, 100] + 1


def test_evidence_is_more_for_louder_voices_and_less_for_alike_ones():
    power, alike = torch.rand(2, 50), torch.rand(2, 50)
    odds = log_odds(torch.full((2, 50), 0.9999), power, power, alike)
    louder = torch.stack((2 * power[0], power[1]))
    more = log_odds(torch.full((2, 50), 0.9999), louder, louder, alike)
    assert (more[0] >= odds[0]).all() and (more[1] <= odds[1]).all() and (more[0] > odds[0] + 0.1).any()
    assert (log_odds(torch.full((2, 50), 0.9999), power, power, alike + 0.5) < odds).all()


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
    _, speech = listen(clean + LEAK * clean.flip(0), 8000, 8000)
    found = mask(speech.segments, 8000, clean.shape[1])
    assert speech.talkers == 2
    assert (found & truth).sum(1).div(truth.sum(1)).min() > 0.8


def test_a_gate_keeps_its_state_through_a_pause():
    gate = Gate(2, 8000)
    odds = torch.tensor([[3.0, -4.0]] * 40 + [[-1.0, -1.0]] * 40 + [[-4.0, 3.0]] * 40).T
    out = torch.cat((gate.push(torch.ones(2, 120 * 256), odds), gate.finish()), dim=1).unflatten(1, (-1, 256)).mean(-1)
    assert (out[1, :74] == 0).all() and (out[0, :79] == 1).all()
    assert (out[1, 80:] == 1).all() and (out[0, 81:] == 0).all()
