"""Segment formats, written and read: RTTM, JSON, Praat's TextGrid, Audacity's labels."""

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import dump_json, replacing

log = logging.getLogger("tisdiss")

Segments = Sequence[Sequence[tuple[float, float]]]  # of each voice: (begin, end) in seconds, in order, disjoint
Turn = tuple[float, float, str]  # begin and end in seconds, and the voice: "s1", "s2", ... as in its file's name


class Format(NamedTuple):
    """File format of segments."""

    ending: str
    write: Callable[[str, Segments, float], str]  # from the recording's name, its segments, its seconds
    read: Callable[[str], Iterator[Turn]]  # ValueError, LookupError or TypeError for other content


def write_rttm(name: str, segments: Segments, seconds: float) -> str:
    """Returns NIST's Rich Transcription Time Marked: a line for each segment, by time.

    The recording's id is its name as in a JSON string, without quotes and with escapes for blanks, which end a field.
    """
    recording = re.sub(r"\s", lambda blank: f"\\u{ord(blank[0]):04x}", dump_json(name)[1:-1])
    return "".join(
        f"SPEAKER {recording} 1 {begin:.3f} {end - begin:.3f} <NA> <NA> {voice} <NA> <NA>\n"
        for begin, end, voice in _by_time(segments)
    )


def read_rttm(text: str) -> Iterator[Turn]:
    """Yields the turns of all recordings in an RTTM file."""
    for row in text.splitlines():
        cells = row.split()
        if cells[:1] == ["SPEAKER"]:
            begin, seconds = float(cells[3]), float(cells[4])
            yield begin, round(begin + seconds, 6), cells[7]


def write_json(name: str, segments: Segments, seconds: float) -> str:
    """Returns a JSON object with the segments by time, each `{"start", "end", "speaker"}`, in seconds."""
    rows = [{"start": round(b, 3), "end": round(e, 3), "speaker": voice} for b, e, voice in _by_time(segments)]
    speakers = [_voice(index) for index in range(len(segments))]
    whole = {"format": 1, "recording": name, "seconds": round(seconds, 3), "speakers": speakers, "segments": rows}
    return dump_json(whole, indent=1) + "\n"


def read_json(text: str) -> Iterator[Turn]:
    """Yields the turns of a JSON object of `write_json`."""
    for segment in json.loads(text)["segments"]:
        yield float(segment["start"]), float(segment["end"]), str(segment["speaker"])


def write_textgrid(name: str, segments: Segments, seconds: float) -> str:
    """Returns Praat's long text form: an interval tier for each voice, whose intervals fill the whole time."""
    end_of_all = max([seconds, *(end for voice in segments for _, end in voice)])
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end_of_all:.6f}",
        "tiers? <exists>",
        f"size = {len(segments)}",
        "item []:",
    ]
    for number, voice in enumerate(segments, 1):
        ends = pairwise([0.0, *(end for segment in voice for end in segment), end_of_all])  # silence, voice, silence...
        intervals = [(begin, end, _voice(number - 1) * (k % 2)) for k, (begin, end) in enumerate(ends) if begin < end]
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{_voice(number - 1)}"',
            "        xmin = 0",
            f"        xmax = {end_of_all:.6f}",
            f"        intervals: size = {len(intervals)}",
        ]
        for index, (begin, end, text) in enumerate(intervals, 1):
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {begin:.6f}",
                f"            xmax = {end:.6f}",
                f'            text = "{text}"',
            ]
    return "\n".join(lines) + "\n"


def read_textgrid(text: str) -> Iterator[Turn]:
    """Yields the intervals of a TextGrid in the long text form whose text names a voice."""
    if not text.startswith('File type = "ooTextFile"'):
        raise ValueError("its first line is not that of a TextGrid")
    for begin, end, voice in re.findall(r'xmin = (\S+)\s+xmax = (\S+)\s+text = "(.+)"', text):
        yield float(begin), float(end), voice


def write_audacity(name: str, segments: Segments, seconds: float) -> str:
    """Returns a label track: begin, end and voice, separated by tabs, by time."""
    return "".join(f"{begin:.6f}\t{end:.6f}\t{voice}\n" for begin, end, voice in _by_time(segments))


def read_audacity(text: str) -> Iterator[Turn]:
    """Yields the labels of a label track."""
    for row in text.splitlines():
        begin, end, voice = row.split("\t")
        yield float(begin), float(end), voice


FORMATS = {
    "rttm": Format(".rttm", write_rttm, read_rttm),
    "json": Format(".json", write_json, read_json),
    "textgrid": Format(".TextGrid", write_textgrid, read_textgrid),
    "audacity": Format(".txt", write_audacity, read_audacity),
}


def parse_formats(text: str) -> list[str]:
    """Returns the unique format names in a comma-separated list; UserError for an unknown one."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise UserError(f"--segments {name or text!r} is unknown: choose among {', '.join(FORMATS)}")
    return names


def write_segments(out: Path, name: str, formats: Sequence[str], *, segments: Segments, seconds: float) -> None:
    """Writes `out`/`name`.rttm and so on, each whole or not at all; OSError if the disk does not take it.

    `name` is the recording's name, which the files contain; missing folders in it are made.
    """
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    for format in formats:
        with replacing(out / (name + FORMATS[format].ending)) as part:
            part.write_text(FORMATS[format].write(name, segments, seconds), encoding="utf-8")


def read_segments(paths: Sequence[Path], voices: int) -> Segments:
    """Returns the segments of each voice from the first file that can be read; [] if none can."""
    readers = {format.ending: format.read for format in FORMATS.values()}
    for path in paths:
        found: list[list[tuple[float, float]]] = [[] for _ in range(voices)]
        try:
            for begin, end, voice in readers[path.suffix](path.read_text(encoding="utf-8", errors="replace")):
                number = int(voice.removeprefix("s"))
                if 1 <= number <= voices:
                    found[number - 1].append((begin, end))
        except (OSError, ValueError, LookupError, TypeError) as error:
            log.warning(f"warning: {path} cannot be read as segments: {error}")
            continue
        return found
    return []


def _by_time(segments: Segments) -> list[Turn]:
    return sorted((begin, end, _voice(index)) for index, voice in enumerate(segments) for begin, end in voice)


def _voice(index: int) -> str:
    return f"s{index + 1}"
