"""The log of a run: rows, pending losses, the curve drawn from it."""

from types import SimpleNamespace

import torch

from tisdiss_cli.training.log import CURVE, LOG, Log, MetricBuffer, plot_curve, read_log


def test_a_resumed_log_goes_back_to_its_checkpoint(tmp_path):
    log = Log(tmp_path / LOG, 1, 0)
    for step in (10, 20, 30):
        log.add(step, 60.0, loss=f"{-step}")
    log.add_validation(20, 60.0, ema_decay=0.9, loss=-3.0, si_snri=[1.0, 2.0])
    with (tmp_path / LOG).open("a") as file:
        file.write("40,0.1")  # cut short
    Log(tmp_path / LOG, 1, 20)
    assert [(row["step"], row["loss"], row["si_snri_1"]) for row in read_log(tmp_path / LOG)] == [
        ("10", "-10", ""),
        ("20", "-20", ""),
        ("20", "", "2.0000"),
    ]
    assert not plot_curve(tmp_path) and (tmp_path / CURVE).read_bytes()[1:4] == b"PNG"


def test_pending_losses_give_means_and_what_is_not_finite():
    metrics = MetricBuffer(SimpleNamespace(world_size=1, device=torch.device("cpu")))
    assert metrics.reduce() is None
    for loss, norm in ((1.0, 2.0), (3.0, 6.0)):
        metrics.add(torch.tensor(loss), torch.tensor(norm))
    assert metrics.reduce() is None and metrics.pop_means() == (2.0, 4.0) and not metrics.pending
    for loss, norm in ((1.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0), (1.0, 1.0)):
        metrics.add(torch.tensor(loss), torch.tensor(norm))
    assert metrics.reduce() == 3
