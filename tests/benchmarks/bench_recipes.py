"""How the miniature recipes were chosen: top-1 on VALIDATION images over learning rates and batch sizes.

`pytest -s tests/benchmarks/bench_recipes.py` prints a row for each try around the recipes in vp/experiments/scales.py. Every try of
a run shows the same number of images, so that a smaller batch means more steps and the same time. Test images are never looked at
here. expectations/README.md tells what was tried on the way.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vp.data import load_images
from vp.experiments import find_run
from vp.experiments.perform import build_model, train
from vp.machine.runtime import seed_everything

RUNS = (
    "fixed-patch-100",
    "padding-100",
    "deep-100-block0-n4-back",
    "deep-100-block6-n4-back",
    "deep-100-block11-n4-back",
    "residual-100-frozen",
)
RATES = (0.1, 0.3, 1.0, 3.0)  # of the recipe's own
BATCHES = (0.5, 1.0, 4.0)  # of the recipe's own


@pytest.mark.parametrize("name", RUNS)
def test_validation_accuracy_by_rate_and_batch(name: str) -> None:
    """Prints validation top-1 after the last epoch for each learning rate and batch size."""
    run = find_run(name, "mini")
    assert run.recipe is not None
    for share in BATCHES:
        for factor in RATES:
            seed_everything(0)
            rate, batch = factor * run.recipe.learning_rate, int(share * run.recipe.batch_size)
            warmup = int(run.recipe.warmup_steps / share)
            tried = replace(run, recipe=replace(run.recipe, learning_rate=rate, batch_size=batch, warmup_steps=warmup))
            model = build_model(tried, load_images(run.dataset, "train").class_names)
            fitted = train(tried, model, seed=0, device=torch.device("cpu"), progress=False)
            validation = 100 * fitted.history[-1]["validation_accuracy"]
            print(f"\n| {name} | {run.recipe.optimiser} | {rate:g} | {batch} | {validation:.1f} |", end="")
