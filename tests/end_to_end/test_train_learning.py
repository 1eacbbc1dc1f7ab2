"""`tisdiss train` as a whole, on noise in bands: it learns, and goes on from what was learned."""

import pytest
import torch
from safetensors.torch import load_file
from torchmetrics.functional.audio import permutation_invariant_training, scale_invariant_signal_noise_ratio

from tests.synthetic import RATE, TINY, losses, write_mixtures, write_recipe
from tisdiss_cli import Separator
from tisdiss_cli.__main__ import main
from tisdiss_cli.training.data import load_examples
from tisdiss_cli.training.start import start_run
from tisdiss_cli.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_curve")


@pytest.fixture(scope="module")
def learned(tmp_path_factory, speech):
    """A run long enough to learn something."""
    folder = tmp_path_factory.mktemp("learned")
    recipe = write_recipe(
        folder / "recipe.toml",
        network={**TINY, "channels": 16, "ffn_hidden": 16, "attention_channels": 16},
        segment_seconds=0.06,
        batch_size=4,
        learning_rate=5e-3,
        warm_up_share=0.3,
        steps=50,
        seed=1,
        ema_decay=0.8,
        budget_epochs=2,
        log_steps=5,
    )
    mixtures = write_mixtures(folder / "valid", count=4)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit:
        out = folder / "out"
        patch.setattr(
            "sys.argv", ["tisdiss", "train", *map(str, (speech, out, "--recipe", recipe, "--valid", mixtures))]
        )
        main()
    assert not exit.value.code
    return folder


def test_the_loss_falls_and_deeper_is_not_worse(learned):
    rows = losses(learned / "out")
    training = [float(row["loss"]) for row in rows if row["loss"]]
    assert training[-1] < training[3] - 1 < training[0] - 10
    last = [row for row in rows if row["valid_loss"]][-1]
    splitter, one, two = (float(last[f"si_snri_{repeat}"]) for repeat in range(3))
    assert one > splitter and two > one - 0.5 and two > 1
    assert (learned / "out" / "curve.png").read_bytes()[1:4] == b"PNG"


def test_the_weights_load_and_separate(learned):
    separator = Separator.load(learned / "out" / "weights.safetensors", device="cpu", precision="fp32")
    assert separator.config.reconstructor_repeats == 2 and separator.weights.trained
    gains = []
    for example in load_examples(learned / "valid", RATE, speakers=2):
        voices, references = separator.separate(example.mixture, RATE)[None], example.references[None]
        after, _ = permutation_invariant_training(voices, references, scale_invariant_signal_noise_ratio)
        before = scale_invariant_signal_noise_ratio(example.mixture.expand_as(references), references).mean()
        gains.append(float(after - before))
    last = [row for row in losses(learned / "out") if row["valid_loss"]][-1]
    assert sum(gains) / len(gains) == pytest.approx(float(last["si_snri_2"]), abs=0.05)


def test_exported_voices_have_the_sources_level(learned):
    """Least squares by numpy, one factor over all voices, is 1 on the mixtures that the level was taken from."""
    separator = Separator.load(learned / "out" / "weights.safetensors", device="cpu", precision="fp32")
    shared = energy = 0.0
    for example in load_examples(learned / "valid", RATE, speakers=2):
        voices = separator.separate(example.mixture, RATE)
        _, order = permutation_invariant_training(
            voices[None], example.references[None], scale_invariant_signal_noise_ratio
        )
        matched, references = voices[order[0]].numpy().astype(float), example.references.numpy().astype(float)
        shared, energy = shared + (matched * references).sum(), energy + (matched**2).sum()
    assert shared / energy == pytest.approx(1, abs=1e-3)


SHORT = ["--segment-seconds", 0.03, "--batch-size", 1, "--learning-rate", 1e-6, "--no-compile", "--precision", "fp32"]


def test_fine_tuning_with_more_repeats(learned, speech, nano, train, tmp_path):
    weights = learned / "out" / "weights.safetensors"
    status, _, _ = train(speech, tmp_path / "o", "--init", weights, "--repeats", 3, "--steps", 1, *SHORT)
    assert status == 0
    deeper = tmp_path / "o" / "weights.safetensors"
    assert Separator.load(deeper, device="cpu", precision="fp32").config.reconstructor_repeats == 3
    facts = [
        Separator.load(file, device="cpu", precision="fp32").weights.info["training"] for file in (weights, deeper)
    ]
    assert facts[1]["steps"] == facts[0]["steps"] + 1  # counted with what is behind the weights it began with
    before, after = load_file(weights), load_file(deeper)
    for name in before:  # one step, with Adam, changes no value by more than about the learning rate
        if not name.startswith("decoder.deconv."):  # levelled again, on other mixtures
            torch.testing.assert_close(after[name], before[name], atol=1e-5, rtol=1e-4)
    headers = [(folder / "log.csv").read_text().splitlines()[0] for folder in (tmp_path / "o", learned / "out")]
    assert headers[0] == headers[1] + ",si_snri_3"

    wide = {**TINY, "channels": 16, "ffn_hidden": 16, "attention_channels": 16}
    fine = write_recipe(tmp_path / "fine.toml", network={**wide, "hop_length": 8, "reconstructor_repeats": 1})
    status, _, error = train(speech, tmp_path / "f", "--init", weights, "--recipe", fine, "--steps", 1, *SHORT)
    assert status == 0, error
    config = Separator.load(tmp_path / "f" / "weights.safetensors", device="cpu", precision="fp32").config
    assert (config.hop_length, config.reconstructor_repeats) == (8, 1)
    other = write_recipe(tmp_path / "other.toml", network=TINY)
    status, _, error = train(speech, tmp_path / "p", "--init", weights, "--recipe", other)
    assert status == 2 and "has channels 16, --recipe" in error
    status, _, error = train(speech, tmp_path / "p", "--init", tmp_path / "none")
    assert status == 2 and "there are no weights" in error
    assert not (tmp_path / "p").exists()


def test_fine_tuning_goes_on_with_the_mixtures_of_a_longer_run(speech, nano, train, tmp_path, monkeypatch):
    seen: list[tuple[torch.Tensor, int, int]] = []
    learn = Trainer.step

    def watched(self, mixture, references, **options):
        seen.append((mixture, options["repeats"], options["step"]))  # the step decides how fast averages move
        return learn(self, mixture, references, **options)

    monkeypatch.setattr(Trainer, "step", watched)
    assert train(speech, tmp_path / "long", "--recipe", nano, "--steps", 6)[0] == 0
    assert train(speech, tmp_path / "first", "--recipe", nano, "--steps", 2)[0] == 0
    init = tmp_path / "first" / "weights.safetensors"
    assert train(speech, tmp_path / "then", "--recipe", nano, "--init", init, "--steps", 4)[0] == 0
    long, parts = seen[:6], seen[6:]
    assert all(torch.equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(long, parts, strict=True))
    assert not any(torch.equal(a[0], b[0]) for a, b in zip(long[:4], long[2:], strict=True))


def test_fine_tuning_begins_with_the_weights_voices_at_a_fresh_decoders_scale(learned, tmp_path):
    """Exported at the sources' level, the Decoder is so short that a first step of Adam would replace it."""
    weights = learned / "out" / "weights.safetensors"
    begun = start_run(tmp_path / "new", recipe=None, init=str(weights), options={}).network().eval()
    mixture = torch.randn(1, 2000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        voices, expected = begun(mixture), Separator.load(weights, device="cpu", precision="fp32").network(mixture)
    assert scale_invariant_signal_noise_ratio(voices, expected).min() > 60
    kernel = begun.decoder.deconv.weight.detach()
    xavier = (2 / sum(torch.nn.init._calculate_fan_in_and_fan_out(kernel))) ** 0.5  # root mean square
    assert float(kernel.square().mean().sqrt()) == pytest.approx(xavier, rel=0.1)
