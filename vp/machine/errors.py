"""Errors that the user can mend, and how a lack of memory is recognised."""

from __future__ import annotations

import torch


class VpError(Exception):
    """Something the user can mend: one line that says what was given, what was expected and what to do."""


class NotAvailable(VpError):
    """A device, weights or data that this machine lacks: the run is NOT RUN, which is neither a pass nor a failure."""


def out_of_memory(error: BaseException) -> bool:
    """Did memory not suffice? torch has a type for what it allocates on CUDA; the CPU's allocator, CUDA itself and its libraries
    say it in words."""
    told = ("DefaultCPUAllocator", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in told)


class OutOfMemory(NotAvailable):
    """The device does not hold even the least that has to be computed at once."""
