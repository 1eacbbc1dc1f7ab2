"""One input's voices on their way to disk: stitched, resampled, written aside, renamed when whole."""

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.audio.read import AudioError
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.audio.write import Writer
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.separation.chunking import ChunkPlan

_SEAMS_NAMED = 10


class VoiceFiles:
    """Takes a job's chunks in order and leaves its output files, all of them or none.

    Args:
        job: the input and its outputs.
        out: the folder OUT.
        plan: how the input is cut.
        rates: (the network's, the outputs'), Hz.
        seconds: the input's length by its header.
        format: "wav" or "flac".

    Its methods raise OSError when the disk does not take the voices, AudioError when they cannot be
    written as asked.
    """

    def __init__(
        self, job: Job, out: Path, *, plan: ChunkPlan, rates: tuple[int, int], seconds: float, format: str
    ) -> None:
        self.job, self.out, self.rates, self.seconds, self.format = job, out, rates, seconds, format
        self.stitcher = plan.stitcher()
        self.folder = job.parts(out)
        shutil.rmtree(self.folder, ignore_errors=True)  # an interrupted run's
        self.folder.mkdir(parents=True)
        self.writers: list[Writer] = []
        self.resamplers = [Resampler(*rates) for _ in job.outputs]

    def push(self, start: int, voices: Tensor) -> None:
        """The voices (S, n) of the chunk that begins at sample `start` of the input."""
        final = self.stitcher.push(start, voices)
        self._write([resampler.push(v) for resampler, v in zip(self.resamplers, final, strict=True)])

    def finish(self, frames: int | None) -> list[str]:
        """Completes the files and gives them their names; returns warnings.

        Args:
            frames: the length that the outputs must have, in samples; None: as it comes.
        """
        last = self.stitcher.finish()
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
        clips = any(writer.clips for writer in self.writers)
        if clips and self.format == "flac":
            peak = max(writer.peak for writer in self.writers)
            raise AudioError(
                f"{self.job.path}: a voice peaks at {peak:.2f} of full scale, which FLAC would clip: use --format wav"
            )
        whole = [writer.path for writer in self.writers]
        if not clips:
            whole = [path.with_suffix(".final") for path in whole]
            for writer, path in zip(self.writers, whole, strict=True):
                writer.convert(path, self.format)
        # Not `files.replacing`: the parts grow for as long as the input lasts, in a folder whose being there marks the
        # outputs as ours, and none may get its name before all are whole.
        for part, output in zip(whole, self.job.outputs, strict=True):
            target = self.out / output
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, target)
        return self._warnings()

    def discard(self) -> None:
        """Removes what is unfinished, and with it the mark that the outputs are ours."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, parts: list[Tensor]) -> None:
        for index, part in enumerate(parts):
            if not torch.isfinite(part).all():
                raise AudioError(
                    f"{self.job.path}: its voices are not finite: are its samples near the limit of 32 bit?"
                )
            if index == len(self.writers):
                self.writers.append(Writer(self.folder / f"s{index + 1}.part", self.rates[1], seconds=self.seconds))
            self.writers[index].write(part)

    def _warnings(self) -> list[str]:
        seams = [f"{seam / self.rates[0]:.1f} s" for seam in self.stitcher.uncertain]
        if not seams:
            return []
        named = ", ".join(seams[:_SEAMS_NAMED]) + (
            f" and {len(seams) - _SEAMS_NAMED} more" * (len(seams) > _SEAMS_NAMED)
        )
        return [f"the speakers may be swapped from {named} on: the overlap there is too quiet or too alike to tell"]
