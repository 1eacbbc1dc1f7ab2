"""Batches of chunks, decided by their order alone; a pipeline that keeps a pace."""

import random
from itertools import groupby

import numpy as np
import pytest
import soundfile

from tests.containers import si_snr
from tisdiss_cli.folder.jobs import plan_jobs
from tisdiss_cli.folder.pace import Pace
from tisdiss_cli.folder.pipeline import Batcher, Pipeline
from tisdiss_cli.folder.record import Line
from tisdiss_cli.folder.settings import Options, choose_settings
from tisdiss_cli.separation.separator import Separator

Chunk = tuple[str, int]  # its kind, and its place in the run


def sequence(seed: int) -> list[Chunk]:
    """Chunks as files bring them: many of one kind in a row, now and then another, at the end a few of their own."""
    generator = random.Random(seed)
    kinds = generator.choices("abcdefgh"[: generator.randint(1, 8)], k=generator.randint(1, 12))
    runs = [kind * generator.randint(1, 9) for kind in kinds]
    return [(kind, number) for number, kind in enumerate("".join(runs))]


def batches(chunks: list[Chunk], size: int, most: int) -> tuple[list[list[Chunk]], list[int]]:
    """Every batch, and how many chunks waited after each one came."""
    batcher = Batcher(size, most_waiting=most)
    due, waiting = [], []
    for chunk in chunks:
        due += batcher.add(chunk[0], chunk)
        waiting.append(batcher.waiting)
    due += batcher.finish()
    assert batcher.waiting == 0
    assert batcher.finish() == []
    return due, waiting


def naive(chunks: list[Chunk], size: int, most: int) -> list[list[Chunk]]:
    """The rule on one plain list of all that waits, oldest first."""
    waiting, due = [], []

    def leave(kind: str) -> None:
        due.append([chunk for chunk in waiting if chunk[0] == kind])
        waiting[:] = [chunk for chunk in waiting if chunk[0] != kind]

    for chunk in chunks:
        waiting.append(chunk)
        if sum(other[0] == chunk[0] for other in waiting) >= size:
            leave(chunk[0])
        elif len(waiting) >= most:
            leave(waiting[0][0])
    while waiting:
        leave(waiting[0][0])
    return due


@pytest.mark.parametrize(("size", "most"), [(1, 1), (1, 4), (2, 8), (3, 3), (3, 4), (5, 20), (16, 64)])
def test_any_sequence_comes_out_whole_and_in_order(size, most):
    for seed in range(100):
        chunks = sequence(seed)
        due, waiting = batches(chunks, size, most)
        assert sorted((chunk for batch in due for chunk in batch), key=lambda chunk: chunk[1]) == chunks
        assert all(1 <= len(batch) <= size for batch in due)
        assert all(len(list(groupby(batch, key=lambda chunk: chunk[0]))) == 1 for batch in due)
        for kind in {chunk[0] for chunk in chunks}:
            places = [place for batch in due for other, place in batch if other == kind]
            assert places == sorted(places)
        assert max(waiting) < most
        assert due == naive(chunks, size, most)
        assert due == batches(chunks, size, most)[0]


def test_a_batch_leaves_with_the_chunk_that_fills_it():
    batcher = Batcher(3, most_waiting=12)
    assert [batcher.add("a", number) for number in range(4)] == [[], [], [[0, 1, 2]], []]


def test_the_kind_that_has_waited_longest_makes_room():
    batcher = Batcher(4, most_waiting=5)
    assert [batcher.add(kind, place) for place, kind in enumerate("abbba")] == [[], [], [], [], [[0, 4]]]
    assert batcher.finish() == [[1, 2, 3]]


def test_every_second_of_audio_is_taken_off_the_budget_once(folder, tmp_path, mini_weights):
    """Also of chunks that overlap, and what it took is what a pace goes by."""
    separator, options = Separator.load(mini_weights, "cpu", "fp32"), Options(out=tmp_path / "out", chunk=1.0)
    pace = Pace(fixed=0.1, each=0.1, most=2)
    pace.limit(1000.0, budget=1e9)
    jobs = plan_jobs(folder, options, 2)
    lines = [
        event
        for event in Pipeline(separator, choose_settings(separator, options), tmp_path, pace=pace).run(jobs)
        if isinstance(event, Line)
    ]
    assert {line.repeats for line in lines} == {2} and len(lines) == len(jobs)
    assert 1000 - pace.audio_left == pytest.approx(sum(line.audio_seconds for line in lines), abs=1e-4)
    assert pace.scale != 1


def test_a_last_chunk_that_runs_early_is_written_in_its_place(tmp_path, mini_weights):
    """Its batch is filled by other files of exactly its length, before that of the chunk ahead of it."""
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0)
    for name, samples in {"a": 15_800, "b": 3800, "c": 3800, "d": 3800}.items():
        soundfile.write(tmp_path / "in" / f"{name}.wav", 0.1 * noise.standard_normal(samples), 8000, subtype="FLOAT")
    separator, voices, order = Separator.load(mini_weights, "cpu", "fp32"), {}, []
    separator.compiled = True  # as if: a batch is one tensor, as on CUDA
    run = separator.run
    separator.run = lambda mixtures, *rest: (order.append(tuple(mixtures.shape)), run(mixtures, *rest))[1]
    for size in (1, 3):
        options = Options(out=tmp_path / f"out{size}", chunk=0.5, batch_size=size, subtype="float")
        settings = choose_settings(separator, options)
        jobs = plan_jobs(tmp_path / "in", options, 2)
        events = list(Pipeline(separator, settings, tmp_path / f"parts{size}").run(jobs))
        lines = [event for event in events if isinstance(event, Line)]
        assert [line.reason for line in lines] == [None] * 4
        assert {line.input: line.audio_seconds for line in lines}["a.wav"] == 1.975
        assert sum(event.seconds for event in events if not isinstance(event, Line)) == pytest.approx(3.4)
        voices[size] = {line.input: [soundfile.read(options.out / name)[0] for name in line.outputs] for line in lines}
    assert order.index((3, 3800)) < order.index((1, 4000), order.index((3, 4000)))  # or nothing was tried
    for name in voices[1]:
        for together, alone in zip(voices[3][name], voices[1][name], strict=True):
            assert len(together) == len(alone) and si_snr(together, alone) > 30, name  # batches round differently
