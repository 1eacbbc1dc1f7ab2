"""Voices on disk: as finely as the input held them and as they need, whole, aligned, never clipped in silence."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from tests.cli import ROOT
from tests.folders import RATE, separate, speech_like
from tisdiss_cli.audio.read import AudioError
from tisdiss_cli.audio.write import FORMATS, Writer, choices, choose_subtype, container_for, convert

STEPS = {"16": 2**-15, "24": 2**-23, "32": 2**-31}


def written(path, samples: torch.Tensor) -> Writer:
    writer = Writer(path, RATE)
    for part in samples.split(3000):
        writer.write(part)
    writer.close()
    return writer


def noise(level_db: float, samples: int = 9000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, generator=generator) * 10 ** (level_db / 20)


def si_snr(estimate: np.ndarray, reference: np.ndarray) -> float:
    estimate, reference = estimate - estimate.mean(), reference - reference.mean()
    target = (estimate @ reference) / (reference @ reference) * reference
    return 10 * np.log10(max(1e-30, target @ target) / max(1e-30, (estimate - target) @ (estimate - target)))


@pytest.mark.parametrize(
    ("format", "subtype"), [(form, subtype) for form in ("wav", "flac", "aiff", "w64") for subtype in choices(form)[1:]]
)
def test_what_is_read_back_is_within_half_a_step(tmp_path, format, subtype):
    x = (torch.rand(5000) * 2 - 1) * 0.99
    x[0], x[1] = -32767 / 32768, 32767 / 32768
    writer = written(tmp_path / "part", x)
    assert not writer.clips(subtype)
    convert([writer], tmp_path / "whole", format, subtype)
    info = soundfile.info(tmp_path / "whole")
    y, _ = soundfile.read(tmp_path / "whole", dtype="float64")
    assert (info.format, info.subtype) == (format.upper(), "FLOAT" if subtype == "float" else f"PCM_{subtype}")
    assert np.abs(y - x.double().numpy()).max() <= STEPS.get(subtype, 0) / 2


@pytest.mark.parametrize("subtype", ["16", "24", "32"])
def test_clipping_is_what_the_last_step_cannot_hold(tmp_path, subtype):
    step = STEPS[subtype]
    assert not written(tmp_path / "a", torch.tensor([1 - max(step, 2.0**-24)])).clips(subtype)
    assert written(tmp_path / "b", torch.tensor([1.0])).clips(subtype)
    assert written(tmp_path / "c", torch.tensor([0.5, -1.7])).clips(subtype)
    assert not written(tmp_path / "d", torch.tensor([0.5, -1.7])).clips("float")


@pytest.mark.parametrize("level_db", [-20, -55, -65, -80, -100, -120, -150])
def test_auto_is_fine_enough_and_no_finer(tmp_path, level_db):
    """Measured on the samples read back: 40 dB with what it chose, less with what comes before."""
    x = noise(level_db)
    writer = written(tmp_path / "part", x)
    chosen = choose_subtype([writer], "wav", "16")
    ladder = ["16", "24", "float"]
    for subtype in ladder[: ladder.index(chosen) + 1]:
        convert([writer], tmp_path / "whole", "wav", subtype)
        error = soundfile.read(tmp_path / "whole")[0] - x.double().numpy()
        fine = np.linalg.norm(error) <= 10 ** (-39.8 / 20) * float(x.double().norm())
        assert fine == (subtype == chosen)


def test_the_quietest_voice_decides_for_all_and_silence_never(tmp_path):
    loud, quiet, silent = (
        written(tmp_path / str(index), x) for index, x in enumerate((noise(-20), noise(-70), 0 * noise(0)))
    )
    assert choose_subtype([loud, silent], "wav", "16") == "16"
    assert choose_subtype([loud, quiet, silent], "wav", "16") == "24"


@pytest.mark.parametrize(
    ("name", "subtype", "wav", "flac"),
    [
        ("a.wav", "PCM_U8", "PCM_16", "PCM_16"),
        ("a.wav", "PCM_16", "PCM_16", "PCM_16"),
        ("a.wav", "PCM_24", "PCM_24", "PCM_24"),
        ("a.wav", "PCM_32", "FLOAT", "PCM_24"),
        ("a.wav", "FLOAT", "FLOAT", "PCM_24"),
        ("a.wav", "DOUBLE", "FLOAT", "PCM_24"),
        ("a.wav", "ULAW", "PCM_16", "PCM_16"),
        ("a.flac", "PCM_24", "PCM_24", "PCM_24"),
        ("a.aiff", "PCM_24", "PCM_24", "PCM_24"),
        ("a.mp3", None, "PCM_16", "PCM_16"),
        ("a.ogg", None, "PCM_16", "PCM_16"),
    ],
)
def test_outputs_hold_what_the_input_held(tmp_path, mini_weights, name, subtype, wav, flac):
    soundfile.write(tmp_path / name, speech_like(0.5, 0), RATE, subtype=subtype)
    for format, expected in (("wav", wav), ("flac", flac)):
        line = separate(tmp_path / name, tmp_path / format, mini_weights, format=format)[name]
        assert {soundfile.info(tmp_path / format / output).subtype for output in line["outputs"]} == {expected}


@pytest.mark.parametrize("level_db", [-60, -80, -110])
def test_a_quiet_recording_has_the_loud_ones_voices(tmp_path, mini_weights, level_db):
    mixture = speech_like(1.2, 0)
    voices = {}
    for name, gain in (("loud", 1.0), ("quiet", 10 ** (level_db / 20))):
        soundfile.write(tmp_path / f"{name}.wav", gain * mixture, RATE, subtype="FLOAT")
        separate(tmp_path / f"{name}.wav", tmp_path / name, mini_weights)
        for subtype in ("auto", "16"):
            separate(tmp_path / f"{name}.wav", tmp_path / f"{name}{subtype}", mini_weights, subtype=subtype)
        voices[name] = [soundfile.read(tmp_path / f"{name}auto" / f"{name}_s{k}.wav")[0] for k in (1, 2)]
    for loud, quiet in zip(voices["loud"], voices["quiet"], strict=True):
        assert si_snr(quiet, loud) > 38
    asked = soundfile.read(tmp_path / "quiet16" / "quiet_s1.wav")[0]
    assert soundfile.info(tmp_path / "quiet16" / "quiet_s1.wav").subtype == "PCM_16"
    assert si_snr(asked, voices["loud"][0]) < 38  # so the test above would see sixteen bits


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seconds", [1 / RATE, 2.07])
def test_every_format_is_whole_and_aligned(tmp_path, mini_weights, format, seconds):
    samples = round(seconds * RATE)
    time = np.arange(samples) / RATE  # a chirp: lossy codecs keep it, and a sample's shift shows
    soundfile.write(tmp_path / "in.wav", 0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time), RATE)
    reference = separate(tmp_path / "in.wav", tmp_path / "out", mini_weights)["in.wav"]
    line = separate(tmp_path / "in.wav", tmp_path / "out", mini_weights, format=format)["in.wav"]
    assert line["outputs"] == [f"in_s1.{format}", f"in_s2.{format}"]
    for output, expected in zip(line["outputs"], reference["outputs"], strict=True):
        voice, rate = soundfile.read(tmp_path / "out" / output)
        whole = soundfile.read(tmp_path / "out" / expected)[0]
        assert (rate, len(voice)) == (RATE, samples)
        if samples > 1:
            lags = range(-20, 21)
            inner = slice(100, -100)
            products = [np.roll(voice, -lag)[inner] @ whole[inner] for lag in lags]
            assert lags[int(np.argmax(products))] == 0
            assert si_snr(voice, whole) > 6  # a seeded network's voices are half noise


@pytest.mark.parametrize("format", ["flac", "ogg", "opus", "mp3"])
def test_what_a_format_would_clip_fails_and_says_what_to_do(tmp_path, mini_weights, format):
    soundfile.write(tmp_path / "in.wav", 100 * speech_like(0.5, 0), RATE, subtype="FLOAT")
    line = separate(tmp_path / "in.wav", tmp_path / "out", mini_weights, format=format)["in.wav"]
    assert line["status"] == "failed"
    assert "in.wav" in line["reason"] and "--format wav" in line["reason"]


def test_a_subtype_that_is_asked_for_never_clips_in_silence(tmp_path, mini_weights):
    soundfile.write(tmp_path / "in.wav", 100 * speech_like(0.5, 0), RATE, subtype="FLOAT")
    for subtype in ("16", "24", "32"):
        line = separate(tmp_path / "in.wav", tmp_path / subtype, mini_weights, subtype=subtype)["in.wav"]
        assert line["status"] == "failed" and "--subtype float" in line["reason"]
    line = separate(tmp_path / "in.wav", tmp_path / "float", mini_weights, subtype="float")["in.wav"]
    assert np.abs(soundfile.read(tmp_path / "float" / "in_s1.wav")[0]).max() > 1


@pytest.mark.parametrize(("format", "rate"), [("opus", 44_100), ("mp3", 96_000)])
def test_a_rate_that_a_format_does_not_know_fails_alone(tmp_path, mini_weights, format, rate):
    (tmp_path / "in").mkdir()
    for name, hertz in (("bad", rate), ("good", 16_000)):
        soundfile.write(tmp_path / "in" / f"{name}.wav", speech_like(0.3, 0, hertz), hertz)
    lines = separate(tmp_path / "in", tmp_path / "out", mini_weights, format=format, sample_rate="input")
    assert "--format" in lines["bad.wav"]["reason"] and "bad.wav" in lines["bad.wav"]["reason"]
    assert lines["good.wav"]["status"] == "done"


def test_long_outputs_get_a_container_that_holds_them():
    assert [container_for("wav", size) for size in (10**9, 5 * 10**9)] == ["WAV", "RF64"]
    assert [container_for(format, 5 * 10**9) for format in ("w64", "flac")] == ["W64", "FLAC"]
    with pytest.raises(AudioError, match="w64"):
        container_for("aiff", 5 * 10**9)


def test_why_a_file_takes_no_more_is_said_in_the_systems_words(tmp_path):
    """Under `ulimit -f`, which libsndfile calls a system error."""
    script = (
        "import resource, signal, sys, torch; from pathlib import Path; from tisdiss_cli.audio.write import Writer\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "writer = Writer(Path(sys.argv[1]), 8000)\n"
        "try: [writer.write(torch.zeros(10_000)) for _ in range(10)]\n"
        "except OSError as error: print(error.strerror)"
    )
    command = [sys.executable, "-c", script, tmp_path / "part"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
