"""Training recipes: TOML files that a person can copy and edit; unknown keys and impossible values are named."""

import os
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, cast, get_origin

from tisdiss_cli.errors import UserError
from tisdiss_cli.model.config import MOST_REPEATS, Config

_POSITIVE: tuple[str, ...] = (
    *("segment_seconds", "batch_size", "learning_rate", "clip_norm", "epoch_steps", "budget_epochs"),
    *("log_steps", "checkpoint_minutes", "epochs", "patience", "stop_after", "average_best"),
)
_NOT_NEGATIVE: tuple[str, ...] = (
    *("level_db", "weight_decay", "seed", "minutes", "steps", "warm_up_steps", "valid_items"),
    *("muon_learning_rate", "cooldown"),
)
_MOST: dict[str, float] = {  # beyond it, a slip of the finger is likelier than a wish
    "segment_seconds": 3600,
    "batch_size": 65536,
    "level_db": 60,
    "learning_rate": 100,
    "muon_learning_rate": 100,
    "minutes": 1e7,
    "cooldown": 1e7,
    "steps": 10**12,
    "valid_items": 10**9,
    "seed": 2**63 - 1,
}
# What may change while an open-ended run goes on.
CHANGEABLE: tuple[str, ...] = (
    *("repeats", "learning_rate", "muon_learning_rate", "batch_size", "segment_seconds", "level_db"),
    *("turn_taking", "filter_db", "clip_norm", "ema_decay", "cooldown"),
)
DIRECTORY = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run learns. The defaults are the paper's (section 3)."""

    network: dict[str, Any] = field(default_factory=dict)  # keys of Config
    # Mixtures
    segment_seconds: float = 4.0
    batch_size: int = 6  # a device
    level_db: float = 5.0  # relative levels are uniform in +-this
    turn_taking: float = 0.0  # share of the mixtures in which each voice begins and ends somewhere
    filter_db: float = 0.0  # each voice through a few random shelves and bells of up to +-this; 0: off
    speeds: list[float] = field(default_factory=lambda: [1.0])  # factors of the speed perturbation
    exclude: list[list[str]] = field(default_factory=list)  # pairs of speakers, or patterns, never mixed
    rirs: str = ""  # folder of impulse responses, a folder a room; the references stay dry
    noise: str = ""  # folder of noise recordings
    noise_db: list[float] = field(default_factory=lambda: [-6.0, 3.0])  # loudest speaker over noise, uniform (WHAM!)
    # Method
    repeats: str = ""  # of the Reconstructor in a step: "6", or "1-6" drawn for each step; "": the network's
    separator_loss: bool = False  # supervise Separator outputs too, through the Splitter
    learning_rate: float = 1e-3  # AdamW's
    muon_learning_rate: float = 0.0  # Muon's, for the matrices within the stages; 0: AdamW moves them too
    weight_decay: float = 1e-2
    clip_norm: float = 5.0
    ema_decay: float = 0.0  # of the weights' moving average, less in the first steps; 0: off
    average_best: int = 1  # the weights are the mean of so many best validated ones (the paper: 5)
    seed: int = 0
    # Schedule: with minutes or steps, warm-up then linear decay to zero; open-ended, warm-up then a constant rate until
    # the run is told to stop; else the paper's
    minutes: float = 0.0  # 0: no time budget
    steps: int = 0  # 0: no budget of steps
    open_ended: bool = False
    cooldown: float = 0.0  # minutes in which an open-ended run's rate falls to zero and the run ends; 0: not yet
    changes: list[dict[str, Any]] = field(default_factory=list)  # open-ended: a step, and keys with new values
    warm_up_share: float = 0.05  # of a budget
    warm_up_steps: int = 2000
    epoch_steps: int = 1000  # an epoch ends with a validation and a checkpoint
    budget_epochs: int = 20  # into which a budget is divided
    log_steps: int = 10  # a row of the log
    checkpoint_minutes: float = 2.0
    valid_items: int = 0  # mixtures to validate on, evenly spread over the folder; 0: all
    epochs: int = 150
    patience: int = 3  # epochs without improvement until the rate is halved
    stop_after: int = 10  # epochs without improvement until the run ends
    # Engine
    precision: str = "fp32"  # or "bf16", "tf32" (on CUDA), or "auto": bf16 where the device has units for it
    compile: bool = False
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
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
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise UserError(f"recipe: {name} must be above 0, not {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise UserError(f"recipe: {name} must not be negative, not {getattr(self, name)}")
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise UserError(f"recipe: {name} must be at most {most:g}, not {getattr(self, name)}")
        if not 0 <= self.turn_taking <= 1:
            raise UserError(f"recipe: turn_taking must be a share from 0 to 1, not {self.turn_taking}")
        if not 0 <= self.filter_db <= 12:
            raise UserError(f"recipe: filter_db must be 0 to 12 dB, not {self.filter_db}")
        for name in ("ema_decay", "warm_up_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"recipe: {name} must be at least 0 and below 1, not {getattr(self, name)}")
        if bool(self.minutes) + bool(self.steps) + self.open_ended > 1:
            raise UserError("recipe: a run has either minutes or steps as its budget, or is open_ended")
        if (self.cooldown or self.changes) and not self.open_ended:
            raise UserError("recipe: only an open_ended run has changes or a cooldown")
        if self.precision not in ("auto", "fp32", "tf32", "bf16"):
            raise UserError(f"recipe: precision must be 'auto', 'fp32', 'tf32' or 'bf16', not {self.precision!r}")
        if not self.speeds or not all(type(v) in (int, float) and 0.5 <= v <= 2 for v in self.speeds):
            raise UserError(f"recipe: speeds must be factors between 0.5 and 2, not {self.speeds}")
        if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(s, str) for s in p) for p in self.exclude):
            raise UserError("recipe: exclude must be a list of pairs of speakers or patterns")
        decibels = self.noise_db
        if len(decibels) != 2 or not all(type(v) in (int, float) and abs(v) <= 60 for v in decibels):
            raise UserError(f"recipe: noise_db must be two levels in dB, within +-60, not {decibels}")
        if decibels[0] > decibels[1]:
            raise UserError(f"recipe: noise_db must be the lowest and then the highest level, not {decibels}")
        self.repeat_range  # noqa: B018  checks it
        if self.segment_seconds * self.config.sample_rate < self.config.n_fft:
            raise UserError(f"recipe: segment_seconds ({self.segment_seconds}) is shorter than one n_fft")
        self._check_changes()

    def _check_changes(self) -> None:
        before = 0
        for change in self.changes:
            step = change.get("step") if isinstance(change, dict) else None
            if type(step) is not int or step < before:
                raise UserError(f"recipe: each of the changes needs its step, in ascending order, not {change}")
            before = step
            wrong = sorted(set(change) - {"step", *CHANGEABLE})
            if wrong:
                raise UserError(f"recipe: {wrong[0]} cannot change during a run; what can is {', '.join(CHANGEABLE)}")
            after = self.at(step)
            if bool(after.muon_learning_rate) != bool(self.muon_learning_rate):
                raise UserError("recipe: muon_learning_rate cannot change from or to 0 during a run")

    def at(self, step: int) -> "Recipe":
        """The recipe of the step after `step` steps: with all changes until then, and none to come."""
        values: dict[str, Any] = {}
        for change in self.changes:
            if change["step"] <= step:
                values |= {name: value for name, value in change.items() if name != "step"}
        return replace(self, changes=[], **values)

    @property
    def deepest(self) -> int:
        """The most Reconstructor repeats of any step, those of later changes among them."""
        return max(self.at(step).repeat_range[1] for step in (0, *(change["step"] for change in self.changes)))

    @property
    def segment_samples(self) -> int:
        """Length of a mixture: `segment_seconds` as whole hops, which is what the network hears at inference too."""
        hop = self.config.hop_length
        return round(self.segment_seconds * self.config.sample_rate / hop) * hop

    @property
    def config(self) -> Config:
        """The network; its trained repeats are the largest of a step."""
        config = Config.from_dict(self.network)
        return Config.from_dict({**self.network, "reconstructor_repeats": self._range(config)[1]})

    @property
    def repeat_range(self) -> tuple[int, int]:
        """The fewest and the most Reconstructor repeats of a step."""
        return self._range(Config.from_dict(self.network))

    def _range(self, config: Config) -> tuple[int, int]:
        low, _, high = (self.repeats or str(config.reconstructor_repeats)).partition("-")
        try:
            low_high = int(low), int(high or low)
        except ValueError:
            low_high = 0, 0
        if not 1 <= low_high[0] <= low_high[1] <= MOST_REPEATS:
            raise UserError(
                f"recipe: repeats must be a number, at least 1 and at most {MOST_REPEATS}, or a range like 1-6, "
                f"not {self.repeats!r}"
            )
        return low_high

    def to_dict(self) -> dict[str, Any]:
        """Every key, as TOML has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """UserError names the first unknown key."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise UserError(
                f"recipe: unknown key {unknown[0]!r}; the keys are {', '.join(f.name for f in fields(cls))}"
            )
        return cls(**values)


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in DIRECTORY.glob("*.toml"))


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """The keys of a recipe that comes with the package, or of a TOML file.

    Raises:
        UserError: no such recipe, no TOML, an unknown key or an impossible value; it names the file.
    """
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
