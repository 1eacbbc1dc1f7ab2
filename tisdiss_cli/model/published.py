"""Import of the authors' checkpoints, without running their code: parameter names and configuration become ours.

A published checkpoint is a `.pth` of tensors whose names carry the prefix `separator.`, beside an
ESPnet `config.yaml` with `encoder_conf`, `separator_conf` and `sample_rate`.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
import yaml

from tisdiss_cli.errors import UserError
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.weights import check_tensors, unreadable

# Ours -> published; the first match counts, and the rest of the name stays.
_NAMES: list[tuple[str, str]] = [
    (r"^encoder\.conv\.", "conv.0."),
    (r"^encoder\.norm\.", "conv.1."),
    (r"^reinjection\.conv\.", "concat_block.0."),
    (r"^reinjection\.activation\.", "concat_block.1."),
    (r"^splitter\.conv\.", "spk_spliter.conv2d."),
    (r"^splitter\.deconv\.", "spk_spliter.deconv2d."),
    (r"^decoder\.deconv\.", "reconstructor_deconv."),
    (r"^separator\.layers\.(\d+)\.", r"encoder_blocks.\1."),
    (r"^reconstructor\.layers\.(\d+)\.(?:spectral\.)?", r"reconstructor_blocks.\1."),
]
_IN_PATH: list[tuple[str, str]] = [
    (r"\.frequency\.", ".freq_path."),
    (r"\.frame\.", ".frame_path."),
    (r"\.speaker\.", ".spk_path."),
    (r"\.ffn_post\.", ".ffn.0."),
    (r"\.ffn_pre\.", ".ffn.1."),
    (r"\.ffn_post_norm\.", ".ffn_norm.0."),
    (r"\.ffn_pre_norm\.", ".ffn_norm.1."),
    (r"(\.ffn\.\d)\.conv\.", r"\1.conv1d."),
    (r"(\.ffn\.\d)\.deconv\.", r"\1.deconv1d."),
    (r"\.attention_norm\.", ".attn_norm."),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.out\.", ".attn.aggregate_heads.0."),
]

# separator_conf key -> Config field.
_KEYS = {
    "num_spk": "speakers",
    "emb_dim": "channels",
    "num_groups": "norm_groups",
    "tf_order": "path_order",
    "n_heads": "heads",
    "attention_dim": "attention_channels",
    "conv1d_kernel": "kernel_size",
    "ffn_hidden_dim": "ffn_hidden",
    "eps": "eps",
    "encoder_n_layers": "separator_layers",
    "encoder_repeat_times": "separator_repeats",
    "repeat_residual_module": "separator_reinjection",
    "reconstructor_n_layers": "reconstructor_layers",
    "reconstructor_repeat_times": "reconstructor_repeats",
    "reconstructor_repeat_residual_module": "reconstructor_reinjection",
}
# Options that our network does not vary, with their only supported values.
_FIXED = {"norm_type": "rmsgroupnorm", "conv1d_shift": 1, "encoder_decoder": False, "ffn_type": "swiglu_conv1d"}

# Keys under which training scripts keep the network, the likelier first.
_STATES = ("state_dict", "model_state_dict", "model", "network", "net", "weights", "params", "module")
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod)\.")  # of DistributedDataParallel and torch.compile


def published_name(name: str) -> str:
    """Returns the authors' name of our parameter, without their prefix."""
    for pattern, replacement in _NAMES:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    for pattern, replacement in _IN_PATH:
        name = re.sub(pattern, replacement, name)
    return name


def config_from_options(
    separator_conf: dict[str, Any], encoder_conf: dict[str, Any] | None = None, sample_rate: int = 8000
) -> Config:
    """Returns a Config from the authors' options; UserError for an option that it cannot express."""
    for key, supported in _FIXED.items():
        if _only(separator_conf, key, supported) != supported:
            raise UserError(f"separator_conf.{key} is {separator_conf[key]!r}, and only {supported!r} is supported")
    values = {field: _only(separator_conf, key) for key, field in _KEYS.items() if key in separator_conf}
    if "eps" in values:
        values["eps"] = float(values["eps"])  # YAML reads 1e-5, without a decimal point, as text
    values |= {key: value for key, value in (encoder_conf or {}).items() if key in ("n_fft", "hop_length")}
    return Config(**values, sample_rate=sample_rate)


def _only(options: dict[str, Any], key: str, default: Any = None) -> Any:
    """Returns an option, or the common value of its list's entries; UserError if they differ."""
    value = options.get(key, default)
    if not isinstance(value, list) or not value:
        return value
    if any(entry != value[0] for entry in value):
        raise UserError(f"separator_conf.{key} is {value}, and only equal entries are supported")
    return value[0]


def read_config(path: Path) -> Config:
    """Returns the Config of an authors' `config.yaml`; UserError if it cannot be read."""
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read as YAML ({reason}): pass the checkpoint's config.yaml") from None
    if not isinstance(options, dict) or not isinstance(options.get("separator_conf"), dict):
        raise UserError(f"{path} has no separator_conf: pass the config.yaml from the checkpoint's folder")
    try:
        return config_from_options(
            options["separator_conf"], options.get("encoder_conf"), int(options.get("sample_rate", 8000))
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None


def import_checkpoint(checkpoint: Path, config: Config) -> dict[str, Any]:
    """Returns our state dict from an authors' `.pth`, or from a training state that holds it, under any prefix.

    Raises:
        UserError: the file cannot be read, or tensors are missing, superfluous, of the wrong shape, not floating point
            or not finite.
    """
    stored = _load_state(checkpoint)
    with torch.device("meta"):
        expected = {published_name(name): (name, value) for name, value in TISDiSS(config).state_dict().items()}
    matches = ((name, theirs) for theirs in expected for name in stored if f".{name}".endswith(f".{theirs}"))
    prefix = next((name.removesuffix(theirs) for name, theirs in matches), "")
    derived = "rope.freqs"
    stored = {name.removeprefix(prefix): value for name, value in stored.items() if not name.endswith(derived)}
    check_tensors(checkpoint, stored, {theirs: value for theirs, (_, value) in expected.items()})
    return {ours: stored[theirs].float().contiguous() for theirs, (ours, _) in expected.items()}


def _load_state(path: Path) -> dict[str, torch.Tensor]:
    """Returns a network's tensors by name, on the CPU, without a training script's wrappers."""
    state = _load(path)
    while isinstance(state, dict) and (key := next((k for k in _STATES if isinstance(state.get(k), dict)), None)):
        state = state[key]
    if not (isinstance(state, dict) and state and all(isinstance(value, torch.Tensor) for value in state.values())):
        raise UserError(f"{path} is not a plain dictionary of tensors: pass the network's state dict")
    return {_WRAPPERS.sub("", str(name)): value for name, value in state.items()}


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Not torch's message, which advises to disable the protection.
        if not (named := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise unreadable(path, "a checkpoint", "no pickle of tensors") from None
        raise UserError(
            f"{path} holds Python objects ({named[1]}), which may run code: pass the state dict alone"
        ) from None
    except Exception as error:  # torch raises many kinds for a damaged file
        words = "" if "weights_only" in str(error) else str(error)
        raise unreadable(path, "a checkpoint", words or type(error).__name__) from None
