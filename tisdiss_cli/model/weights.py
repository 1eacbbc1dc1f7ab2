"""Weight files: `.safetensors` with the configuration and what is known of the training as metadata."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import replacing
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.container import check_safetensors, check_values, first
from tisdiss_cli.model.network import TISDiSS

FORMAT = "tisdiss-1"
CHUNK_SECONDS = 8.0  # unless a file or the caller say otherwise

# Keys of a file's facts that calibration writes, and that an import does
THRESHOLD, REPEATS, CHUNK, QUALITY = "auto_threshold_db", "repeats", "chunk_seconds", "quality"
AGREEMENT = "bf16_agreement_db"


@dataclass(frozen=True)
class WeightFile:
    """A weight file's metadata; the tensors are read by `load_weights`."""

    path: Path
    config: Config
    info: dict[str, Any] = field(default_factory=dict)  # training facts; "trained": False marks untrained weights

    @property
    def name(self) -> str:
        """The file's name without its extension, by which bundled weights are chosen."""
        return self.path.stem

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the file's SHA-256."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    @property
    def trained(self) -> bool:
        """False for weights that are only seeded and do not separate."""
        return bool(self.info.get("trained", True))

    @property
    def default_repeats(self) -> int:
        """Of the Reconstructor where none are asked for: as the calibration recommends, else as trained."""
        return int(self.info.get(REPEATS, self.config.reconstructor_repeats))

    @property
    def auto_threshold_db(self) -> float | None:
        """At which `--repeats auto` stops, by calibration; None if these weights were never calibrated."""
        threshold = self.info.get(THRESHOLD)
        return None if threshold is None else float(threshold)

    @property
    def bf16_agreement_db(self) -> float | None:
        """SI-SNR of the voices at bf16 to those at fp32, in dB, where the import has measured it."""
        agreement = self.info.get(AGREEMENT)
        return None if agreement is None else float(agreement)

    @property
    def chunk_seconds(self) -> float:
        """How much of a long recording the network hears at a time, as the calibration recommends."""
        return float(self.info.get(CHUNK, CHUNK_SECONDS))


def bundled_directory() -> Path:
    """Where the bundled weights lie: inside the installed package, or the checkout's `weights/`."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


def bundled() -> list[Path]:
    """The bundled weight files; the first is the default: trained ones before untrained, then by name."""
    paths = sorted(bundled_directory().glob("*.safetensors"))
    return sorted(paths, key=lambda path: ("untrained" in path.stem, path.name))


def find_weights(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """The file behind a bundled name or a path; None: the bundled default.

    Raises:
        UserError: there is no such file; the sentence lists the bundled names.
    """
    names = {path.stem: path for path in bundled()}
    if name_or_path is None:
        if not names:
            raise UserError(f"no weights are bundled in {bundled_directory()}: name a weight file")
        return next(iter(names.values()))
    if str(name_or_path) in names:
        return names[str(name_or_path)]
    path = Path(name_or_path)
    if not os.path.isfile(path):
        raise UserError(
            f"there are no weights {str(name_or_path)!r}: pass a .safetensors file or a bundled name "
            f"({', '.join(names) or 'none'})"
        )
    return path


def read_info(path: Path) -> WeightFile:
    """The metadata of a weight file; UserError, in one sentence, when it is not one of ours or not whole."""
    check_safetensors(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read as .safetensors ({error})") from None
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is not a tisdiss weight file: its metadata has no format {FORMAT!r}")
    try:
        config = Config.from_dict(json.loads(metadata["config"]))
        weights = WeightFile(path, config, json.loads(metadata.get("info", "{}")))
        facts = weights.default_repeats, weights.auto_threshold_db, weights.chunk_seconds, weights.bf16_agreement_db
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its metadata does not describe a network ({error})") from None
    if not (facts[0] >= 1 and isfinite(facts[1] or 0) and 0 < facts[2] < inf and isfinite(facts[3] or 0)):
        raise UserError(f"{path}: its calibration is out of range: calibrate it again")
    return weights


def load_weights(name_or_path: str | os.PathLike[str] | None = None) -> TISDiSS:
    """The network in evaluation mode, float32 on the CPU, from a bundled name or a weight file.

    Raises:
        UserError: no such weights, not a weight file of ours, or tensors that do not fit the configuration, are no
            floating point numbers or not finite.
    """
    weights = read_info(find_weights(name_or_path))
    try:
        tensors = load_file(weights.path)
        # Not on the meta device, which would spare the initial values and import seconds' worth of torch's compiler.
        with torch.random.fork_rng(devices=[]):
            network = TISDiSS(weights.config)
        wanted = network.state_dict()
        odd = [
            *(f"{name} is missing" for name in wanted if name not in tensors),
            *(f"{name} is superfluous" for name in sorted(tensors) if name not in wanted),
            *(
                f"{name} has shape {tuple(tensors[name].shape)} and not {tuple(value.shape)}"
                for name, value in wanted.items()
                if name in tensors and tensors[name].shape != value.shape
            ),
        ]
        if odd:
            raise UserError(f"{weights.path}: its tensors do not fit its configuration: {first(odd)}")
        check_values(weights.path, tensors)
        network.load_state_dict(tensors)
    except (OSError, RuntimeError, MemoryError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights.path} cannot be loaded ({reason})") from None
    return network.eval()


def save_weights(
    path: Path, config: Config, state: dict[str, torch.Tensor], *, info: dict[str, Any] | None = None
) -> None:
    """Writes a weight file whole or not at all, UserError where it cannot be. `info` must survive JSON."""
    metadata = {
        "format": FORMAT,
        "config": json.dumps(config.to_dict()),
        "sample_rate": str(config.sample_rate),
        "info": json.dumps(info or {}),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    try:
        with replacing(path) as part:
            save_file(tensors, part, metadata=metadata)
            part.chmod(0o644)  # safetensors leaves it to the owner alone
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written ({reason}): make room or name another file") from None


def average_weights(paths: Sequence[Path], out: Path) -> None:
    """Writes the mean of weight files, as the paper averages its best checkpoints: of one run, or of runs in a row.

    Repeats, recipe and training facts are the last file's; its validation and calibration, of which the mean has none,
    are left out.

    Raises:
        UserError: a file is no weight file, or has another network than the last.
    """
    files = [read_info(path) for path in paths]
    last = files[-1]
    wanted = last.config.to_dict()
    for file in files:
        for key, value in file.config.to_dict().items():
            if value != wanted[key] and not key.endswith("_repeats"):
                raise UserError(
                    f"{file.path} has {key} {value}, and {last.path} {wanted[key]}: they must be one network's"
                )
    states = [load_weights(file.path).state_dict() for file in files]
    mean = {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}
    facts = {key: value for key, value in last.info.items() if key in ("trained", "recipe", "training")}
    save_weights(out, last.config, mean, info={**facts, "mean_of": [file.digest for file in files]})
