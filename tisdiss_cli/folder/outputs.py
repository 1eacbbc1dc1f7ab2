"""Outputs of a job: voices joined, resampled, written and named when all files are whole, and their facts."""

import os
import shutil
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.activity.formats import write_segments
from tisdiss_cli.activity.tracker import ActivityTracker, Speech
from tisdiss_cli.audio.read import AudioError, Source
from tisdiss_cli.audio.resample import Resampler
from tisdiss_cli.audio.write import LOSSY, Writer, check_rate, choices, choose_subtype, convert, least_subtype
from tisdiss_cli.errors import listed
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.folder.settings import Settings
from tisdiss_cli.separation.chunking import Stitcher
from tisdiss_cli.separation.quality import QualityMeter
from tisdiss_cli.separation.upper_band import UpperBand


class Voices:
    """Voices of one mixture from its chunks, in order, in constant memory, each in one of the files `parts`."""

    def __init__(self, settings: Settings, source: Source, parts: list[Path]) -> None:
        self.options, self.source, self.parts = settings.options, source, parts
        self.rate = source.input_rate if self.options.sample_rate == "input" else source.sample_rate
        check_rate(self.options.format, self.rate)
        self.stitcher = Stitcher(settings.plan)
        self.resamplers = [Resampler(source.sample_rate, self.rate) for _ in parts]
        self.again = self._again()
        self.upper_band = self.again and UpperBand(
            len(parts), source.sample_rate, self.again.blocks(), source.input_rate
        )
        self.tracker = ActivityTracker(len(parts), source.sample_rate) if settings.tracks_activity else None
        self.meter = QualityMeter(settings.quality, source.sample_rate) if settings.quality else None
        self.writers: list[Writer] = []

    def push(self, start: int, voices: Tensor, mixture: Tensor) -> None:
        """Adds the voices (S, n) of a chunk `mixture` (n,) at sample `start` of the input."""
        if self.meter:
            self.meter.push(start, mixture, voices)
        final = self.stitcher.push(start, voices)
        if self.tracker:
            self.tracker.push(final)
        self._write(self._at_rate(final))

    def finish(self) -> Speech | None:
        """Completes the voices; returns their activity if it was tracked."""
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
        return speech

    def facts(self, speech: Speech | None) -> dict[str, Any]:
        """Returns seams, predicted quality and warnings."""
        seams = [round(seam / self.source.sample_rate, 3) for seam in self.stitcher.ambiguous]
        quality, least = self.meter.finish() if self.meter else None, self.options.min_quality
        doubtful, warnings = False, list[str]()
        if seams:
            at = listed([f"{seam:.1f} s" for seam in seams])
            warnings.append(f"the speakers may be swapped from {at} on: the overlap is quiet, or the voices similar")
        if speech and speech.talkers == 1:
            warnings.append("only one voice talks; the other is leakage of it")
        if quality and least is not None and quality["si_snri"] < least:
            doubtful = True
            warnings.append(f"doubtful: the predicted SI-SNRi of {quality['si_snri']:.1f} dB is below {least:g} dB")
        return {"seams": seams, "quality": quality, "doubtful": doubtful, "warnings": warnings}

    def discard(self) -> None:
        """Closes all files."""
        if self.again:
            self.again.close()
        for writer in self.writers:
            with suppress(OSError):
                writer.close()

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
                self.writers.append(Writer(self.parts[index], self.rate))
            self.writers[index].write(part)


class VoiceFiles:
    """Files of a job: all of them or none.

    Unfinished files are in `folder`, the job's own. OSError if the disk does not take the voices, AudioError if the
    format cannot hold them.
    """

    def __init__(self, job: Job, settings: Settings, folder: Path) -> None:
        self.job, self.settings, self.options, self.folder = job, settings, settings.options, folder
        self.mixtures: list[Voices] = []
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier attempt
        folder.mkdir(parents=True)

    def add(self, source: Source) -> None:
        """Adds the next of the job's mixtures."""
        count = self.job.voices // len(self.job.mixtures)
        first = 1 + count * len(self.mixtures)
        parts = [self.folder / f"s{number}.part" for number in range(first, first + count)]
        self.mixtures.append(Voices(self.settings, source, parts))

    def push(self, number: int, start: int, voices: Tensor, mixture: Tensor) -> None:
        """Adds a chunk's voices to those of mixture `number`, from 0 on."""
        self.mixtures[number].push(start, voices, mixture)

    def finish(self) -> dict[str, Any]:
        """Completes and names the files; returns the facts for the job's line."""
        speeches, source = [voices.finish() for voices in self.mixtures], self.mixtures[0].source
        writers = [writer for voices in self.mixtures for writer in voices.writers]
        subtype, files = self._subtype(writers, source), list[tuple[Path, str]]()
        contents = [writers] if self.options.one_file else [[writer] for writer in writers]
        for channels, output in zip(contents, self.job.outputs, strict=True):
            whole = channels[0].path.with_suffix(".final")
            convert(channels, whole, self.options.format, subtype)
            files.append((whole, output))
        tracked = [speech for speech in speeches if speech]
        whole_speech = (
            Speech([voice for speech in tracked for voice in speech.segments], tracked[0].seconds) if tracked else None
        )
        if whole_speech:
            aside, formats, shifted = self.folder / "segments", self.options.formats, whole_speech.shifted(source.start)
            write_segments(aside, self.job.stem, formats, segments=shifted.segments, seconds=shifted.seconds)
            files += ((aside / name, name) for name in self.job.segments)
        self._name(files)
        facts = self._facts([voices.facts(speech) for voices, speech in zip(self.mixtures, speeches, strict=True)])
        if self.options.subtype == "auto" != subtype and any(writer.coarse(subtype) for writer in writers):
            facts["warnings"].insert(0, f"a voice is too quiet for {subtype} bit: use --format wav")
        names = ("speech_seconds", "overlap_seconds", "silence_seconds", "talkers") if whole_speech else ()
        return {"start": round(source.start, 3), **facts, **{name: getattr(whole_speech, name) for name in names}}

    def discard(self) -> None:
        """Removes unfinished files."""
        for voices in self.mixtures:
            voices.discard()
        shutil.rmtree(self.folder, ignore_errors=True)

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

    def _subtype(self, writers: list[Writer], source: Source) -> str:
        """Returns the subtype for all voices; AudioError if it would clip one."""
        format, auto = self.options.format, self.options.subtype == "auto"
        subtype = choose_subtype(writers, format, least_subtype(source.subtype)) if auto else self.options.subtype
        if any(writer.clips("16" if format in LOSSY else subtype) for writer in writers):
            peak = max(writer.peak for writer in writers)
            name = {"flac": "FLAC", "mp3": "MP3"}.get(format, format.capitalize())
            what = name if auto else f"{subtype} bit"
            mend = "--format wav" if auto or "float" not in choices(format) else "--subtype float"
            raise AudioError(f"a voice peaks at {peak:.2f} of full scale, which {what} would clip: use {mend}")
        return subtype

    def _facts(self, each: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns the facts of all mixtures; their quality is the lowest."""
        qualities, named = [facts["quality"] for facts in each if facts["quality"]], self.job.channels > 1
        return {
            "segments": self.job.segments,
            "seams": sorted({seam for facts in each for seam in facts["seams"]}),
            "quality": min(qualities, key=itemgetter("si_snri"), default=None),
            "doubtful": any(facts["doubtful"] for facts in each),
            "warnings": [
                f"channel {number}: {warning}" if named else warning
                for number, facts in enumerate(each, 1)
                for warning in facts["warnings"]
            ],
        }
