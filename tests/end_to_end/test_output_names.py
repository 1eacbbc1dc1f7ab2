"""`--name`: where outputs go, which templates are refused, and that `score --estimates` finds them again."""

import pytest
import soundfile

from tests.cli import tisdiss
from tests.folders import RATE, contents, records, speech_like
from tests.mixtures import write, write_set
from tisdiss_cli.data.datasets import find_dataset
from tisdiss_cli.evaluation.estimates import find_estimates


@pytest.fixture
def tree(tmp_path):
    for seed, name in enumerate(("a.wav", "sub/b.wav", "sub/b.flac")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "in" / name, speech_like(0.2, seed), RATE)
    return tmp_path


@pytest.fixture
def separate(tree, mini_weights):
    def run(*arguments, source=tree / "in", out="out", status=0):
        options = ("--weights", mini_weights, "--device", "cpu")
        return tisdiss("separate", source, tree / out, *arguments, *options, status=status)

    return run


def of_first_voice(tree, out="out") -> set[str]:
    return {line["outputs"][0] for line in records(tree / out).values()}


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{folder}/{stem}_s{voice}", {"a_s1.wav", "sub/b_wav_s1.wav", "sub/b_flac_s1.wav"}),
        ("s{voice}/{stem}", {"s1/a.wav", "s1/b_wav.wav", "s1/b_flac.wav"}),
        ("s{voice}/{folder}/{stem}.wav", {"s1/a.wav", "s1/sub/b_wav.wav", "s1/sub/b_flac.wav"}),
        ("{ext}/{stem}/{voice}", {"wav/a/1.wav", "wav/b/1.wav", "flac/b/1.wav"}),
        ("{input}-{voice}", {"a.wav-1.wav", "sub/b.wav-1.wav", "sub/b.flac-1.wav"}),
        ("r{repeats}/{voice}{{x}}/{stem}", {"r1/1{x}/a.wav", "r1/1{x}/b_wav.wav", "r1/1{x}/b_flac.wav"}),
    ],
)
def test_every_field(tree, separate, template, wanted):
    separate("--name", template, "--repeats", "1")
    assert of_first_voice(tree) == wanted
    written = contents(tree / "out")
    assert len(written) == 6 and len(set(written.values())) == 6
    assert "3 done already" in separate("--name", template, "--repeats", "1", "--dry-run").stderr


def test_the_weights_own_repeats(tree, separate):
    separate("--name", "{repeats}/{stem}{voice}")  # the network has two
    assert all(name.startswith("2/") for name in of_first_voice(tree))
    separate("--name", "{repeats}/{stem}{voice}", "--repeats", "auto", out="auto", status=2)  # never calibrated
    assert "{repeats}" in separate("--name", "{repeats}/{stem}{voice}", "--rtf", "1", out="rtf", status=2).stderr


@pytest.mark.parametrize(
    ("template", "hint"),
    [
        ("{stem}", "{voice}"),
        ("s{voice}", "{stem}"),
        ("{folder}/{voice}", "{stem}"),
        ("/tmp/{stem}_{voice}", "absolute"),
        ("C:/{stem}_{voice}", "absolute"),
        ("../{stem}_{voice}", ".."),
        ("{folder}/../{stem}_{voice}", ".."),
        (".{stem}_{voice}", "hidden"),
        ("{stem}_{voice}/", "file name"),
        ("{speaker}/{stem}_{voice}", "{folder}, {stem}, {voice}"),
        ("{stem.x}_{voice}", "{stem}"),
        ("{stem!r}_{voice}", "{stem}"),
        ("{}_{stem}_{voice}", "{stem}"),
        ("{stem}_{voice", "'}'"),
        ("{stem}_{voice}_c{channel}", "--channels each"),
        ("{stem}_{voice}.mp3", "--format"),
    ],
)
def test_templates_that_are_refused(tree, separate, template, hint):
    error = separate("--name", template, status=2).stderr
    assert "--name " + template in error and hint in error and error.count("\n") == 1
    assert not (tree / "out").exists()


@pytest.mark.parametrize(
    ("template", "name", "hint"),
    [
        ("s{voice}/{stem}", "other/a.wav", "{folder}"),
        ("{folder}_{voice}_{stem}", "_1/2_a.wav", "would both become"),
    ],
)
def test_a_template_that_makes_two_inputs_one_is_refused_before_anything_runs(tree, separate, template, name, hint):
    """The second: another voice of another input has the name."""
    (tree / "in" / name).parent.mkdir()
    soundfile.write(tree / "in" / name, speech_like(0.2, 5), RATE)
    if name.startswith("_1"):  # "_1_1_2_a" is voice 1 of _1/2_a, and of the next voice 2
        (tree / "in/_1_1").mkdir()
        soundfile.write(tree / "in/_1_1/a.wav", speech_like(0.2, 6), RATE)
    error = separate("--name", template, status=2).stderr
    assert hint in error and error.count("\n") == 1
    assert not (tree / "out").exists()


def test_another_template_makes_other_files(tree, separate):
    separate()
    first = contents(tree / "out")
    separate("--name", "s{voice}/{folder}/{stem}")
    both = contents(tree / "out")
    assert len(both) == 12 and first.items() <= both.items()
    assert sorted(both.values()) == sorted([*first.values(), *first.values()])
    for name in ((), ("--name", "s{voice}/{folder}/{stem}")):  # each is done, whichever came last
        assert "3 done already" in separate(*name, "--dry-run").stderr


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("s{voice}/{stem}", {f"s{voice}/call_c{channel}.wav" for voice in (1, 2) for channel in (1, 2)}),
        ("{channel}/{stem}_{voice}", {f"{channel}/call_{voice}.wav" for voice in (1, 2) for channel in (1, 2)}),
        ("{input}_{voice}", {f"call.wav_c{channel}_{voice}.wav" for voice in (1, 2) for channel in (1, 2)}),
    ],
)
def test_each_channel(tree, separate, template, wanted):
    soundfile.write(tree / "call.wav", speech_like(0.2, 3, channels=2), RATE)
    separate("--channels", "each", "--name", template, source=tree / "call.wav")
    assert set(contents(tree / "out")) == wanted


def test_segments_are_told_apart_under_every_template(tree, separate):
    separate("--name", "{voice}/{input}", "--segments", "rttm")
    segments = [line["segments"] for line in records(tree / "out").values()]
    assert sorted(segments) == [["a.rttm"], ["sub/b_flac.rttm"], ["sub/b_wav.rttm"]]
    assert all((tree / "out" / name).is_file() for (name,) in segments)


@pytest.mark.parametrize(
    ("template", "source"),
    [
        ("{folder}/{stem}_s{voice}", "mix"),
        ("s{voice}/{folder}/{stem}", "."),
        ("{folder}/{ext}/{voice}-of-{stem}", "."),
        ("{input}_{repeats}_{voice}", "mix"),
        ("{voice}_{repeats}.{ext}/{folder}/x{stem}.{ext}", "mix"),
        ("{folder}/talker {voice}/{stem}.wav", "."),
    ],
)
def test_estimates_are_found_by_the_template_that_made_them(tree, separate, template, source):
    """As `--pattern`, of the mixtures or of the whole set: each mixture has the voices that the default names find."""
    data = write_set(tree / "data")
    for folder in ("mix", "s1", "s2"):
        write(data / folder / "deep/a.wav", soundfile.read(data / folder / "b.wav")[0])
    separate("--name", template, source=data / source)
    separate(source=data / "mix", out="plain")
    dataset = find_dataset(data, None, None)
    found = find_estimates(tree / "out", dataset, template)
    plain = find_estimates(tree / "plain", dataset)
    assert set(found) == {"a", "b", "c", "deep/a"}
    for id, paths in found.items():
        assert len(paths) == len(plain[id]) == 2
        for one, other in zip(paths, plain[id], strict=True):
            assert (soundfile.read(one)[0] == soundfile.read(other)[0]).all()


def test_the_layout_of_librimix_is_found(tree, separate):
    data = write_set(tree / "data")
    separate("--name", "s{voice}/{stem}", source=data / "mix")
    assert "s{n}/{id}" in tisdiss("score", data, "--estimates", tree / "out", "--workers", 0).stderr
