"""One input's voices on their way to disk: stitched, resampled, written aside, renamed when whole."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.audio.read import AudioError
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.audio.write import LOSSY, Writer, check_rate, choices, choose_subtype, least_subtype
from tisdiss_cli.folder.hearing import Hearing
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.separation.chunking import ChunkPlan

_SEAMS_NAMED = 10


class VoiceFiles:
    """Takes a job's chunks in order and leaves its output files, all of them or none.

    Args:
        job: the input and its outputs.
        out: the folder OUT.
        folder: for what is unfinished, the run's own.
        plan: how the input is cut.
        rates: (the network's, the outputs'), Hz.
        format: one of `audio.write.FORMATS`.
        subtype: one of `audio.write.SUBTYPES` that the format holds.
        source_subtype: the input's, as libsndfile calls it; "auto" holds at least as much.
        hearing: what is told of the voices on their way.

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
        hearing: Hearing,
    ) -> None:
        try:
            check_rate(format, rates[1])
        except AudioError as error:
            raise AudioError(f"{job.path}: {error}") from None
        self.hearing = hearing
        self.job, self.out, self.rates, self.format = job, out, rates, format
        self.subtype, self.least = subtype, least_subtype(source_subtype)
        self.stitcher = plan.stitcher()
        self.folder = folder
        shutil.rmtree(self.folder, ignore_errors=True)  # of an attempt before
        self.folder.mkdir(parents=True)
        self.writers: list[Writer] = []
        self.resamplers = [Resampler(*rates) for _ in job.outputs]

    def push(self, start: int, voices: Tensor, mixture: Tensor) -> None:
        """The voices (S, n) of the chunk `mixture` (n,) that begins at sample `start` of the input."""
        self.hearing.chunk(start, mixture, voices)
        final = self.stitcher.push(start, voices)
        self.hearing.push(final)
        self._write([resampler.push(v) for resampler, v in zip(self.resamplers, final, strict=True)])

    def finish(self, frames: int | None) -> list[str]:
        """Completes the files and gives them their names; returns warnings.

        Args:
            frames: the length that the outputs must have, in samples; None: as it comes.
        """
        last = self.stitcher.finish()
        self.hearing.push(last)
        self.hearing.finish()
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
        whole = [writer.path.with_suffix(".final") for writer in self.writers]
        for writer, path in zip(self.writers, whole, strict=True):
            try:
                writer.convert(path, self.format, subtype)
            except AudioError as error:
                raise AudioError(f"{self.job.path}: {error}") from None
        # Not `files.replacing`: the parts grow for as long as the input lasts, and none may get its name before all are
        # whole.
        for part, output in zip(whole, self.job.outputs, strict=True):
            target = self.out / output
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, target)
        self.hearing.write(self.out, self.job)
        return [*self._warnings(subtype), *self.hearing.warnings()]

    def facts(self) -> dict[str, Any]:
        """What the input's line tells of its voices, once they are finished."""
        return {"segments": self.job.besides, **self.hearing.facts()}

    def discard(self) -> None:
        """Removes what is unfinished."""
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

    def _subtype(self) -> str:
        """One for all voices; AudioError where it would clip one."""
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

    def _warnings(self, subtype: str) -> list[str]:
        warnings = []
        if self.subtype == "auto" and subtype != "auto" and any(writer.coarse(subtype) for writer in self.writers):
            warnings.append(f"a voice is so quiet that {subtype} bit cuts it coarsely: --format wav keeps it")
        seams = [f"{seam / self.rates[0]:.1f} s" for seam in self.stitcher.uncertain]
        if not seams:
            return warnings
        named = ", ".join(seams[:_SEAMS_NAMED]) + (
            f" and {len(seams) - _SEAMS_NAMED} more" * (len(seams) > _SEAMS_NAMED)
        )
        warnings.append(
            f"the speakers may be swapped from {named} on: the overlap there is too quiet or too alike to tell"
        )
        return warnings
