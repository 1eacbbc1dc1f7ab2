"""`--layout channels`: one file for each input, whose channels are the files of `--layout files`."""

import json
import os
import signal
import time

import numpy as np
import pytest
import soundfile

from tests.cli import start, tisdiss
from tests.folders import RATE, contents, records, speech_like
from tisdiss_cli.activity.formats import read_segments
from tisdiss_cli.audio.read import AudioError
from tisdiss_cli.folder.jobs import plan_jobs
from tisdiss_cli.folder.outputs import VoiceFiles
from tisdiss_cli.folder.record import read_lines
from tisdiss_cli.folder.settings import Options

CHANNELS = ("--layout", "channels")


@pytest.fixture
def calls(tmp_path):
    """Recordings of one to three channels, of more than one chunk each."""
    for seed, (name, channels, rate) in enumerate([("a.wav", 1, 8000), ("b.wav", 2, 16_000), ("sub/c.flac", 3, 8000)]):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "in" / name, speech_like(1.3 + seed / 5, seed, rate, channels), rate)
    return tmp_path / "in"


@pytest.fixture
def run(tmp_path, mini_weights):
    def run(source, out, *arguments, status=0):
        options = ("--weights", mini_weights, "--repeats", 1, "--chunk", 0.5, "--device", "cpu")
        return tisdiss("separate", source, tmp_path / out, *arguments, *options, status=status)

    return run


def samples(path) -> np.ndarray:
    return soundfile.read(path, dtype="int32", always_2d=True)[0]


@pytest.mark.parametrize("how", [("average", "wav", "model"), ("each", "flac", "model"), ("each", "wav", "input")])
def test_the_channels_are_the_files(calls, tmp_path, run, how):
    channels, format, rate = how
    options = ("--channels", channels, "--format", format, "--sample-rate", rate, "--subtype", 24, "--segments", "rttm")
    options = (*options, "--batch-size", 3, *(("--band", "input") if rate == "input" else ()))
    run(calls, "files", *options)
    run(calls, "channels", *options, *CHANNELS)
    files: dict[str, list] = {}
    for line in read_lines(tmp_path / "files"):
        files.setdefault(line.input, []).append(line)
    one = records(tmp_path / "channels")
    assert set(one) == set(files) == {"a.wav", "b.wav", "sub/c.flac"}
    for name, lines in files.items():
        lines.sort(key=lambda line: line.channel or 0)
        outputs = [output for line in lines for output in line.outputs]
        stem = name.rpartition(".")[0]
        assert (one[name]["outputs"], one[name]["segments"]) == ([f"{stem}.{format}"], [f"{stem}.rttm"])
        expected = np.concatenate([samples(tmp_path / "files" / output) for output in outputs], axis=1)
        assert np.array_equal(samples(tmp_path / "channels" / one[name]["outputs"][0]), expected)
        assert (one[name]["voices"], one[name]["channel"]) == (len(outputs), None)
        assert one[name]["audio_seconds"] == lines[0].audio_seconds
        assert one[name]["speech_seconds"] == [seconds for line in lines for seconds in line.speech_seconds]
        spoken = [voice for line in lines for voice in read_segments([tmp_path / "files" / line.segments[0]], 2)]
        assert read_segments([tmp_path / "channels" / f"{stem}.rttm"], len(outputs)) == spoken


def test_of_several_channels_the_record_has_the_worst(calls, tmp_path):
    source, out = calls / "b.wav", (tmp_path / "files", tmp_path / "channels")
    options = ("--channels", "each", "--min-quality", 100, "--repeats", 1, "--device", "cpu")
    for folder, layout in zip(out, ((), CHANNELS), strict=True):
        tisdiss("separate", source, folder, *options, *layout)
    each, (one,) = list(read_lines(out[0])), read_lines(out[1])
    assert one.quality == min((line.quality for line in each), key=lambda quality: quality["si_snri"])
    assert one.doubtful and [text.split(":")[0] for text in one.warnings if "doubtful" in text] == [
        "channel 1",
        "channel 2",
    ]


def test_killed_at_any_moment_and_started_again(calls, tmp_path, mini_weights):
    for seed in range(6):
        soundfile.write(calls / f"{seed}.wav", speech_like(1.0, seed, channels=2), RATE)
    options = ("--weights", mini_weights, "--repeats", 1, "--chunk", 0.5, "--quiet", "--device", "cpu")
    options = (*options, *CHANNELS, "--channels", "each")
    tisdiss("separate", calls, tmp_path / "whole", *options)
    whole, out, record = contents(tmp_path / "whole"), tmp_path / "out", tmp_path / "out" / "tisdiss.jsonl"
    for lines in (0, 4):
        process = start("separate", calls, out, *options)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            parts = any(name.endswith(".part") for *_, names in os.walk(out) for name in names)
            if parts and (record.read_bytes().count(b"\n") if record.exists() else 0) >= lines:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert contents(out).items() <= whole.items()
    before = {name: (out / line["outputs"][0]).stat().st_mtime_ns for name, line in records(out).items()}
    tisdiss("separate", calls, out, *options)
    assert contents(out) == whole
    after = records(out)
    assert all((out / after[name]["outputs"][0]).stat().st_mtime_ns == stamp for name, stamp in before.items())


def test_an_input_with_a_bad_channel_has_no_file(tmp_path, run):
    call = speech_like(1.0, 0, channels=2)
    call[4000:, 1] = 3e38  # finite, and its voices are not
    soundfile.write(tmp_path / "call.wav", call, RATE, subtype="FLOAT")
    run(tmp_path / "call.wav", "files", "--channels", "each", status=1)
    assert sorted(contents(tmp_path / "files")) == ["call_c1_s1.wav", "call_c1_s2.wav"]
    run(tmp_path / "call.wav", "out", "--channels", "each", *CHANNELS, status=1)
    line = records(tmp_path / "out")["call.wav"]
    assert (line["status"], line["outputs"], line["voices"]) == ("failed", [], 0) and "not finite" in line["reason"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tisdiss.jsonl"]


def test_another_layout_is_another_setting(calls, tmp_path, run):
    run(calls, "out", "--segments", "json")
    first = contents(tmp_path / "out")
    assert "3 to separate, 0 done already" in run(calls, "out", *CHANNELS, "--segments", "json", "--dry-run").stderr
    run(calls, "out", *CHANNELS, "--segments", "json")
    both = contents(tmp_path / "out")
    assert first.items() <= both.items() and both.keys() - first.keys() == {"a.wav", "b.wav", "sub/c.wav"}
    dry = run(calls, "out", *CHANNELS, "--segments", "json", "--dry-run")
    assert "3 done already" in dry.stderr and "layout channels" in dry.stderr
    assert "3 to separate" in run(calls, "out", "--segments", "json", "--dry-run").stderr  # call.json is the other's


def test_all_seconds_are_done_once(calls, run):
    """Of each channel, as planned."""
    said = run(calls, "out", "--channels", "each", *CHANNELS, "--progress", "json").stderr.splitlines()
    events = [event for event in map(json.loads, said) if event["event"] in ("planned", "progress")]
    assert events[0]["audio_seconds"] == pytest.approx(1.3 + 2 * 1.5 + 3 * 1.7)
    assert events[-1]["audio_seconds"] == pytest.approx(events[0]["audio_seconds"], abs=1e-3)


# Names and formats ------------------------------------------------------------------------------


def test_names(calls, tmp_path, run):
    soundfile.write(calls / "a.flac", speech_like(0.2, 7), RATE)
    soundfile.write(calls / "x.wav", speech_like(0.2, 8), RATE)
    (calls / "x").mkdir()
    soundfile.write(calls / "x" / "a.wav", speech_like(0.2, 9), RATE)
    run(calls, "out", *CHANNELS)
    assert set(contents(tmp_path / "out")) == {"a_wav.wav", "a_flac.wav", "b.wav", "sub/c.wav", "x.wav", "x/a.wav"}
    run(calls, "named", *CHANNELS, "--name", "{folder}/r{repeats}/{input}")
    assert "sub/r1/c.flac.wav" not in contents(tmp_path / "named")  # {input} has the folder
    assert {line["outputs"][0] for line in records(tmp_path / "named").values()} >= {"r1/a.wav.wav", "r1/a.flac.wav"}


@pytest.mark.parametrize(
    ("template", "hint"),
    [
        ("s{voice}/{stem}", "leave {voice} out"),
        ("{folder}/{stem}_c{channel}", "leave {channel} out"),
        ("{folder}/all", "{stem}"),
        ("{stem}", "would both become a.wav"),
    ],
)
def test_templates_that_are_refused(calls, tmp_path, run, template, hint):
    soundfile.write(calls / "sub" / "a.wav", speech_like(0.2, 7), RATE)
    error = run(calls, "out", *CHANNELS, "--channels", "each", "--name", template, status=2).stderr
    assert f"--name {template}: " in error and hint in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_inputs_that_meet_fail_and_nothing_of_theirs_is_replaced(calls, tmp_path, run):
    soundfile.write(calls / "a_wav.ogg", speech_like(0.2, 7), RATE)
    soundfile.write(calls / "a.flac", speech_like(0.2, 8), RATE)
    run(calls, "out", *CHANNELS, status=1)
    lines = records(tmp_path / "out")
    assert {name for name, line in lines.items() if line["status"] == "failed"} == {"a.wav", "a_wav.ogg"}
    assert "would both become" in lines["a.wav"]["reason"] and not (tmp_path / "out" / "a_wav.wav").exists()
    before = (calls / "b.wav").read_bytes()
    assert "an input itself" in run(calls / "b.wav", "in", *CHANNELS, "--overwrite", status=1).stdout
    assert (calls / "b.wav").read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.wav").write_bytes(before)  # a user's own, of that name
    assert "--overwrite" in run(calls / "b.wav", "other", *CHANNELS, status=1).stdout
    assert (tmp_path / "other" / "b.wav").read_bytes() == before


@pytest.mark.parametrize(("format", "most"), [("flac", 8), ("mp3", 2), ("opus", 2), ("ogg", 2)])
def test_more_voices_than_a_file_holds_are_refused_before_the_work(tmp_path, run, monkeypatch, format, most):
    source = tmp_path / "in"
    source.mkdir()
    for name, channels in (("fits", most // 2), ("not", most // 2 + 1)):
        soundfile.write(source / f"{name}.wav", speech_like(0.3, 0, channels=channels), RATE)
    opened, original = [], VoiceFiles.__init__

    def noting(self, job, *arguments):
        opened.append(job.input)
        original(self, job, *arguments)

    monkeypatch.setattr(VoiceFiles, "__init__", noting)
    run(source, "out", *CHANNELS, "--channels", "each", "--format", format, status=1)
    lines = records(tmp_path / "out")
    assert opened == ["fits.wav"]
    assert soundfile.info(tmp_path / "out" / f"fits.{format}").channels == most
    reason = lines["not.wav"]["reason"]
    assert f"--format {format} allows {most} channels, not {most + 2}" in reason and "--layout files" in reason
    with pytest.raises(AudioError, match="--layout files"):
        plan_jobs(source, Options(out=tmp_path / "out", layout="channels", format=format), most + 1)


@pytest.mark.parametrize("format", ["wav", "aiff", "w64"])
def test_other_formats_hold_all(tmp_path, run, format):
    soundfile.write(tmp_path / "call.wav", speech_like(0.2, 0, channels=12), RATE)
    run(tmp_path / "call.wav", "out", *CHANNELS, "--channels", "each", "--format", format)
    assert soundfile.info(tmp_path / "out" / f"call.{format}").channels == 24
