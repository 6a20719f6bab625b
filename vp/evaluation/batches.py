"""Examples by index, for training and evaluation: preprocessed images, or activations of a frozen network, computed once."""

from __future__ import annotations

import warnings
from collections.abc import Sized
from typing import Any, Protocol

import torch
from torch import Tensor

from vp.data import GaussianNoise, ImageSet, Preprocess
from vp.evaluation.cost import wait_for_device
from vp.machine.computed_once import Content, once
from vp.machine.errors import out_of_memory
from vp.machine.home import given_bytes
from vp.machine.runtime import device_share, mixed_precision, to_device
from vp.models import FineTunedFromFeatures, FrozenCLIP, LinearProbeOfFeatures
from vp.prompts.deep import DeepPrompt, LastBlockInputs, last_block_inputs, last_block_kind, tokens_before_block

CACHE_GIB = "VP_CACHE_GIB"
KEPT_SHARE = 0.4  # of a process's part of a CUDA device's memory, where VP_CACHE_GIB is not set


class NotKeptWarning(UserWarning):
    """Frozen activations do not fit into the cache; they are recomputed on every pass, which takes longer."""


class Batches(Sized, Protocol):
    """Examples that a model takes by index."""

    def __getitem__(self, indices: Tensor) -> tuple[Any, Tensor]:
        """The inputs and labels (B,) at `indices` (B,), on the device of the computation."""


class ImageBatches:
    """An ImageSet on a device, preprocessed a batch at a time, with noise if given."""

    def __init__(
        self, images: ImageSet, preprocess: Preprocess, device: torch.device | str = "cpu", noise: GaussianNoise | None = None
    ) -> None:
        self.pixels, self.labels = images.on(device)
        self.preprocess = preprocess
        self.noise = noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        on_device = to_device(self.labels.device, indices)
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


class FlippedAtRandom:
    """Examples of `batches`, each of them with probability p replaced by that of `flipped`, its mirror image.

    Which are flipped is drawn anew for every batch from torch's global stream: torchvision's RandomHorizontalFlip(p).
    Raises ValueError when the two do not have the same number of examples, or p is no probability.
    """

    def __init__(self, batches: Batches, flipped: Batches, p: float = 0.5) -> None:
        if len(batches) != len(flipped) or not 0 <= p <= 1:
            raise ValueError(f"{len(batches)} examples and {len(flipped)} flipped with p = {p}: give as many of each, p in [0, 1]")
        self.batches, self.flipped, self.p = batches, flipped, p

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        flip = torch.rand(len(indices)) < self.p
        parts = [some[indices[chosen]] for some, chosen in ((self.batches, ~flip), (self.flipped, flip)) if chosen.any()]
        inputs, labels = (torch.cat(both) for both in zip(*parts, strict=True))
        back = to_device(inputs.device, torch.cat([torch.nonzero(~flip), torch.nonzero(flip)]).flatten().argsort())
        return inputs[back], labels[back]


class ComputedBatches:
    """Activations of a frozen network for each image, `compute(inputs)`, computed once and kept on the device.

    Tensors larger than `cache_bytes()`, and one-off requests (`keep=False`), are recomputed on every pass. With a `name`
    (`vp.machine.computed_once.address`), activations are computed once for all processes of a machine.
    """

    def __init__(self, images: ImageBatches, *, keep: bool = True, batch_size: int = 250, name: str | None = None) -> None:
        self.images = images
        self.kept: tuple[Tensor, ...] | None = None
        if not keep or not len(images):
            return
        first = self._computed(torch.arange(1))
        size = sum(part.numel() * part.element_size() for part in first) * len(images)
        if size > (room := cache_bytes(first[0].device)):
            if room:  # nobody needs to be told that what may keep nothing keeps nothing
                more = f"set {CACHE_GIB} to more, or share a GPU among fewer workers"
                self._warn(f"comes to {size / 2**30:.3g} GiB, more than the {room / 2**30:.3g} that this process may keep", more)
            return
        try:
            self.kept = self._all(first, batch_size) if name is None else self._once(name, first, batch_size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            less = f"set {CACHE_GIB} to less, or start fewer workers"  # others use the memory, too
            self._warn("comes to more than what memory is left", less)

    def _warn(self, why: str, remedy: str) -> None:
        what = f"what is kept of {len(self.images)} images {why}; it is recomputed on every pass: {remedy}"
        warnings.warn(what, NotKeptWarning, stacklevel=4)

    def _once(self, name: str, first: tuple[Tensor, ...], batch_size: int) -> tuple[Tensor, ...]:
        def compute() -> Content:
            kept = self._all(first, batch_size)
            wait_for_device()
            return {str(i): part for i, part in enumerate(kept)}, {}

        parts, _ = once(name, compute)
        return tuple(parts[str(i)].to(part.device) for i, part in enumerate(first))

    def _all(self, first: tuple[Tensor, ...], batch_size: int) -> tuple[Tensor, ...]:
        """Batches halve where memory is too small for them, down to a single image."""
        kept = tuple(part.new_empty(len(self.images), *part.shape[1:]) for part in first)
        start = 0
        while start < len(self.images):
            indices = torch.arange(start, min(start + batch_size, len(self.images)))
            try:
                parts = self._computed(indices)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or len(indices) == 1:
                    raise
                batch_size = len(indices) // 2
                continue
            for whole, part in zip(kept, parts, strict=True):
                whole[indices.to(whole.device)] = part
            start += len(indices)
        return kept

    def compute(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Preprocessed images (B, 3, S, S) to tensors of B rows each."""
        raise NotImplementedError

    def _computed(self, indices: Tensor) -> tuple[Tensor, ...]:
        inputs, _ = self.images[indices]
        with mixed_precision(inputs.device):
            return self.compute(inputs)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor) -> tuple[Any, Tensor]:
        on_device = to_device(self.images.labels.device, indices)
        parts = self._computed(indices) if self.kept is None else tuple(part[on_device] for part in self.kept)
        return self.assemble(parts), self.images.labels[on_device]

    def assemble(self, parts: tuple[Tensor, ...]) -> Any:
        """A model's inputs, from the rows of a batch."""
        return parts[0]


class FeatureBatches(ComputedBatches):
    """The inputs of FineTunedFromFeatures or LinearProbeOfFeatures: its features.

    Raises VpError for a network that has none before the stage that trains.

    Numbers of 4 bytes, 2 in half precision. For 50,000 images and ResNet-18: 102 MB under the head, 10 GB before the last stage.
    """

    def __init__(self, images: ImageBatches, network: FineTunedFromFeatures | LinearProbeOfFeatures, **kept: Any) -> None:
        if len(images):
            network.check(images[torch.arange(1)][0])
        self.network = network
        super().__init__(images, **kept)

    def compute(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Preprocessed images (B, 3, S, S) to features."""
        return (self.network.features(inputs),)


class PrefixBatches(ComputedBatches):
    """The inputs of FastDeepPromptedCLIP with a prompt like `prompt`: the tokens that enter its block, or LastBlockInputs.

    N L D numbers of 4 bytes, 2 in half precision: 27 MB for 4,000 images of mini-clip, 3.8 GB for 50,000 of ViT-B/32. For the last
    block twice as many where a token of the prompt is read out, else N (3 D + heads), some always of 4 bytes: 3.1 MB and 0.4 GB.
    """

    def __init__(self, images: ImageBatches, clip: FrozenCLIP, prompt: DeepPrompt, **kept: Any) -> None:
        self.clip, self.block, self.kind = clip, prompt.block, last_block_kind(clip, prompt)
        super().__init__(images, **kept)

    def compute(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Preprocessed images (B, 3, S, S) to the tokens (B, L, D), or the parts of LastBlockInputs."""
        tokens = tokens_before_block(self.clip, inputs, self.block)
        return (tokens,) if self.kind is None else tuple(vars(last_block_inputs(self.clip, tokens, self.kind)).values())

    def assemble(self, parts: tuple[Tensor, ...]) -> Tensor | LastBlockInputs:
        """Tokens, or LastBlockInputs."""
        return parts[0] if self.kind is None else self.kind(*parts)


def cache_bytes(device: torch.device) -> float:
    """The most that a process keeps of one set of activations, in bytes.

    VP_CACHE_GIB, else KEPT_SHARE of the process's share of a CUDA device's memory, else 4 GiB.

    Raises VpError when VP_CACHE_GIB is no number of at least 0.
    """
    otherwise = 4.0 * 2**30
    if device.type == "cuda":
        otherwise = KEPT_SHARE * torch.cuda.get_device_properties(device).total_memory / device_share()
    return given_bytes(CACHE_GIB, otherwise)
