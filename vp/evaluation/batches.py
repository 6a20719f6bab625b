"""Examples by index, for training and evaluation: preprocessed images, or what a frozen network makes of them, computed once."""

from __future__ import annotations

import os
from collections.abc import Sized
from typing import Any, Protocol

import torch
from torch import Tensor

from vp.data import GaussianNoise, ImageSet, Preprocess
from vp.models import FrozenCLIP
from vp.prompts.deep import LastBlockInputs, last_block_inputs, reads_one_token, tokens_before_block, vision_blocks

CACHE_GIB = "VP_CACHE_GIB"  # the largest prefix kept in memory; a larger one is computed again, batch by batch


class Batches(Sized, Protocol):
    """Examples that a model takes by index."""

    def __getitem__(self, indices: Tensor) -> tuple[Any, Tensor]:
        """The inputs and labels (B,) at `indices` (B,), on the device of the computation."""


class ImageBatches:
    """An ImageSet on a device, preprocessed a batch at a time, with noise if given."""

    def __init__(
        self, images: ImageSet, preprocess: Preprocess, device: torch.device | str = "cpu", noise: GaussianNoise | None = None
    ) -> None:
        self.pixels, self.labels = images.pixels.to(device), images.labels.to(device)
        self.preprocess = preprocess
        self.noise = noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        on_device = indices.to(self.labels.device)
        inputs = self.preprocess(self.pixels[on_device])
        return (self.noise(inputs, indices) if self.noise else inputs), self.labels[on_device]


class Subset:
    """The examples of `batches` at `indices`, numbered anew from 0."""

    def __init__(self, batches: Batches, indices: Tensor) -> None:
        self.batches, self.indices = batches, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: Tensor) -> tuple[Any, Tensor]:
        return self.batches[self.indices[indices]]


class PrefixBatches:
    """What FastDeepPromptedCLIP takes: the tokens that enter block k, or the LastBlockInputs when k is the last block.

    They are computed once and kept: N L D numbers (2 N L D for the last block), 4 bytes each: 33 MB (66 MB) for 5,000 images of
    mini-clip, 7.7 GB for 50,000 of ViT-B/32. More than `VP_CACHE_GIB` (default 4) is not kept but computed batch by batch.
    """

    def __init__(self, images: ImageBatches, clip: FrozenCLIP, block: int, batch_size: int = 250) -> None:
        self.images, self.clip, self.block = images, clip, block
        self.last = block == len(vision_blocks(clip)) - 1 and reads_one_token(clip)
        self.kept: tuple[Tensor, ...] | None = None
        first = self._compute(torch.arange(min(1, len(images))))
        needed = sum(part.numel() * part.element_size() for part in first) * len(images)
        if needed <= float(os.environ.get(CACHE_GIB, "4")) * 2**30:
            parts = [self._compute(indices) for indices in torch.arange(len(images)).split(batch_size)]
            self.kept = tuple(torch.cat(some) for some in zip(*parts, strict=True))

    def _compute(self, indices: Tensor) -> tuple[Tensor, ...]:
        tokens = tokens_before_block(self.clip, self.images[indices][0], self.block)
        if not self.last:
            return (tokens,)
        inputs = last_block_inputs(self.clip, tokens)
        return inputs.keys, inputs.values, inputs.class_token

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor | LastBlockInputs, Tensor]:
        labels = self.images.labels[indices.to(self.images.labels.device)]
        parts = self._compute(indices) if self.kept is None else tuple(part[indices.to(part.device)] for part in self.kept)
        return (LastBlockInputs(*parts) if self.last else parts[0]), labels
