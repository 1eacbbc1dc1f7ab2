"""Corpus, dynamic mixing, rooms, noise and fixed mixtures: what is drawn, against what lies on disk."""

import numpy as np
import pytest
import soundfile
import torch

from tests.synthetic import RATE, write_mixtures, write_rooms, write_speech
from tisdiss_cli.data.augment import Noises, Rooms, direct_first
from tisdiss_cli.data.clips import FRAME
from tisdiss_cli.data.corpus import compatibility, load_corpus, read_exclusions
from tisdiss_cli.data.datasets import find_dataset
from tisdiss_cli.data.dynamic_mixing import (
    DynamicMixing,
    active_level,
    draw_segments,
    draw_speakers,
    generator,
)
from tisdiss_cli.data.fixed_mixtures import load_fixed, looks_fixed
from tisdiss_cli.errors import UserError
from tisdiss_cli.training.data import load_data, load_examples
from tisdiss_cli.training.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return write_speech(tmp_path_factory.mktemp("speech"), speakers=4)


def band(x: torch.Tensor) -> torch.Tensor:
    """Which of four equal bands has the most energy: (..., L) -> (...)."""
    spectrum = torch.fft.rfft(x).abs().square()[..., : x.shape[-1] // 2 // 4 * 4]
    return spectrum.unflatten(-1, (4, -1)).sum(-1).argmax(-1)


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


@pytest.mark.parametrize(("exponent", "shares"), [(0.0, (1, 1, 1)), (0.5, (1, 2, 3)), (1.0, (1, 4, 9))])
def test_speakers_are_drawn_by_their_minutes(tmp_path, exponent, shares):
    """The first of a mixture, in proportion to the power of what each has said."""
    for number, seconds in enumerate((1, 4, 9)):
        (tmp_path / f"{number}").mkdir()
        for half in range(2):
            noise = np.random.default_rng(number).uniform(-0.5, 0.5, seconds * 500)
            soundfile.write(tmp_path / f"{number}" / f"{half}.wav", noise, RATE)
    corpus = load_corpus(tmp_path, RATE, speeds=[1.0])
    assert corpus.spoken.tolist() == [1000, 4000, 9000]
    weights = corpus.spoken.pow(exponent)
    pairs = draw_speakers(corpus.compatible, 20000, speakers=2, random=generator(CPU, 0), weights=weights)
    counts = torch.bincount(pairs[:, 0], minlength=3) / 20000
    torch.testing.assert_close(counts, torch.tensor(shares) / sum(shares), atol=0.02, rtol=0)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    draws = [
        DynamicMixing(corpus, 5.0, **options).sources(3, 2, 500, generator(CPU, 1))
        for options in ({}, {"speaker_exponent": exponent})
    ]
    assert torch.equal(*draws) == (exponent == 0)


def test_in_a_share_of_the_mixtures_one_source_is_silent(corpus):
    options = {"level_db": 5.0, "silent_share": 0.3}
    mixture, sources = DynamicMixing(corpus, **options).draw(600, 2, 800, generator(CPU, 2))
    silent = ~sources.any(dim=-1)  # (B, S)
    assert not silent[:, 0].any() and silent[:, 1].float().mean() == pytest.approx(0.3, abs=0.06)
    assert torch.equal(mixture[silent[:, 1]], sources[silent[:, 1], 0])
    plain, _ = DynamicMixing(corpus, 5.0).draw(600, 2, 800, generator(CPU, 2))
    assert torch.equal(mixture[~silent[:, 1]], plain[~silent[:, 1]])  # the others are as without


def test_exclusions_file(tmp_path):
    (tmp_path / "pairs").write_text("a* b  # alike\n\n# nothing\nc d\n")
    assert read_exclusions(tmp_path / "pairs") == [("a*", "b"), ("c", "d")]
    (tmp_path / "bad").write_text("a b c\n")
    with pytest.raises(UserError, match=r"line 1.*3"):
        read_exclusions(tmp_path / "bad")


def test_segments_are_pieces_of_the_speakers_utterances(corpus):
    who = torch.arange(4).repeat(3, 1)
    segments = draw_segments(corpus, who, samples=1000, random=generator(CPU, 5))
    assert torch.equal(band(segments), who)
    flat = corpus.clips.samples[0].float() / 32768
    for segment in segments[0]:
        begins = (flat == segment[0]).nonzero().flatten()
        assert any(torch.equal(flat[begin : begin + 1000], segment) for begin in begins)


def test_a_short_utterance_lies_in_silence(corpus):
    segment = draw_segments(corpus, torch.tensor([2]), samples=6000, random=generator(CPU, 0))[0]
    sounding = segment.nonzero().flatten()
    assert 3900 <= int(sounding[-1] - sounding[0]) < 4700 and band(segment) == 2


def test_segments_avoid_silence(tmp_path):
    write_speech(tmp_path, 2, 1, samples=2048)
    for path in tmp_path.rglob("*.wav"):  # a quarter of sound among silence
        sound, _ = soundfile.read(path)
        soundfile.write(path, np.concatenate((np.zeros(3072), sound, np.zeros(3072))), RATE)
    drawn = draw_segments(
        load_corpus(tmp_path, RATE, speeds=[1.0]),
        torch.zeros(200, dtype=torch.long),
        samples=1024,
        random=generator(CPU, 0),
    )
    sounding = (drawn.abs() > 1e-3).float().mean(dim=1) > 0.3
    # One position would do so 1 time in 3, the best of 8 fails less than 1 time in 20.
    assert sounding.float().mean() > 0.9


def test_segments_are_not_only_the_densest_speech(tmp_path):
    """Of places where speech fills half a segment and others where it fills all of it, none is preferred."""
    write_speech(tmp_path, 2, 1, samples=65536)
    for path in tmp_path.rglob("*.wav"):
        sound, _ = soundfile.read(path)
        sparse = sound[32768:].reshape(-1, 1024).copy()
        sparse[:, 640:] = 0
        soundfile.write(path, np.concatenate((sound[:32768], sparse.flatten())), RATE)
    who, random = torch.zeros(400, dtype=torch.long), generator(CPU, 0)
    drawn = draw_segments(load_corpus(tmp_path, RATE, speeds=[1.0]), who, samples=2048, random=random)
    holes = (drawn.unflatten(1, (-1, 128)) == 0).all(dim=-1).float().mean(dim=1)
    assert (holes > 0.2).float().mean() == pytest.approx(0.5, abs=0.08)  # else one time in 2 ** CANDIDATES


def test_levels_are_uniform(corpus):
    sources = DynamicMixing(corpus, 5.0).sources(600, 2, 2000, generator(CPU, 2))
    level = 20 * torch.log10(active_level(sources))[..., 0]
    relative = (level[:, 1] - level[:, 0]).sort().values
    expected = torch.linspace(-5, 5, 600)
    assert (relative - expected).abs().max() < 0.7  # Kolmogorov-Smirnov, 5 % at 0.55
    draw = DynamicMixing(corpus, 5.0).sources
    assert torch.equal(*(draw(2, 2, 500, generator(CPU, 7, 1)) for _ in range(2)))
    assert not torch.equal(*(draw(2, 2, 500, generator(CPU, 7, step)) for step in (1, 2)))


def test_rooms_and_noise(corpus, tmp_path):
    rooms = Rooms.load(write_rooms(tmp_path / "rirs"), RATE, 2)
    drawn = rooms.draw(50, 2, generator(CPU, 0))
    which = [[(int(h[1:].abs().argmax()) + 1) // 10 - 5 for h in pair] for pair in drawn]
    assert {tuple(sorted(pair)) for pair in which} == {(0, 1), (2, 3)}  # one room, two places
    assert (drawn[..., 0] == 1).all()

    plain = DynamicMixing(corpus, 5.0).draw(2, 2, 800, generator(CPU, 3))
    mixture, sources = DynamicMixing(corpus, 5.0, rooms).draw(2, 2, 800, generator(CPU, 3))
    assert torch.equal(plain[1], sources) and torch.equal(plain[0], sources.sum(1))  # the references stay dry
    # Oracle: a direct path and one delayed copy of each source explain the mixture wholly.
    delays = [50 + 10 * index for index in range(4)]
    for item in range(2):
        delayed = torch.stack([torch.nn.functional.pad(s, (d, 0))[:800] for s in sources[item] for d in delays])
        residual = mixture[item] - sources[item].sum(0)
        weights = torch.linalg.lstsq(delayed.T, residual[:, None]).solution
        assert (delayed.T @ weights - residual[:, None]).abs().max() < 1e-4
        assert weights.abs().sum() > 0.4

    noise = 0.01 * np.random.default_rng(0).standard_normal(700)
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "n.wav", noise, RATE)
    noises = Noises.load(tmp_path / "noise", RATE)
    mixture, sources = DynamicMixing(corpus, 5.0, None, noises, (-3.0, -3.0)).draw(4, 2, 1024, generator(CPU, 3))
    added = mixture - sources.sum(1)
    torch.testing.assert_close(added[:, :324], added[:, 700:], atol=1e-6, rtol=1e-4)  # short noise goes round
    loudest = active_level(sources).amax(dim=1)[:, 0]
    torch.testing.assert_close(
        20 * torch.log10(loudest / added.square().mean(1).sqrt()), torch.full((4,), -3.0), atol=0.1, rtol=0
    )


def test_an_impulse_response_begins_with_its_direct_path():
    assert direct_first(torch.tensor([0.1, -0.5, 0.25, 0.0])).tolist() == [1.0, -0.5, 0.0]


LAYOUTS = {
    "WSJ0-2mix": "mix s1 s2",
    "Libri2Mix": "mix_clean s1 s2",
    "WHAMR!": "mix_both_reverb s1_anechoic s2_anechoic",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fixed_mixtures_in_three_layouts(tmp_path, layout, said):
    root = write_mixtures(tmp_path / "set" / "tr", folders=LAYOUTS[layout])
    assert looks_fixed(root) and looks_fixed(tmp_path / "set")
    data = load_data(tmp_path / "set", Recipe(network={"n_fft": 32, "hop_length": 16}))
    assert layout in said[-1]
    mixture, sources = data.draw(6, 2, 1000, generator(CPU, 0))
    assert mixture.shape == (6, 1000) and sources.shape == (6, 2, 1000)
    torch.testing.assert_close(sources.sum(1), mixture, atol=2e-4, rtol=0)
    assert torch.equal(band(sources) // 2, torch.tensor([[0, 1]] * 6))
    originals = [soundfile.read(path, dtype="float32")[0] for path in sorted(root.glob("mix*/*.wav"))]
    pieces = torch.cat([torch.tensor(x / np.abs(x).max()).unfold(0, 1000, 1) for x in originals])
    similar = torch.nn.functional.cosine_similarity(pieces[None], mixture[:, None], dim=-1).amax(dim=1)
    assert (similar > 0.9999).all()


def test_folders_can_be_named(tmp_path):
    write_mixtures(tmp_path, folders="noisy one two")
    data = load_data(tmp_path, Recipe(), mixture="noisy", references=["two", "one"])
    _, sources = data.draw(3, 2, 1000, generator(CPU, 0))
    assert torch.equal(band(sources) // 2, torch.tensor([[1, 0]] * 3))


def test_speech_by_speaker_is_not_taken_for_mixtures(speech):
    assert not looks_fixed(speech)
    assert isinstance(load_data(speech, Recipe()), DynamicMixing)


def broken(root, name):
    """A folder of training data with one fault."""
    if name == "speaker":
        return write_speech(root, 1)
    if name == "silent":
        soundfile.write(write_speech(root, 2, 1) / "spk0" / "zero.wav", np.zeros(800), RATE)
    elif name == "unreadable":
        (write_speech(root, 2, 1) / "spk0" / "bad.wav").write_bytes(b"nothing")
    elif name == "no s2":
        write_mixtures(root, folders="mix s1")
    elif name == "no mix":
        write_mixtures(root, folders="s1 s2")
    elif name == "no file":
        (write_mixtures(root) / "s2" / "1.wav").unlink()
    elif name == "short":
        path = write_mixtures(root) / "s2" / "1.wav"
        soundfile.write(path, soundfile.read(path)[0][:-10], RATE)
    elif name == "three":
        write_mixtures(root, folders="mix s1 s2 s3")
    return root


FAULTS = {
    "speaker": "1 speaker: mixing needs",
    "silent": "zero.wav is silent",
    "unreadable": "bad.wav is no sound file",
    "no s2": "one folder of references",
    "no mix": "none of the known layouts",
    "no file": "1: no file in s2",
    "short": r"s2/1.wav has 2390 samples .* its mixture 2400",
    "three": "references of 3 speakers",
    "absent": "not a folder",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_data_is_one_sentence(tmp_path, fault):
    with pytest.raises(UserError, match=FAULTS[fault]) as error:
        load_data(broken(tmp_path / "data", fault), Recipe())
    assert "\n" not in str(error.value)


def test_impulse_responses_that_do_not_do(tmp_path):
    (tmp_path / "room").mkdir()
    soundfile.write(tmp_path / "room" / "h.wav", np.ones((10, 2)), RATE)
    with pytest.raises(UserError, match="2 channels"):
        Rooms.load(tmp_path, RATE, 2)
    soundfile.write(tmp_path / "room" / "h.wav", np.ones(10), RATE)
    with pytest.raises(UserError, match="1 impulse response"):
        Rooms.load(tmp_path, RATE, 2)
    with pytest.raises(UserError, match="noise"):
        Noises.load(tmp_path / "nowhere", RATE)


def test_validation_examples_are_spread_over_the_set(tmp_path):
    write_mixtures(tmp_path, count=6)
    examples = load_examples(tmp_path, RATE, speakers=2, count=3)
    for example, number in zip(examples, (0, 2, 4), strict=True):
        expected, _ = soundfile.read(tmp_path / "mix" / f"{number}.wav", dtype="float32")
        assert np.array_equal(example.mixture.numpy(), expected)
    assert len(load_examples(tmp_path, RATE, speakers=2)) == 6
    assert load_fixed(find_dataset(tmp_path), RATE).clips.lengths.tolist() == [2400] * 6
