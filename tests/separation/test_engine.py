"""The engine: what memory affords at a time, and chunks side by side on a CPU, against one after the other."""

import threading
import time
from pathlib import Path

import pytest
import torch

from tests.folders import contents, records, separate
from tests.reference_cases import relative_error
from tisdiss_cli.devices import side_by_side
from tisdiss_cli.folder.settings import Options, choose_settings
from tisdiss_cli.separation import engine
from tisdiss_cli.separation.capacity import bytes_per_second
from tisdiss_cli.separation.separator import Separator


@pytest.fixture
def separator(mini_weights):
    return Separator.load(mini_weights, "cpu", "fp32")


def test_the_batch_is_what_a_device_affords(separator, monkeypatch):
    plan, rate = separator.plan(8.0), bytes_per_second(separator.config, "fp32")
    assert separator.default_batch(plan) == 1
    for chunks, batch in ((0.5, 1), (3, 3), (5.5, 5), (1000, 16)):
        monkeypatch.setattr(engine, "free_bytes", lambda device, n=chunks: round(n * 8.0 * rate / 0.8) + 1000)
        another = Separator(separator.network, separator.weights, torch.device("cpu"), "fp32")
        another.device = torch.device("cuda")  # is only asked for its name
        assert another.default_batch(plan) == batch


def test_no_more_than_is_affordable_runs_at_a_time(separator, monkeypatch):
    whole, _ = separator.run(torch.randn(7, 4000, generator=torch.Generator().manual_seed(0)), 1)
    sizes, batch = [], separator.batch
    monkeypatch.setattr(separator, "batch", lambda x, *rest: sizes.append(x.shape[0]) or batch(x, *rest))
    separator.affordable_seconds = 1.7  # of the network's 8 kHz: three chunks of half a second
    parts, used = separator.run(torch.randn(7, 4000, generator=torch.Generator().manual_seed(0)), 1)
    assert sizes == [3, 3, 1] and used == [1] * 7
    assert relative_error(parts, whole) < 1e-2  # seeded, the network blows rounding up
    sizes.clear()
    separator.run(torch.randn(2, 24_000), 1)  # one chunk is never too long
    assert sizes == [1, 1]


@pytest.mark.parametrize(("cores", "each"), [(4, 1), (4, 2), (5, 2), (4, 4)])
def test_as_many_at_once_as_the_cores_hold_in_threads_of_their_own(threads, cores, each):
    threads(cores)
    barrier, seen = threading.Barrier(cores // each, timeout=20), []

    def work(item: int) -> int:
        barrier.wait()  # all at once, or never
        seen.append((torch.get_num_threads(), threading.get_ident()))
        return item * item

    items = list(range(2 * (cores // each)))
    assert list(side_by_side(work, items, each)) == [item * item for item in items]
    assert {number for number, _ in seen} == {each}
    assert len({thread for _, thread in seen}) == cores // each
    assert torch.get_num_threads() == cores


def test_what_one_raises_comes_out_and_ends_the_rest(threads):
    threads(2)
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        if item > 1:
            time.sleep(0.01)  # ten seconds for all that must not begin any more
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        list(side_by_side(work, [1, 0, *range(2, 2000)], 1))
    assert len(begun) < 2000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tisdiss")]


def test_chunks_of_any_lengths_are_what_they_are_alone(threads, mini_weights):
    separator = Separator.load(mini_weights, "cpu", "fp32")
    mixtures = [torch.randn(length) for length in (3000, 700, 1, 5000, 3000, 128)]
    threads(1)
    expected = [separator.run(mixture[None], 2) for mixture in mixtures]
    threads(2)
    found = separator.run_each(mixtures, 2, stacked=False)
    for (voices, used, seconds), (wanted, repeats) in zip(found, expected, strict=True):
        assert torch.equal(voices, wanted[0])
        assert [used] == repeats and 0 < seconds < 60


def test_a_folder_is_what_it_is_one_chunk_after_the_other(threads, folder, tmp_path, mini_weights):
    threads(1)
    separate(folder, tmp_path / "one", mini_weights)
    threads(2)
    for batch_size in (2, 3, 8):
        out = tmp_path / f"of{batch_size}"
        separate(folder, out, mini_weights, batch_size)
        assert contents(out) == contents(tmp_path / "one")
        for name, line in records(out).items():
            alone = records(tmp_path / "one")[name]
            same = ("status", "repeats", "audio_seconds", "outputs", "reason")
            assert {key: line.get(key) for key in same} == {key: alone.get(key) for key in same}
            assert (line["elapsed_seconds"] > 0) == (alone["elapsed_seconds"] > 0)


def test_few_inputs_have_all_cores_each(threads, mini_weights):
    separator = Separator.load(mini_weights, "cpu", "fp32")
    threads(4)
    sizes = [choose_settings(separator, Options(out=Path()), inputs).batch_size for inputs in (1, 3, 4, 1000)]
    assert sizes[:2] == [1, 1] and sizes[2] == sizes[3] >= 4
    threads(1)
    assert choose_settings(separator, Options(out=Path()), 1000).batch_size == 1
