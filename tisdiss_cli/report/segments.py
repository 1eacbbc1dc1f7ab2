"""Who speaks when, from the files that stand beside the voices: RTTM, JSON, or labels of Audacity."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

log = logging.getLogger("tisdiss")

Spans = list[list[tuple[float, float]]]  # of each voice, seconds from and to


def read_segments(paths: Sequence[Path], voices: int) -> Spans:
    """From the first of the files that can be read; [] where there is none."""
    for path in paths:
        read = _READERS.get(path.suffix.lower())
        if read is None:
            continue
        found: Spans = [[] for _ in range(voices)]
        try:
            for start, end, speaker in read(path.read_text(encoding="utf-8", errors="replace")):
                number = int(speaker.removeprefix("s"))  # s1, s2, ... as in the names of the voices
                if 1 <= number <= voices:
                    found[number - 1].append((start, end))
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            log.warning(f"warning: {path} does not say who speaks when: {error}")
            continue
        return found
    return []


def _rttm(text: str) -> Iterator[tuple[float, float, str]]:
    for row in text.splitlines():
        cells = row.split()
        if cells[:1] == ["SPEAKER"]:
            start, seconds = float(cells[3]), float(cells[4])
            yield start, start + seconds, cells[7]


def _json(text: str) -> Iterator[tuple[float, float, str]]:
    for segment in json.loads(text)["segments"]:
        yield float(segment["start"]), float(segment["end"]), segment["speaker"]


def _labels(text: str) -> Iterator[tuple[float, float, str]]:
    for row in text.splitlines():
        start, end, speaker = row.split("\t")
        yield float(start), float(end), speaker


_READERS = {".rttm": _rttm, ".json": _json, ".txt": _labels}
