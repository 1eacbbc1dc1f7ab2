"""What separate tells of a recording: who speaks when, how good it is, in the record and beside the voices."""

import json

import pytest
import soundfile
import torch
from pyannote.database.util import load_rttm

from scripts.simulate import active_segments
from tests.activity.test_tracker import LEAK, mask, talk
from tests.cli import tisdiss
from tests.containers import encode
from tests.folders import records
from tests.report.test_report import report
from tisdiss_cli.activity.formats import read_segments
from tisdiss_cli.model.weights import load_weights, read_info, save_weights
from tisdiss_cli.separation.quality import INPUTS, QualityModel
from tisdiss_cli.separation.separator import Separator


@pytest.fixture
def call(tmp_path, monkeypatch):
    """A folder with one call, and a network that leaves of each voice a little in the other."""
    clean = talk(8000)
    voices = clean + LEAK * clean.flip(0)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "sub" / "call.wav", clean.sum(0).numpy(), 8000, subtype="FLOAT")
    monkeypatch.setattr(Separator, "compute", lambda self, mixtures, *rest: (voices[None, :, : mixtures.shape[1]], [1]))
    return tmp_path / "in", clean, voices


def separate(source, out, weights, *options, status=0):
    return tisdiss("separate", source, out, "--weights", weights, "--device", "cpu", *options, status=status)


def test_segments_and_record_tell_the_same(call, tmp_path, mini_weights):
    source, clean, _ = call
    out = tmp_path / "out"
    separate(source, out, mini_weights, "--segments", "rttm,textgrid")
    line = records(out)["sub/call.wav"]
    assert line["segments"] == ["sub/call.rttm", "sub/call.TextGrid"]
    assert all((out / name).is_file() for name in line["segments"])
    annotation = load_rttm(out / "sub" / "call.rttm")["sub/call"]
    found = [[tuple(segment) for segment in annotation.label_timeline(label)] for label in ("s1", "s2")]
    truth = [active_segments(voice, 8000) for voice in clean]
    same = mask(found, 8000, clean.shape[1]) == mask(truth, 8000, clean.shape[1])
    assert same.float().mean() > 0.9
    assert line["speech_seconds"] == [
        pytest.approx(sum(end - begin for begin, end in voice), abs=0.02) for voice in found
    ]
    one, two = (annotation.label_timeline(label).support() for label in ("s1", "s2"))
    assert line["overlap_seconds"] == pytest.approx(one.crop(two).duration(), abs=0.02)
    assert line["silence_seconds"] == pytest.approx(clean.shape[1] / 8000 - (one | two).support().duration(), abs=0.02)
    assert line["talkers"] == 2 and line["warnings"] == []


@pytest.mark.parametrize("streams", ["av", "va"])
def test_segments_go_by_the_clock_of_the_video(call, tmp_path, mini_weights, streams):
    source, clean, _ = call
    (tmp_path / "late").mkdir()
    encode(tmp_path / "late" / "call.mkv", [clean.sum(0).numpy()], 8000, "flac", streams=streams, later=4.0)
    found = {}
    for folder in (source / "sub", tmp_path / "late"):
        out = tmp_path / "out" / folder.name
        separate(folder, out, mini_weights, "--segments", "rttm,json,textgrid,audacity")
        line = next(iter(records(out).values()))
        found[folder.name] = line, [read_segments([out / name], 2) for name in line["segments"]]
        seconds = json.loads((out / "call.json").read_text())["seconds"]
        assert seconds == pytest.approx(line["start"] + clean.shape[1] / 8000, abs=0.002)
    (line, early), (later_line, later) = found.values()
    assert (line["start"], later_line["start"]) == (0, 4)
    assert later_line["speech_seconds"] == pytest.approx(line["speech_seconds"], abs=0.1)  # FLAC rounds to 16 bit
    for one, other in zip(early, later, strict=True):
        for voice, same in zip(one, other, strict=True):
            assert [(b + 4, e + 4) for b, e in voice] == [pytest.approx(segment, abs=0.05) for segment in same]
    assert any("4.00 s after" in warning for warning in later_line["warnings"])
    (shown,) = report(tmp_path / "out" / "late", "--most", 1)["files"]
    assert 0 <= max(end for voice in shown["more"]["spoken"] for _, end in voice) <= clean.shape[1] / 8000


def test_segments_are_asked_for_later_and_come_back_when_lost(call, tmp_path, mini_weights):
    source, _, _ = call
    out = tmp_path / "out"
    separate(source, out, mini_weights)
    assert records(out)["sub/call.wav"]["speech_seconds"]  # told without being asked, on a CPU
    assert not list(out.rglob("*.json"))
    separate(source, out, mini_weights, "--segments", "json")
    path = out / "sub" / "call.json"
    before = json.loads(path.read_text())
    path.unlink()
    assert "1 separated" in separate(source, out, mini_weights, "--segments", "json").stdout
    assert json.loads(path.read_text()) == before
    assert "1 done before" in separate(source, out, mini_weights, "--segments", "json").stdout


def test_a_file_of_the_users_is_not_replaced(call, tmp_path, mini_weights):
    source, _, _ = call
    own = tmp_path / "out" / "sub" / "call.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    done = separate(source, tmp_path / "out", mini_weights, "--segments", "audacity", status=1)
    assert own.read_text() == "mine" and "call.txt" in done.stdout
    separate(source, tmp_path / "out", mini_weights, "--segments", "audacity", "--overwrite")
    assert own.read_text() != "mine"


def test_one_talker_is_said(tmp_path, mini_weights, monkeypatch):
    clean = talk(8000)[0]
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "memo.wav", clean.numpy(), 8000)
    voices = torch.stack((clean, LEAK * clean))
    monkeypatch.setattr(Separator, "compute", lambda self, mixtures, *rest: (voices[None], [1]))
    separate(tmp_path / "in", tmp_path / "out", mini_weights)
    line = records(tmp_path / "out")["memo.wav"]
    assert line["talkers"] == 1 and "only one voice talks" in line["warnings"][0]


def test_quality_below_the_least_is_doubtful(call, tmp_path, mini_weights):
    source, _, _ = call
    model = QualityModel([0.0] * 7, [1.0] * 7, [0.0] * 7, 4.0, -3.0, 2.0, 0.8, 1.0, 100)  # says 4 dB of everything
    able = tmp_path / "able.safetensors"
    save_weights(
        able, read_info(mini_weights).config, load_weights(mini_weights).state_dict(), info={"quality": model.facts()}
    )
    separate(source, tmp_path / "out", able, "--min-quality", 5)
    line = records(tmp_path / "out")["sub/call.wav"]
    assert (line["quality"]["si_snri"], line["quality"]["low"], line["quality"]["high"]) == (4, 1, 6)
    assert line["status"] == "done" and line["doubtful"] and "doubtful" in line["warnings"][0]
    separate(source, tmp_path / "out2", able, "--min-quality", 3)
    assert not records(tmp_path / "out2")["sub/call.wav"]["doubtful"]


def test_what_cannot_be_told_is_refused(call, tmp_path, mini_weights):
    source, _, _ = call
    unable = separate(source, tmp_path / "out", mini_weights, "--min-quality", 5, status=2)
    assert "tisdiss weights calibrate" in unable.stderr
    assert "--min-quality" in separate(source, tmp_path / "out", mini_weights, "--min-quality", "nan", status=2).stderr
    assert "srt" in separate(source, tmp_path / "out", mini_weights, "--segments", "rttm,srt", status=2).stderr
    assert QualityModel.of({"inputs": list(INPUTS)[:3]}) is None  # an older model is left alone
