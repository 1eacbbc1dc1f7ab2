"""Segments as RTTM, JSON, TextGrid and Audacity labels come back whole from other people's readers."""

import json

import pytest
from praatio import textgrid
from pyannote.database.util import load_rttm

from tisdiss_cli.activity.formats import FORMATS, parse_formats, write_segments
from tisdiss_cli.errors import UserError

SEGMENTS = [[(0.0, 1.25), (2.0, 2.5), (9.984, 12.0)], [(1.0, 2.25), (11.008, 11.5)]]
SECONDS = 12.0


@pytest.fixture
def written(tmp_path):
    paths = write_segments(tmp_path / "a call", list(FORMATS), segments=SEGMENTS, seconds=SECONDS)
    return dict(zip(FORMATS, paths, strict=True))


def test_names(written):
    assert [path.name for path in written.values()] == ["a call.rttm", "a call.json", "a call.TextGrid", "a call.txt"]


def test_pyannote_reads_the_rttm(written):
    (name, annotation), *others = load_rttm(written["rttm"]).items()
    assert name == "a_call" and not others  # a blank would begin the next field
    for label, segments in zip(("s1", "s2"), SEGMENTS, strict=True):
        found = [(segment.start, segment.end) for segment in annotation.label_timeline(label)]
        assert found == [pytest.approx(segment, abs=1e-3) for segment in segments]


@pytest.mark.parametrize("include_empty", [True, False])
def test_praat_reads_the_textgrid(written, include_empty):
    grid = textgrid.openTextgrid(str(written["textgrid"]), include_empty, reportingMode="error")
    assert (grid.minTimestamp, grid.maxTimestamp) == (0, SECONDS)
    assert grid.tierNames == ("s1", "s2")
    assert grid.validate()
    for label, segments in zip(("s1", "s2"), SEGMENTS, strict=True):
        entries = grid.getTier(label).entries
        assert [(entry.start, entry.end) for entry in entries if entry.label == label] == segments
        if include_empty:  # an interval tier has no holes
            assert [entry.start for entry in entries] == [0, *[entry.end for entry in entries[:-1]]]
            assert entries[-1].end == SECONDS


def test_json_and_labels(written):
    expected = sorted((begin, end, f"s{k}") for k, voice in enumerate(SEGMENTS, 1) for begin, end in voice)
    whole = json.loads(written["json"].read_text())
    assert [(row["start"], row["end"], row["speaker"]) for row in whole["segments"]] == expected
    assert whole["speakers"] == ["s1", "s2"] and whole["seconds"] == SECONDS
    rows = [line.split("\t") for line in written["audacity"].read_text().splitlines()]
    assert [(float(begin), float(end), label) for begin, end, label in rows] == expected


def test_silence_and_odd_names_are_written_too(tmp_path):
    stem = tmp_path / "caf\udce9 1.5"
    paths = dict(zip(FORMATS, write_segments(stem, list(FORMATS), segments=[[], []], seconds=3.0), strict=True))
    assert paths["rttm"].read_text() == paths["audacity"].read_text() == ""
    assert json.loads(paths["json"].read_text())["segments"] == []
    grid = textgrid.openTextgrid(str(paths["textgrid"]), True)
    assert [tuple(entry) for entry in grid.getTier("s2").entries] == [(0, 3, "")]


def test_what_is_asked_for():
    assert parse_formats("rttm, textgrid,rttm") == ["rttm", "textgrid"]
    for text in ("srt", "", "rttm,"):
        with pytest.raises(UserError, match="--segments"):
            parse_formats(text)
