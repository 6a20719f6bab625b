"""How the miniature's recipes were chosen: validation images and fidelity, for each recipe tried.

`pytest -s -n 2 tests/benchmarks/bench_recipes.py` trains every run of a kind by every recipe, over SEEDS, and prints a row for
each: kind, optimiser, rate, epochs, batch, top-1 on VALIDATION images (last epoch, mean over runs and seeds), how many differences
of expectations/fidelity.toml agree in sign and in size when these runs take the place of the committed ones, seconds of a run.
Results are kept in VP_HOME, so that a second start goes on where the first ended. expectations/README.md holds the table. On two
cores it takes about three hours; `-k deep-2` asks for one recipe.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from vp.experiments import runs
from vp.experiments.store import obtain
from vp.machine.home import home
from vp.report.expectations import load_expectations
from vp.report.fidelity import judge, load_fidelity

SEEDS = (0, 1, 2)
HOME = home()  # the user's, where tests have an empty one
EXPECTATIONS = Path(__file__).resolve().parents[2] / "expectations"
# What is changed in the recipe of vp/experiments/scales.py; {} is that recipe.
TRIES: dict[str, list[dict[str, Any]]] = {
    "deep": [
        {},
        {"epochs": 2},
        {"batch_size": 4},
        {"batch_size": 4, "learning_rate": 0.15},
        {"batch_size": 6},
    ],
    "padding": [
        {},
        {"epochs": 3, "warmup_steps": 75},
        {"learning_rate": 8.0},
        {"epochs": 1, "batch_size": 8},
        {"epochs": 1, "learning_rate": 8.0, "warmup_steps": 25},
    ],
    "fixed-patch": [{}, {"epochs": 3, "warmup_steps": 75}, {"batch_size": 8, "warmup_steps": 50}],
}


@pytest.mark.parametrize(("kind", "change"), [pytest.param(k, c, id=f"{k}-{i}") for k, v in TRIES.items() for i, c in enumerate(v)])
def test_recipe(kind: str, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Prints the row of one recipe."""
    monkeypatch.setenv("VP_HOME", str(HOME))
    # The two runs that ask why have recipes of their own.
    tried = [run for run in runs("mini").values() if run.recipe and run.name.startswith(kind) and run.table != "why"]
    values = {name: cell.value for name, cell in load_expectations(EXPECTATIONS, "mini").items()}
    validation, seconds = [], []
    for run in tried:
        assert run.recipe is not None
        own = replace(run, recipe=replace(run.recipe, **change))
        results = [obtain(own, seed, device="cpu", progress=False) for seed in SEEDS]
        values[run.name] = mean(result.top1 for result in results)
        validation += [100 * result.history[-1]["validation_accuracy"] for result in results]
        seconds += [result.seconds for result in results]
    judged = judge(load_fidelity(EXPECTATIONS), values)
    recipe = replace(tried[0].recipe, **change)  # type: ignore[type-var]
    cells = [kind, recipe.optimiser, f"{recipe.learning_rate:g}", recipe.epochs, recipe.batch_size, f"{mean(validation):.1f}"]
    cells += [sum(one.sign for one in judged), sum(one.size for one in judged), f"{mean(seconds):.0f}"]
    print(f"\n| {' | '.join(map(str, cells))} |", end="")
