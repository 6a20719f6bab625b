"""A cluster of Ray's: one of this machine that ends with the context, or one that runs already; its nodes."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from vp.machine.devices import usable_cores
from vp.machine.errors import VpError

ANSWER_S = 5.0  # for a cluster's address to answer; Ray itself waits two minutes, and then ends the process
# Results travel in replies of calls, or not at all: the object store stays nearly empty, and Ray refuses less than 75 MiB.
STARTED: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
# No statistics to Ray's makers; and it leaves CUDA_VISIBLE_DEVICES alone where no GPU is asked for, as it will in future.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Joined to the cluster at HOST:PORT (or "auto": that of this machine); without an address, one is started here for as long as
    the context lasts. A connection that this process has already is used, and left. Raises VpError where no cluster answers."""
    if ray.is_initialized():
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    scratch = None
    try:
        if address is None:
            # Sockets lie below it, and their names must be short: TMPDIR may be long.
            scratch = tempfile.mkdtemp(prefix="vp-ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
            ray.init(address="local", num_cpus=usable_cores(), _temp_dir=scratch, **STARTED, **QUIET)
        else:
            check_it_answers(address)
            try:
                ray.init(address=address, **QUIET)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                why = " ".join(str(error).split())
                raise VpError(f"cannot join the Ray cluster at {address} ({why}): start this on one of its nodes") from error
        yield
    finally:
        ray.shutdown()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def check_it_answers(address: str) -> None:
    """Raises VpError unless a server of gRPC answers at HOST:PORT: it sends its settings when it hears HTTP/2's preface."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise VpError(f"{address!r} is no address of a Ray cluster: give HOST:PORT, such as 10.0.0.1:6379, or auto")
    cure = "start one there with `ray start --head`, or leave --address out to use this machine alone"
    try:
        with socket.create_connection((host, int(port)), ANSWER_S) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":
                return
            connection.settimeout(ANSWER_S)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
            if connection.recv(9)[3:4] != b"\x04":
                raise VpError(f"what answers at {address} is no Ray cluster: {cure}")
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VpError(f"no Ray cluster answers at {address} ({reason}): {cure}") from error


def living_nodes() -> list[dict[str, Any]]:
    """The nodes that live, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]
