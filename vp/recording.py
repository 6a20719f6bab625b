"""Training steps recorded once and replayed, where launching the kernels of a step takes longer than running them.

With deep prompts before the last block a step is about a hundred small kernels. A CUDA graph launches them together; it reads its
inputs from, and writes loss and gradients to, the memory that it was recorded with. What was recorded is compared with the plain
step before it is used; where recording fails or the two differ, steps go on as they were, with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from vp.runtime import out_of_memory

Part = tuple[Any, Tensor]  # inputs and labels
Accumulate = Callable[[Iterable[Part], int], Tensor]  # adds the gradient of parts of a batch of so many examples; gives the loss
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class NotRecordedWarning(UserWarning):
    """A step could not be recorded: its kernels are launched one by one, which takes longer."""


def cuda_graph(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record what `step` launches: what comes back launches the same again, and gives back the same tensor with new values."""
    before = torch.cuda.current_stream()
    stream = torch.cuda.Stream()
    stream.wait_stream(before)
    with torch.cuda.stream(stream):  # libraries set themselves up at first calls, which cannot be recorded
        for _ in range(3):
            step()
    before.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


RECORDERS: dict[str, Record] = {"cuda": cuda_graph}  # by type of device


def recorded(model: nn.Module, accumulate: Accumulate, device: torch.device) -> Accumulate:
    """`accumulate`, recorded where the device can, for a `model` that says of its inputs that steps on them repeat (`repeats`)."""
    if device.type not in RECORDERS or not hasattr(model, "repeats"):
        return accumulate
    return _Recorded(model, accumulate, RECORDERS[device.type])


class _Recorded:
    """Whole batches are replayed, one recording for each size; parts of a batch are computed as they come."""

    def __init__(self, model: Any, accumulate: Accumulate, record: Record) -> None:
        self.model, self.accumulate, self.record = model, accumulate, record
        self.steps: dict[int, _Step | None] = {}

    def __call__(self, parts: Iterable[Part], count: int) -> Tensor:
        parts = iter(parts)
        inputs, labels = next(parts)
        if len(labels) == count and self.model.repeats(inputs):
            if count not in self.steps:
                self.steps[count] = self._step(inputs, labels)
            if step := self.steps[count]:
                return step(inputs, labels)
        return self.accumulate(chain([(inputs, labels)], parts), count)

    def _step(self, inputs: Any, labels: Tensor) -> _Step | None:
        try:
            return _Step(self.model, self.accumulate, self.record, inputs, labels)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            what = f"a step could not be recorded ({error}): its kernels are launched one by one, which takes longer"
            warnings.warn(what, NotRecordedWarning, stacklevel=5)
            return None
        finally:
            self.model.zero_grad()


class _Step:
    """A recorded step for batches of one size. Raises RuntimeError where it does not give what the plain step gives."""

    def __init__(self, model: nn.Module, accumulate: Accumulate, record: Record, inputs: Any, labels: Tensor) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.given = (*(tensor.clone() for tensor in vars(inputs).values()), labels.clone())
        own_inputs, own_labels = type(inputs)(*self.given[:-1]), self.given[-1]

        def step() -> Tensor:
            for p in self.parameters:
                p.grad = None
            return accumulate([(own_inputs, own_labels)], len(own_labels))

        expected = self._found(step())
        self.replay = record(step)
        self.gradients = [p.grad for p in self.parameters]
        for one, other in zip(self._found(self(inputs, labels)), expected, strict=True):
            if not (one - other).norm() <= 0.01 * other.norm():
                raise RuntimeError(f"it gave {one.norm():.6g} and the plain step {other.norm():.6g}")

    def _found(self, loss: Tensor) -> list[Tensor]:
        return [loss, *(p.grad.clone() for p in self.parameters if p.grad is not None)]

    def __call__(self, inputs: Any, labels: Tensor) -> Tensor:
        for own, new in zip(self.given, (*vars(inputs).values(), labels), strict=True):
            own.copy_(new)
        loss = self.replay().clone()
        for p, gradient in zip(self.parameters, self.gradients, strict=True):
            p.grad = gradient
        return loss
