"""What a solution uses and must leave as it was: the streams of random numbers, and the gradients of what it is given."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 624  # numbers that the Mersenne twister makes at a time
MOST_BLOCKS = 20_000  # 12 million numbers: nobody draws more in one call


class Streams:
    """torch's, numpy's and Python's global random numbers, as they are now.

    A stream that was seeded just now, and not drawn from, gives some numbers away first: seeding it again is to be seen.
    """

    def __init__(self) -> None:
        if random.getstate()[1][-1] == BLOCK:
            for _ in range(2 * BLOCK):
                random.random()
        if np.random.get_state()[2] == BLOCK:
            np.random.random(2 * BLOCK)
        if _of_torch(torch.get_rng_state())[1] == BLOCK:
            torch.rand(3 * BLOCK)
        self._torch, self._numpy, self._python = torch.get_rng_state(), np.random.get_state(), random.getstate()
        self._seed = torch.initial_seed()

    def restore(self, names: Collection[str] = ("torch", "numpy", "random")) -> None:
        if "torch" in names:
            torch.set_rng_state(self._torch)
        if "numpy" in names:
            np.random.set_state(self._numpy)
        if "random" in names:
            random.setstate(self._python)

    def reseeded(self, suspects: Collection[str] = ()) -> set[str]:
        """Which have been seeded or set since, and not only drawn from. Of suspects, whatever has changed is enough."""
        found = set()
        now = torch.get_rng_state()
        if not torch.equal(now, self._torch) and (torch.initial_seed() != self._seed or _turned_back(self._torch, now)):
            found.add("torch")
        if not _follows(self._numpy[1:3], np.random.get_state()[1:3], "numpy" not in suspects):
            found.add("numpy")
        if (later := random.getstate()) != self._python:
            before, after = ((np.array(state[1][:-1], np.uint32), state[1][-1]) for state in (self._python, later))
            if not _follows(before, after, "random" not in suspects):
                found.add("random")
        return found


def _of_torch(state: Tensor) -> tuple[Any, int]:
    """The key of torch's Mersenne twister, and how much of it is used: BLOCK where it was seeded just now."""
    words = state.numpy().view(np.uint64)
    left, used = int(words[1]) & 0xFFFFFFFF, int(words[2])
    return words[3 : 3 + BLOCK].astype(np.uint32), BLOCK if left == 1 and used == 0 else used


def _follows(state: Any, later: Any, search: bool) -> bool:
    """Does drawing numbers lead from one state of a Mersenne twister, its key and how much of it is used, to the other?"""
    (key, position), (later_key, later_position) = state, later
    if np.array_equal(key, later_key):
        return later_position >= position
    if not search:
        return False
    sought = _twister(later_key, 0).random_raw(2)
    twister = _twister(key, BLOCK)
    for _ in range(MOST_BLOCKS // 1000):
        blocks = twister.random_raw(1000 * BLOCK).reshape(1000, BLOCK)
        if (blocks[:, :2] == sought).all(1).any():
            return True
    return False


def _turned_back(state: Tensor, later: Tensor) -> bool:
    """Of torch, which knows its seed: was it seeded alike again, and is it now where it has been before?"""
    (key, position), (later_key, later_position) = _of_torch(state), _of_torch(later)
    start, _ = _of_torch(torch.Generator().manual_seed(int(state.numpy().view(np.uint64)[0])).get_state())
    places = []
    for one, used in ((key, position), (later_key, later_position)):
        if np.array_equal(one, start):
            places.append((0, 0))
            continue
        firsts = _twister(start, BLOCK).random_raw(64 * BLOCK).reshape(64, BLOCK)[:, :2]
        found = (firsts == _twister(one, 0).random_raw(2)).all(1).nonzero()[0]
        places.append((int(found[0]) + 1, used) if len(found) else (65, 0))
    return places[1] < places[0]


def _twister(key: Any, used: int) -> np.random.MT19937:
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": used}}
    return twister


class Gradients:
    """Of the tensors that a call is given, and of the copies that the solution sees."""

    def __init__(self, given: Any, lent: Any) -> None:
        self._lent = [*_tensors(lent)]
        self._needed = [one.requires_grad for one in self._lent]
        self._given = [(one, one.grad, None if one.grad is None else one.grad.clone()) for one in _tensors(given) if one.is_leaf]

    def spoilt(self) -> str:
        """What the call left, in words; the caller's gradients are put back."""
        words = ""
        for one, needed in zip(self._lent, self._needed, strict=True):
            if one.requires_grad and not needed:
                words = words or "set requires_grad of a tensor"
            elif one.is_leaf and one.grad is not None:
                words = words or "left a gradient on a tensor"
        for one, grad, kept in self._given:
            if one.grad is not grad or (grad is not None and kept is not None and not torch.equal(grad, kept)):
                words = words or "left a gradient on a tensor"
                if grad is not None and kept is not None:
                    with torch.no_grad():
                        grad.copy_(kept)
                one.grad = grad
        return words


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for one in values:
            yield from _tensors(one)


def lost_precision(found: Any, given: Any) -> str:
    """The type of half precision in which floats came back that were given in more; "" if none did."""
    halves = {torch.float16, torch.bfloat16}
    if any(one.dtype in halves for one in _tensors(given)):
        return ""
    return next((str(one.dtype).removeprefix("torch.") for one in _tensors(found) if one.dtype in halves), "")
