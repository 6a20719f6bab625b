"""Top-1 accuracy, image by image: k correct of N, never an average of batch averages."""

from __future__ import annotations

from collections.abc import Sized
from typing import Protocol

import torch
from torch import Tensor, nn

from vp.data.images import ImageSet
from vp.data.preprocess import Preprocess


class Batches(Sized, Protocol):
    """Examples that training and evaluation take by index: images, or features computed beforehand."""

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs and labels (B,) at `indices` (B,), on the device of the computation."""


class ImageBatches:
    """An ImageSet on a device, preprocessed a batch at a time."""

    def __init__(self, images: ImageSet, preprocess: Preprocess, device: torch.device | str = "cpu") -> None:
        self.pixels, self.labels = images.pixels.to(device), images.labels.to(device)
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        indices = indices.to(self.labels.device)
        return self.preprocess(self.pixels[indices]), self.labels[indices]


def predict(model: nn.Module, batches: Batches, batch_size: int = 250) -> tuple[Tensor, Tensor]:
    """Top-1 class and true label of every example, both (N,) on the CPU. The model is left in the mode it was found in."""
    was_training = model.training
    model.eval()
    predicted, true = [], []
    with torch.inference_mode():
        for indices in torch.arange(len(batches)).split(batch_size):
            inputs, labels = batches[indices]
            predicted.append(model(inputs).argmax(1).cpu())
            true.append(labels.cpu())
    model.train(was_training)
    return torch.cat(predicted), torch.cat(true)


def per_image_correctness(model: nn.Module, batches: Batches, batch_size: int = 250) -> Tensor:
    """Booleans (N,): is the top-1 class of image i the true one? Accuracy is their sum over N."""
    predicted, true = predict(model, batches, batch_size)
    return predicted == true
