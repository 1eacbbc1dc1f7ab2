import os
from pathlib import Path

import pytest

os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # each process has its share of the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _CORES // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite runs in up to four processes, one more than cores as some tests wait; named files in this one."""
    return min(4, _CORES + 1) if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.fixture(autouse=True)
def seed():
    """Every test draws the same numbers, alone or after others."""
    import random

    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def mini_weights(tmp_path_factory) -> Path:
    """A seeded network small enough to separate a second in a few milliseconds."""
    import torch

    from tisdiss_cli.model.config import Config
    from tisdiss_cli.model.network import TISDiSS
    from tisdiss_cli.model.weights import save_weights

    widths = {"channels": 8, "ffn_hidden": 8, "attention_channels": 8, "heads": 1, "encoder_stride": (1, 3)}
    config = Config(**widths, n_fft=256, hop_length=128, reconstructor_repeats=2)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mini.safetensors"
    save_weights(path, config, TISDiSS(config).state_dict(), info={"trained": False})
    return path


@pytest.fixture
def said():
    """What the library logs, sentence by sentence."""
    import logging

    sentences: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            sentences.append(record.getMessage())

    logger, listener = logging.getLogger("tisdiss"), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    yield sentences
    logger.removeHandler(listener)
    logger.setLevel(level)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Recordings to separate."""
    from tests.folders import write_folder

    return write_folder(tmp_path)


@pytest.fixture
def many(tmp_path) -> Path:
    """More recordings, short ones, to be shared out."""
    from tests.folders import write_many

    return write_many(tmp_path / "many")


@pytest.fixture
def options(mini_weights) -> tuple:
    """Of `separate`, so that those are quickly done."""
    return ("--weights", mini_weights, "--repeats", 1, "--chunk", 0.5, "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def one_thread():
    """torch may hang on batched solves with several threads (pytorch/pytorch#142815), as fast_bss_eval has them."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Clean speech to train on, of two bands."""
    from tests.synthetic import write_speech

    return write_speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def corpus(speech):
    """That speech, as it is trained on."""
    from tests.synthetic import RATE
    from tisdiss_cli.data.corpus import load_corpus

    return load_corpus(speech, RATE, speeds=[1.0])


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Mixtures of it to validate on."""
    from tests.synthetic import write_mixtures

    return write_mixtures(tmp_path_factory.mktemp("valid"), samples=800)


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """A recipe whose steps take a few hundredths of a second."""
    from tests.synthetic import write_recipe

    return write_recipe(
        tmp_path_factory.mktemp("recipe") / "nano.toml",
        segment_seconds=0.03,
        batch_size=1,
        muon_learning_rate=0.02,
        repeats="1-2",
        speeds=[0.9, 1.0],
        accumulate=2,
        ema_decay=[0.1, 0.9],
        average_best=2,
        budget_epochs=3,
        log_steps=1,
        checkpoint_minutes=1e-6,
    )


@pytest.fixture
def no_curve(monkeypatch):
    """Drawing takes longer than training here; the run that learns draws one."""
    monkeypatch.setattr("tisdiss_cli.training.loop.plot_curve", lambda out: None)


@pytest.fixture
def train(monkeypatch, capfd):
    """Runs the command in this process: (exit status, stdout, stderr)."""
    from tisdiss_cli.__main__ import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["tisdiss", "train", *map(str, arguments), "--device", "cpu"])
        with pytest.raises(SystemExit) as exit:
            main()
        return exit.value.code or 0, *capfd.readouterr()

    return run


@pytest.fixture
def data(tmp_path):
    """Three mixtures with references to score."""
    from tests.mixtures import write_set

    return write_set(tmp_path / "data")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A seeded network as trained with three repeats."""
    import torch

    from tisdiss_cli.model.config import Config
    from tisdiss_cli.model.network import TISDiSS
    from tisdiss_cli.model.weights import save_weights

    widths = {"channels": 8, "ffn_hidden": 8, "attention_channels": 8, "heads": 2, "encoder_stride": (1, 3)}
    config = Config(**widths, norm_groups=2, reconstructor_repeats=3)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mini.safetensors"
    save_weights(path, config, TISDiSS(config).state_dict(), info={"trained": False})
    return path


@pytest.fixture
def threads():
    """Sets torch's; those from before come back."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(threads):
    threads(2)
