"""A million inputs: what is kept of each is small, and names are compared by hashes without a loss."""

import random
import tracemalloc

import pytest

from tisdiss_cli.commands.separate_asked import Run
from tisdiss_cli.folder import collisions, inputs, jobs
from tisdiss_cli.folder.inputs import Input
from tisdiss_cli.folder.jobs import plan_jobs
from tisdiss_cli.folder.makers import Made, Makers
from tisdiss_cli.folder.names import Template
from tisdiss_cli.folder.record import Line, Record, RecordError


def test_an_input_and_its_job_take_few_hundred_bytes(tmp_path):
    tracemalloc.start()
    count = 10_000
    listed = [Input(tmp_path, f"speaker{index // 100:05d}/session/recording_{index:07d}.wav") for index in range(count)]
    planned = plan_jobs(listed, tmp_path / "out", voices=2, extension="wav")
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(planned) == count
    assert kept / count < 400 and peak / count < 500


def test_hashes_only_choose_what_is_looked_at_closer(tmp_path, monkeypatch):
    """As if every text had the hash of another one: the plan is the same."""
    draw = random.Random(0)
    names = {
        "/".join(draw.choice(("a", "A", "b", "é", "e\u0301", "b_s1.wav")) for _ in range(draw.randint(0, 2)))
        + f"/{draw.choice(('a', 'b', 'B', 'a_wav'))}{draw.choice(('.wav', '.flac', '.WAV', ''))}"
        for _ in range(200)
    }
    listed = [Input(tmp_path, name.lstrip("/")) for name in sorted(names)]

    def plan() -> list[tuple]:
        found = plan_jobs(listed, tmp_path / "out", voices=2, extension="wav")
        return [(job.input, job.outputs, job.refused) for job in found]

    expected = plan()
    assert any(reason for *_, reason in expected) and not all(reason for *_, reason in expected)
    for module in (collisions, inputs, jobs):
        monkeypatch.setattr(module, "repeated", lambda texts: set(map(hash, texts)))
    assert plan() == expected


def test_of_many_lines_those_are_kept_that_have_something_to_tell(tmp_path):
    run = Run([], tmp_path, tmp_path, None, False, "wav", Template(), False, None, [], [tmp_path], None)
    for index in range(5000):
        failed, warned = index % 1000 == 999, index % 100 == 50
        line = Line(f"{index}.wav", "failed" if failed else "done", "so" if failed else None, audio_seconds=0.5)
        line.warnings = ["hm"] if warned else []
        run.take(line)
    assert run.sums() == (4995, 5, 4995 / 2)
    assert sum(line.status == "failed" for line in run.lines) == 5
    assert sum(bool(line.warnings) for line in run.lines) == 50
    assert len(run.lines) < 1100


def test_makers_are_a_dictionary_that_takes_no_memory(monkeypatch):
    """Against one: lines that list names of others again, and names that are no UTF-8; most of it on the disk."""
    monkeypatch.setattr("tisdiss_cli.folder.makers.CACHE", 0.1)
    draw, makers, expected = random.Random(0), Makers(), {}
    assert "0" not in makers and makers.get("0") is None
    lines = []
    for number in range(1, 10_001):
        outputs = [f"{'é' * draw.randint(0, 9)}{draw.randint(0, 5000)}_s{voice}\udcff.wav" for voice in (1, 2)]
        made = Made(
            f"{number}\ud800.wav", f"/in/{number}.wav", draw.choice((None, 2)), {"n": number % 3}, [7, 1 << 60], number
        )
        lines.append((made, outputs))
        expected |= dict.fromkeys(outputs, (number, made.key))
    tracemalloc.start()
    for made, outputs in lines:
        makers.add(made, outputs)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for output, (number, key) in expected.items():
        made = makers.get(output)
        assert output in makers and makers.number(output) == number
        assert (made.key, made.settings, made.source) == (key, {"n": number % 3}, [7, 1 << 60])
    assert "6000_s1.wav" not in makers
    assert kept < 10 * len(lines)  # bytes


def test_a_table_without_room_is_one_sentence(tmp_path):
    record = Record(tmp_path)
    record.makers._table.execute("PRAGMA max_page_count = 4")
    with pytest.raises(RecordError, match="SQLITE_TMPDIR"):
        for index in range(1000):
            record.append(Line(f"{index}.wav", "done", outputs=[f"{index}_s1.wav"]))
