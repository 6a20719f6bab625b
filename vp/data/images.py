"""ImageSet: labelled images in memory as uint8, whatever they came from (the embedded world, CIFAR, a folder)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vp.machine.errors import VpError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N images of one size with their labels.

    pixels: uint8 (N, 3, H, W); labels: int64 (N,), indices into class_names. Raises ValueError on any other shape or dtype,
    or on a label without a name. `source` says where the pixels come from, for the provenance.
    """

    name: str
    split: str
    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    source: str = ""

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

    def without(self, other: ImageSet) -> ImageSet:
        """The images whose pixels are not among those of `other`, whatever their labels; `source` says how many were left out."""
        if self.pixels.shape[1:] != other.pixels.shape[1:]:
            return self
        seen = {image.tobytes() for image in other.pixels.cpu().contiguous().numpy()}
        fresh = torch.tensor([image.tobytes() not in seen for image in self.pixels.cpu().contiguous().numpy()], dtype=torch.bool)
        if fresh.all():
            return self
        count = int((~fresh).sum())
        told = f"{self.source or self.name}; {count} {self.split} images left out that are also {other.split} images"
        return replace(self.take(torch.where(fresh)[0]), source=told)

    def flipped(self) -> ImageSet:
        """The mirror images: left is right."""
        return replace(self, pixels=self.pixels.flip(-1))

    def sample(self, count: int) -> ImageSet:
        """`count` of the images, drawn at random but always the same ones, in their order; all of them if there are no more."""
        if count >= len(self):
            return self
        drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:count]
        return replace(self.take(drawn.sort().values), source=f"{self.source or self.name}; {count} of its {len(self)} images")

    def on(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Pixels and labels on `device`, moved there once however often they are asked for."""
        device = torch.device(device)
        if device not in self._copies:
            self._copies[device] = self.pixels.to(device), self.labels.to(device)
        return self._copies[device]

    @cached_property
    def _copies(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of pixels, labels and class names: two sets with one fingerprint give the same numbers."""
        digest = hashlib.sha256(repr((tuple(self.pixels.shape), self.class_names)).encode())
        digest.update(self.pixels.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def union(first: ImageSet, second: ImageSet) -> ImageSet:
    """Both sets pooled: the first's images and labels, then the second's with labels shifted by the first's classes.

    110 labels for a 10-class and a 100-class set (report 2.5). Raises VpError when they share a class name or differ in size.
    """
    if shared := sorted(set(first.class_names) & set(second.class_names)):
        raise VpError(f"{first.name} and {second.name} both have a class {shared[0]!r}: give sets with distinct class names")
    if first.pixels.shape[1:] != second.pixels.shape[1:]:
        sizes = f"{tuple(first.pixels.shape[2:])} and {tuple(second.pixels.shape[2:])}"
        raise VpError(f"images of {first.name} and {second.name} have sizes {sizes}: bring them to one size first")
    return ImageSet(
        name=f"{first.name}+{second.name}",
        split=first.split,
        pixels=torch.cat([first.pixels, second.pixels]),
        labels=torch.cat([first.labels, second.labels + len(first.class_names)]),
        class_names=first.class_names + second.class_names,
        source="; ".join(dict.fromkeys(filter(None, (first.source, second.source)))),
    )
