"""Clean speech by speaker: what is held in memory, against what lies on disk; who may be mixed with whom."""

import numpy as np
import pytest
import soundfile
import torch

from tests.synthetic import RATE, band, write_speech
from tisdiss_cli.data.clips import FRAME
from tisdiss_cli.data.corpus import compatibility, load_corpus, read_exclusions
from tisdiss_cli.data.dynamic_mixing import draw_speakers, generator
from tisdiss_cli.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return write_speech(tmp_path_factory.mktemp("speech"), speakers=4)


def test_corpus_holds_every_file(speech, corpus):
    assert corpus.names == ["spk0", "spk1", "spk2", "spk3"] and corpus.counts.tolist() == [3] * 4
    for index, path in enumerate(sorted(speech.rglob("*.wav"))):
        expected, _ = soundfile.read(path, dtype="float32")
        begin, length = int(corpus.clips.starts[index]), int(corpus.clips.lengths[index])
        assert begin % FRAME == 0 and length == len(expected)
        got = corpus.clips.samples[0, begin : begin + length].float() / 32767
        torch.testing.assert_close(
            got / got.abs().max(), torch.tensor(expected / np.abs(expected).max()), atol=1e-4, rtol=0
        )


def test_speed_moves_length_and_pitch(speech):
    corpus = load_corpus(speech, RATE, speeds=[1.0, 0.5])
    assert corpus.clips.lengths[1].item() == pytest.approx(2 * corpus.clips.lengths[0].item(), abs=2)
    half = corpus.clips.samples[0, corpus.clips.starts[-1] : corpus.clips.starts[-1] + corpus.clips.lengths[-1]].float()
    assert band(half) == 1  # the fourth speaker's band begins at 3100 Hz, and at half the speed at 1550 Hz


def test_files_of_another_rate_are_resampled_and_said_once(tmp_path, said):
    write_speech(tmp_path, 2, 1)
    for number in range(2):
        soundfile.write(
            tmp_path / "spk1" / f"fast{number}.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 16000
        )
    corpus = load_corpus(tmp_path, RATE, speeds=[1.0])
    assert sorted(corpus.clips.lengths.tolist()) == [4000] * 4
    assert [line.partition(": ")[2] for line in said] == ["files at 16000 Hz are resampled to 8000 Hz"]


def test_speakers_are_distinct_and_excluded_pairs_never_meet():
    names = ["a1", "a2", "b", "c"]
    allowed = compatibility(names, [("a*", "a*"), ("b", "c")], 2)
    pairs = draw_speakers(allowed, 2000, speakers=2, random=generator(CPU, 0)).sort(dim=1).values
    assert {tuple(pair) for pair in pairs.tolist()} == {(0, 2), (0, 3), (1, 2), (1, 3)}
    everyone = draw_speakers(compatibility(names, [], 3), 500, speakers=3, random=generator(CPU, 1)).sort(dim=1).values
    assert (everyone.diff(dim=1) > 0).all()
    with pytest.raises(UserError, match="'nobody'"):
        compatibility(names, [("a1", "nobody")], 2)
    with pytest.raises(UserError, match="'b' too few"):
        compatibility(names, [("b", "*")], 2)


def test_exclusions_file(tmp_path):
    (tmp_path / "pairs").write_text("a* b  # alike\n\n# nothing\nc d\n")
    assert read_exclusions(tmp_path / "pairs") == [("a*", "b"), ("c", "d")]
    (tmp_path / "bad").write_text("a b c\n")
    with pytest.raises(UserError, match=r"line 1.*3"):
        read_exclusions(tmp_path / "bad")
