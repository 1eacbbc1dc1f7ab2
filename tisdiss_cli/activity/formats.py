"""Who speaks when as files that others read: RTTM, JSON, Praat's TextGrid, Audacity's labels."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tisdiss_cli.errors import UserError
from tisdiss_cli.files import replacing

Segments = Sequence[Sequence[tuple[float, float]]]  # of each voice: (begin, end) in seconds, in order, disjoint


def rttm(name: str, segments: Segments, seconds: float) -> str:
    """NIST's Rich Transcription Time Marked: a line for each segment, by time; blanks in `name` become `_`."""
    file = "_".join(name.split()) or "recording"
    return "".join(
        f"SPEAKER {file} 1 {begin:.3f} {end - begin:.3f} <NA> <NA> {voice} <NA> <NA>\n"
        for begin, end, voice in by_time(segments)
    )


def as_json(name: str, segments: Segments, seconds: float) -> str:
    """An object with the segments by time, `{"start", "end", "speaker"}` each, in seconds."""
    rows = [
        {"start": round(begin, 3), "end": round(end, 3), "speaker": voice} for begin, end, voice in by_time(segments)
    ]
    speakers = [_voice(index) for index in range(len(segments))]
    whole = {"recording": name, "seconds": round(seconds, 3), "speakers": speakers, "segments": rows}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def textgrid(name: str, segments: Segments, seconds: float) -> str:
    """Praat's long text form: an interval tier for each voice, whose intervals fill the whole time."""
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
        intervals = _filled(voice, end_of_all, _voice(number - 1))
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


def audacity(name: str, segments: Segments, seconds: float) -> str:
    """A label track: begin, end and voice, tabs between, by time."""
    return "".join(f"{begin:.6f}\t{end:.6f}\t{voice}\n" for begin, end, voice in by_time(segments))


# What a file of each format is called, after the recording's name, and who writes it
FORMATS: dict[str, tuple[str, Callable[[str, Segments, float], str]]] = {
    "rttm": (".rttm", rttm),
    "json": (".json", as_json),
    "textgrid": (".TextGrid", textgrid),
    "audacity": (".txt", audacity),
}


def parse_formats(text: str) -> list[str]:
    """Names of formats, commas between, each once; UserError for one that is unknown."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise UserError(f"--segments {name or text!r} is unknown: choose of {', '.join(FORMATS)}, commas between")
    return names


def write_segments(stem: Path, formats: Sequence[str], *, segments: Segments, seconds: float) -> list[Path]:
    """Writes `stem`.rttm and so on, each whole or not at all; returns them. OSError where the disk does not take it.

    Args:
        stem: the path without its ending; its name is the recording's.
        formats: of FORMATS.
        segments: of each voice.
        seconds: the recording's length.
    """
    written = []
    for name in formats:
        ending, spell = FORMATS[name]
        path = stem.with_name(stem.name + ending)
        with replacing(path) as part:
            part.write_text(spell(stem.name, segments, seconds), encoding="utf-8", errors="replace")
        written.append(path)
    return written


def by_time(segments: Segments) -> list[tuple[float, float, str]]:
    """(begin, end, voice) of all voices, "s1", "s2", ..., by begin."""
    return sorted((begin, end, _voice(index)) for index, voice in enumerate(segments) for begin, end in voice)


def _voice(index: int) -> str:
    return f"s{index + 1}"  # as in the names of the voices' files


def _filled(voice: Sequence[tuple[float, float]], seconds: float, text: str) -> list[tuple[float, float, str]]:
    intervals, now = [], 0.0
    for begin, end in voice:
        if begin > now:
            intervals.append((now, begin, ""))
        intervals.append((begin, end, text))
        now = end
    if now < seconds:
        intervals.append((now, seconds, ""))
    return intervals
