"""Errors that the user can mend, and how a lack of memory is recognised."""

from __future__ import annotations

import torch


class VpError(Exception):
    """An error that the user can mend: one line that says what was given, what was expected and what to do."""


class NotAvailable(VpError):
    """A device, weights or data that this machine lacks: the run is NOT RUN, which is neither a pass nor a failure."""


def out_of_memory(error: BaseException) -> bool:
    """Is this error a lack of memory? torch has a type for its own CUDA allocations; the CPU's allocator, CUDA and its libraries
    say so only in their messages."""
    told = ("DefaultCPUAllocator", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in told)


class OutOfMemory(NotAvailable):
    """The device has too little memory for the smallest batch that can be computed."""
