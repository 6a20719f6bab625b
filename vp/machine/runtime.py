"""The device, the precision and the seeds that a number is computed with."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache

import numpy as np
import torch

from vp.machine.devices import SHARING
from vp.machine.errors import NotAvailable, VpError

CONTEXT_BYTES = 2**30  # of a GPU's memory, that a process takes before its first tensor


def pick_device(name: str = "auto") -> torch.device:
    """`auto` (CUDA if there is any, else the CPU), `cpu`, `cuda` or `mps`. Raises NotAvailable when it is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name not in here:
        raise VpError(f"no device {name!r}: give auto, {', '.join(here)}")
    if not here[name]:
        raise NotAvailable(f"device {name!r} asked for, but this machine has none: give --device auto or cpu")
    if name == "cuda":
        _prepare_cuda()
    return torch.device(name)


def device_share() -> int:
    """How many workers compute on this process's device, itself included: 1 unless vp.machine.devices says otherwise."""
    given = os.environ.get(SHARING, "1")
    return int(given) if given.isdigit() and int(given) else 1


@lru_cache(maxsize=1)
def _prepare_cuda() -> None:
    """Products in float32 have its precision, not TF32's. Of several workers on one device, each may take its part of the memory
    and no more, less what CUDA and its libraries take beside it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if (share := device_share()) > 1:
        total = torch.cuda.get_device_properties(torch.device("cuda")).total_memory
        torch.cuda.set_per_process_memory_fraction(min(0.95, max(0.5, 1 - share * CONTEXT_BYTES / total)) / share)


_PRECISION: ContextVar[torch.dtype | None] = ContextVar("precision", default=None)


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Another `precision` than the device's own while the context lasts."""
    token = _PRECISION.set(dtype)
    try:
        yield
    finally:
        _PRECISION.reset(token)


def precision(device: torch.device) -> torch.dtype:
    """The precision of matrix products: bfloat16 on a CUDA device that has it, else float16 there; float32 elsewhere."""
    if chosen := _PRECISION.get():
        return chosen
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def to_device(device: torch.device, drawn: torch.Tensor) -> torch.Tensor:
    """A tensor drawn on the CPU, moved to a device. On CUDA the copy does not wait for the step before. On MPS it must wait: an
    asynchronous copy may read memory that was freed."""
    return drawn.to(device, non_blocking=device.type == "cuda")


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """autocast in the `precision` of the device; nothing where that is float32."""
    dtype = precision(device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random. Same seed, same machine, same thread count: bit-equal results on the CPU."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def own_random_stream(seed: int) -> Iterator[None]:
    """Draw on the CPU from torch's global stream as if freshly seeded, and leave it as it was found. No other device is touched."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
