"""Results on disk, addressed by what they depend on: trained once per machine, however many tests and workers want them.

`obtain` is the one way in. A file lock per key lets one worker train while the others wait; a lock dies with its process, so
a killed run leaves nothing behind but the work it had not finished. A file that fails its checksum is reported, set aside
and computed again, never used.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock

from vp.evaluation import NetworkCost, Timing, network_cost
from vp.experiments import Result, Run, source_of
from vp.experiments.activations import CODE_OF_A_RUN, forget_prefixes
from vp.experiments.methods import Method, fingerprint_of
from vp.experiments.perform import images_of, perform
from vp.machine import artifacts
from vp.machine.computed_once import code_version, statements_of
from vp.machine.device_lock import patiently
from vp.machine.errors import VpError
from vp.machine.home import home, writing_to
from vp.machine.provenance import provenance, versions
from vp.machine.runtime import pick_device, precision
from vp.models import build_network

T = TypeVar("T")


class CorruptResultWarning(UserWarning):
    """A stored result was damaged; it was set aside and computed again."""


def run_key(run: Run, seed: int, device: str = "auto") -> str:
    """Content hash that addresses a Result: the Run's canonical form, seed, data, backbone, kind of device, code and versions."""
    chosen = pick_device(device)
    splits = {run.split, "train"} if run.recipe else {run.split}
    parts = {
        "run": run.canonical(),
        "seed": seed if run.method.learns else 0,
        "data": {split: images_of(run, split).fingerprint for split in sorted(splits)},
        "backbone": fingerprint_of(run.backbone, chosen),
        "device": chosen.type,
        "precision": str(precision(chosen)),
        "code": code_version(CODE_OF_A_RUN),
        "method": _code_of(run.method),
        "versions": versions(),
        "weights": run_key(source_of(run), seed, device) if run.weights_from else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _code_of(method: Method) -> str:
    """The statements of the file that a method from elsewhere is defined in; empty for ours. Raises VpError without a file."""
    kind = type(method)
    if kind.__module__ in CODE_OF_A_RUN:
        return ""
    try:
        file = inspect.getsourcefile(kind)
    except TypeError:  # defined at a prompt or in a notebook
        file = None
    if not file or not Path(file).is_file():
        raise VpError(f"the code of {kind.__name__} has no file, and a stored result must know it: define the method in a .py file")
    return hashlib.sha256(statements_of(Path(file).read_text(encoding="utf-8")).encode()).hexdigest()


def store_folder() -> Path:
    """Where results live: `results` in VP_HOME."""
    return home() / "results"


def result_path(run: Run, key: str) -> Path:
    """The file of a result: the run's name for people, the key for the machine."""
    return store_folder() / f"{run.name}-{key[:24]}.safetensors"


def save_result(path: Path, result: Result, key: str) -> None:
    """Write a result, complete or not at all."""
    tensors = {"correct_images": result.correct_images, **{f"weights/{k}": v for k, v in result.weights.items()}}
    artifacts.save(path, tensors, result.summary() | {"key": key})


def load_result(path: Path, key: str) -> Result:
    """Read a result back. Raises FileNotFoundError, or CorruptArtifact when it is damaged or belongs to another key."""
    tensors, note = artifacts.load(path)
    if note.get("key") != key:
        raise artifacts.CorruptArtifact(f"{path} belongs to another run: delete it and it will be made again")
    weights = {name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")}
    plain = {field.name: note[field.name] for field in fields(Result) if field.name in note}
    return Result(correct_images=tensors["correct_images"].to(torch.bool), weights=weights, **plain)


def obtain(
    run: Run,
    seed: int = 0,
    *,
    device: str = "auto",
    newer_than: float | None = None,
    progress: bool = True,
    performing: Callable[[], object] = lambda: None,
) -> Result:
    """The result of a Run for a seed: from the store if it is there, otherwise performed and stored.

    newer_than: results written before that time (seconds since the epoch) are computed again (`--fresh`).
    performing: called before the Run is performed, and not where its result is read.
    While another process is on the same run, waits for its result. Raises VpError when the store cannot be written, NotAvailable
    when data, weights or the device are missing.
    """
    key = run_key(run, seed, device)
    path = result_path(run, key)

    def stored(set_aside: bool) -> Result | None:
        return _stored(path, lambda: load_result(path, key), newer_than, set_aside)

    if (found := stored(set_aside=False)) is not None:  # which a store that cannot be written has as well
        return found
    with ExitStack() as held:
        with writing_to(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".lock"))
            held.enter_context(patiently(lock, f"waiting: another process performs {run.name} (seed {seed}), for this one as well"))
        if (found := stored(set_aside=True)) is not None:
            return found
        _check_writable(path.parent)
        trained = None
        if run.weights_from:
            trained = obtain(source_of(run), seed, device=device, newer_than=newer_than, progress=progress)
        performing()
        result = perform(run, seed, device, progress, trained)
        save_result(path, result, key)
        return result


def obtain_cost(name: str, device: torch.device, *, newer_than: float | None = None, **settings: Any) -> NetworkCost:
    """The cost of one of the seven networks on this machine: from the store, otherwise measured and stored (report 1.1).

    `settings` are those of `network_cost`, image_px included. Have the device alone (vp.machine.device_lock).
    Machine, device, threads, versions and the code that measures are part of what a stored cost is addressed by.
    """
    where = {key: value for key, value in provenance(device).items() if key != "commit"}
    code = code_version(("vp.evaluation.cost", "vp.models.networks"))
    parts = [name, settings, where, platform.node(), code]
    path = store_folder() / f"cost-{name}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]}.safetensors"
    if (stored := _stored(path, lambda: load_cost(path), newer_than)) is not None:
        return stored
    forget_prefixes()  # what they take of a GPU's memory, the network could not
    cost = network_cost(build_network(name, settings["image_px"], device), **settings)
    if (cost.without.batch, cost.memory_batch) == (cost.asked_time_batch, cost.asked_memory_batch):
        artifacts.save(path, {}, asdict(cost))  # else memory did not suffice this time, and may the next
    return cost


def load_cost(path: Path) -> NetworkCost:
    _, note = artifacts.load(path)
    timings = {key: Timing(note[key]["batch"], tuple(note[key]["seconds"])) for key in ("without", "with_gradients")}
    return NetworkCost(**{**note, **timings})


def _stored(path: Path, read: Callable[[], T], newer_than: float | None, set_aside: bool = True) -> T | None:
    """What is there and may be used; None where it has to be made. Only who holds its lock may set aside what is damaged."""
    try:
        if newer_than is not None and path.stat().st_mtime < newer_than:
            return None
        return read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except artifacts.CorruptArtifact as error:
        if not set_aside:
            return None
        aside = path.with_suffix(f".corrupt-{time.time_ns()}")
        with writing_to(path.parent):
            os.replace(path, aside)
        warnings.warn(f"{error}; kept as {aside.name}, computed again", CorruptResultWarning, stacklevel=3)
        return None
    except OSError as error:
        raise VpError(f"cannot read {path} ({error.strerror or error}): check its permissions, or set VP_HOME elsewhere") from error


def _check_writable(folder: Path) -> None:
    """Fail before the training, not after it."""
    with writing_to(folder), tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(2**20))  # more than most results take
