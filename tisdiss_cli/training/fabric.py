"""Setup of Lightning Fabric: devices, ranks and precision."""

import logging

import torch

from tisdiss_cli.devices import keep_memory, use_tf32
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.config import Config

try:
    from lightning_fabric import Fabric
except ImportError:
    raise UserError("training needs Lightning Fabric: pip install 'tisdiss[train]'") from None


def launch(device: torch.device, *, devices: int, precision: str, config: Config) -> Fabric:
    """Starts one process per device, this one included, and returns its Fabric; each continues with its own rank.

    `devices` is any number of processes on a CPU; UserError if there are fewer CUDA devices. `precision` is "fp32",
    "tf32" or "bf16".
    """
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"--devices {devices}: this machine has {torch.cuda.device_count()} CUDA devices, pass no more")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it repeats the options
    # A Separator applied once never uses the re-injection, so its parameters get no gradient on any device.
    single_pass = config.separator_repeats * config.separator_layers == 1 and not config.reconstructor_reinjection
    ddp = "ddp_find_unused_parameters_true" if single_pass else "ddp"
    fabric = Fabric(
        accelerator=device.type,
        devices=devices if device.index is None or devices > 1 else [device.index],
        strategy=ddp if devices > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    keep_memory(device)
    use_tf32(precision == "tf32")
    return fabric


def max_over_ranks(fabric: Fabric, *values: float) -> list[float]:
    """Returns the maximum of each value over all ranks."""
    if fabric.world_size == 1:
        return list(values)
    local = torch.tensor(values, dtype=torch.float64, device=fabric.device)
    return torch.as_tensor(fabric.all_reduce(local, reduce_op="max")).tolist()
