"""One input's files in OUT: voices stitched, resampled, written aside and named when all are whole; facts of them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.activity.formats import write_segments
from tisdiss_cli.activity.segments import Speech
from tisdiss_cli.activity.tracker import ActivityTracker
from tisdiss_cli.audio.read import AudioError
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.audio.write import LOSSY, Writer, check_rate, choices, choose_subtype, least_subtype
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.separation.chunking import ChunkPlan
from tisdiss_cli.separation.quality import QualityMeter, QualityModel

_SEAMS_NAMED = 10  # in the warning


@dataclass(frozen=True)
class Told:
    """What a run tells of its inputs' voices."""

    speech: bool = False  # who speaks when
    segments: tuple[str, ...] = ()  # formats of the files of that
    quality: QualityModel | None = None
    least: float | None = None  # predicted SI-SNRi, in dB, below which an input is doubtful


class VoiceFiles:
    """Takes a job's chunks in order and leaves its files, all of them or none; memory does not grow with the length.

    Args:
        job: the input and its files.
        out: the folder OUT.
        folder: the job's own, for what is unfinished.
        plan: how the input is cut.
        rates: (the network's, the outputs'), Hz.
        format: one of `audio.write.FORMATS`.
        subtype: one of `audio.write.SUBTYPES` that the format holds.
        source_subtype: the input's, as libsndfile calls it; "auto" holds at least as much.
        start: when the input's sound begins, in seconds of its container's clock, which the segments go by.
        told: what is told of the voices.

    Its methods raise OSError when the disk does not take the voices, AudioError when they cannot be
    written as asked, also when it is made.
    """

    def __init__(
        self,
        job: Job,
        out: Path,
        folder: Path,
        *,
        plan: ChunkPlan,
        rates: tuple[int, int],
        format: str = "wav",
        subtype: str = "auto",
        source_subtype: str = "",
        start: float = 0.0,
        told: Told | None = None,
    ) -> None:
        try:
            check_rate(format, rates[1])
        except AudioError as error:
            raise AudioError(f"{job.path}: {error}") from None
        self.job, self.out, self.folder, self.rates, self.format = job, out, folder, rates, format
        self.subtype, self.least, self.told = subtype, least_subtype(source_subtype), told or Told()
        self.start = start
        self.stitcher = plan.stitcher()
        self.resamplers = [Resampler(*rates) for _ in job.outputs]
        self.tracker = ActivityTracker(len(job.outputs), rates[0]) if self.told.speech else None
        self.meter = QualityMeter(self.told.quality, rates[0]) if self.told.quality else None
        self.speech: Speech | None = None
        self.writers: list[Writer] = []
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt before
        folder.mkdir(parents=True)

    def push(self, start: int, voices: Tensor, mixture: Tensor) -> None:
        """Takes the voices (S, n) of the chunk `mixture` (n,) that begins at sample `start` of the input."""
        if self.meter:
            self.meter.push(start, mixture, voices)
        final = self.stitcher.push(start, voices)
        if self.tracker:
            self.tracker.push(final)
        self._write([resampler.push(v) for resampler, v in zip(self.resamplers, final, strict=True)])

    def finish(self, frames: int | None) -> list[str]:
        """Completes the files and gives them their names; returns warnings.

        Args:
            frames: the length that the outputs must have, in samples; None: as it comes.
        """
        last = self.stitcher.finish()
        if self.tracker and last.shape[0]:
            self.tracker.push(last)
            self.speech = self.tracker.finish()
        rest = [
            torch.cat((resampler.push(v), resampler.finish()))
            for resampler, v in zip(self.resamplers, last, strict=True)
        ]
        if frames is not None:  # to another rate and back gives a few samples more
            missing = frames - (self.writers[0].frames if self.writers else 0)
            rest = [torch.nn.functional.pad(v, (0, max(0, missing - v.shape[0])))[:missing] for v in rest]
        self._write(rest)
        for writer in self.writers:
            writer.close()
        subtype = self._subtype()
        self._name(list(self._finished(subtype)))
        return self._warnings(subtype)

    def facts(self) -> dict[str, Any]:
        """Returns what the input's line tells of its voices, once they are finished."""
        facts: dict[str, Any] = {"start": round(self.start, 3), "segments": self.job.segments, "seams": self._seams}
        if self.speech:
            for name in ("speech_seconds", "overlap_seconds", "silence_seconds", "talkers"):
                facts[name] = getattr(self.speech, name)
        if quality := self.meter.finish() if self.meter else None:
            facts["quality"] = quality
            facts["doubtful"] = self.told.least is not None and quality["si_snri"] < self.told.least
        return facts

    def discard(self) -> None:
        """Removes what is unfinished."""
        for writer in self.writers:
            with suppress(OSError):
                writer.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, parts: list[Tensor]) -> None:
        for index, part in enumerate(parts):
            if not torch.isfinite(part).all():
                raise AudioError(
                    f"{self.job.path}: its voices are not finite: are its samples near the limit of 32 bit?"
                )
            if index == len(self.writers):
                self.writers.append(Writer(self.folder / f"s{index + 1}.part", self.rates[1]))
            self.writers[index].write(part)

    def _finished(self, subtype: str) -> Iterator[tuple[Path, str]]:
        """Yields each file, whole, under a name of its own, and what it is to be called."""
        for writer, output in zip(self.writers, self.job.outputs, strict=True):
            path = writer.path.with_suffix(".final")
            try:
                writer.convert(path, self.format, subtype)
            except AudioError as error:
                raise AudioError(f"{self.job.path}: {error}") from None
            yield path, output
        if self.speech and self.job.segments:
            aside, speech = self.folder / "segments", self.speech.shifted(self.start)
            write_segments(aside, self.job.stem, self.told.segments, segments=speech.segments, seconds=speech.seconds)
            yield from ((aside / name, name) for name in self.job.segments)

    def _name(self, files: list[tuple[Path, str]]) -> None:
        """Gives the files their names: all of them, or where that fails none."""
        # Not `files.replacing`: the parts grow for as long as the input lasts, and none may get its name before all are
        # whole.
        named: list[Path] = []
        try:
            for part, name in files:
                target = self.out / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(part, target)
                named.append(target)
        except OSError:
            for target in named:
                target.unlink(missing_ok=True)
            raise

    def _subtype(self) -> str:
        """Returns one for all voices; AudioError where it would clip one."""
        auto = self.subtype == "auto"
        subtype = choose_subtype(self.writers, self.format, self.least) if auto else self.subtype
        if any(writer.clips("16" if self.format in LOSSY else subtype) for writer in self.writers):
            peak = max(writer.peak for writer in self.writers)
            name = {"flac": "FLAC", "mp3": "MP3"}.get(self.format, self.format.capitalize())
            what = name if auto else f"{subtype} bit"
            mend = "--format wav" if auto or "float" not in choices(self.format) else "--subtype float"
            raise AudioError(
                f"{self.job.path}: a voice peaks at {peak:.2f} of full scale, which {what} would clip: use {mend}"
            )
        return subtype

    @property
    def _seams(self) -> list[float]:
        """Seconds from which on the speakers may be swapped."""
        return [round(seam / self.rates[0], 3) for seam in self.stitcher.uncertain]

    def _warnings(self, subtype: str) -> list[str]:
        found, facts = list[str](), self.facts()
        if self.subtype == "auto" and subtype != "auto" and any(writer.coarse(subtype) for writer in self.writers):
            found.append(f"a voice is so quiet that {subtype} bit cuts it coarsely: --format wav keeps it")
        if seams := [f"{seam:.1f} s" for seam in self._seams]:
            more = f" and {len(seams) - _SEAMS_NAMED} more" if len(seams) > _SEAMS_NAMED else ""
            found.append(
                f"the speakers may be swapped from {', '.join(seams[:_SEAMS_NAMED])}{more} on: the overlap there is "
                "too quiet or too alike to tell"
            )
        if facts.get("talkers") == 1:
            found.append("only one voice talks; the other is a rest of it")
        if facts.get("doubtful"):
            predicted = facts["quality"]["si_snri"]
            found.append(f"doubtful: a predicted SI-SNRi of {predicted:.1f} dB is below {self.told.least:g} dB")
        return found
