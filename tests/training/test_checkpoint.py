"""Checkpoints are whole, or refused."""

import pytest
import torch

from tisdiss_cli.errors import UserError
from tisdiss_cli.training.checkpoint import load_checkpoint, save_checkpoint
from tisdiss_cli.training.recipe import Recipe


def test_checkpoints_are_whole_or_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    state = {"tensor": torch.randn(3), "nested": {"numbers": [1.5, float("inf")]}, "name": None}
    save_checkpoint(path, state)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["tensor"], state["tensor"]) and loaded["nested"] == state["nested"]
    with pytest.raises(Exception, match=r"pickle|serialize"):  # an interrupted save leaves the former
        save_checkpoint(path, {"tensor": torch.zeros(10**4), "bad": lambda: None})
    assert torch.equal(load_checkpoint(path)["tensor"], state["tensor"])
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"checkpoint.pt is no checkpoint"):
        load_checkpoint(path)
    torch.save({"objects": Recipe()}, path)
    with pytest.raises(UserError, match=r"checkpoint.pt is no checkpoint") as error:
        load_checkpoint(path)
    assert "weights_only" not in str(error.value)
    torch.save({"other": 1}, path)
    with pytest.raises(UserError, match="another version"):
        load_checkpoint(path)
    with pytest.raises(UserError, match=r"no .* to resume from"):
        load_checkpoint(tmp_path / "none.pt")
