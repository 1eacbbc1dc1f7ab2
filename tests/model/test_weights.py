"""Weight files, published checkpoints and the hub."""

import pytest
import torch
import yaml

from tests.cli import tisdiss
from tests.reference_cases import load_case, reference_network, reference_weight
from tisdiss_cli.model.published import config_from_options, import_checkpoint, read_config
from tisdiss_cli.model.weights import bundled, load_weights, read_info, save_weights


def write_published(folder, name="small_re2x2"):
    """The case as the authors would publish it: model.pth and config.yaml."""
    case, _ = load_case(name)
    state = {
        f"separator.{key}": reference_weight(key, tuple(shape), case["salt"])
        if not key.endswith("rope.freqs")
        else torch.zeros(shape)
        for key, shape in case["state_dict"].items()
    }
    torch.save(state, folder / "model.pth")
    options = {
        "encoder_conf": {"n_fft": 128, "hop_length": 64},
        "separator_conf": case["config"],
        "sample_rate": 8000,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    return state, options


def test_import_gives_the_published_network(tmp_path):
    write_published(tmp_path)
    run = tisdiss("weights", "import", tmp_path / "model.pth", tmp_path / "ours.safetensors")
    assert run.stdout.strip() == str(tmp_path / "ours.safetensors")
    network, expected = load_weights(tmp_path / "ours.safetensors"), reference_network("small_re2x2")
    assert network.config == expected.config
    for name, value in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    mixture = torch.randn(1, 1000)
    with torch.no_grad():
        assert torch.equal(network(mixture, 1), expected(mixture, 1))
    shown = tisdiss("weights", "info", tmp_path / "ours.safetensors").stdout
    for fact in ("111,647", "8000 Hz", "model.pth"):
        assert fact in shown


@pytest.mark.parametrize(
    ("mutate", "word"),
    [
        (lambda state: state.pop("separator.conv.0.bias"), "missing"),
        (lambda state: state.update({"separator.more": torch.zeros(1)}), "superfluous"),
        (lambda state: state.update({"separator.conv.0.bias": torch.zeros(3)}), "shape"),
        (lambda state: state.update({"epoch": 3}), "tensors"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(tmp_path, mutate, word):
    state, _ = write_published(tmp_path)
    mutate(state)
    torch.save(state, tmp_path / "model.pth")
    run = tisdiss("weights", "import", tmp_path / "model.pth", tmp_path / "ours.safetensors", status=2)
    assert word in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "ours.safetensors").exists()


def test_a_pickle_with_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("caught",))

    torch.save({"separator.x": Trap()}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="may run code"):
        import_checkpoint(tmp_path / "model.pth", config_from_options({}))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: [1", "YAML"),
        ("a: 1", "separator_conf"),
        ("separator_conf: {norm_type: layernorm}", "norm_type"),
        ("separator_conf: {emb_dim: 6}", "multiple"),
        ("separator_conf: {ffn_hidden_dim: [384, 192]}", "ffn_hidden_dim"),
    ],
)
def test_configurations_that_cannot_be_read_say_why(tmp_path, text, word):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=word):
        read_config(tmp_path / "config.yaml")


def test_yaml_numbers_without_a_point_are_read(tmp_path):
    (tmp_path / "config.yaml").write_text("separator_conf: {eps: 1e-5, emb_dim: 64}\nencoder_conf: {n_fft: 256}")
    config = read_config(tmp_path / "config.yaml")
    assert (config.eps, config.channels, config.n_fft) == (1e-5, 64, 256)


def test_weight_files_survive_the_round_trip(tmp_path):
    network = reference_network("small_three_speakers")
    info = {"steps": 12, "recipe": {"lr": 1e-3}}
    save_weights(tmp_path / "a.safetensors", network.config, network.state_dict(), info=info)
    assert read_info(tmp_path / "a.safetensors").info == info
    loaded = load_weights(tmp_path / "a.safetensors")
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in network.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("content", [b"", b"not tensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_files_that_are_no_weights_are_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        load_weights(tmp_path / "a.safetensors")


def test_the_mean_of_weight_files(tmp_path):
    """Decoder and all: with equal features, the mean of two Decoders gives the mean of their voices."""
    network = reference_network("small_re2x2")
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for gain, file in zip((1.0, 3.0), files, strict=True):
        state = {k: v * gain if k.startswith("decoder.deconv.") else v for k, v in network.state_dict().items()}
        save_weights(file, network.config, state, info={"training": {"steps": gain}, "auto_threshold_db": 9.0})
    tisdiss("weights", "average", *files, "--out", tmp_path / "mean.safetensors")
    mixture = torch.randn(1, 800, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(load_weights(tmp_path / "mean.safetensors")(mixture), 2 * network(mixture))
    info = read_info(tmp_path / "mean.safetensors").info
    assert info["training"] == {"steps": 3.0} and "auto_threshold_db" not in info

    other = reference_network("released")
    save_weights(files[0], other.config, other.state_dict())
    run = tisdiss("weights", "average", *files, "--out", tmp_path / "none.safetensors", status=2)
    assert "a.safetensors has " in run.stderr and not (tmp_path / "none.safetensors").exists()
    run = tisdiss("weights", "average", files[0], "--out", tmp_path / "none.safetensors", status=2)
    assert "at least two" in run.stderr


def test_bundled_weights_load_and_are_listed():
    listed = tisdiss("weights", "list").stdout
    assert bundled()
    for path in bundled():
        assert path.stem in listed
        assert load_weights(path.stem).config == read_info(path).config


@pytest.mark.parametrize("command", ["import", "average", "calibrate", "fetch"])
@pytest.mark.parametrize(("out", "words"), [("none/a.safetensors", "a folder that exists"), ("a.pth", "must end in")])
def test_a_place_to_write_to_is_asked_for_first(tmp_path, mini_weights, command, out, words):
    write_published(tmp_path)
    target = tmp_path / out
    arguments = {
        "import": (tmp_path / "model.pth", target),
        "average": (mini_weights, mini_weights, "--out", target),
        "calibrate": (mini_weights, tmp_path, "--out", target),
        "fetch": ("someone/something", "--out", target),
    }[command]
    run = tisdiss("weights", command, *arguments, status=2)
    assert words in run.stderr and len(run.stderr.strip().splitlines()) == 1 and not target.exists()
