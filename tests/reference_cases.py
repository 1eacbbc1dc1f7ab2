"""The published implementation's outputs (tests/reference) and the weights that made them."""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch

from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.published import config_from_options, published_name

CASES = sorted(path.stem for path in (Path(__file__).parent / "reference").glob("*.json"))


@cache
def load_case(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """The JSON and the arrays of a case."""
    path = Path(__file__).parent / "reference" / name
    with np.load(path.with_suffix(".npz")) as arrays:
        return json.loads(path.with_suffix(".json").read_text()), dict(arrays)


def reference_weight(name: str, shape: tuple[int, ...], salt: str) -> torch.Tensor:
    """The tensor of a published name, drawn from a seed that the name gives."""
    a = np.random.default_rng(zlib.crc32(f"{salt}:{name}".encode())).standard_normal(shape)
    if name.endswith("gamma") or name == "conv.1.weight":
        a = 1 + 0.1 * a
    elif name.endswith("concat_block.1.weight"):
        a = np.full(shape, 0.25)
    elif name.endswith("bias"):
        a = 0.05 * a
    else:
        a = a / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else shape[0])
    return torch.from_numpy(a.astype(np.float32))


@cache
def reference_network(name: str) -> TISDiSS:
    """The case's network with its weights."""
    case, _ = load_case(name)
    return drawn_network(config_from_options(case["config"]), case["salt"])


def drawn_network(config: Config, salt: str) -> TISDiSS:
    """A network of any configuration with weights drawn as the published cases' are."""
    network = TISDiSS(config).eval()
    network.load_state_dict(
        {
            ours: reference_weight(published_name(ours), tuple(value.shape), salt)
            for ours, value in network.state_dict().items()
        }
    )
    return network


@cache
def strided_case(name: str) -> tuple[TISDiSS, dict[str, torch.Tensor]]:
    """The network of a case in strided/, and its arrays."""
    case, arrays = load_case(f"strided/{name}")
    found = {key: torch.from_numpy(array) for key, array in arrays.items()}
    network = TISDiSS(
        Config(
            **case["config"],
            encoder_kernel=case["encoder_kernel"],
            encoder_stride=case["encoder_stride"],
            output="mask" if case["mask"] else "spectrum",
        )
    ).eval()
    prefix = "state/"
    network.load_state_dict({key.removeprefix(prefix): v for key, v in found.items() if key.startswith(prefix)})
    return network, found


def relative_error(actual: torch.Tensor, expected: np.ndarray | torch.Tensor) -> float:
    """||actual - expected|| / ||expected||."""
    expected = torch.as_tensor(expected).double()
    return float((actual.double() - expected).norm() / expected.norm())
