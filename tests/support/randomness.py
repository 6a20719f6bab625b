"""Hypothesis draws torch's randomness, too."""

from __future__ import annotations

import hypothesis
import torch


class TorchStream:
    """Hypothesis seeds random and numpy by itself; this lets it seed, read and restore torch's global stream as well."""

    def seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed writes down the whole stack for CUDA, each time

    def getstate(self) -> torch.Tensor:
        return torch.get_rng_state()

    def setstate(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)


TORCH_STREAM = TorchStream()  # hypothesis keeps only a weak reference
hypothesis.register_random(TORCH_STREAM)
