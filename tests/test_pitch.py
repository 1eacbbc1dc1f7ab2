"""The pitch of sounds whose pitch is known, and of those that have none."""

import pytest
import torch

from tisdiss_cli.separation.speaker_profile import octaves

RATE = 8000


def frames(x: torch.Tensor, size: int = 256) -> torch.Tensor:
    return x[: len(x) // size * size].unflatten(0, (-1, size))


def voice(hertz: float, samples: int = RATE) -> torch.Tensor:
    """Harmonics up to 3.5 kHz, each of its own phase, the first the weakest of them: as through a telephone."""
    random = torch.Generator().manual_seed(round(hertz))
    time = torch.arange(samples) / RATE
    sound = torch.zeros(samples)
    for k in range(1, int(3500 / hertz) + 1):
        phase = float(torch.rand((), generator=random))
        sound += (0.3 if k == 1 else 1 / k) * (2 * torch.pi * (hertz * k * time + phase)).cos()
    return sound


@pytest.mark.parametrize("hertz", [75, 98, 120, 155, 210, 260, 330, 385])
def test_harmonics_have_the_pitch_they_were_made_with(hertz):
    found = octaves(frames(voice(hertz)), RATE)
    assert len(found) > 20
    assert (
        12 * abs(float(found.median()) - torch.tensor(float(hertz)).log2()) < 0.6
    )  # semitones: lags are whole samples


def test_noise_and_silence_have_none():
    assert len(octaves(torch.randn(300, 256), RATE)) < 3
    assert len(octaves(torch.zeros(5, 256), RATE)) == 0


def test_level_and_offset_change_nothing():
    sound = frames(voice(140) + 0.1 * torch.randn(RATE))
    torch.testing.assert_close(octaves(1e-3 * sound + 0.5, RATE), octaves(sound, RATE), atol=1e-3, rtol=0)
