"""Chunks cover a stream, and stitched voices are the voices, whatever order each chunk returns them in."""

import pytest
import torch

from tisdiss_cli.separation.chunking import Chunker, ChunkPlan, Stitcher, align
from tisdiss_cli.separation.separator import Separator

PLAN = ChunkPlan(1000)  # whose overlaps are 250 to 750 samples


def cut(x: torch.Tensor, block: int):
    chunker = Chunker(PLAN)
    chunks = [piece for part in x.split(block) for piece in chunker.push(part)]
    return chunks + chunker.finish()


def stitch(chunks, voices: torch.Tensor, orders) -> tuple[torch.Tensor, list[int]]:
    stitcher = Stitcher(PLAN)
    parts = [
        stitcher.push(start, voices[list(order), start : start + piece.shape[0]])
        for (start, piece), order in zip(chunks, orders, strict=False)
    ]
    return torch.cat([*parts, stitcher.finish()], dim=1), stitcher.ambiguous


@pytest.mark.parametrize("length", [1, 249, 999, 1000, 1001, 1500, 1501, 1750, 2250, 2251, 9999])
@pytest.mark.parametrize("block", [1, 333, 20000])
def test_chunks_cover_the_stream(length, block):
    x = torch.randn(length)
    chunks = cut(x, max(block, length // 50))
    *others, last = [piece.shape[0] for _, piece in chunks]
    assert set(others) <= {1000}
    assert (last > 750 if others else last == length) and last <= 1500
    end = 0
    for start, piece in chunks:
        assert torch.equal(piece, x[start : start + piece.shape[0]])
        assert start == 0 or 250 <= end - start < 1000
        end = start + piece.shape[0]
    assert end == length


def test_only_the_overlaps_are_computed_twice():
    for length in range(1, 6000, 7):
        chunks = cut(torch.ones(length) * (-1) ** torch.arange(length), length)
        assert sum(piece.shape[0] for _, piece in chunks) == length + 250 * (len(chunks) - 1)


def test_an_empty_stream_has_no_chunks():
    assert cut(torch.zeros(0), 1) == []


@pytest.mark.parametrize("length", [1, 700, 1000, 1501, 1777, 2300, 5432, 20001])
@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_stitching_known_voices_returns_them_exactly(length, speakers):
    torch.manual_seed(length)
    voices = torch.randn(speakers, length)
    chunks = cut(voices.sum(0), 400)
    generator = torch.Generator().manual_seed(1)
    orders = [torch.randperm(speakers, generator=generator).tolist() for _ in chunks]  # adversarial
    stitched, ambiguous = stitch(chunks, voices, orders)
    assert torch.equal(stitched, voices[orders[0]])
    assert ambiguous == []


def test_every_order_of_every_chunk_is_undone():
    torch.manual_seed(0)
    voices = torch.randn(2, 3000) * torch.tensor([[1.0], [0.03]])  # one voice 30 dB below the other
    chunks = cut(voices.sum(0), 3000)
    for code in range(2 ** len(chunks)):
        orders = [(1, 0) if code >> index & 1 else (0, 1) for index in range(len(chunks))]
        stitched, ambiguous = stitch(chunks, voices, orders)
        assert torch.equal(stitched, voices[list(orders[0])])
        assert ambiguous == []


def test_alternating_talkers_are_told_apart_where_only_one_speaks():
    torch.manual_seed(0)
    turns = torch.arange(6000) // 400 % 2  # never both at once
    voices = torch.randn(2, 6000) * torch.stack((turns, 1 - turns))
    chunks = cut(voices.sum(0), 6000)
    orders = [(1, 0) if index % 2 else (0, 1) for index in range(len(chunks))]
    stitched, ambiguous = stitch(chunks, voices, orders)
    assert torch.equal(stitched, voices)
    assert ambiguous == []


def test_a_quiet_overlap_reaches_further_back():
    torch.manual_seed(0)
    voices = torch.randn(2, 1600)
    voices[:, 700:1100] = 0  # where the first chunk ends
    chunks = cut(voices.sum(0), 1600)
    orders = [(1, 0) if index % 2 else (0, 1) for index in range(len(chunks))]
    stitched, ambiguous = stitch(chunks, voices, orders)
    assert torch.equal(stitched, voices)
    assert ambiguous == []
    assert chunks[0][1].shape[0] - chunks[1][0] > 250


def test_a_pause_longer_than_the_reach_is_called_ambiguous():
    torch.manual_seed(0)
    voices = torch.randn(2, 6000)
    voices[:, 1500:4500] = 0
    _, ambiguous = stitch(cut(voices.sum(0), 6000), voices, [(0, 1)] * 20)
    assert len(ambiguous) == 1
    assert 1500 <= ambiguous[0] <= 5000


def test_two_similar_voices_are_called_ambiguous():
    voice = torch.randn(1, 2000)
    _, ambiguous = stitch(cut(voice[0], 2000), torch.cat((voice, voice)), [(0, 1)] * 5)
    assert ambiguous


def test_silence_is_not_called_ambiguous():
    voices = torch.zeros(2, 5000)
    stitched, ambiguous = stitch(cut(voices.sum(0), 5000), voices, [(0, 1)] * 20)
    assert torch.equal(stitched, voices)
    assert ambiguous == []


def test_a_seam_between_unequal_estimates_is_smooth():
    a, b = torch.full((1, 1000), 1.0), torch.full((1, 1000), 2.0)
    stitcher = Stitcher(PLAN)
    joined = torch.cat((stitcher.push(0, a), stitcher.push(750, b), stitcher.finish()), dim=1)[0]
    steps = joined.diff()
    assert joined.shape[0] == 1750
    assert (steps >= 0).all()
    assert steps.max() < 2 / 250


def test_align_is_the_nearest_order():
    torch.manual_seed(0)
    before = torch.randn(3, 500)
    after = before[[2, 0, 1]] + 0.5 * torch.randn(3, 500)
    found, _ = align(before, after)
    errors = {
        order: float((before - after[list(order)]).square().sum())
        for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    }
    assert found == min(errors, key=errors.get) == (1, 2, 0)


@pytest.mark.parametrize("seconds", [1e-9, 0.001, 0.05, 0.5])
def test_however_short_a_chunk_is_wished_the_network_hears_whole_windows(mini_weights, monkeypatch, seconds):
    """Each chunk but a short recording's only one is at least a window long, and the voices are as long as ever."""
    separator = Separator.load(mini_weights, "cpu", "fp32")
    plan = separator.plan(seconds)
    monkeypatch.setattr(separator, "plan", lambda: plan)
    for samples in (1, 100, 5000):
        mixture = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
        chunker = Chunker(plan)
        lengths = [chunk.shape[0] for _, chunk in chunker.push(mixture) + chunker.finish()]
        assert min(lengths) >= min(samples, separator.config.n_fft)
        voices = separator.separate(mixture, repeats=1)
        assert voices.shape == (2, samples)
        assert voices.isfinite().all()
