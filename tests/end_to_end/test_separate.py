"""`tisdiss separate`: folders of good and bad recordings, resumed, batched, written safely."""

import numpy as np
import pytest
import soundfile
import torch

from tests.cli import start, tisdiss
from tests.folders import RATE, contents, records, separate, speech_like
from tisdiss_cli.folder.jobs import plan_jobs
from tisdiss_cli.folder.run_lock import PARTS
from tisdiss_cli.folder.settings import Options
from tisdiss_cli.separation.chunking import ChunkPlan
from tisdiss_cli.separation.separator import Separator


def test_command_on_a_tree(folder, tmp_path, mini_weights):
    out = tmp_path / "out"
    run = tisdiss("separate", folder, out, "--weights", mini_weights, "--repeats", 1, "--chunk", 1)
    assert "\r" not in run.stdout
    assert "untrained" in run.stderr
    lines = records(out)
    assert set(lines) == {"a.wav", "b.flac", "e.wav", "sub/a.wav", "sub/d.wav", "sub/deep/c.ogg"}
    for name, line in lines.items():
        stem = name.rsplit(".", 1)[0]
        assert line["outputs"] == [f"{stem}_s1.wav", f"{stem}_s2.wav"]
        assert (line["status"], line["reason"], line["repeats"]) == ("done", None, 1)
        length = soundfile.info(folder / name).duration
        assert line["audio_seconds"] == pytest.approx(length, abs=1e-3)
        for output in line["outputs"]:
            voice, rate = soundfile.read(out / output)
            assert rate == RATE
            assert len(voice) == round(length * RATE)
            assert np.isfinite(voice).all()
    assert not (out / PARTS).exists()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    tisdiss("separate", folder, out, "--weights", mini_weights, "--repeats", 1, "--chunk", 1)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")} == before  # nothing is redone
    tisdiss("separate", folder, out, "--weights", mini_weights, "--repeats", 2, "--chunk", 1, "--quiet")
    assert {line["repeats"] for line in records(out).values()} == {2}
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")} != before


def test_outputs_are_the_networks(tmp_path, mini_weights):
    """The command's samples are those of the API, whose short waveforms are the network's own output."""
    source, out = tmp_path / "in.wav", tmp_path / "out"
    mixture = speech_like(1.5, 0)
    soundfile.write(source, mixture, RATE, subtype="FLOAT")
    separate(source, out, mini_weights, seconds=2.0)
    separator = Separator.load(mini_weights, "cpu", "fp32")
    with torch.no_grad():
        prepared = separator.network.prepare(torch.from_numpy(mixture.T))
        expected = separator.network(prepared, 1, 1)[0, :, : len(mixture)]
    assert torch.equal(separator.separate(torch.from_numpy(mixture[:, 0]), repeats=1, separator_repeats=1), expected)
    for index in range(2):
        voice, _ = soundfile.read(out / f"in_s{index + 1}.wav", dtype="float32")
        assert np.abs(voice - expected[index].numpy()).max() <= 0.51 / 32768


def test_refine_yields_every_repeat(mini_weights):
    separator = Separator.load(mini_weights, "cpu", "fp32")
    separator.plan = lambda: ChunkPlan(8000)
    for seconds in (0.01, 1.0, 2.5):
        mixture = torch.from_numpy(speech_like(seconds, 0)[:, 0])
        estimates = list(separator.refine(mixture, repeats=2))
        assert len(estimates) == 2
        for repeats, estimate in enumerate(estimates, 1):
            torch.testing.assert_close(estimate, separator.separate(mixture, repeats=repeats), rtol=0, atol=1e-6)


def test_compiled_for_every_length_at_once():
    """Tracing alone, which a later backend cannot change: no length is compiled again, nothing is complex.

    With the bundled weights: a network of few channels makes much of float32's rounding, which the real turn changes.
    """
    separator, compiled = (Separator.load(None, "cpu", "fp32") for _ in range(2))
    graphs = []
    compiled.compile(lambda graph, inputs: graphs.append(graph) or graph)
    counts = []
    for seconds in (0.5, 0.6, 1.1, 0.45):
        mixture = torch.from_numpy(speech_like(seconds, 0)[:, 0])
        expected = separator.separate(mixture, repeats=2)
        torch.testing.assert_close(compiled.separate(mixture, repeats=2), expected, rtol=0, atol=1e-5)
        counts.append(len(graphs))
    assert counts[0] == counts[-1] > 0
    values = [node.meta.get("example_value") for graph in graphs for node in graph.graph.nodes]
    kinds = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    assert torch.float32 in kinds and not any(kind.is_complex for kind in kinds)


def test_batches_and_neighbours_change_nothing(folder, tmp_path, mini_weights):
    separate(folder, tmp_path / "one", mini_weights)
    one = contents(tmp_path / "one")
    for batch_size in (2, 16):
        separate(folder, tmp_path / f"of{batch_size}", mini_weights, batch_size)
        many = contents(tmp_path / f"of{batch_size}")
        assert set(many) == set(one)
        for name in one:
            difference = np.frombuffer(one[name][44:], np.int16) - np.frombuffer(many[name][44:], np.int16).astype(int)
            assert np.abs(difference).max() <= 1  # a last bit of 16 after float32 rounding
    separate(folder / "sub", tmp_path / "alone", mini_weights)
    for name, content in contents(tmp_path / "alone").items():
        assert content == one[f"sub/{name}"]


@pytest.mark.parametrize("rate", [110_000, 44_100])
def test_outputs_at_the_inputs_rate(tmp_path, mini_weights, rate):
    soundfile.write(tmp_path / "in.wav", speech_like(3.01, 0, rate, 2), rate)
    for flag, expected in (("model", RATE), ("input", rate)):
        out = tmp_path / flag
        separate(tmp_path / "in.wav", out, mini_weights, sample_rate=flag)
        info = soundfile.info(out / "in_s1.wav")
        assert info.samplerate == expected
        if flag == "input":
            assert info.frames == soundfile.info(tmp_path / "in.wav").frames


def test_loud_voices_are_float_in_wav_and_refused_in_flac(tmp_path, mini_weights):
    soundfile.write(tmp_path / "in.wav", 1000 * speech_like(1, 0), RATE, subtype="FLOAT")
    lines = separate(tmp_path / "in.wav", tmp_path / "wav", mini_weights)
    assert {soundfile.info(tmp_path / "wav" / output).subtype for output in lines["in.wav"]["outputs"]} == {"FLOAT"}
    lines = separate(tmp_path / "in.wav", tmp_path / "flac", mini_weights, format="flac")
    assert lines["in.wav"]["status"] == "failed"
    assert "--format wav" in lines["in.wav"]["reason"]


def test_inputs_that_would_collide_both_get_their_extension(tmp_path):
    for name in ("a.wav", "a.flac", "b.wav", "sub/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    outputs = {job.input: job.outputs[0] for job in plan_jobs(tmp_path, Options(out=tmp_path.parent / "out"), 2)}
    assert outputs == {
        "a.flac": "a_flac_s1.wav",
        "a.wav": "a_wav_s1.wav",
        "b.wav": "b_s1.wav",
        "sub/a.wav": "sub/a_s1.wav",
    }
    (tmp_path / "a_wav.mp3").touch()
    jobs = {job.input: job for job in plan_jobs(tmp_path, Options(out=tmp_path.parent / "out"), 2)}
    assert {name for name, job in jobs.items() if job.refused} == {"a.wav", "a_wav.mp3"}
    for one, other in (("a.wav", "a_wav.mp3"), ("a_wav.mp3", "a.wav")):
        assert str(tmp_path / other) in jobs[one].refused and "rename" in jobs[one].refused


@pytest.mark.parametrize("name", ["talk [dQw4w9WgXcQ]", "one [/b] two", "a :smile: [red]", "[link=x]"])
def test_a_name_is_shown_as_it_is(tmp_path, mini_weights, name):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / f"{name.replace('/', '')}.wav", speech_like(0.2, 0), RATE)
    folder = tmp_path / name  # a slash makes a folder of it
    folder.mkdir(parents=True)
    soundfile.write(folder / "call.wav", speech_like(0.2, 0), RATE)
    run = tisdiss("separate", tmp_path / "in", tmp_path / "out", "--weights", mini_weights, "--device", "cpu")
    assert f"{name.replace('/', '')}.wav" in run.stdout
    inputs = tmp_path / name.split("/")[0]
    run = tisdiss("separate", inputs, tmp_path / "out2", "--weights", mini_weights, "--device", "cpu")
    assert str((folder / "call.wav").relative_to(inputs)) in run.stdout


def test_dry_run_writes_nothing(folder, tmp_path, mini_weights):
    run = tisdiss("separate", folder, tmp_path / "out", "--weights", mini_weights, "--dry-run")
    assert "sub/deep/c.ogg -> sub/deep/c_s1.wav, sub/deep/c_s2.wav" in run.stdout
    assert not (tmp_path / "out").exists()


def test_usage_errors_name_the_mend(folder, tmp_path, mini_weights):
    (tmp_path / "none").mkdir()
    (tmp_path / "file").touch()
    out = tmp_path / "out"
    for arguments, word in (
        ((tmp_path / "nowhere", out), "does not exist"),
        ((tmp_path / "none", out), "no sound files"),
        ((folder, folder / "out"), "outside"),
        ((folder, folder), "outside"),
        ((folder, tmp_path / "file"), "folder"),
        ((folder, tmp_path / "file" / "out"), "folder"),
        ((folder, out, "--repeats", "0"), "at least 1"),
        ((folder, out, "--weights", "nothing"), "bundled"),
        ((folder, out, "--device", "abacus"), "cpu"),
        ((folder, out, "--device", "cuda:99"), "cpu"),
        ((folder, out, "--precision", "fp8"), "bf16"),
        ((folder, out, "--format", "aac"), "flac"),
        ((folder, out, "--subtype", "8"), "float"),
        ((folder, out, "--channels", "0"), "each"),
        ((folder, out, "--format", "flac", "--subtype", "float"), "24"),
        ((folder, out, "--format", "mp3", "--subtype", "16"), "auto"),
        ((folder, out, "--batch-size", "0"), "--batch-size"),
        ((folder, out, "--chunk", "0"), "--chunk"),
        ((folder, out, "--chunk", "0.49"), "--chunk"),
        ((folder, out, "--chunk", "3601"), "--chunk"),
        ((folder, out, "--chunk", "nan"), "--chunk"),
        ((folder, out, "--rtf", "inf"), "finite"),
        ((folder, out, "--rtf", "nan"), "finite"),
    ):
        run = tisdiss("separate", "--weights", mini_weights, *arguments, status=2)
        assert word in run.stderr
        assert run.stdout == ""
        assert len(run.stderr.strip().splitlines()) == 1
        assert not out.exists()


def test_help_does_not_import_torch():
    run = start("--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    _, error = run.communicate(timeout=60)
    assert run.returncode == 0
    assert "import time:" in error
    assert not any(line.rstrip().endswith(" torch") for line in error.splitlines())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives(folder, tmp_path, mini_weights):
    separate(folder, tmp_path / "cpu", mini_weights)
    separate(folder, tmp_path / "cuda", mini_weights, 8, separator=Separator.load(mini_weights, "cuda", "fp32"))
    for name in contents(tmp_path / "cpu"):
        cpu, _ = soundfile.read(tmp_path / "cpu" / name)
        cuda, _ = soundfile.read(tmp_path / "cuda" / name)
        assert np.linalg.norm(cuda - cpu) <= 1e-2 * np.linalg.norm(cpu)
