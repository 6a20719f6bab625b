"""Gaussian noise on normalised images: the distribution shift of report 2.4."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianNoise:
    """x + e with e ~ N(0, std^2) for each pixel and channel AFTER normalisation (std 0.1 is about 0.027 in pixel units).

    The noise of an image depends on `seed` and the image's index only, so that every model sees the same noise, whatever its
    batch size. `clamp` also cuts the sum to [0, 1] in normalised space, as the original code did. Raises ValueError for a
    negative or non-finite std.
    """

    std: float = 0.1
    clamp: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.std < float("inf"):
            raise ValueError(f"noise of std {self.std}: give 0 or more")

    def __call__(self, images: Tensor, indices: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) with their indices (B,) in the dataset, to noisy ones; the batch given stays as it was."""
        noise = np.empty((len(indices), *images.shape[1:]), dtype=np.float32)

        def draw(one: Any, index: int) -> None:
            np.random.default_rng((self.seed, index)).standard_normal(dtype=np.float32, out=one)

        with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # numpy draws without Python's lock
            for _ in threads.map(draw, noise, indices.tolist()):
                pass
        noisy = images + self.std * torch.from_numpy(noise).to(images)
        return noisy.clamp(0, 1) if self.clamp else noisy
