"""Segments as RTTM, JSON, TextGrid and Audacity labels come back whole from other people's readers."""

import json
import os

import pytest
from praatio import textgrid
from pyannote.database.util import load_rttm

from tisdiss_cli.activity.formats import FORMATS, parse_formats, read_segments, write_segments
from tisdiss_cli.errors import UserError
from tisdiss_cli.files import dump_json

SEGMENTS = [[(0.0, 1.25), (2.0, 2.5), (9.984, 12.0)], [(1.0, 2.25), (11.008, 11.5)]]
SECONDS = 12.0
NAMES = [
    *("call", "mon/call", "tue/call", "a b", "a_b", "a  b", "a\tb", "a\u2028b", "a\\u0020b", 'a"b', "a%20b", "日本 é"),
    os.fsdecode(b"b\xe4d"),
    "b\\udce4d",
]


@pytest.fixture
def written(tmp_path):
    write_segments(tmp_path, "sub/a call", list(FORMATS), segments=SEGMENTS, seconds=SECONDS)
    return {name: tmp_path / "sub" / f"a call{format.ending}" for name, format in FORMATS.items()}


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_comes_back(written, format):
    assert read_segments([written[format]], 2) == SEGMENTS
    assert read_segments([written[format]], 1) == SEGMENTS[:1]  # of the voices that there are


@pytest.mark.parametrize("format", FORMATS)
def test_silence_comes_back(tmp_path, format):
    write_segments(tmp_path, "a", [format], segments=[[], []], seconds=3.0)
    assert read_segments([tmp_path / f"a{FORMATS[format].ending}"], 2) == [[], []]


def test_the_first_file_that_says_who_speaks_when_is_taken(written, tmp_path, said):
    torn = [tmp_path / f"torn{ending}" for ending in (".rttm", ".json", ".TextGrid", ".txt", ".srt")]
    for path, text in zip(torn, ("SPEAKER a 1 x", '{"segments": [1]}', "item []", "1\t2", ""), strict=True):
        path.write_text(text)
    assert read_segments([tmp_path / "gone.rttm", *torn], 2) == []
    assert read_segments([tmp_path / "gone.rttm", *torn, written["json"]], 2) == SEGMENTS
    assert all(str(path) in " ".join(said) for path in torn)


def test_pyannote_reads_the_rttm(written):
    ((name, annotation),) = load_rttm(written["rttm"]).items()
    assert name == "sub/a\\u0020call"  # a blank would begin the next field
    for label, segments in zip(("s1", "s2"), SEGMENTS, strict=True):
        found = [(segment.start, segment.end) for segment in annotation.label_timeline(label)]
        assert found == [pytest.approx(segment, abs=1e-3) for segment in segments]


def test_recordings_stay_apart_when_their_rttms_are_joined(tmp_path):
    for name in NAMES:
        write_segments(tmp_path, name, ["rttm"], segments=[[(0.0, 1.0)]], seconds=1.0)
    joined = tmp_path / "joined"
    joined.write_text("".join(path.read_text() for path in tmp_path.rglob("*.rttm")))
    assert sorted(json.loads(f'"{name}"') for name in load_rttm(joined)) == sorted(NAMES)


def test_names_in_json_are_those_of_the_record(tmp_path):
    for name in NAMES:
        write_segments(tmp_path, name, ["json"], segments=[[]], seconds=1.0)
        text = (tmp_path / f"{name}.json").read_text()
        assert json.loads(text)["recording"] == name and dump_json(name) in text


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


def test_what_is_asked_for():
    assert parse_formats("rttm, textgrid,rttm") == ["rttm", "textgrid"]
    for text in ("srt", "", "rttm,"):
        with pytest.raises(UserError, match="--segments"):
            parse_formats(text)
