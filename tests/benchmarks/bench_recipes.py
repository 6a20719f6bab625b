"""How the miniature recipes were chosen: top-1 on VALIDATION images over a grid of learning rates.

`pytest -s tests/benchmarks/bench_recipes.py` prints the table. Test images are never looked at here. The recipes in
vp/experiments/scales.py are the
best rates of this table, one for each kind of prompt; for fine-tuning the report's own rate, which is as good as the best.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vp.data import load_images
from vp.experiments import runs
from vp.experiments.perform import build_model, train
from vp.machine.runtime import seed_everything

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
TRAINED = [run for run in runs("mini").values() if run.recipe and (run.table in ("table_1_2", "table_2") or "n8-back" in run.name)]


@pytest.mark.parametrize("run", TRAINED, ids=[run.name for run in TRAINED])
def test_validation_accuracy_by_learning_rate(run) -> None:
    """Prints validation top-1 after each epoch for each learning rate."""
    assert run.recipe is not None
    for rate in (factor * run.recipe.learning_rate for factor in FACTORS):
        seed_everything(0)
        tried = replace(run, recipe=replace(run.recipe, learning_rate=rate))
        model = build_model(tried, load_images(run.dataset, "train").class_names)
        fitted = train(tried, model, seed=0, device=torch.device("cpu"), progress=False)
        epochs = " ".join(f"{100 * row['validation_accuracy']:.1f}" for row in fitted.history)
        print(f"\n{run.name:<16} rate {rate:<6.4g} validation top-1 by epoch: {epochs}", end="")
