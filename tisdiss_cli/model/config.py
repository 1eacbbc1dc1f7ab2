"""Configuration of a TISDiSS network: every width, order, repetition count and rate.

Symbols in comments follow the paper (arXiv 2509.15666): S speakers, D channels, H hidden channels
of a feed-forward, A attention width, T frames, F frequency bins.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from tisdiss_cli.errors import UserError

MOST_REPEATS = 1000  # of Separator or Reconstructor; more is probably a typing error
MOST_SHIFTS = 64  # passes over a chunk
_MOST = 1_000_000  # of any other number


@dataclass(frozen=True)
class Config:
    """Architecture, STFT and sampling rate of a network; the defaults are the released model's.

    Raises UserError if a value is out of range or two do not fit together.
    """

    speakers: int = 2  # S
    channels: int = 128  # D
    ffn_hidden: int = 384  # H
    kernel_size: int = 4  # of the feed-forwards' convolutions
    attention_channels: int = 128  # A
    heads: int = 4
    norm_groups: int = 4
    eps: float = 1e-5
    path_order: str = "ft"  # "ft": frequency path first, "tf": frame path first
    separator_layers: int = 1
    separator_repeats: int = 2
    separator_reinjection: bool = True  # mixture features before every layer but the very first
    reconstructor_layers: int = 1
    reconstructor_repeats: int = 6  # as trained, and the default at inference
    reconstructor_reinjection: bool = False  # mixture features before every layer
    n_fft: int = 128
    hop_length: int = 64
    encoder_kernel: tuple[int, int] = (3, 3)  # over (T, F), of Encoder's and Decoder's convolution
    encoder_stride: tuple[int, int] = (1, 1)  # over (T, F): by this factor the grid of the other stages is coarser
    output: str = "spectrum"  # output of the Decoder: "spectrum", or "mask", which multiplies the mixture's spectrum
    sample_rate: int = 8000  # Hz

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if kind is float and type(value) is int:
                object.__setattr__(self, field.name, float(value))
            elif kind is tuple:
                object.__setattr__(self, field.name, _pair(field.name, value))
            elif type(value) is not kind:
                raise UserError(f"configuration: {field.name} must be of type {kind.__name__}, not {value!r}")
            most = MOST_REPEATS if field.name.endswith(("_repeats", "_layers")) else _MOST
            if kind in (int, float) and not 0 < value <= most:
                raise UserError(f"configuration: {field.name} must be above 0 and at most {most}, not {value}")
        if self.path_order not in ("ft", "tf"):
            raise UserError(f"configuration: path_order must be 'ft' or 'tf', not {self.path_order!r}")
        if self.output not in ("spectrum", "mask"):
            raise UserError(f"configuration: output must be 'spectrum' or 'mask', not {self.output!r}")
        if any(stride > kernel for stride, kernel in zip(self.encoder_stride, self.encoder_kernel, strict=True)):
            raise UserError(
                f"configuration: encoder_stride {self.encoder_stride} exceeds encoder_kernel {self.encoder_kernel}"
            )
        if self.channels % self.norm_groups:
            raise UserError(
                f"configuration: channels {self.channels} must be a multiple of norm_groups {self.norm_groups}"
            )
        if self.attention_channels % (2 * self.heads):
            raise UserError(
                f"configuration: attention_channels {self.attention_channels} must be a multiple of 2 x heads"
            )
        if self.n_fft % 2 or self.hop_length > self.n_fft // 2:
            raise UserError(
                f"configuration: n_fft {self.n_fft} must be even, and at least twice hop_length {self.hop_length}"
            )

    @property
    def bins(self) -> int:
        """Number F of frequency bins of the one-sided spectrum."""
        return self.n_fft // 2 + 1

    def to_dict(self) -> dict[str, Any]:
        """Returns every field by name, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Returns the configuration from `to_dict`'s values; UserError for an unknown key."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise UserError(f"configuration: unknown key {unknown[0]!r}")
        return cls(**values)


def parse_number(option: str, text: str) -> int:
    """Returns an option's number of repeats; UserError unless it is whole, and 1 to MOST_REPEATS."""
    number = int(text) if text.strip().isdecimal() and len(text) <= 9 else 0
    if not 1 <= number <= MOST_REPEATS:
        raise UserError(f"{option} {text}: it must be a whole number, at least 1 and at most {MOST_REPEATS}")
    return number


def _pair(name: str, value: Any) -> tuple[int, int]:
    """Returns the value as a pair of whole numbers above 0, from a list in JSON and TOML."""
    if not isinstance(value, tuple | list) or [type(v) is int and 0 < v <= _MOST for v in value] != [True, True]:
        raise UserError(f"configuration: {name} must be two whole numbers above 0, (frames, bins), not {value!r}")
    return value[0], value[1]
