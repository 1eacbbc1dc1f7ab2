"""Weight files: `.safetensors` with configuration and training facts as metadata."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from safetensors.torch import load_file, save_file

from tisdiss_cli.errors import UserError, listed
from tisdiss_cli.files import writing
from tisdiss_cli.model.config import MOST_REPEATS, Config
from tisdiss_cli.model.hub import find_cached
from tisdiss_cli.model.network import TISDiSS

FORMAT = "tisdiss-1"

# Facts that calibration and the import of published weights write
THRESHOLD, REPEATS, CHUNK, QUALITY = "auto_threshold_db", "repeats", "chunk_seconds", "quality"
AGREEMENT = "bf16_agreement_db"
_RANGES = {THRESHOLD: (-200, 200), REPEATS: (1, MOST_REPEATS), CHUNK: (0.5, 3600), AGREEMENT: (-200, 200)}
_KIND = ".safetensors"


@dataclass(frozen=True)
class WeightFile:
    """Metadata of a weight file, whose tensors `load_weights` reads."""

    path: Path
    config: Config
    info: dict[str, Any] = field(default_factory=dict)  # training facts; "trained": False marks untrained weights

    @property
    def name(self) -> str:
        """Name of the file without its extension, by which bundled weights are chosen."""
        return self.path.stem

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the file's SHA-256."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    @property
    def trained(self) -> bool:
        """False for untrained weights, which do not separate."""
        return bool(self.info.get("trained", True))

    @property
    def default_repeats(self) -> int:
        """Default repeats of the Reconstructor: as calibrated, else as trained."""
        return cast(int, self.info.get(REPEATS, self.config.reconstructor_repeats))

    @property
    def auto_threshold_db(self) -> float | None:
        """SI-SNR in dB between estimates at which `--repeats auto` stops; None without calibration."""
        return self.info.get(THRESHOLD)

    @property
    def bf16_agreement_db(self) -> float | None:
        """SI-SNR in dB of the voices at bf16 to those at fp32; None if it was not measured."""
        return self.info.get(AGREEMENT)

    @property
    def chunk_seconds(self) -> float:
        """Chunk length in seconds for long recordings: as calibrated, else 8."""
        return cast(float, self.info.get(CHUNK, 8.0))


def bundled_directory() -> Path:
    """Returns the folder of the bundled weights: in the installed package, else the checkout's `weights/`."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


def bundled() -> list[Path]:
    """Returns the bundled weight files, trained before untrained, then by name; the first is the default."""
    paths = sorted(bundled_directory().glob("*.safetensors"))
    return sorted(paths, key=lambda path: ("untrained" in path.stem, path.name))


def find_weights(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """Returns the weight file of a bundled name, a path or a repository in the hub's cache; UserError if none exists.

    None stands for the bundled default.
    """
    names = {path.stem: path for path in bundled()}
    if name_or_path is None:
        if not names:
            raise UserError(f"no weights are bundled in {bundled_directory()}: name a weight file")
        return next(iter(names.values()))
    if str(name_or_path) in names:
        return names[str(name_or_path)]
    path = Path(name_or_path)
    if os.path.isfile(path):
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name_or_path)) and path.suffix != _KIND:
        if cached := find_cached(str(name_or_path)):
            return cached
        raise UserError(f"{name_or_path} is not in the Hub's cache: run 'tisdiss weights fetch {name_or_path}' first")
    choices = f"pass a .safetensors file or a bundled name ({', '.join(names) or 'none'})"
    raise UserError(f"there are no weights {str(name_or_path)!r}: {choices}")


def read_info(path: Path) -> WeightFile:
    """Returns the metadata of a weight file; UserError if it is not one, is cut short, or a fact is out of range."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise unreadable(path, _KIND, str(error)) from None
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is not a tisdiss weight file: its metadata has no format {FORMAT!r}")
    try:
        config, info = Config.from_dict(json.loads(metadata["config"])), dict(json.loads(metadata.get("info", "{}")))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its metadata does not describe a network ({error})") from None
    for key in info.keys() & _RANGES:
        value, (low, high) = info[key], _RANGES[key]
        if type(value) not in ((int,) if key == REPEATS else (int, float)) or not low <= value <= high:
            shown = str(value)[:80]
            raise UserError(f"{path}: its {key} is {shown} and must be {low:g} to {high:g}: calibrate it again")
    return WeightFile(path, config, info)


def load_weights(name_or_path: str | os.PathLike[str] | None = None) -> TISDiSS:
    """Returns the network in evaluation mode, float32 on the CPU, from a bundled name or a weight file.

    Raises:
        UserError: the weights do not exist, are not a weight file, or have tensors that do not fit the configuration,
            are not floating point or not finite.
    """
    weights = read_info(find_weights(name_or_path))
    try:
        tensors = load_file(weights.path)
        _check_sizes(weights, tensors)
        # Not on the meta device: it saves the initialisation, but imports torch's compiler, which takes seconds.
        with torch.random.fork_rng(devices=[]):
            network = TISDiSS(weights.config)
        check_tensors(weights.path, tensors, network.state_dict())
        network.load_state_dict(tensors)
    except (OSError, RuntimeError, MemoryError, safetensors.SafetensorError) as error:
        raise unreadable(weights.path, _KIND, str(error)) from None
    return network.eval()


def unreadable(path: Path, kind: str, reason: str) -> UserError:
    """Returns the error for an unreadable file of a `kind`: its actual type if recognised, else `reason`."""
    try:
        with path.open("rb") as file:
            head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except OSError as error:
        return UserError(f"{path} cannot be read: {error.strerror or error}")
    if head.startswith(b"version https://git-lfs"):
        return UserError(f"{path} is a Git LFS pointer: run 'git lfs pull', or download the file that it points to")
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return UserError(f"{path} is a web page, not the file that the page is about: download the file itself")
    if kind == _KIND and head.startswith((b"pk\3\4", b"\x80")):
        return UserError(f"{path} is a checkpoint: turn it into weights with 'tisdiss weights import' first")
    words = " ".join(reason.split())[:200]
    return UserError(f"{path} cannot be read as {kind} ({words}): it is cut short or damaged, download it again")


def check_tensors(path: Path, tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Raises UserError unless the tensors have the names and shapes of `expected` and are finite floating point."""
    faults = [
        *(f"{name} is missing" for name in expected if name not in tensors),
        *(f"{name} is superfluous" for name in sorted(tensors) if name not in expected),
        *(
            f"{name} has shape {tuple(tensors[name].shape)} and not {tuple(value.shape)}"
            for name, value in expected.items()
            if name in tensors and tensors[name].shape != value.shape
        ),
    ]
    if faults:
        raise UserError(f"{path}: its tensors do not fit the configuration: {listed(faults, most=3)}")
    for name, value in tensors.items():
        if not value.is_floating_point() or not value.float().isfinite().all():
            kind = str(value.dtype).removeprefix("torch.")
            raise UserError(f"{path}: {name} ({kind}) has NaN or infinite values, or is not floating point")


def _check_sizes(weights: WeightFile, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises UserError if the configuration's sizes are not those of the tensors, before a network is built."""
    config, sizes = weights.config, {size for value in tensors.values() for size in value.shape}
    wide = {config.channels, 2 * config.ffn_hidden, 3 * config.attention_channels, config.kernel_size}
    wide |= {config.channels * config.speakers, *config.encoder_kernel}
    if not wide <= sizes or max(config.separator_layers, config.reconstructor_layers) > len(tensors):
        raise UserError(f"{weights.path}: its tensors do not fit the configuration: their sizes differ")


def save_weights(
    path: Path, config: Config, state: dict[str, torch.Tensor], *, info: dict[str, Any] | None = None
) -> None:
    """Writes a weight file whole or not at all; UserError if that fails. `info` holds JSON types."""
    metadata = {
        "format": FORMAT,
        "config": json.dumps(config.to_dict()),
        "sample_rate": str(config.sample_rate),
        "info": json.dumps(info or {}),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with writing(path, safetensors.SafetensorError) as part:
        save_file(tensors, part, metadata=metadata)
        part.chmod(0o644)  # safetensors lets only the owner read it


def average_weights(paths: Sequence[Path], out: Path) -> None:
    """Writes the mean of weight files of one network, as the paper averages its best checkpoints.

    Repeats, recipe and training facts are the last file's, without its validation and calibration, which do not hold
    for the mean. UserError if a file is not a weight file, or its network differs from the last one's.
    """
    files = [read_info(path) for path in paths]
    last = files[-1]
    expected = last.config.to_dict()
    for file in files:
        for key, value in file.config.to_dict().items():
            if value != expected[key] and not key.endswith("_repeats"):
                raise UserError(f"{file.path} has {key} {value}, but {last.path} has {expected[key]}: they must agree")
    states = [load_weights(file.path).state_dict() for file in files]
    mean = {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}
    facts = {key: value for key, value in last.info.items() if key in ("trained", "recipe", "training")}
    save_weights(out, last.config, mean, info={**facts, "mean_of": [file.digest for file in files]})
