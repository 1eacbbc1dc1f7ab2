"""What is told of an input's voices while they pass to their files: who speaks when, and how good it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tisdiss_cli.activity.formats import FORMATS, write_segments
from tisdiss_cli.activity.listener import Listener
from tisdiss_cli.activity.segments import Speech
from tisdiss_cli.folder.jobs import Job
from tisdiss_cli.separation.quality import QualityMeter, QualityModel


@dataclass(frozen=True)
class Wanted:
    """What a run tells of its inputs."""

    speech: bool = False  # who speaks when
    gate: bool = False  # fades a voice out where only another one talks
    segments: tuple[str, ...] = ()  # the files' formats
    quality: QualityModel | None = None
    least: float | None = None  # predicted SI-SNRi, in dB, below which an input is doubtful

    def hearing(self, voices: int, sample_rate: int) -> "Hearing":
        """For one input's S voices."""
        return Hearing(self, voices, sample_rate)


class Hearing:
    """Takes one input's chunks and stitched voices; memory does not grow with their length.

    Args:
        wanted: what is told.
        voices: S.
        sample_rate: theirs, Hz.
    """

    def __init__(self, wanted: Wanted, voices: int, sample_rate: int) -> None:
        self.wanted = wanted
        listens = wanted.speech or wanted.gate or bool(wanted.segments)
        self.listener = Listener(voices, sample_rate, gate=wanted.gate) if listens else None
        self.meter = QualityMeter(wanted.quality, sample_rate) if wanted.quality else None
        self.speech: Speech | None = None

    def chunk(self, start: int, mixture: Tensor, voices: Tensor) -> None:
        """A chunk (n,) from sample `start` on and its voices (S, n), in the network's order."""
        if self.meter:
            self.meter.push(start, mixture, voices)

    def push(self, voices: Tensor) -> Tensor:
        """The next samples (S, n) of the stitched voices; returns what is to be written (S, k)."""
        return self.listener.push(voices) if self.listener else voices

    def finish(self, voices: Tensor) -> Tensor:
        """The last of them; returns what is left to be written."""
        if not self.listener or voices.shape[0] == 0:
            return voices
        voices = self.listener.push(voices)
        rest, self.speech = self.listener.finish()
        return torch.cat((voices, rest), dim=1)

    @property
    def silent(self) -> list[int]:
        """Voices, from 0, that become silence altogether: with the gate, those that never speak while one does."""
        if not (self.wanted.gate and self.speech and self.speech.talkers):
            return []
        return [voice for voice, segments in enumerate(self.speech.segments) if not segments]

    def write(self, out: Path, job: Job) -> None:
        """The segments, under the names that `name_segments` gave them; OSError where the disk does not take them."""
        if self.speech and job.besides:
            (out / job.stem).parent.mkdir(parents=True, exist_ok=True)  # the outputs may lie elsewhere
            write_segments(
                out / job.stem, self.wanted.segments, segments=self.speech.segments, seconds=self.speech.seconds
            )

    def facts(self) -> dict[str, Any]:
        """What goes into the input's line."""
        quality = self.meter.finish() if self.meter else None
        facts: dict[str, Any] = {"quality": quality}
        if quality and self.wanted.least is not None:
            facts["doubtful"] = quality["si_snri"] < self.wanted.least
        if self.speech:
            for name in ("speech_seconds", "overlap_seconds", "silence_seconds", "talkers"):
                facts[name] = getattr(self.speech, name)
        return facts

    def warnings(self) -> list[str]:
        """Sentences for the input's line."""
        facts, found = self.facts(), []
        if facts.get("talkers") == 1:
            rest = "a rest of it, which --gate silences"
            if self.wanted.gate:
                rest = "silence" if self.silent else "a rest of it, gated except where it may be speech"
            found.append(f"only one voice talks; the other is {rest}")
        if facts.get("doubtful"):
            predicted = facts["quality"]["si_snri"]
            found.append(f"doubtful: a predicted SI-SNRi of {predicted:.1f} dB is below {self.wanted.least:g} dB")
        return found


def name_segments(jobs: Sequence[Job], formats: Sequence[str]) -> None:
    """Gives each job the files of its segments, `call.rttm` beside `call_s1.wav`, whatever its outputs are called."""
    for job in jobs if formats else ():
        job.besides = [job.stem + FORMATS[name][0] for name in formats]
