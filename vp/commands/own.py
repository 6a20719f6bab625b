"""python -m vp run --dataset FOLDER --method ...: a Run without editing code, beside zero-shot CLIP and a linear probe."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from statistics import mean
from typing import Any

import torch

from vp.data import load_images
from vp.data.folders import read_class_names
from vp.evaluation import paired_test
from vp.experiments import Result, Run
from vp.experiments.own import own_run
from vp.experiments.store import obtain
from vp.machine.errors import VpError
from vp.models import Template
from vp.models.templates import templates_of

SETTINGS = ("size", "n", "block", "position", "readout")


def run_own(arguments: Namespace, newer_than: float | None) -> None:
    """Perform it for each seed, or read it from the store, and print accuracy with interval beside both baselines."""
    if arguments.seeds < 1:
        raise VpError(f"--seeds {arguments.seeds}: give at least 1")
    names: tuple[str, ...] = ()
    own = load_images(arguments.dataset, "test", strict=arguments.strict) if arguments.strict or arguments.class_names else None
    if arguments.strict:
        load_images(arguments.dataset, "train", strict=True)
    if arguments.class_names and own:
        names = read_class_names(arguments.class_names, own.class_names)
    template: Template = templates_of(arguments.templates) if arguments.templates else arguments.template
    common: dict[str, Any] = {"template": template, "class_names": names}
    settings = {key: getattr(arguments, key) for key in SETTINGS}
    asked = own_run(arguments.dataset, arguments.method, arguments.backbone, arguments.recipe, **common, **settings)
    wanted = {asked.method.__class__: asked}
    for method in ("zero-shot", "linear-probe"):
        other = own_run(arguments.dataset, method, arguments.backbone, **common)
        wanted.setdefault(other.method.__class__, other)
    found = []
    for run in (replace(run, limit=arguments.limit) for run in wanted.values()):
        seeds = range(arguments.seed, arguments.seed + (arguments.seeds if run.method.learns else 1))
        found.append((run, [obtain(run, seed, device=arguments.device, newer_than=newer_than) for seed in seeds]))
    if arguments.json:
        print(json.dumps([{"method": str(run.method), "results": [r.summary() for r in some]} for run, some in found], indent=2))
        return
    for run, results in found:
        _tell(run, results)
    for run, results in found[1:]:
        print(f"{asked.method!s} against {run.method!s}: {against(found[0][1], results)}")
    print(f"images: {found[0][1][0].provenance.get('images', arguments.dataset)}")


def against(first: list[Result], second: list[Result]) -> str:
    """The difference of mean top-1 over seeds, and the p-value of the sign test over the images that both were asked about."""
    points = mean(result.top1 for result in first) - mean(result.top1 for result in second)
    most = max(len(first), len(second))  # what no seed changes has one result, which stands for all
    answers = [torch.stack([some[i % len(some)].correct_images for i in range(most)]) for some in (first, second)]
    return f"{points:+.2f} points, p = {paired_test(*answers).p_value:.2g}"


def _tell(run: Run, results: list[Result]) -> None:
    for result in results:
        low, high = result.interval()
        seed = f", seed {result.seed}" if run.method.learns else ""
        print(f"{run.method!s:<28}{seed}: {result.correct} of {result.total}, top-1 {result.top1:.2f}%, 95% {low:.2f}-{high:.2f}%")
    if len(results) > 1:
        tops = [result.top1 for result in results]
        print(f"{run.method!s:<28}, mean of {len(tops)} seeds: {mean(tops):.2f}% ({min(tops):.2f} to {max(tops):.2f}%)")
