"""How to train: the recipe and its learning rate at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """How to train. Defaults are the report's for prompts on CLIP (settings: lr 40, warm-up 1,000 steps, then cosine)."""

    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 40.0
    momentum: float = 0.9  # SGD only
    warmup_steps: int = 1000
    schedule: Literal["cosine", "constant"] = "cosine"  # after the warm-up
    epochs: int = 20
    batch_size: int = 128  # the last batch of an epoch may be smaller: no image is dropped
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.optimiser not in ("sgd", "adam") or self.schedule not in ("cosine", "constant"):
            raise ValueError(
                f"no optimiser {self.optimiser!r} with schedule {self.schedule!r}: give sgd or adam, cosine or constant"
            )
        if not 0 < self.learning_rate < math.inf or not 0 <= self.momentum < 1:
            raise ValueError(f"{self} cannot train: give a finite rate above 0 and a momentum from 0 to below 1")
        if self.epochs < 1 or self.batch_size < 1 or self.warmup_steps < 0:
            raise ValueError(f"{self} cannot train: epochs and batch size must be above 0, warm-up steps not below")


def learning_rate_at(step: int, total_steps: int, recipe: Recipe) -> float:
    """Learning rate of a 0-based step: linear warm-up over W steps, then cosine to 0 over the rest (or constant).

    rate (s + 1) / W for s < W; then rate (1 + cos(pi (s - W) / (T - W))) / 2. A warm-up longer than the training is cut to it:
    W = min(warmup_steps, T).
    """
    warmup = min(recipe.warmup_steps, total_steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total_steps - warmup)))
