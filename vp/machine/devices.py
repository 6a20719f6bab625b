"""Which GPU a test worker computes on, decided before torch is imported: this module imports nothing but the standard library."""

from __future__ import annotations

import os
import subprocess
from collections.abc import MutableMapping

VISIBLE, SHARING = "CUDA_VISIBLE_DEVICES", "VP_WORKERS_ON_DEVICE"


def usable_cores() -> int:
    """How many cores this process may use, which a scheduler or container may have made fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_devices(given: str | None, present: int | None) -> list[str]:
    """The devices a process may use, as CUDA reads its list: `given` up to the first that is not there, each once; all if None.

    Entries are indices below `present` (any, where that is not known), or names such as GPU-8932f937 and MIG-..., which only
    CUDA can look up.
    """
    if given is None:
        return [str(index) for index in range(present or 0)]
    devices: list[str] = []
    for entry in map(str.strip, given.split(",")):
        named = entry.startswith(("GPU-", "MIG-"))
        if not named and not (entry.isascii() and entry.isdigit() and (present is None or int(entry) < present)):
            break
        devices.append(entry if named else str(int(entry)))
    return list(dict.fromkeys(devices))


def assign_device(worker: int, workers: int, devices: list[str]) -> tuple[str, int]:
    """The one device of worker `worker` of `workers` (0-based), and how many workers share it; ("", 1) where there is none.

    Workers go round the devices in turn, so that no device has two more than another. Raises ValueError for a worker out of
    range.
    """
    if not 0 <= worker < workers:
        raise ValueError(f"worker {worker} of {workers}: give 0 to {workers - 1}")
    if not devices:
        return "", 1
    place = worker % len(devices)
    return devices[place], len(range(place, workers, len(devices)))


def count_devices() -> int | None:
    """How many NVIDIA GPUs the driver's own tool lists; None where it does not answer."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def give_worker_its_device(environment: MutableMapping[str, str] = os.environ) -> None:
    """In a worker of pytest-xdist, leave one device of the caller's list visible; elsewhere nothing changes. See `give_device`."""
    worker, workers = environment.get("PYTEST_XDIST_WORKER", ""), environment.get("PYTEST_XDIST_WORKER_COUNT", "")
    if worker.removeprefix("gw").isdigit() and workers.isdigit():
        # One that stands in for a crashed worker has a higher number.
        give_device(int(worker.removeprefix("gw")) % int(workers), int(workers), environment)


def give_device(worker: int, workers: int, environment: MutableMapping[str, str]) -> None:
    """In the environment of worker `worker` of `workers`, leave one device visible and say how many workers share it.

    The share bounds what a worker keeps in the device's memory. Where the driver's tool is missing and
    the caller gave no list, all workers are taken to share CUDA's first device.
    """
    given, present = environment.get(VISIBLE), count_devices()
    if given is None and present is None:
        environment[SHARING] = str(workers)
        return
    environment[VISIBLE], sharing = assign_device(worker, workers, visible_devices(given, present))
    environment[SHARING] = str(sharing)
