"""How well a network's voices at bf16 agree with those at fp32, which decides what `--precision auto` takes."""

import torch
from torch import Tensor

from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import WeightFile
from tisdiss_cli.separation.early_exit import similarity

AGREEMENT = "bf16_agreement_db"  # its key among a weight file's facts
_SECONDS = 0.5


def fixed_mixture(config: Config) -> Tensor:
    """(1, n): two noises that swell and fade in turns, the same for every network of a rate."""
    samples = round(_SECONDS * config.sample_rate)
    noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    swell = (torch.arange(samples) * (2 * torch.pi * 4 / config.sample_rate)).sin()  # four times a second
    return (noise * torch.stack((1 + swell, 1 - swell)) / 2).sum(0, keepdim=True)


def measure_agreement(config: Config, state: dict[str, Tensor]) -> dict[str, float]:
    """The fact for a weight file: SI-SNR in dB, at most 100, of the voice at bf16 that is furthest from its fp32 one.

    On a CPU, of the `fixed_mixture`, at the repeats that the network was trained with.
    """
    network = TISDiSS(config).eval()
    network.load_state_dict(state)
    mixture, found = fixed_mixture(config), []
    for bf16 in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found.append(network.separate(mixture))
    return {AGREEMENT: round(float(similarity(found[1], found[0])), 2)}


def known_agreement(weights: WeightFile) -> float | None:
    """The agreement in dB that a weight file has; None: it is not known.

    That of weights which `tisdiss train` made is not measured: bf16 is what such a network may be trained in, and the
    bundled ones agree.
    """
    if AGREEMENT in weights.info:
        return float(weights.info[AGREEMENT])
    return float("inf") if "training" in weights.info else None
