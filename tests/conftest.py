import os
from pathlib import Path

import pytest

os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")


@pytest.fixture(scope="session")
def mini_weights(tmp_path_factory) -> Path:
    """A seeded network small enough to separate a second in a few milliseconds."""
    import torch

    from tisdiss_cli.model.config import Config
    from tisdiss_cli.model.network import TISDiSS
    from tisdiss_cli.model.weights import save_weights

    config = Config(
        channels=8, ffn_hidden=8, attention_channels=8, heads=1, n_fft=256, hop_length=128, reconstructor_repeats=2
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mini.safetensors"
    save_weights(path, config, TISDiSS(config).state_dict(), {"trained": False})
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Recordings to separate."""
    from tests.folders import write_folder

    return write_folder(tmp_path)


@pytest.fixture(scope="module")
def one_thread():
    """torch may hang on batched solves with several threads (pytorch/pytorch#142815), as fast_bss_eval has them."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
