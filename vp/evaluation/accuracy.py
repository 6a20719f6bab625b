"""Top-1 accuracy, image by image: k correct of N, never an average of batch averages."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vp.evaluation.batches import Batches


def predict(model: nn.Module, batches: Batches, batch_size: int = 250) -> tuple[Tensor, Tensor]:
    """Top-1 class and true label of every example, both (N,) on the CPU. Each module is left in the mode it was found in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    predicted, true = [], []
    try:
        with torch.inference_mode():
            for indices in torch.arange(len(batches)).split(batch_size):
                inputs, labels = batches[indices]
                predicted.append(model(inputs).argmax(1).cpu())
                true.append(labels.cpu())
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(predicted), torch.cat(true)


def per_image_correctness(model: nn.Module, batches: Batches, batch_size: int = 250) -> Tensor:
    """Booleans (N,): is the top-1 class of image i the true one? Accuracy is their sum over N."""
    predicted, true = predict(model, batches, batch_size)
    return predicted == true
