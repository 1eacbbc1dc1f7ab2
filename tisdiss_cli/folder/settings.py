"""What a folder is separated with: options as these weights, this device and the clock allow them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tisdiss_cli.audio.write import check_rate, choices
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.hearing import Wanted
from tisdiss_cli.folder.pace import Limit, Pace, measure_pace
from tisdiss_cli.model.weights import QUALITY
from tisdiss_cli.separation.chunking import ChunkPlan
from tisdiss_cli.separation.early_exit import EarlyExit
from tisdiss_cli.separation.quality import QualityModel
from tisdiss_cli.separation.separator import Separator

log = logging.getLogger("tisdiss")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every input of a run is separated with."""

    repeats: int | EarlyExit
    separator_repeats: int
    plan: ChunkPlan
    batch_size: int
    format: str = "wav"  # or another of audio.write.FORMATS
    subtype: str = "auto"  # or another of audio.write.SUBTYPES
    channels: tuple[int, ...] = ()  # that are averaged, from 1 on; () for all
    input_rate: bool = False  # outputs at the input's rate instead of the network's
    overwrite: bool = False
    track: int | None = None  # which audio track of a container; None: the first
    partial: bool = False  # whether what there is of a truncated or damaged input is separated
    pace: Pace | None = None  # chooses each input's repeats instead
    wanted: Wanted = field(default_factory=Wanted)  # what is told of the inputs
    recorded: dict[str, Any] = field(default_factory=dict)  # goes into each line; a run resumes only under the same


def choose_settings(
    separator: Separator,
    *,
    repeats: int | Literal["auto"] | None = None,
    max_repeats: int | None = None,
    quality: float | None = None,
    separator_repeats: int | None = None,
    limit: Limit | None = None,
    chunk: float | None = None,
    batch_size: int | None = None,
    inputs: int = 1,
    format: str = "wav",
    subtype: str = "auto",
    channels: tuple[int, ...] | Literal["each"] = (),
    sample_rate: str = "model",
    compiled: bool = False,
    overwrite: bool = False,
    track: int | None = None,
    partial: bool = False,
    segments: Sequence[str] = (),
    min_quality: float | None = None,
) -> Settings:
    """The options of `tisdiss separate`, None where the weights or the device decide, as settings.

    What the samples depend on goes into `recorded`. A `limit` is only recorded: `with_pace` makes it count.

    Args:
        separator: whose weights and device decide.
        repeats: of the Reconstructor, or "auto".
        max_repeats: the most that "auto" and `quality` may choose.
        quality: predicted SI-SNRi, in dB, at which each chunk stops.
        separator_repeats: of the Separator.
        limit: of time, by which the repeats will be chosen.
        chunk: seconds.
        batch_size: chunks at a time.
        inputs: how many there are, those that are done already among them.
        format: one of `audio.write.FORMATS`.
        subtype: one of `audio.write.SUBTYPES`.
        channels: of each input that are averaged, from 1 on; () for all; "each" where the jobs say which.
        sample_rate: of the outputs, "model" or "input".
        compiled: whether torch.compile made the network, whose rounding then differs.
        overwrite: whether all is done again.
        track: which audio track of a container, from 1 on.
        partial: whether what there is of a truncated or damaged input is separated; changes nothing of whole ones, and
            is not recorded.
        segments: formats of the files of who speaks when.
        min_quality: predicted SI-SNRi, in dB, below which an input is marked as doubtful.

    Raises:
        UserError: "auto" with weights that have no threshold, `quality` or `min_quality` with weights that have no
            predictor; a format that cannot hold the subtype or the rate.
    """
    if subtype not in choices(format):
        others = " or ".join(choices(format))
        raise UserError(f"--subtype {subtype}: --format {format} cannot hold it: choose {others}, or another --format")
    if sample_rate == "model":
        check_rate(format, separator.sample_rate)
    chosen: int | EarlyExit
    if quality is not None:
        chosen = separator.until_quality(quality, max_repeats)
    else:
        chosen = separator.auto(max_repeats) if repeats == "auto" else repeats or separator.default_repeats
    separator_repeats = separator_repeats or separator.config.separator_repeats
    plan = separator.plan(chunk)
    if min_quality is not None:
        separator.predictor("--min-quality")
    recorded = {
        "weights": separator.weights.name,
        "weights_sha256": separator.weights.digest,
        "repeats": limit.text if limit else chosen if isinstance(chosen, int) else str(chosen),
        "separator_repeats": separator_repeats,
        "precision": separator.precision,
        "chunk_seconds": plan.chunk / separator.sample_rate,
        "format": format,
        "sample_rate": sample_rate,
        **({"compiled": True} if compiled else {}),
        **({"track": track} if track and track > 1 else {}),
        **({"subtype": subtype} if subtype != "auto" else {}),
        **({"channels": channels if channels == "each" else list(channels)} if channels else {}),
        **({"segments": sorted(segments)} if segments else {}),
    }
    return Settings(
        repeats=chosen,
        separator_repeats=separator_repeats,
        plan=plan,
        batch_size=batch_size or separator.default_batch(plan, inputs),
        format=format,
        subtype=subtype,
        channels=() if channels == "each" else channels,
        input_rate=sample_rate == "input",
        overwrite=overwrite,
        track=track,
        partial=partial,
        wanted=Wanted(
            # A detector on the CPU costs next to nothing beside a network there, and much beside one that is not.
            speech=separator.device.type == "cpu",
            segments=tuple(segments),
            quality=QualityModel.of(separator.weights.info.get(QUALITY)),
            least=min_quality,
        ),
        recorded=recorded,
    )


def with_pace(
    settings: Settings, separator: Separator, *, limit: Limit, seconds: float, most: int | None = None
) -> Settings:
    """The settings with a pace, measured here and now, that keeps the limit; the log has what it chose first.

    Args:
        settings: whose chunks and batches are timed.
        separator: the network.
        limit: the time that is allowed.
        seconds: of audio in all.
        most: repeats; None: as many as the network was trained with.

    Raises:
        OutOfMemory: memory does not suffice for the shortest chunk.
    """
    pace = measure_pace(
        separator,
        plan=settings.plan,
        batch_size=settings.batch_size,
        separator_repeats=settings.separator_repeats,
        most=most or separator.config.reconstructor_repeats,
    )
    log.info(pace.limit(seconds, rtf=limit.rtf, budget=limit.budget))
    return replace(settings, pace=pace)
