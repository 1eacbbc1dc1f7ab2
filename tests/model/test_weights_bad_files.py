"""Weight files and checkpoints that are something else, cut, wrapped, or not finite: each is told for what it is."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cli import tisdiss
from tests.model.test_weights import write_published
from tests.reference_cases import reference_network
from tests.synthetic import write_recipe, write_speech
from tisdiss_cli.model.published import import_checkpoint, read_config
from tisdiss_cli.model.weights import load_weights, read_info, save_weights
from tisdiss_cli.separation.quality import QualityModel

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9000\n"
STRANGERS = {
    "pointer": (POINTER.encode(), "Git LFS pointer"),
    "page": (b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>", "web page"),
    "page without doctype": (b"<html lang='en'>" + b"x" * 5000, "web page"),
    "answer": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
    "error": (b'{"error": "Repository not found"}', "cannot be read"),
    "empty": (b"", "download it again"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0", "cannot be read"),
}


def sentence(run):
    (line,) = run.stderr.splitlines()
    assert line.startswith("tisdiss: ") and "weights_only" not in line and len(line) < 900
    return line


def bad(tmp_path, *command):
    return sentence(tisdiss(*command, status=2))


@pytest.mark.parametrize("kind", STRANGERS)
def test_what_is_no_container_of_tensors_is_named(tmp_path, kind):
    content, words = STRANGERS[kind]
    write_published(tmp_path)
    pth, ours, out = tmp_path / "model.pth", tmp_path / "ours.safetensors", tmp_path / "out.safetensors"
    for path in (pth, ours):
        path.write_bytes(content)
    speech = write_speech(tmp_path / "speech", 2, 1)
    recipe = write_recipe(tmp_path / "nano.toml")
    for command in (
        ("weights", "import", pth, out),
        ("weights", "info", ours),
        ("weights", "average", ours, ours, "--out", out),
        ("separate", speech, tmp_path / "o", "--weights", ours),
        ("train", speech, tmp_path / "o", "--recipe", recipe, "--init", ours, "--device", "cpu"),
    ):
        assert words in bad(tmp_path, *command)
    assert not out.exists() and not (tmp_path / "o").exists()
    torch.save(reference_network("small_re2x2").state_dict(), pth)
    (tmp_path / "config.yaml").write_bytes(content)
    assert "config.yaml" in bad(tmp_path, "weights", "import", pth, out)


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.999])
def test_cut_downloads_are_named(tmp_path, mini_weights, share):
    write_published(tmp_path)
    pth, ours = tmp_path / "model.pth", tmp_path / "ours.safetensors"
    for path, content in ((pth, pth.read_bytes()), (ours, mini_weights.read_bytes())):
        path.write_bytes(content[: max(9, int(len(content) * share))])
    assert "cut short" in bad(tmp_path, "weights", "import", pth, tmp_path / "out.safetensors")
    assert "cut short" in bad(tmp_path, "weights", "info", ours)
    ours.write_bytes(mini_weights.read_bytes() + b"\0")
    assert "damaged" in bad(tmp_path, "weights", "info", ours)


def test_old_pickles_are_read_and_cut_ones_told(tmp_path):
    state, _ = write_published(tmp_path)
    pth, out = tmp_path / "model.pth", tmp_path / "out.safetensors"
    torch.save(state, pth, _use_new_zipfile_serialization=False)
    read = import_checkpoint(pth, read_config(tmp_path / "config.yaml"))
    expected = reference_network("small_re2x2").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in read.items())
    for share in (0.01, 0.5, 0.99):
        whole = pth.read_bytes()
        (tmp_path / "cut.pth").write_bytes(whole[: int(len(whole) * share)])
        assert "damaged" in bad(tmp_path, "weights", "import", tmp_path / "cut.pth", out)


def test_a_checkpoint_in_place_of_weights_is_told(tmp_path):
    write_published(tmp_path)
    (tmp_path / "model.bin").write_bytes((tmp_path / "model.pth").read_bytes())
    torch.save({}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("model.pth", "model.bin", "old.pth"):
        assert "weights import" in bad(tmp_path, "weights", "info", tmp_path / name)
    assert "does not exist" in bad(tmp_path, "weights", "import", tmp_path, tmp_path / "out.safetensors")


class Trap:
    def __reduce__(self):
        return (print, ("caught",))


@pytest.mark.parametrize("old", [False, True])
def test_objects_besides_tensors_are_never_made(tmp_path, old, capsys):
    state, _ = write_published(tmp_path)
    wrapped = {"args": Trap(), "state_dict": state}
    torch.save(wrapped, tmp_path / "model.pth", _use_new_zipfile_serialization=not old)
    said = bad(tmp_path, "weights", "import", tmp_path / "model.pth", tmp_path / "out.safetensors")
    assert "print" in said and "state dict alone" in said and "caught" not in capsys.readouterr().out


def wrap(prefix):
    return lambda state: {prefix + name: value for name, value in state.items()}


WRAPPED = {
    "module": wrap("module."),
    "model and compile": wrap("model._orig_mod."),
    "a name of one's own": wrap("my_net."),
    "compiled within": lambda s: {n.replace("separator.", "separator._orig_mod.", 1): v for n, v in s.items()},
    "bare": lambda s: {n.removeprefix("separator."): v for n, v in s.items()},
    "state_dict": lambda s: {"epoch": 3, "state_dict": s},
    "model": lambda s: {"model": s, "optimizer": {"state": {}, "lr": 0.1}, "step": 7},
    "model_state_dict": lambda s: {"model_state_dict": wrap("module.")(s)},
    "network": lambda s: {"network": s, "loss": torch.zeros(1)},
    "deep": lambda s: {"model": {"epoch": 1, "state_dict": s}},
    "double precision": lambda s: {n: v.double() for n, v in s.items()},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_training_scripts_wrap_around_is_undone(tmp_path, kind):
    state, _ = write_published(tmp_path)
    torch.save(WRAPPED[kind](state), tmp_path / "model.pth")
    found = import_checkpoint(tmp_path / "model.pth", read_config(tmp_path / "config.yaml"))
    expected = reference_network("small_re2x2").state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, names: s[names[3]].view(-1)[-1:].fill_(torch.nan), ["NaN", "{3}"]),
        (lambda s, names: s[names[0]].view(-1)[:1].fill_(-torch.inf), ["infinite", "{0}"]),
        (lambda s, names: s.update({names[1]: s[names[1]].double() + 1e300}), ["infinite", "{1}"]),
        (lambda s, names: s.update({names[2]: s[names[2]].int()}), ["floating", "{2}", "int32"]),
        (lambda s, names: s.update({names[2]: s[names[2]].to(torch.complex64)}), ["floating", "{2}"]),
        (lambda s, names: [s.pop(name) for name in names[:5]], ["missing", "{0}", "{1}", "2 more"]),
        (
            lambda s, names: s.update({f"separator.x{k}": s[names[0]] for k in range(5)}),
            ["x0 is superfluous", "2 more"],
        ),
        (lambda s, names: s.update({n: torch.zeros(7, 7, 7) for n in names[:2]}), ["(7, 7, 7)", "{0}", "{1}"]),
    ],
)
def test_tensors_that_do_not_do_are_named(tmp_path, change, words):
    state, _ = write_published(tmp_path)
    names = [name for name in state if not name.endswith("rope.freqs")]
    change(state, names)
    torch.save(state, tmp_path / "model.pth")
    said = bad(tmp_path, "weights", "import", tmp_path / "model.pth", tmp_path / "out.safetensors")
    for word in words:
        assert word.format(*(name.removeprefix("separator.") for name in names)) in said
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, names: t[names[3]].view(-1)[:1].fill_(torch.nan), ["NaN", "{3}"]),
        (lambda t, names: t.update({names[2]: t[names[2]].int()}), ["floating", "{2}"]),
        (lambda t, names: [t.pop(name) for name in names[:5]], ["is missing", "2 more"]),
        (lambda t, names: t.update(more=torch.zeros(2)), ["more is superfluous"]),
        (lambda t, names: t.update({names[0]: torch.zeros(7, 7, 7)}), ["{0} has shape (7, 7, 7)"]),
    ],
)
def test_weight_files_whose_tensors_do_not_do_are_refused(tmp_path, mini_weights, change, words):
    tensors = load_file(mini_weights)
    names = sorted(tensors)
    with safe_open(mini_weights, "pt") as file:
        metadata = file.metadata()
    change(tensors, names)
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, metadata=metadata)
    speech = write_speech(tmp_path / "speech", 2, 1)
    for command in (("weights", "info", path), ("separate", speech, tmp_path / "o", "--weights", path)):
        said = bad(tmp_path, *command)
        assert str(path) in said and all(word.format(*names) in said for word in words)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, "no format"),
        ({"format": "tisdiss-1"}, "config"),
        ({"format": "tisdiss-1", "config": "{"}, "describe a network"),
        ({"format": "tisdiss-1", "config": "[]"}, "describe a network"),
        ({"format": "tisdiss-1", "config": '{"channels": "many"}'}, "channels"),
        ({"format": "tisdiss-1", "config": "{}", "info": "[1]"}, "describe a network"),
        ({"format": "tisdiss-1", "config": "{}", "info": '{"repeats": "many"}'}, "repeats is many"),
        ({"format": "tisdiss-1", "config": "{}", "info": '{"chunk_seconds": NaN}'}, "calibrat"),
        ({"format": "tisdiss-1", "config": "{}", "info": '{"repeats": -1}'}, "calibrat"),
        ({"format": "tisdiss-1", "config": "{}", "info": '{"repeats": 2.5}'}, "calibrat"),
        ({"format": "tisdiss-1", "config": "{}", "info": '{"repeats": true}'}, "calibrat"),
        ({"format": "tisdiss-1", "config": "{}", "info": '{"repeats": 100000}'}, "1 to 1000"),
        ({"format": "tisdiss-1", "config": "{}", "info": '{"chunk_seconds": 1e12}'}, "chunk_seconds"),
        ({"format": "tisdiss-1", "config": "{}", "info": '{"auto_threshold_db": Infinity}'}, "auto_threshold_db"),
        ({"format": "tisdiss-1", "config": "{}", "info": '{"bf16_agreement_db": []}'}, "bf16_agreement_db"),
        (
            {"format": "tisdiss-1", "config": '{"reconstructor_repeats": 100000}'},
            "at most 1000",
        ),
        ({"format": "tisdiss-1", "config": '{"separator_layers": 100000}'}, "separator_layers"),
        ({"format": "tisdiss-1", "config": '{"sample_rate": 10000000}'}, "sample_rate"),
        ({"format": "tisdiss-1", "config": '{"eps": NaN}'}, "eps"),
        ({"format": "tisdiss-1", "config": '{"encoder_kernel": [3, 100000000]}'}, "encoder_kernel"),
    ],
)
def test_metadata_that_is_not_ours_is_refused(tmp_path, metadata, words):
    save_file({"x": torch.zeros(2)}, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=words):
        read_info(tmp_path / "a.safetensors")
    bad(tmp_path, "weights", "info", tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 1_000_000, "norm_groups": 1},
        {"ffn_hidden": 1_000_000},
        {"attention_channels": 1_000_000, "heads": 1},
        {"kernel_size": 1_000_000},
        {"speakers": 1_000_000},
        {"separator_layers": 1000},
    ],
)
def test_a_configuration_of_another_size_is_refused_before_that_is_made(tmp_path, mini_weights, monkeypatch, change):
    network = load_weights(mini_weights)
    config = replace(network.config, **change)
    save_weights(tmp_path / "a.safetensors", config, network.state_dict())
    monkeypatch.setattr("tisdiss_cli.model.weights.TISDiSS", None)  # of that size it would take all memory
    assert "do not fit the configuration" in bad(tmp_path, "weights", "info", tmp_path / "a.safetensors")


@pytest.mark.parametrize("facts", [{"mean": [1]}, {"scale": ["1"] * 7}, {"constant": "x"}, {"low": None}])
def test_a_damaged_predictor_is_a_sentence(tmp_path, mini_weights, facts):
    model = QualityModel([0.0] * 7, [1.0] * 7, [1.0] * 7, 1.0, -1.0, 1.0, 0.5, 1.0, 10)
    network = load_weights(mini_weights)
    info = {"quality": {**model.facts(), **facts}}
    save_weights(tmp_path / "a.safetensors", network.config, network.state_dict(), info=info)
    assert "calibrate" in bad(tmp_path, "weights", "info", tmp_path / "a.safetensors")
