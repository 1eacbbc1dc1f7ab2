"""The network computes the published function."""

from pathlib import Path

import pytest
import torch

from tests import naive
from tests.reference_cases import CASES, drawn_network, load_case, reference_network, relative_error, strided_case
from tisdiss_cli.model.config import Config
from tisdiss_cli.model.network import RECONSTRUCTOR, SEPARATOR, SPLITTER, TISDiSS
from tisdiss_cli.model.published import config_from_options
from tisdiss_cli.model.stages import inverse_stft

TOLERANCE = 1e-4
STRIDED = Path(__file__).parents[1] / "reference" / "strided"


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_every_published_estimate(name):
    case, arrays = load_case(name)
    network, mixture = reference_network(name), torch.from_numpy(arrays["mixture"])
    assert network.parameter_count == case["parameters"]
    deepest = list(network.estimates(mixture, max(case["repeats"])))
    for actual, expected in zip(deepest[:-1], arrays["auxiliary"], strict=True):
        assert relative_error(actual.waveforms(), expected) < TOLERANCE
    ends = {estimate.repeat: estimate for estimate in deepest if estimate.ends_repeat}
    for repeats in case["repeats"]:
        assert relative_error(ends[repeats].waveforms(), arrays[f"estimate_repeats{repeats}"]) < TOLERANCE
    shallow = min(case["repeats"])
    assert relative_error(network(mixture, shallow), arrays[f"estimate_repeats{shallow}"]) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("small")])
def test_the_oracle_agrees_too(name):
    _, arrays = load_case(name)
    outputs = naive.estimates(reference_network(name), torch.from_numpy(arrays["mixture"]), 1)
    assert relative_error(outputs[0], arrays["auxiliary"][0]) < TOLERANCE
    assert relative_error(outputs[-1], arrays["estimate_repeats1"]) < TOLERANCE


@pytest.mark.parametrize(
    "differences",
    [
        {"speakers": 3, "kernel_size": 3, "path_order": "tf"},
        {"speakers": 1, "kernel_size": 6},
        {"n_fft": 256, "hop_length": 64, "sample_rate": 16000, "separator_layers": 2},
        {"separator_reinjection": False, "reconstructor_layers": 2, "reconstructor_reinjection": True},
        {"separator_reinjection": False, "norm_groups": 1, "ffn_hidden": 7, "attention_channels": 24, "heads": 3},
        {"encoder_kernel": (5, 4), "encoder_stride": (3, 2), "output": "mask", "speakers": 3},
        {"encoder_kernel": (4, 2), "n_fft": 256, "hop_length": 128},
    ],
)
def test_any_configuration_against_the_oracle(differences):
    config = Config(**{"channels": 16, "ffn_hidden": 24, "attention_channels": 16, "heads": 2, **differences})
    network = drawn_network(config, "any")
    mixture = torch.randn(2, 1500)
    with torch.no_grad():
        actual = [estimate.waveforms() for estimate in network.estimates(mixture, 2, 3)]
    for ours, theirs in zip(actual, naive.estimates(network, mixture, 2, 3), strict=True):
        assert relative_error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("path", sorted(STRIDED.glob("*.json")), ids=lambda path: path.stem)
@torch.no_grad()
def test_every_estimate_of_a_strided_encoder_and_a_masking_decoder(path):
    """Grids of odd and even sizes: 33 and 42 frames, 129 bins."""
    network, arrays = strided_case(path.stem)
    for samples in (4096, 5248):
        mixture = arrays[f"mixture_{samples}"]
        compared = 0
        for estimate, theirs in zip(network.estimates(mixture), naive.estimates(network, mixture), strict=True):
            expected = arrays[f"estimate_{estimate.stage}{estimate.repeat}_{samples}"]
            assert relative_error(estimate.waveforms(), expected) < TOLERANCE
            assert relative_error(theirs, expected) < TOLERANCE
            compared += 1
        assert compared == 1 + network.config.reconstructor_repeats


@pytest.mark.parametrize(
    ("n_fft", "hop", "length"), [(128, 64, 4096), (128, 64, 4150), (256, 64, 999), (512, 100, 5321)]
)
def test_the_inverse_transform_is_torchs(n_fft, hop, length):
    window, waveform = torch.hann_window(n_fft), torch.randn(3, length)
    spectrum = torch.stft(waveform, n_fft, hop, window=window, return_complex=True)
    torch.testing.assert_close(inverse_stft(spectrum.transpose(1, 2), hop, window, length), waveform)
    spectrum = spectrum + torch.randn_like(spectrum)  # no waveform's
    expected = torch.istft(spectrum, n_fft, hop, window=window, length=length)
    torch.testing.assert_close(inverse_stft(spectrum.transpose(1, 2), hop, window, length), expected)


def test_stages_and_repeats_are_named():
    network = TISDiSS(Config(channels=4, ffn_hidden=4, attention_channels=4, heads=1, reconstructor_layers=2)).eval()
    with torch.no_grad():
        labels = [
            (estimate.stage, estimate.repeat, estimate.ends_repeat)
            for estimate in network.estimates(torch.randn(1, 500), 2, 3, separator_outputs=True)
        ]
    assert labels == [
        (SEPARATOR, 1, True),
        (SEPARATOR, 2, True),
        (SPLITTER, 0, True),
        (RECONSTRUCTOR, 1, False),
        (RECONSTRUCTOR, 1, True),
        (RECONSTRUCTOR, 2, False),
        (RECONSTRUCTOR, 2, True),
    ]


@torch.no_grad()
def test_level_and_silence():
    network = reference_network("small_re1x3")
    mixture = torch.randn(1, 2000)
    louder = network(1000 * mixture, 1)
    torch.testing.assert_close(louder, 1000 * network(mixture, 1), rtol=1e-3, atol=1e-2)
    assert network(torch.zeros(1, 2000), 1).abs().max() == 0


@torch.no_grad()
def test_an_item_does_not_depend_on_its_batch():
    network, mixtures = reference_network("small_re2x2"), torch.randn(3, 1200)
    together = network(mixtures, 2)
    for index in range(3):
        assert relative_error(network(mixtures[index : index + 1], 2), together[index : index + 1]) < 1e-5


@torch.no_grad()
def test_bf16_stays_close():
    network, mixture = reference_network("small_re1x3"), torch.randn(1, 4000)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(mixture, 3)
    assert rounded.dtype == torch.float32
    assert relative_error(rounded, network(mixture, 3)) < 0.05


@pytest.mark.parametrize(("name", "re"), [("released", (1, 6)), ("small_re1x3", (1, 3)), ("small_re2x2", (2, 2))])
def test_published_configurations(name, re):
    """The paper's names tell the Reconstructor's layers and repeats; the defaults are the released network."""
    config = config_from_options(load_case(name)[0]["config"])
    assert (config.reconstructor_layers, config.reconstructor_repeats) == re
    assert (config == Config()) == (name == "released")


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 6},
        {"channels": "64"},
        {"heads": 0},
        {"attention_channels": 12},
        {"path_order": "xy"},
        {"hop_length": 100},
        {"speakers": True},
        {"encoder_kernel": 3},
        {"encoder_kernel": (3, 0)},
        {"encoder_stride": [1, 2, 1]},
        {"encoder_stride": (1, 4)},
        {"output": "masks"},
    ],
)
def test_impossible_configurations_name_the_field(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Config(**wrong)
