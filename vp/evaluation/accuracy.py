"""Top-1 accuracy, image by image: k correct of N, never an average of batch averages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vp.evaluation.batches import Batches


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


def predict(model: nn.Module, batches: Batches, batch_size: int = 250) -> tuple[Tensor, Tensor]:
    """Top-1 class and true label of every example, both (N,) on the CPU. Each module is left in the mode it was found in."""
    predicted, true = [], []
    with in_mode(model, training=False), torch.inference_mode():
        for indices in torch.arange(len(batches)).split(batch_size):
            inputs, labels = batches[indices]
            predicted.append(model(inputs).argmax(1).cpu())
            true.append(labels.cpu())
    return torch.cat(predicted), torch.cat(true)


def per_image_correctness(model: nn.Module, batches: Batches, batch_size: int = 250) -> Tensor:
    """Booleans (N,): is the top-1 class of image i the true one? Accuracy is their sum over N."""
    predicted, true = predict(model, batches, batch_size)
    return predicted == true
