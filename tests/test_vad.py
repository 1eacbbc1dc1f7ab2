"""The stream of probabilities is Silero's own, however the samples come and whatever else is going on."""

import subprocess
import sys

import pytest
import torch

from tests.cli import ROOT
from tisdiss_cli.activity.vad import SpeechProbability
from tisdiss_cli.audio.read import read

SPEECH = sorted((ROOT / "examples" / "mixtures").glob("s1/*"))[0]


def stream(voices: torch.Tensor, rate: int, block: int) -> torch.Tensor:
    probability = SpeechProbability(len(voices), rate)
    parts = [probability.push(part) for part in voices.split(block, dim=1)]
    return torch.cat([*parts, probability.finish()], dim=1)


@pytest.fixture
def silero():
    """Silero's own way in; importing it takes the threads away, so they are given back."""
    threads = torch.get_num_threads()
    from silero_vad import load_silero_vad

    torch.set_num_threads(threads)
    return load_silero_vad()


@pytest.mark.parametrize("rate", [8000, 16000])
def test_the_numbers_are_those_of_a_window_at_a_time(rate, silero):
    speech = read(SPEECH, rate)[: 2 * rate + 100]
    voices = torch.stack((speech, 0.1 * speech.flip(0), torch.randn(len(speech)) * 0.01))
    window = rate * 32 // 1000
    padded = torch.nn.functional.pad(voices, (0, -len(speech) % window))
    with torch.inference_mode():
        expected = torch.cat([silero(part, rate) for part in padded.split(window, dim=1)], dim=1)
    assert expected.max() > 0.9 and expected[2].mean() < 0.5  # speech, and none
    assert torch.allclose(stream(voices, rate, len(speech)), expected, atol=1e-4)


@pytest.mark.parametrize("block", [1, 255, 256, 4000])
def test_blocks_make_no_difference(block):
    voices = read(SPEECH, 8000)[None, :4000]
    assert torch.allclose(stream(voices, 8000, block), stream(voices, 8000, 10**6), atol=1e-4)


def test_it_takes_no_threads_away():
    """`import silero_vad` sets the process to one thread, and the network would be alone with it."""
    code = "import torch; torch.set_num_threads(2)\nfrom tisdiss_cli.activity.vad import SpeechProbability\n"
    code += "SpeechProbability(2, 8000).push(torch.zeros(2, 8000)); print(torch.get_num_threads())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"
