"""Nothing is lost or left half done: kills, bad files, full disks, memory, other people's files."""

import json
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.cli import start, tisdiss
from tests.folders import RATE, bad_files, contents, records, separate, speech_like
from tisdiss_cli.folder.run_lock import PARTS
from tisdiss_cli.model.network import Estimate, TISDiSS
from tisdiss_cli.separation.separator import Separator


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


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("stacks", [True, False])  # one tensor, as on CUDA; side by side
def test_memory_that_runs_out_makes_batches_smaller_then_chunks(folder, tmp_path, mini_weights, said, stacks):
    separator = Separator.load(mini_weights, "cpu", "fp32")
    separator.compiled = stacks
    sizes, network = [], separator.network.padded_estimates

    def network_estimates(mixture: torch.Tensor, *arguments: object) -> Iterator[Estimate]:
        sizes.append(tuple(mixture.shape))
        if mixture.numel() > 10_000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(mixture, *arguments)

    separator.network.padded_estimates = network_estimates
    lines = separate(folder, tmp_path / "out", mini_weights, 4, 2.0, separator=separator)
    assert {line["status"] for line in lines.values()} == {"done"}
    assert sorted("chunks at a time" in sentence for sentence in said) == [False, True]
    assert sum(batch * length > 10_000 for batch, length in sizes) <= 4  # each size is tried once
    for name, line in lines.items():
        for output in line["outputs"]:
            assert soundfile.info(tmp_path / "out" / output).frames == round(
                soundfile.info(folder / name).duration * RATE
            )


@pytest.mark.parametrize("options", [("--repeats", 1), ("--rtf", 1)])
def test_memory_for_no_chunk_at_all_ends_the_run_with_one_sentence(
    folder, tmp_path, mini_weights, monkeypatch, options
):
    def network_estimates(*arguments: object) -> Iterator[Estimate]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TISDiSS, "padded_estimates", network_estimates)
    command = ("separate", folder, tmp_path / "out", "--weights", mini_weights, *options, "--quiet", "--device", "cpu")
    run = tisdiss(*command, status=1)
    assert run.stdout == ""
    (sentence,) = run.stderr.splitlines()
    assert "memory" in sentence and "--device" in sentence
    assert not list((tmp_path / "out").rglob("*.wav"))
    monkeypatch.undo()
    tisdiss(*command)
    assert {line["status"] for line in records(tmp_path / "out").values()} == {"done"}


def test_a_record_that_cannot_be_written_ends_the_run_with_one_sentence(folder, tmp_path, mini_weights):
    out = tmp_path / "out"
    out.mkdir()
    (out / "tisdiss.jsonl").symlink_to(tmp_path / "gone" / "tisdiss.jsonl")
    run = tisdiss("separate", folder, out, "--weights", mini_weights, "--quiet", status=1)
    assert len(run.stderr.splitlines()) == 1
    assert str(out / "tisdiss.jsonl") in run.stderr


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
