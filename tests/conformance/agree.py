"""Comparing numbers of any implementation, with an outcome in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def agree(found: Any, expected: Any, what: str, *, atol: float = 1e-5, rtol: float = 1e-4) -> None:
    """Raises AssertionError, `what` and the entry that differs most, unless |found - expected| <= atol + rtol |expected|.

    Precision and layout of numbers are an implementation's own business: float64 is what is compared. Half precision is held to
    what it can tell apart, for that it is less than was given is one mistake, told once.
    """
    if getattr(found, "dtype", None) in (torch.float16, torch.bfloat16):  # a mistake that has a row of its own
        atol, rtol = (max(one, 4 * torch.finfo(found.dtype).eps) for one in (atol, rtol))
    found, expected = numbers(found).detach(), numbers(expected).detach()
    assert found.shape == expected.shape, f"{what}: got shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    off = (found - expected).abs() - (atol + rtol * expected.abs())
    off = off.masked_fill(off.isnan(), torch.inf)
    if off.numel() and off.max() > 0:
        worst = int(off.argmax())
        where = [int(one) for one in np.unravel_index(worst, off.shape)]
        place = f" at {where}" if where else ""
        count = f" ({int((off > 0).sum())} of {off.numel()} entries differ)" if off.numel() > 1 else ""
        got, wanted = _told_apart(float(found.flatten()[worst]), float(expected.flatten()[worst]))
        raise AssertionError(f"{what}{place}: got {got}, expected {wanted}{count}")


def _told_apart(found: float, expected: float) -> tuple[str, str]:
    """Two numbers with five digits, or as many as show that they differ."""
    for digits in (5, 9, 17):
        told = f"{found:.{digits}g}", f"{expected:.{digits}g}"
        if told[0] != told[1]:
            break
    return told


def numbers(values: Any) -> Tensor:
    """What any implementation gave, a tensor or an array of numbers of any type and layout, in float64; gradients are kept."""
    tensor = torch.as_tensor(values.astype(np.float64) if isinstance(values, np.ndarray) else values)
    return (tensor if tensor.layout == torch.strided else tensor.to_dense()).double()
