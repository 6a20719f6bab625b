"""ImageSet: labelled images in memory as uint8, whatever they came from (the embedded world, CIFAR, a folder)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N images of one size with their labels.

    pixels: uint8 (N, 3, H, W); labels: int64 (N,), indices into class_names. Raises ValueError on any other shape or dtype,
    or on a label without a name.
    """

    name: str
    split: str
    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            given = f"{self.pixels.dtype} {tuple(self.pixels.shape)}"
            raise ValueError(f"pixels of {self.name!r} are {given}: expected torch.uint8 (N, 3, H, W)")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.pixels.shape[:1]:
            given = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise ValueError(f"labels of {self.name!r} are {given}: expected torch.int64 ({len(self.pixels)},)")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            low, high = int(self.labels.min()), int(self.labels.max())
            raise ValueError(f"labels of {self.name!r} run from {low} to {high}: expected 0 to {len(self.class_names) - 1}")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor, split: str | None = None) -> ImageSet:
        """The images at `indices`, in that order, under another split name if given."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices], split=split or self.split)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of pixels, labels and class names: two sets with one fingerprint give the same numbers."""
        digest = hashlib.sha256(repr((tuple(self.pixels.shape), self.class_names)).encode())
        digest.update(self.pixels.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().contiguous().numpy().data)
        return digest.hexdigest()
