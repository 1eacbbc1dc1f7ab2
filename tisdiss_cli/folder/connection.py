"""Ray: found, started on this machine or connected to, quietly."""

import logging
import os
import socket
from typing import Any

from tisdiss_cli.devices import cores
from tisdiss_cli.errors import UserError

_STORE = 100 << 20  # bytes of Ray's object store on this machine: paths and a weight file are all that goes through it


def find_ray(address: str | None) -> Any:
    """Ray's module; UserError where it is missing, or nothing answers at the address of a cluster."""
    if address not in (None, "auto"):
        _check_address(address)
    # Read when ray is imported, and by its own processes.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # then its daemons listen on the loopback only
        os.environ.setdefault("RAY_worker_niceness", "0")  # as one process has it; by default its workers give way
    try:
        import ray
    except ImportError:
        raise UserError("--devices and --cluster need the package ray: pip install 'tisdiss[cluster]'") from None
    return ray


def connect(address: str | None, devices: int | None) -> Any:
    """Ray's module, connected; UserError as `find_ray`, or where it cannot be."""
    ray = find_ray(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    if address is None:
        options |= {
            "address": "local",  # not a cluster that happens to run on this machine
            "include_dashboard": False,
            "num_cpus": max(cores(), devices or 1),
            "object_store_memory": _STORE,
        }
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except Exception as error:  # of many kinds, by what is wrong with the address
        where = "Ray could not be started here" if address is None else f"--cluster {address}: no cluster answers there"
        raise UserError(f"{where}: {last_line(error)}") from None
    return ray


def _check_address(address: str) -> None:
    """UserError unless something answers there: Ray itself would go on trying for minutes."""
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdecimal():
        raise UserError(
            f"--cluster {address}: write auto on one of its nodes, or HOST:PORT as ray start has printed it"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--cluster {address}: no cluster answers there: {error}") from None


def last_line(error: Exception) -> str:
    """What is wrong, of an error of Ray's, which may have pages of text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].rstrip(".")
