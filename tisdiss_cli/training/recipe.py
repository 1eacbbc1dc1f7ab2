"""Training recipes: TOML files, with every key and value checked."""

import os
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any, cast, get_origin

from tisdiss_cli.errors import UserError
from tisdiss_cli.model.config import MOST_REPEATS, Config

# Keys that may change during an open-ended run.
CHANGEABLE: tuple[str, ...] = (
    *("repeats", "learning_rate", "muon_learning_rate", "batch_size", "accumulate", "segment_seconds", "level_db"),
    *("turn_taking", "speaker_exponent", "clip_norm", "ema_decay", "cooldown"),
)
DIRECTORY = Path(__file__).parent / "recipes"


def _number(default: float, least: float = 0, most: float = inf, *, above: bool = False) -> Any:
    """Declares a number from `least` (exclusive if `above`) to `most`; larger values are likely typing errors."""
    return field(default=default, metadata={"range": (least, most, above)})


@dataclass(frozen=True)
class Recipe:
    """Settings that decide what a run learns. The defaults are the paper's (section 3)."""

    network: dict[str, Any] = field(default_factory=dict)  # keys of Config
    # Mixtures
    segment_seconds: float = _number(4.0, most=3600, above=True)
    batch_size: int = _number(6, 1, 65536)  # per device
    accumulate: int = _number(1, 1, 65536)  # batches per step, one after the other: saves memory
    level_db: float = _number(5.0, most=60)  # relative levels are uniform within +- this
    speaker_exponent: float = _number(0.0, most=1)  # speakers are drawn by minutes ** this; 0: uniformly
    turn_taking: float = _number(0.0, most=1)  # share of mixtures that are windows of conversations
    speeds: list[float] = field(default_factory=lambda: [1.0])  # factors of the speed perturbation
    exclude: list[list[str]] = field(default_factory=list)  # pairs of speakers, or patterns, never mixed
    rirs: str = ""  # impulse responses, one folder per room; references stay dry
    noise: str = ""  # folder of noise recordings
    noise_db: list[float] = field(default_factory=lambda: [-6.0, 3.0])  # loudest speaker over noise, uniform (WHAM!)
    # Method
    repeats: str = ""  # Reconstructor repeats: "6", or "1-6" drawn at each step; "": the network's
    separator_loss: bool = False  # supervise Separator outputs too, through the Splitter
    splitter_weight: float = _number(1.0, most=100)  # loss weight of exits before the Reconstructor, others: 1
    learning_rate: float = _number(1e-3, most=100, above=True)  # AdamW's
    muon_learning_rate: float = _number(0.0, most=100)  # Muon's, for matrices in the stages; 0: AdamW for all
    weight_decay: float = _number(1e-2)  # AdamW's
    muon_weight_decay: float = _number(0.0)
    clip_norm: float = _number(5.0, above=True)
    ema_decay: list[float] = field(default_factory=lambda: [0.0])  # of one or several averages of the weights
    average_best: int = _number(1, 1)  # number of best validated weights to average (the paper: 5)
    seed: int = _number(0, most=2**63 - 1)
    # Schedule: with minutes or steps, warm-up, perhaps a constant rate, linear decay to zero; open-ended, warm-up, then
    # a constant rate until a cooldown; else the paper's
    minutes: float = _number(0.0, most=1e7)  # 0: no time budget
    steps: int = _number(0, most=10**12)  # 0: no budget of steps
    open_ended: bool = False
    cooldown: float = _number(0.0, most=1e7)  # minutes of an open-ended run's final decay; 0: none yet
    changes: list[dict[str, Any]] = field(default_factory=list)  # open-ended: a step, and keys with new values
    warm_up_share: float = _number(0.05, most=0.99)  # of a budget
    decay_share: float = _number(1.0, most=1, above=True)  # of a budget; 1: from the warm-up on
    warm_up_steps: int = _number(2000)
    epoch_steps: int = _number(1000, 1)  # an epoch ends with a validation and a checkpoint
    budget_epochs: int = _number(20, 1)  # epochs in a budget
    log_steps: int = _number(10, 1)  # steps per row of the log
    checkpoint_minutes: float = _number(2.0, above=True)
    valid_items: int = _number(0, most=10**9)  # evenly spaced mixtures to validate on; 0: all
    epochs: int = _number(150, 1)
    patience: int = _number(3, 1)  # epochs without improvement until the rate is halved
    stop_after: int = _number(10, 1)  # epochs without improvement until the run ends
    # Engine
    precision: str = "fp32"  # or "bf16", "tf32" (CUDA), or "auto": bf16 on devices with units for it
    compile: bool = False
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if type(self.ema_decay) in (int, float):
            object.__setattr__(self, "ema_decay", [self.ema_decay])
        for f in fields(self):
            value, kind = getattr(self, f.name), cast(type, get_origin(f.type) or f.type)
            if kind is float and type(value) is int:
                object.__setattr__(self, f.name, float(value))
            elif kind is str and type(value) is int:
                object.__setattr__(self, f.name, str(value))
            elif type(value) is not kind:
                raise UserError(f"recipe: {f.name} must be of type {kind.__name__}, not {value!r}")
            if kind is float and not isfinite(value):
                raise UserError(f"recipe: {f.name} must be a finite number, not {value}")
            least, most, above = f.metadata.get("range", (-inf, inf, False))
            if kind in (int, float) and (value < least or value > most or (above and value == least)):
                limit = f" and at most {most:g}" if most < inf else ""
                raise UserError(
                    f"recipe: {f.name} must be {'above' if above else 'at least'} {least:g}{limit}, not {value}"
                )
        self._check_together()
        self._check_changes()

    def _check_together(self) -> None:
        """Checks rules beyond the ranges of single keys."""
        if not self.ema_decay or not all(type(v) in (int, float) and 0 <= v < 1 for v in self.ema_decay):
            raise UserError(f"recipe: ema_decay must be one or several numbers from 0 to below 1, not {self.ema_decay}")
        if bool(self.minutes) + bool(self.steps) + self.open_ended > 1:
            raise UserError("recipe: a run has either minutes or steps, or is open_ended")
        if (self.cooldown or self.changes) and not self.open_ended:
            raise UserError("recipe: only an open_ended run may have changes or a cooldown")
        if self.precision not in ("auto", "fp32", "tf32", "bf16"):
            raise UserError(f"recipe: precision must be 'auto', 'fp32', 'tf32' or 'bf16', not {self.precision!r}")
        if not self.speeds or not all(type(v) in (int, float) and 0.5 <= v <= 2 for v in self.speeds):
            raise UserError(f"recipe: speeds must be factors between 0.5 and 2, not {self.speeds}")
        if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(s, str) for s in p) for p in self.exclude):
            raise UserError("recipe: exclude must be a list of pairs of speakers or patterns")
        decibels = self.noise_db
        valid = len(decibels) == 2 and all(type(v) in (int, float) and abs(v) <= 60 for v in decibels)
        if not valid or decibels[0] > decibels[1]:
            raise UserError(f"recipe: noise_db must be two levels in dB, within +-60, lower first, not {decibels}")
        self.repeat_range  # noqa: B018  checks it
        if self.segment_seconds * self.config.sample_rate < self.config.n_fft:
            raise UserError(f"recipe: segment_seconds ({self.segment_seconds}) is shorter than one n_fft")

    def _check_changes(self) -> None:
        before = 0
        for change in self.changes:
            step = change.get("step") if isinstance(change, dict) else None
            if type(step) is not int or step < before:
                raise UserError(f"recipe: each change needs its step, in ascending order, not {change}")
            before = step
            wrong = sorted(set(change) - {"step", *CHANGEABLE})
            if wrong:
                raise UserError(f"recipe: {wrong[0]} cannot change during a run; these can: {', '.join(CHANGEABLE)}")
            after = self.at(step)
            if bool(after.muon_learning_rate) != bool(self.muon_learning_rate):
                raise UserError("recipe: muon_learning_rate cannot change from or to 0 during a run")
            if len(after.ema_decay) != len(self.ema_decay):
                raise UserError("recipe: the number of moving averages, ema_decay, cannot change during a run")

    def at(self, step: int) -> "Recipe":
        """Returns the recipe after `step` steps, with the changes up to there applied."""
        values: dict[str, Any] = {}
        for change in self.changes:
            if change["step"] <= step:
                values |= {name: value for name, value in change.items() if name != "step"}
        return replace(self, changes=[], **values)

    @property
    def deepest(self) -> int:
        """Largest number of Reconstructor repeats of any step, later changes included."""
        return max(self.at(step).repeat_range[1] for step in (0, *(change["step"] for change in self.changes)))

    @property
    def step_size(self) -> int:
        """Number of mixtures per step and device."""
        return self.batch_size * self.accumulate

    @property
    def segment_samples(self) -> int:
        """Length of a mixture in samples, a whole number of hops as at inference."""
        hop = self.config.hop_length
        return round(self.segment_seconds * self.config.sample_rate / hop) * hop

    @property
    def config(self) -> Config:
        """Network configuration; its trained repeats are the largest of a step."""
        return Config.from_dict({**self.network, "reconstructor_repeats": self.repeat_range[1]})

    @property
    def repeat_range(self) -> tuple[int, int]:
        """Smallest and largest number of Reconstructor repeats of a step."""
        low, _, high = (self.repeats or str(Config.from_dict(self.network).reconstructor_repeats)).partition("-")
        try:
            low_high = int(low), int(high or low)
        except ValueError:
            low_high = 0, 0
        if not 1 <= low_high[0] <= low_high[1] <= MOST_REPEATS:
            raise UserError(f"recipe: repeats must be 1 to {MOST_REPEATS}, or a range like 1-6, not {self.repeats!r}")
        return low_high

    def to_dict(self) -> dict[str, Any]:
        """Returns all keys with their values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Builds a recipe; UserError for an unknown key or an impossible value."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise UserError(f"recipe: unknown key {unknown[0]!r}; known: {', '.join(f.name for f in fields(cls))}")
        return cls(**values)


def recipe_names() -> list[str]:
    """Returns the names of the bundled recipes, sorted."""
    return sorted(path.stem for path in DIRECTORY.glob("*.toml"))


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """Returns the keys of a bundled recipe or a TOML file; UserError if it cannot be read or has wrong keys."""
    path = DIRECTORY / f"{name_or_path}.toml" if name_or_path in recipe_names() else Path(name_or_path)
    if not os.path.isfile(path):
        raise UserError(f"there is no recipe {name_or_path!r}: pass a TOML file or one of {', '.join(recipe_names())}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as TOML ({error})") from None
    try:
        Recipe.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('recipe: ')}") from None
    return values
