"""A scale is a table of names, sizes and recipes: data, models, prompts, training and evaluation do not know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from vp.data.world import DOWNSTREAM_PX, DOWNSTREAM_SIZES
from vp.training import Recipe

ScaleName = Literal["mini", "full"]


@dataclass(frozen=True)
class Scale:
    """Names and sizes of one scale. `datasets` gives the 10-class and the 100-class set, `blocks` the first, middle, last."""

    name: ScaleName
    datasets: dict[str, str]
    backbone: str
    patch_px: int
    padding_px: int
    blocks: tuple[int, ...]
    patch_recipe: Recipe
    padding_recipe: Recipe
    deep_recipe: Recipe
    network: str  # to fine-tune
    sizes: Mapping[str, int]  # images of either set, by split
    image_px: int  # their side
    head_recipe: Recipe
    stage_recipe: Recipe


# Tables 2 and 3 of the report. The images keep one permutation: the original loader was not shuffled.
FULL_PROMPT_RECIPE = Recipe(
    "sgd", learning_rate=40.0, momentum=0.9, warmup_steps=1000, schedule="cosine", epochs=20, batch_size=128, shuffle=False
)
# The same for the miniature, in fewer and smaller steps; its frame learns at a tenth of the rate.
MINI_PATCH_RECIPE = replace(FULL_PROMPT_RECIPE, warmup_steps=25, epochs=1, batch_size=16, shuffle=True)
MINI_PADDING_RECIPE = replace(MINI_PATCH_RECIPE, learning_rate=4.0, warmup_steps=50, epochs=2)
SCALES: dict[str, Scale] = {
    "mini": Scale(
        name="mini",
        datasets={"10": "mini10", "100": "mini100"},
        backbone="mini-clip",
        patch_px=1,
        padding_px=6,
        blocks=(0, 6, 11),
        patch_recipe=MINI_PATCH_RECIPE,
        padding_recipe=MINI_PADDING_RECIPE,
        deep_recipe=Recipe("adam", learning_rate=0.3, warmup_steps=0, epochs=1, batch_size=8),
        network="mini-resnet",
        sizes=DOWNSTREAM_SIZES,
        image_px=DOWNSTREAM_PX,
        head_recipe=Recipe("adam", learning_rate=1e-3, warmup_steps=0, schedule="constant", epochs=6, batch_size=32),
        stage_recipe=Recipe("adam", learning_rate=1e-3, warmup_steps=0, schedule="constant", epochs=3, batch_size=32),
    ),
    "full": Scale(
        name="full",
        datasets={"10": "cifar10", "100": "cifar100"},
        backbone="ViT-B-32-quickgelu/openai",
        patch_px=1,
        padding_px=30,
        blocks=(0, 6, 11),
        patch_recipe=FULL_PROMPT_RECIPE,
        padding_recipe=FULL_PROMPT_RECIPE,
        deep_recipe=FULL_PROMPT_RECIPE,
        network="resnet18/IMAGENET1K_V1",
        sizes={"train": 50_000, "test": 10_000},
        image_px=32,
        head_recipe=Recipe("adam", learning_rate=1e-3, warmup_steps=0, schedule="constant", epochs=30),
        stage_recipe=Recipe("adam", learning_rate=1e-3, warmup_steps=0, schedule="constant", epochs=10),
    ),
}
