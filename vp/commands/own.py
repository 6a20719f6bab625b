"""python -m vp run --dataset FOLDER --method ...: a Run without editing code, beside zero-shot CLIP and a linear probe."""

from __future__ import annotations

import json
import math
import sys
import warnings
from argparse import Namespace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from vp.data import load_images
from vp.data.folders import PictureWarning, read_class_names
from vp.evaluation import paired_test
from vp.experiments import Result, Run
from vp.experiments.own import fitted, own_run
from vp.experiments.perform import build_model, images_of, picture_side
from vp.experiments.store import obtain
from vp.machine.errors import VpError
from vp.machine.runtime import pick_device
from vp.models import DEFAULT_TEMPLATE, Template
from vp.models.templates import templates_of

SETTINGS = ("size", "n", "block", "position", "readout")
OF_ONES_OWN = ("method", *SETTINGS, "backbone", "recipe", "template", "templates", "seeds", "class_names", "strict")


def run_own(arguments: Namespace, newer_than: float | None) -> None:
    """Perform it for each seed, or read it from the store, and print accuracy with interval beside both baselines."""
    count = 1 if arguments.seeds is None else arguments.seeds
    if count < 1:
        raise VpError(f"--seeds {count}: give at least 1")
    if arguments.template and arguments.templates:
        raise VpError("--template and --templates are both given: give one of them")
    names: tuple[str, ...] = ()
    backbone, method = arguments.backbone or "mini-clip", arguments.method or "zero-shot"
    if arguments.strict:
        for split in ("train", "test"):
            load_images(arguments.dataset, split, strict=True, side=picture_side(arguments.dataset, backbone))
    if arguments.class_names:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*class names are", PictureWarning)  # of the names that are replaced
            images = load_images(arguments.dataset, "test", side=picture_side(arguments.dataset, backbone))
            names = read_class_names(arguments.class_names, images.class_names)
    template: Template = templates_of(arguments.templates) if arguments.templates else arguments.template or DEFAULT_TEMPLATE
    common: dict[str, Any] = {"template": template, "class_names": names}
    settings = {key: getattr(arguments, key) for key in SETTINGS}
    asked = own_run(arguments.dataset, method, backbone, arguments.recipe or "", **common, **settings)
    wanted = {asked.method.__class__: asked}
    for method in ("zero-shot", "linear-probe"):
        other = own_run(arguments.dataset, method, backbone, **common)
        wanted.setdefault(other.method.__class__, other)
    runs = [fitted(run, arguments.limit, arguments.recipe or "") for run in wanted.values()]
    asked = runs[0]
    _check(asked, arguments.device)
    found = []
    for run in runs:
        seeds = range(arguments.seed, arguments.seed + (count if run.method.learns else 1))
        found.append((run, [obtain(run, seed, device=arguments.device, newer_than=newer_than) for seed in seeds]))
    differences = [(str(run.method), *against(found[0][1], results)) for run, results in found[1:]]
    images = found[0][1][0].provenance.get("images", arguments.dataset)
    if arguments.json:
        results = [{"method": str(run.method), "results": [result.summary() for result in some]} for run, some in found]
        compared = [{"against": baseline, "points": points, "p_value": p} for baseline, points, p in differences]
        print(json.dumps({"images": images, "methods": results, "differences": compared}, indent=2))
        return
    for run, some in found:
        _tell(run, some)
    for baseline, points, p in differences:
        print(f"{asked.method!s} against {baseline}: {points:+.2f} points, p = {p:.2g}")
    print(f"images: {images}")


def _check(run: Run, device: str) -> None:
    """Build it once, so that a prompt that does not fit the backbone is an error before anything trains."""
    images, training = images_of(run, "test"), images_of(run, "train")
    if run.recipe and round(len(training) * run.validation_share) < 1:
        least = math.floor(0.5 / run.validation_share) + 1
        raise VpError(f"{run.dataset} has {len(training)} training images, too few to validate on any: give at least {least}")
    try:
        build_model(run, images.class_names, pick_device(device))
    except ValueError as error:
        raise VpError(f"{run.method} does not fit {run.backbone}: {error}") from error
    if run.backbone == "mini-clip" and Path(run.dataset).is_dir():
        print(
            "note: mini-clip knows drawn shapes only; for photographs give --backbone ViT-B-32-quickgelu/openai",
            file=sys.stderr,
        )


def against(first: list[Result], second: list[Result]) -> tuple[float, float]:
    """The difference of mean top-1 over seeds, and the p-value of the sign test over the images that both were asked about."""
    points = mean(result.top1 for result in first) - mean(result.top1 for result in second)
    most = max(len(first), len(second))  # what no seed changes has one result, which stands for all
    answers = [torch.stack([some[i % len(some)].correct_images for i in range(most)]) for some in (first, second)]
    return points, paired_test(*answers).p_value


def _tell(run: Run, results: list[Result]) -> None:
    for result in results:
        low, high = result.interval()
        seed = f", seed {result.seed}" if run.method.learns else ""
        print(f"{run.method!s:<28}{seed}: {result.correct} of {result.total}, top-1 {result.top1:.2f}%, 95% {low:.2f}-{high:.2f}%")
    if len(results) > 1:
        tops = [result.top1 for result in results]
        print(f"{run.method!s:<28}, mean of {len(tops)} seeds: {mean(tops):.2f}% ({min(tops):.2f} to {max(tops):.2f}%)")
