"""Options of a run, and the settings that follow from them with weights and device."""

import re
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from tisdiss_cli.activity.formats import parse_formats
from tisdiss_cli.audio.channels import parse_channels
from tisdiss_cli.audio.write import check_rate, choices
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.naming import DEFAULT
from tisdiss_cli.model.config import parse_number
from tisdiss_cli.model.weights import QUALITY
from tisdiss_cli.separation.chunking import ChunkPlan
from tisdiss_cli.separation.early_exit import EarlyExit
from tisdiss_cli.separation.quality import QualityModel
from tisdiss_cli.separation.separator import Separator


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run, as in the command; None where weights, device or number of files decide."""

    sources: tuple[Path, ...] = ()  # each IN
    out: Path
    files_from: str | None = None  # a list of inputs
    name: str = DEFAULT  # template of the outputs
    repeats: str | None = None  # of the Reconstructor: a number, or auto
    quality: float | None = None  # predicted SI-SNRi in dB at which each chunk stops
    max_repeats: int | None = None  # limit for auto, quality, rtf and budget
    rtf: float | None = None  # seconds of work for a second of audio
    budget: str | None = None  # time for all inputs
    separator_repeats: int | None = None
    shifts: int = 1  # averaged passes over each chunk
    weights: str | None = None  # a bundled name, a file, or a fetched repository
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    format: str = "wav"  # one of audio.write.FORMATS
    subtype: str = "auto"  # one of audio.write.SUBTYPES
    sample_rate: str = "model"  # of the outputs; or "input"
    band: str = "network"  # or "input": with shares of the mixture above the network's band
    layout: str = "files"  # a file for each voice; or "channels": one file, a channel for each voice
    track: int | None = None  # audio track of a container, from 1 on
    partial: bool = False  # separate what truncated or damaged inputs have
    channels: str = "average"  # or numbers, or "each"
    chunk: float | None = None  # seconds
    batch_size: int | None = None  # chunks at a time
    segments: str | None = None  # formats of segment files
    min_quality: float | None = None  # predicted SI-SNRi in dB below which an input is doubtful
    shard: str | None = None  # index/count, or slurm
    devices: str | None = None  # number of devices, or all
    cluster: str | None = None  # address of a Ray cluster, or auto
    overwrite: bool = False  # do everything again
    dry_run: bool = False  # plan only

    @property
    def several(self) -> bool:
        """True for a run on several devices."""
        return self.devices is not None or self.cluster is not None

    @property
    def device_count(self) -> int | None:
        """Number of devices, or None for all; UserError if it is not a number."""
        if self.devices is None or self.devices == "all":
            return None
        if not self.devices.isdecimal() or not 1 <= int(self.devices[:9]) <= 100_000:
            raise UserError(f"--devices {self.devices}: write a number, or all")
        return int(self.devices)

    @property
    def limit(self) -> str | None:
        """Time limit as given, which chooses each input's repeats; None without one."""
        if self.rtf is not None:
            return f"--rtf {self.rtf:g}"
        return None if self.budget is None else f"--budget {self.budget}"

    @property
    def budget_seconds(self) -> float | None:
        """Time for all inputs in seconds, or None; UserError if it is not a time."""
        return None if self.budget is None else parse_duration(self.budget)

    @property
    def each_channel(self) -> bool:
        """True if every channel is a mixture of its own; UserError for unusable channels."""
        return parse_channels(self.channels) == "each"

    @property
    def one_file(self) -> bool:
        """True if all voices of an input go into one file."""
        return self.layout == "channels"

    @property
    def averaged(self) -> tuple[int, ...]:
        """Channels to average, from 1 on; () for all."""
        return () if (channels := parse_channels(self.channels)) == "each" else channels

    @property
    def formats(self) -> list[str]:
        """Formats of the segment files; UserError for an unknown one."""
        return [] if self.segments is None else parse_formats(self.segments)

    @property
    def requested_repeats(self) -> int | str | None:
        """Repeats as a number, "auto", or None for the weights' default; UserError for others."""
        return self.repeats if self.repeats in (None, "auto") else parse_number("--repeats", self.repeats)

    def check(self) -> None:
        """Raises UserError if options do not fit together, as far as that is known without weights and device."""
        repeats = None if self.quality is not None and self.repeats == "auto" else self.repeats
        if sum(option is not None for option in (repeats, self.quality, self.rtf, self.budget)) > 1:
            raise UserError("--repeats, --quality, --rtf and --budget each choose the repeats: give one of them")
        if self.subtype not in choices(self.format):
            others, option = " or ".join(choices(self.format)), f"--subtype {self.subtype}: --format {self.format}"
            raise UserError(f"{option} does not have it: choose {others}, or another --format")
        if self.band == "input" and self.sample_rate == "model":
            raise UserError("--band input needs a higher rate than the network's: add --sample-rate input")
        if self.several and self.device not in ("auto", "cpu", "cuda"):
            raise UserError(
                f"--device {self.device} is a single one: use auto, cpu or cuda with --devices and --cluster"
            )
        if self.several and self.limit:
            raise UserError("--rtf and --budget time one device: use --repeats with --devices and --cluster")
        _ = self.requested_repeats, self.budget_seconds, self.each_channel, self.formats, self.device_count


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a run: the options, and their values with weights and device."""

    options: Options
    repeats: int | EarlyExit
    plan: ChunkPlan
    batch_size: int
    tracks_activity: bool = False  # whether it finds who speaks when
    quality: QualityModel | None = None  # predictor of SI-SNRi
    recorded: dict[str, Any] = field(default_factory=dict)  # in each line; a run resumes only under the same


def load_separator(options: Options) -> Separator:
    """Returns the network of the options; UserError if it cannot be loaded."""
    separator = Separator.load(options.weights, options.device, options.precision, options.shifts)
    if options.compile:
        separator.compile()
    return separator


def choose_settings(separator: Separator, options: Options, inputs: int = 1) -> Settings:
    """Returns the settings of the options with a separator's weights and device, for a number of `inputs`.

    `recorded` has everything that the samples depend on. UserError for "auto", `quality` or `min_quality` with weights
    that are not calibrated for it, and for a format without the rate.
    """
    if options.sample_rate == "model":
        check_rate(options.format, separator.sample_rate)
    repeats: int | EarlyExit
    if options.quality is not None:
        repeats = separator.until_quality(options.quality, options.max_repeats)
    elif options.repeats == "auto":
        repeats = separator.auto(options.max_repeats)
    else:
        repeats = int(options.requested_repeats or separator.default_repeats)
    if options.min_quality is not None:
        separator.predictor("--min-quality")
    plan, channels, formats = separator.plan(options.chunk), parse_channels(options.channels), options.formats
    recorded = {
        "weights": separator.weights.name,
        "weights_sha256": separator.weights.digest,
        "repeats": options.limit or (repeats if isinstance(repeats, int) else str(repeats)),
        "separator_repeats": options.separator_repeats or separator.config.separator_repeats,
        "precision": separator.precision,
        "chunk_seconds": plan.chunk / separator.sample_rate,
        "format": options.format,
        "sample_rate": options.sample_rate,
        **({"band": options.band} if options.band != "network" else {}),
        **({"layout": options.layout} if options.one_file else {}),
        **({"shifts": options.shifts} if options.shifts > 1 else {}),
        **({"compiled": True} if options.compile else {}),
        **({"track": options.track} if options.track and options.track > 1 else {}),
        **({"subtype": options.subtype} if options.subtype != "auto" else {}),
        **({"channels": channels if channels == "each" else list(channels)} if channels else {}),
        **({"segments": sorted(formats)} if formats else {}),
    }
    return Settings(
        options=options,
        repeats=repeats,
        plan=plan,
        batch_size=options.batch_size or separator.default_batch(plan, inputs),
        # A detector on the CPU takes little time beside a network there, and much beside one on another device.
        tracks_activity=separator.device.type == "cpu" or bool(formats),
        quality=QualityModel.of(separator.weights.info.get(QUALITY)),
        recorded=recorded,
    )


def parse_duration(text: str) -> float:
    """Returns the seconds of "90", "90s", "10m", "1.5h" or "1h30m"; UserError for other texts."""
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    hours, minutes, rest = (float(part or 0) for part in (found.groups() if found else ("", "", "")))
    seconds = 3600 * hours + 60 * minutes + rest
    if not 0 < seconds < inf:
        raise UserError(f"--budget {text}: write a time above 0, as in 90s, 10m or 1h30m")
    return seconds
