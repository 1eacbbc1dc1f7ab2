"""The stream of probabilities is Silero's own, however the samples come and whatever else is going on."""

import subprocess
import sys
import warnings
from importlib.metadata import distribution

import pytest
import torch
from safetensors import safe_open

from tests.cli import ROOT
from tisdiss_cli.activity.vad import SpeechProbability
from tisdiss_cli.audio.read import read

WEIGHTS = ROOT / "tisdiss_cli" / "activity" / "silero_vad.safetensors"
SPEECH = sorted((ROOT / "examples" / "mixtures").glob("s1/*"))[0]


def listen(voices: torch.Tensor, rate: int, at_once: int) -> torch.Tensor:
    """Voices of whole windows; so many windows at a time."""
    probability, windows = SpeechProbability(len(voices), rate), voices.unflatten(1, (-1, rate * 32 // 1000))
    return torch.cat([probability.push(part) for part in windows.split(at_once, dim=1)], dim=1)


@pytest.fixture
def silero():
    """The network in Silero's own wheel, which keeps what it remembers; torch warns of the format that it is in."""
    path = distribution("silero-vad").locate_file("silero_vad/data/silero_vad.jit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(path, map_location="cpu").eval()


@pytest.mark.parametrize("rate", [8000, 16000])
def test_the_numbers_are_those_of_a_window_at_a_time(rate, silero):
    speech = read(SPEECH, rate)[: 2 * rate + 100]
    voices = torch.stack((speech, 0.1 * speech.flip(0), torch.randn(len(speech)) * 0.01))
    window = rate * 32 // 1000
    padded = torch.nn.functional.pad(voices, (0, -len(speech) % window))
    with torch.inference_mode():
        expected = torch.cat([silero(part, rate) for part in padded.split(window, dim=1)], dim=1)
    assert expected.max() > 0.9 and expected[2].mean() < 0.5  # speech, and none
    for at_once in (1, 7, 10**6):
        assert torch.allclose(listen(padded, rate, at_once), expected, rtol=0, atol=1e-6)


def test_the_licence_goes_with_the_weights():
    with safe_open(WEIGHTS, "pt") as file:
        licence = file.metadata()["licence"]
    assert "Copyright (c) 2020-present Silero Team" in licence
    assert licence.strip() in (ROOT / "NOTICE").read_text()


def test_it_warns_of_nothing_and_takes_no_threads_away():
    """A library's warning would stand in the progress bar; `import silero_vad` leaves the process one thread."""
    code = "import torch; torch.set_num_threads(2)\nfrom tisdiss_cli.activity.vad import SpeechProbability\n"
    code += "SpeechProbability(2, 8000).push(torch.zeros(2, 31, 256)); print(torch.get_num_threads())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("2", "")
