"""Training steps as CUDA graphs: recorded once and replayed, because launching a step's kernels takes longer than running them.

On an H200 a visual prompt's step on ViT-B/32 takes 14.3 ms to launch and 8.3 ms to run, a deep prompt's before the last block 5.1
and 0.25 ms (batch 128). A graph launches all kernels together. It reads its inputs from, and writes loss and gradients to, the
memory that it was recorded with. A step is recorded on zeros and compared with a plain step on a batch before it is used. Where
recording fails or the two differ, a warning says so and training goes on with plain steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from vp.machine.errors import out_of_memory
from vp.prompts.deep import LastBlockInputs

Inputs = Tensor | LastBlockInputs
Part = tuple[Any, Tensor]  # inputs and labels
Accumulate = Callable[[Iterable[Part], int], Tensor]  # adds the gradient of parts of a batch of so many examples; gives the loss
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class NotRecordedWarning(UserWarning):
    """CUDA graph capture failed; steps run without it, which takes longer."""


@lru_cache(maxsize=1)
def _side_stream() -> torch.cuda.Stream:
    """One for all recordings of a process: libraries keep working memory for each stream that they have seen."""
    return torch.cuda.Stream()


def cuda_graph(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record the kernels of `step`. The function that comes back replays them and returns the same tensor with new values."""
    before, stream, graph = torch.cuda.current_stream(), _side_stream(), torch.cuda.CUDAGraph()
    try:
        stream.wait_stream(before)
        with torch.cuda.stream(stream):  # libraries set themselves up at first calls, which cannot be recorded
            for _ in range(3):
                step()
        with torch.cuda.graph(graph, stream=stream):
            loss = step()
        before.wait_stream(stream)
    finally:
        torch.cuda.set_stream(before)  # a recording that fails would leave its own

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


# By type of device. One that has failed is not tried again in this process; for want of memory, which others may free, only not for
# this size of a batch in this training.
RECORDERS: dict[str, Record] = {"cuda": cuda_graph}


def replayable(model: nn.Module) -> bool:
    """Does the model say that a training step is always the same kernels: that it draws nothing and changes no state of its own?"""
    return bool(getattr(model, "replayable", False))


def recorded(accumulate: Accumulate, parameters: list[nn.Parameter], device: torch.device) -> Accumulate:
    """`accumulate` to the gradients of `parameters`, recorded where `device` can. Give it only steps of a `replayable` model.

    Whole batches are replayed, one recording for each size. Plain steps are: the first of a size, parts of a split batch, and
    whatever is added to gradients that are already there.
    """
    steps: dict[int, Callable[[Inputs, Tensor], Tensor]] = {}

    def recording(parts: Iterable[Part], count: int) -> Tensor:
        parts = iter(parts)
        inputs, labels = next(parts)
        whole = len(labels) == count and all(p.grad is None for p in parameters)
        if not whole or not isinstance(inputs, Inputs):
            return accumulate(chain([(inputs, labels)], parts), count)
        if count in steps:
            return steps[count](inputs, labels)
        loss = accumulate([(inputs, labels)], count)
        gradients = {p: p.grad for p in parameters if p.grad is not None}
        # The first gradients of float16 may be too large to compare.
        if device.type in RECORDERS and all(gradient.isfinite().all() for gradient in gradients.values()):
            try:
                steps[count] = _Step(accumulate, RECORDERS[device.type], inputs, labels, loss, gradients)
            except RuntimeError as error:  # of ending a recording, where what failed in it is the context
                if any(out_of_memory(one) for one in (error, error.__context__) if one):
                    steps[count] = lambda inputs, labels: accumulate([(inputs, labels)], len(labels))
                else:
                    del RECORDERS[device.type]
                reason = str(error.__context__ or error).partition("\n")[0]
                what = f"CUDA graph capture failed ({reason}); steps run without it, which takes longer"
                warnings.warn(what, NotRecordedWarning, stacklevel=3)
            finally:
                for p, gradient in gradients.items():
                    p.grad = gradient
        return loss

    return recording if device.type in RECORDERS else accumulate


def _tensors(inputs: Inputs) -> tuple[Tensor, ...]:
    return (inputs,) if isinstance(inputs, Tensor) else tuple(vars(inputs).values())


class _Step:
    """A recorded step for batches of one size. Raises RuntimeError where it does not give the loss and gradients of a plain one."""

    def __init__(
        self,
        accumulate: Accumulate,
        record: Record,
        inputs: Inputs,
        labels: Tensor,
        loss: Tensor,
        gradients: dict[nn.Parameter, Tensor],
    ) -> None:
        self.parameters = list(gradients)
        self.given = [torch.zeros_like(tensor) for tensor in (*_tensors(inputs), labels)]  # others than it is compared on
        own_labels = self.given[-1]
        own_inputs = self.given[0] if isinstance(inputs, Tensor) else type(inputs)(*self.given[:-1])

        def step() -> Tensor:
            for p in self.parameters:
                p.grad = None
            return accumulate([(own_inputs, own_labels)], len(own_labels))

        self.replay = record(step)
        self.gradients = [p.grad for p in self.parameters]
        found = [self(inputs, labels), *(p.grad for p in self.parameters)]
        for one, expected in zip(found, [loss, *gradients.values()], strict=True):
            if one is None or not (one - expected).norm() <= 0.01 * expected.norm():
                raise RuntimeError("what was recorded gives another loss or gradient")

    def __call__(self, inputs: Inputs, labels: Tensor) -> Tensor:
        for own, new in zip(self.given, (*_tensors(inputs), labels), strict=True):
            own.copy_(new)
        loss = self.replay().clone()
        for p, gradient in zip(self.parameters, self.gradients, strict=True):
            p.grad = gradient
        return loss
