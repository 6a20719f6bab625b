"""What a training step costs: bytes kept for the backward pass, exactly, and time, with its spread (report 1.1, 2.6)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def saved_bytes(forward: Callable[[], Tensor], resident: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps between `forward()` and its backward pass, each storage counted once.

    Storages of `resident` tensors (parameters, buffers, the batch itself) exist anyway and are not counted. Exact and
    deterministic on every device: it counts what autograd saves, not what an allocator reserves.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in resident}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # a storage freed during the forward could lend its address to another

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    del output
    return sum(kept.values())


def time_each(steps: dict[str, Callable[[], object]], repeats: int = 9, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each step's calls, one of each in turn after a warm-up, so that a drifting machine touches all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(warmup + repeats):
        for name, step in steps.items():
            _synchronise()
            started = time.perf_counter()
            step()
            _synchronise()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
