"""Top-1 accuracy, image by image: k correct of N, never an average of batch averages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vp.evaluation.batches import Batches
from vp.machine.errors import OutOfMemory, out_of_memory
from vp.machine.runtime import mixed_precision


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model into training or evaluation mode, and each of its modules back into the mode it was found in."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def halved(batch_size: int, model: nn.Module, error: Exception) -> int:
    """Half the batch size, after a batch did not fit into the device's memory.

    Raises OutOfMemory when there is nothing to halve, or when the model mixes the images of a batch (BatchNorm in training mode,
    or a module whose `mixes_images` is true), so that half a batch would not give the same numbers.
    """
    cure = "give a device with more memory, fewer workers on it, or --device cpu"
    mixing = [m for m in model.modules() if getattr(m, "mixes_images", False) or (isinstance(m, _BatchNorm) and m.training)]
    if mixing:
        raise OutOfMemory(
            f"the device's memory is too small for a batch of {batch_size}, which {type(mixing[0]).__name__} does not allow to be "
            f"split: {cure}"
        ) from error
    if batch_size <= 1:
        raise OutOfMemory(f"the device's memory is too small for a single image: {cure}") from error
    return batch_size // 2


def predict(model: nn.Module, batches: Batches, batch_size: int = 250) -> tuple[Tensor, Tensor]:
    """Top-1 class and true label of every example, both (N,) on the CPU. Each module is left in the mode it was found in.

    Batches halve when the device's memory is too small for them; raises OutOfMemory when that does not help.
    """
    predicted, true = [], []
    start = 0
    with in_mode(model, training=False), torch.inference_mode():
        while start < len(batches):
            try:
                inputs, labels = batches[torch.arange(start, min(start + batch_size, len(batches)))]
                with mixed_precision(labels.device):
                    best = model(inputs).argmax(1)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                batch_size = halved(min(batch_size, len(batches) - start), model, error)
                continue
            predicted.append(best)
            true.append(labels)
            start += len(labels)
    return torch.cat(predicted).cpu(), torch.cat(true).cpu()


def per_image_correctness(model: nn.Module, batches: Batches, batch_size: int = 250) -> Tensor:
    """Booleans (N,): is the top-1 class of image i the true one? Accuracy is their sum over N."""
    predicted, true = predict(model, batches, batch_size)
    return predicted == true
