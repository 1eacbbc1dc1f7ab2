"""`tisdiss separate`: folders of good and bad recordings, resumed, batched, written safely."""

import json
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.cli import start, tisdiss
from tests.test_audio import bad_files
from tisdiss_cli.batch import FolderRun, Settings
from tisdiss_cli.jobs import PARTS, plan_jobs
from tisdiss_cli.record import Record
from tisdiss_cli.separation import Plan, Separator

RATE = 8000


def speech_like(seconds: float, seed: int, rate: int = RATE, channels: int = 1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    length = round(seconds * rate)
    envelope = 0.6 + 0.4 * np.sin(np.arange(length) / rate * 5 + seed)
    return (generator.standard_normal((length, channels)) * 0.1 * envelope[:, None]).astype(np.float32)


def records(out: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in (out / "tisdiss.jsonl").read_text().splitlines()]
    return {line["input"]: line for line in lines}


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.wav")}


def separate(
    folder: Path, out: Path, weights: Path, batch_size: int = 1, seconds: float = 1.0, **options
) -> dict[str, dict]:
    """The command's work, in this process."""
    separator = options.pop("separator", None) or Separator.load(weights, "cpu", "fp32")
    jobs = plan_jobs(folder, out, separator.sources, options.get("format", "wav"))
    out.mkdir(exist_ok=True)
    FolderRun(separator, jobs, out, Settings(1, 1, separator.plan(seconds), batch_size, **options)).run(Record(out))
    return records(out)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Files of equal and unequal lengths, rates and channel counts, in a tree."""
    source = tmp_path / "in"
    (source / "sub" / "deep").mkdir(parents=True)
    for index, (name, seconds, rate, channels) in enumerate(
        [
            ("a.wav", 2.3, 8000, 1),
            ("b.flac", 0.5, 44_100, 2),
            ("sub/a.wav", 0.5, 110_000, 1),
            ("sub/deep/c.ogg", 3.0, 8000, 3),
            ("sub/d.wav", 0.5, 8000, 1),
            ("e.wav", 1.0, 8000, 1),
        ]
    ):
        soundfile.write(source / name, speech_like(seconds, index, rate, channels), rate)
    return source


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
        expected = separator.network(torch.from_numpy(mixture.T), 1, 1)[0]
    assert torch.equal(separator.separate(torch.from_numpy(mixture[:, 0]), repeats=1, separator_repeats=1), expected)
    for index in range(2):
        voice, _ = soundfile.read(out / f"in_s{index + 1}.wav", dtype="float32")
        assert np.abs(voice - expected[index].numpy()).max() <= 0.51 / 32768


def test_refine_yields_every_repeat(mini_weights):
    separator = Separator.load(mini_weights, "cpu", "fp32")
    separator.plan = lambda: Plan.of(8000)
    for seconds in (0.01, 1.0, 2.5):
        mixture = torch.from_numpy(speech_like(seconds, 0)[:, 0])
        estimates = list(separator.refine(mixture, repeats=2))
        assert len(estimates) == 2
        for repeats, estimate in enumerate(estimates, 1):
            torch.testing.assert_close(estimate, separator.separate(mixture, repeats=repeats), rtol=0, atol=1e-6)


def test_compiled_for_every_length_at_once(mini_weights):
    """Tracing alone, which a later backend cannot change: nothing is compiled again for another length."""
    separator, compiled = (Separator.load(mini_weights, "cpu", "fp32") for _ in range(2))
    graphs = []
    compiled.compile(lambda graph, inputs: graphs.append(graph) or graph.forward)
    counts = []
    for seconds in (0.5, 0.6, 1.1, 0.45):
        mixture = torch.from_numpy(speech_like(seconds, 0)[:, 0])
        expected = separator.separate(mixture, repeats=2)
        torch.testing.assert_close(compiled.separate(mixture, repeats=2), expected, rtol=0, atol=1e-5)
        counts.append(len(graphs))
    assert counts[0] == counts[-1] > 0


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


def test_killed_at_any_moment_and_started_again(folder, tmp_path, mini_weights):
    options = ("--weights", mini_weights, "--repeats", 1, "--chunk", 0.5, "--quiet", "--device", "cpu")
    tisdiss("separate", folder, tmp_path / "whole", *options)
    out = tmp_path / "out"
    done: set[str] = set()
    for kill in range(3):
        process = start("separate", folder, out, *options)
        deadline = time.monotonic() + 60
        wanted = len(done) + 1
        while time.monotonic() < deadline and process.poll() is None:
            lines = records_if_any(out)
            if len(lines) >= wanted or (kill == 0 and (out / PARTS).exists()):
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        again = records_if_any(out)
        assert done <= set(again)
        for name in again:
            for output in again[name]["outputs"]:
                assert (out / output).read_bytes() == (tmp_path / "whole" / output).read_bytes()
        done = set(again)
    before = {output: (out / output).stat().st_mtime_ns for name in done for output in again[name]["outputs"]}
    tisdiss("separate", folder, out, *options)
    assert contents(out) == contents(tmp_path / "whole")
    assert all((out / output).stat().st_mtime_ns == stamp for output, stamp in before.items())
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == sorted(
        path.name for path in (tmp_path / "whole").rglob("*") if path.is_file()
    )


def records_if_any(out: Path) -> dict[str, dict]:
    try:
        text = (out / "tisdiss.jsonl").read_text()
    except FileNotFoundError:
        return {}
    return {line["input"]: line for line in map(json.loads, filter(lambda row: row.endswith("}"), text.splitlines()))}


def test_every_bad_file_has_its_reason_and_harms_no_other(tmp_path, mini_weights):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    reasons = bad_files(source)
    good = {"good.wav": 3.0, "short.wav": 1 / RATE, "two.wav": 2 / RATE, "hundred.wav": 100 / RATE}
    for name, seconds in good.items():
        soundfile.write(source / name, speech_like(seconds, 0), RATE)
    soundfile.write(source / "silence.wav", np.zeros(3 * RATE), RATE)
    run = tisdiss("separate", source, out, "--weights", mini_weights, "--chunk", 1, status=1)
    lines = records(out)
    assert {name for name, line in lines.items() if line["status"] == "failed"} == set(reasons)
    for name, word in reasons.items():
        assert word in lines[name]["reason"]
        assert lines[name]["outputs"] == []
        assert lines[name]["reason"] in " ".join(run.stdout.split())
        assert not list(out.glob(f"{Path(name).stem}_*"))
    for name in (*good, "silence.wav"):
        for output in lines[name]["outputs"]:
            voice, _ = soundfile.read(out / output)
            assert len(voice) == soundfile.info(source / name).frames
            assert np.isfinite(voice).all()
            assert name != "silence.wav" or not voice.any()
    assert not (out / PARTS).exists()


def test_a_full_disk_fails_one_file_and_the_next_still_works(tmp_path, mini_weights):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    soundfile.write(source / "a_long.wav", speech_like(8, 0), RATE)
    soundfile.write(source / "b_short.wav", speech_like(1, 0), RATE)

    def limit() -> None:  # a file may not grow beyond 100 kB, which the kernel reports as a write error
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    process = start("separate", source, out, "--weights", mini_weights, "--chunk", 1, preexec_fn=limit)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in error
    lines = records(out)
    assert lines["a_long.wav"]["status"] == "failed"
    assert "cannot be written" in lines["a_long.wav"]["reason"]
    assert lines["b_short.wav"]["status"] == "done"
    assert not list(out.glob("a_long*"))
    tisdiss("separate", source, out, "--weights", mini_weights, "--chunk", 1)
    assert records(out)["a_long.wav"]["status"] == "done"


@pytest.mark.parametrize("rate", [110_000, 44_100])
def test_outputs_at_the_inputs_rate(tmp_path, mini_weights, rate):
    soundfile.write(tmp_path / "in.wav", speech_like(3.01, 0, rate, 2), rate)
    for flag, expected in (("model", RATE), ("input", rate)):
        out = tmp_path / flag
        separate(tmp_path / "in.wav", out, mini_weights, input_rate=flag == "input")
        info = soundfile.info(out / "in_s1.wav")
        assert info.samplerate == expected
        if flag == "input":
            assert info.frames == soundfile.info(tmp_path / "in.wav").frames


def test_loud_voices_are_float_in_wav_and_refused_in_flac(tmp_path, mini_weights):
    soundfile.write(tmp_path / "in.wav", 30 * speech_like(1, 0), RATE, subtype="FLOAT")
    lines = separate(tmp_path / "in.wav", tmp_path / "wav", mini_weights)
    assert {soundfile.info(tmp_path / "wav" / output).subtype for output in lines["in.wav"]["outputs"]} == {"FLOAT"}
    lines = separate(tmp_path / "in.wav", tmp_path / "flac", mini_weights, format="flac")
    assert lines["in.wav"]["status"] == "failed"
    assert "--format wav" in lines["in.wav"]["reason"]


def test_memory_that_runs_out_halves_the_batch_then_the_chunk(folder, tmp_path, mini_weights):
    separator = Separator.load(mini_weights, "cpu", "fp32")
    sizes, notices, network = [], [], separator.network.forward
    separator.notice = notices.append

    def forward(mixture: torch.Tensor, *arguments: object) -> torch.Tensor:
        sizes.append(tuple(mixture.shape))
        if mixture.numel() > 10_000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(mixture, *arguments)

    separator.network.forward = forward
    lines = separate(folder, tmp_path / "out", mini_weights, 4, 2.0, separator=separator)
    assert {line["status"] for line in lines.values()} == {"done"}
    assert len(notices) == 2
    assert sum(batch * length > 10_000 for batch, length in sizes) <= 4  # each size is tried once
    for name, line in lines.items():
        for output in line["outputs"]:
            assert soundfile.info(tmp_path / "out" / output).frames == round(
                soundfile.info(folder / name).duration * RATE
            )


def test_inputs_that_would_collide_both_get_their_extension(tmp_path):
    for name in ("a.wav", "a.flac", "b.wav", "sub/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    outputs = {job.input: job.outputs[0] for job in plan_jobs(tmp_path, tmp_path.parent / "out", 2, "wav")}
    assert outputs == {
        "a.flac": "a_flac_s1.wav",
        "a.wav": "a_wav_s1.wav",
        "b.wav": "b_s1.wav",
        "sub/a.wav": "sub/a_s1.wav",
    }
    (tmp_path / "a_wav.mp3").touch()
    with pytest.raises(ValueError, match="rename"):
        plan_jobs(tmp_path, tmp_path.parent / "out", 2, "wav")


def test_files_of_others_are_not_replaced(folder, tmp_path, mini_weights):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a_s1.wav").write_text("precious")
    for _ in range(2):  # the record of the refusal does not make the file ours
        run = tisdiss("separate", folder / "a.wav", out, "--weights", mini_weights, status=1)
        assert "--overwrite" in run.stdout
        assert (out / "a_s1.wav").read_text() == "precious"
    tisdiss("separate", folder / "a.wav", out, "--weights", mini_weights, "--overwrite")
    assert soundfile.info(out / "a_s1.wav").frames == soundfile.info(folder / "a.wav").frames


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
        ((folder, out, "--format", "mp3"), "flac"),
        ((folder, out, "--batch-size", "0"), "at least 1"),
        ((folder, out, "--chunk", "0"), "seconds"),
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
