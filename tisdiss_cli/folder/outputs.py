"""Outputs of a job: voices joined, resampled, written and named when all files are whole, and their facts."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.activity.formats import write_segments
from tisdiss_cli.activity.tracker import ActivityTracker, Speech
from tisdiss_cli.audio.read import AudioError, Source
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.audio.write import LOSSY, Writer, check_rate, choices, choose_subtype, least_subtype
from tisdiss_cli.errors import listed
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.settings import Settings
from tisdiss_cli.separation.chunking import Stitcher
from tisdiss_cli.separation.quality import QualityMeter
from tisdiss_cli.separation.upper_band import UpperBand


class VoiceFiles:
    """Files of a job from its chunks, in order: all of them or none, in constant memory.

    Unfinished files are in `folder`, the job's own. OSError if the disk does not take the voices, AudioError if the
    format cannot hold them.
    """

    def __init__(self, job: Job, settings: Settings, folder: Path, source: Source) -> None:
        self.job, self.options, self.folder, self.source = job, settings.options, folder, source
        self.rate = source.input_rate if self.options.sample_rate == "input" else source.sample_rate
        check_rate(self.options.format, self.rate)
        self.stitcher = Stitcher(settings.plan)
        self.resamplers = [Resampler(source.sample_rate, self.rate) for _ in job.outputs]
        self.again = self._again()
        self.upper_band = self.again and UpperBand(
            len(job.outputs), source.sample_rate, self.again.blocks(), source.input_rate
        )
        self.tracker = ActivityTracker(len(job.outputs), source.sample_rate) if settings.tracks_activity else None
        self.meter = QualityMeter(settings.quality, source.sample_rate) if settings.quality else None
        self.writers: list[Writer] = []
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier attempt
        folder.mkdir(parents=True)

    def push(self, start: int, voices: Tensor, mixture: Tensor) -> None:
        """Adds the voices (S, n) of a chunk `mixture` (n,) at sample `start` of the input."""
        if self.meter:
            self.meter.push(start, mixture, voices)
        final = self.stitcher.push(start, voices)
        if self.tracker:
            self.tracker.push(final)
        self._write(self._at_rate(final))

    def finish(self) -> dict[str, Any]:
        """Completes and names the files; returns the facts for the job's line."""
        last, speech = self.stitcher.finish(), None
        if self.tracker and last.shape[0]:
            self.tracker.push(last)
            speech = self.tracker.finish()
        rest = self._at_rate(last)
        ends = self.upper_band.finish() if self.upper_band else [resampler.finish() for resampler in self.resamplers]
        rest = [torch.cat(parts) for parts in zip(rest, ends, strict=True)]
        if self.again:
            self.again.close()
        if self.options.sample_rate == "input":  # resampling there and back gives a few samples more
            missing = self.source.frames - (self.writers[0].frames if self.writers else 0)
            rest = [torch.nn.functional.pad(v, (0, max(0, missing - v.shape[0])))[:missing] for v in rest]
        self._write(rest)
        for writer in self.writers:
            writer.close()
        subtype, files = self._subtype(), list[tuple[Path, str]]()
        for writer, output in zip(self.writers, self.job.outputs, strict=True):
            whole = writer.path.with_suffix(".final")
            writer.convert(whole, self.options.format, subtype)
            files.append((whole, output))
        if speech:
            aside, formats, shifted = self.folder / "segments", self.options.formats, speech.shifted(self.source.start)
            write_segments(aside, self.job.stem, formats, segments=shifted.segments, seconds=shifted.seconds)
            files += ((aside / name, name) for name in self.job.segments)
        self._name(files)
        return self._facts(speech, subtype)

    def discard(self) -> None:
        """Removes unfinished files."""
        if self.again:
            self.again.close()
        for writer in self.writers:
            with suppress(OSError):
                writer.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _again(self) -> Source | None:
        """Returns the input opened again at its own rate, for --band input; else None."""
        first = self.source
        if self.options.band == "network" or first.input_rate <= first.sample_rate:
            return None
        return Source(first.path, first.input_rate, track=first.track, partial=first.partial, selected=first.selected)

    def _at_rate(self, voices: Tensor) -> list[Tensor]:
        """Adds samples (S, n); returns the final samples of each voice at the output rate."""
        if self.upper_band:
            return list(self.upper_band.push(voices))
        return [resampler.push(v) for resampler, v in zip(self.resamplers, voices, strict=True)]

    def _write(self, parts: list[Tensor]) -> None:
        for index, part in enumerate(parts):
            if not torch.isfinite(part).all():
                raise AudioError("its voices are not finite: its samples may be too large")
            if index == len(self.writers):
                self.writers.append(Writer(self.folder / f"s{index + 1}.part", self.rate))
            self.writers[index].write(part)

    def _name(self, files: list[tuple[Path, str]]) -> None:
        """Names the files: all, or none if that fails."""
        # Not `files.replacing`, as no file may get its name before all are whole.
        named: list[Path] = []
        try:
            for part, name in files:
                target = self.options.out / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(part, target)
                named.append(target)
        except OSError:
            for target in named:
                target.unlink(missing_ok=True)
            raise

    def _subtype(self) -> str:
        """Returns the subtype for all voices; AudioError if it would clip one."""
        format, auto = self.options.format, self.options.subtype == "auto"
        subtype = (
            choose_subtype(self.writers, format, least_subtype(self.source.subtype)) if auto else self.options.subtype
        )
        if any(writer.clips("16" if format in LOSSY else subtype) for writer in self.writers):
            peak = max(writer.peak for writer in self.writers)
            name = {"flac": "FLAC", "mp3": "MP3"}.get(format, format.capitalize())
            what = name if auto else f"{subtype} bit"
            mend = "--format wav" if auto or "float" not in choices(format) else "--subtype float"
            raise AudioError(f"a voice peaks at {peak:.2f} of full scale, which {what} would clip: use {mend}")
        return subtype

    def _facts(self, speech: Speech | None, subtype: str) -> dict[str, Any]:
        seams = [round(seam / self.source.sample_rate, 3) for seam in self.stitcher.ambiguous]
        facts: dict[str, Any] = {
            "start": round(self.source.start, 3),
            "segments": self.job.segments,
            "seams": seams,
            "warnings": [],
        }
        warn = facts["warnings"].append
        chosen = self.options.subtype == "auto" and subtype != "auto"
        if chosen and any(writer.coarse(subtype) for writer in self.writers):
            warn(f"a voice is too quiet for {subtype} bit: use --format wav")
        if seams:
            warn(
                f"the speakers may be swapped from {listed([f'{seam:.1f} s' for seam in seams])} on: the overlap there "
                "is too quiet, or the voices too similar, to tell"
            )
        if speech:
            for name in ("speech_seconds", "overlap_seconds", "silence_seconds", "talkers"):
                facts[name] = getattr(speech, name)
            if speech.talkers == 1:
                warn("only one voice talks; the other is leakage of it")
        if quality := self.meter.finish() if self.meter else None:
            predicted, least = quality["si_snri"], self.options.min_quality
            facts |= {"quality": quality, "doubtful": least is not None and predicted < least}
            if facts["doubtful"]:
                warn(f"doubtful: the predicted SI-SNRi of {predicted:.1f} dB is below {least:g} dB")
        return facts
