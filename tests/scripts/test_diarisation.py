"""The measures of who speaks when, on cases that can be counted by hand."""

import pytest
import torch

from scripts.diarisation import as_frames, diarisation_error, frame_f1, swaps

TRUE = as_frames([[(0.0, 4.0)], [(3.0, 6.0)]], 10)  # 7 s of speech, 1 s of it overlap


@pytest.mark.parametrize(
    ("segments", "error", "f1"),
    [
        ([[(0.0, 4.0)], [(3.0, 6.0)]], 0, 1),
        ([[(3.0, 6.0)], [(0.0, 4.0)]], 0, 4 / 14),  # the names do not count, the rows do
        ([[(0.0, 4.0)], []], 3 / 7, 8 / 11),
        ([[], []], 1, 0),
        ([[(0.0, 5.0)], [(3.0, 6.0)]], 1 / 7, 14 / 15),
        ([[(0.0, 4.0)], [(3.0, 8.0)]], 2 / 7, 14 / 16),
        ([[(0.0, 3.5)], [(3.5, 6.0)]], 1 / 7, 12 / 13),  # half a second of the overlap is missed on either side
    ],
)
def test_counted_by_hand(segments, error, f1):
    found = as_frames(segments, 10)
    assert diarisation_error(found, TRUE) == pytest.approx(error)
    assert frame_f1(found, TRUE) == pytest.approx(f1)


def test_swaps_are_counted_where_they_can_be_heard():
    references = torch.randn(2, 40 * 100)
    references[:, 1000:1200] = 0
    voices = references.clone()
    assert swaps(voices, references, sample_rate=100) == 0
    assert swaps(voices.flip(0), references, sample_rate=100) == 0  # another order from the start is no swap
    voices[:, 1100:3000] = voices[:, 1100:3000].flip(0)
    assert swaps(voices, references, sample_rate=100) == 2
    assert swaps(torch.zeros(2, 4000), references, sample_rate=100) == 0
