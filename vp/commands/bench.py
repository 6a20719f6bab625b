"""How fast a scale runs on a device: images a second of each kind of work, and the time each table would take.

Weights and images are random: speed does not depend on them, so that nothing needs to be downloaded. The code
that performs the runs is measured on a few images.
"""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vp.data import ImageSet
from vp.evaluation import Batches, Subset, per_image_correctness, time_each
from vp.experiments import SCALES, Run, ScaleName, runs, vary
from vp.experiments.perform import build_model
from vp.experiments.speed import duration, kept_for, kind_of_evaluation, kind_of_training, seconds_of
from vp.machine.device_lock import this_device
from vp.machine.errors import VpError
from vp.machine.provenance import provenance
from vp.machine.runtime import mixed_precision, pick_device, precision, seed_everything
from vp.training import Recipe, accumulate_gradient, fit

LEAST_SECONDS = 0.7  # of a measurement on CUDA
TABLES = ("table_1_2", "table_1", "table_2", "table_3", "table_5", "table_6")  # of the report; other runs only explain them


@dataclass(frozen=True)
class Work:
    """Work on an image that several runs share: training by one kind of method, or evaluation."""

    name: str
    run: Run  # one that does it
    trains: bool


@dataclass(frozen=True)
class Speed:
    """Images a second of one kind of work: median, slowest and fastest of the repeats; its floating-point operations; how many
    images were measured."""

    images_per_s: float
    slowest: float
    fastest: float
    gflop_per_image: float
    images: int

    def share(self, rate: float) -> float:
        """The part of `rate`, in FLOP/s, that this work makes use of."""
        return self.images_per_s * self.gflop_per_image * 1e9 / rate


def works(scale: ScaleName) -> list[Work]:
    """Every kind of work of a scale, with a run that does it: of deep prompts the ones with the most tokens."""
    found: dict[str, Work] = {}
    for run in runs(scale).values():
        if run.table not in TABLES:
            continue
        evaluation = kind_of_evaluation(run)
        if run.method.part != "prompt":
            found.setdefault(evaluation, Work(evaluation, run, trains=False))
        if kind := kind_of_training(run):
            found[kind] = Work(kind, run, trains=True)
    return sorted(found.values(), key=lambda work: work.trains)


def random_images(scale: ScaleName, count: int, classes: int) -> ImageSet:
    """Uniformly random pixels of the size of the scale's datasets."""
    generator = torch.Generator().manual_seed(0)
    px = SCALES[scale].image_px
    pixels = torch.randint(256, (count, 3, px, px), dtype=torch.uint8, generator=generator)
    return ImageSet("random", "train", pixels, torch.arange(count) % classes, tuple(f"class {i}" for i in range(classes)))


def measure(work: Work, device: torch.device, images: int, batch: int, repeats: int = 3) -> Speed:
    """How fast `work` goes: whole epochs of training on `images` images, or their evaluation, after one to warm up.

    On CUDA a training takes as many epochs as fill LEAST_SECONDS, at most the run's own: some record their steps first.
    """
    run = vary(work.run, rehearsal=True)
    if device.type == "cuda" and work.trains and kept_for(run):
        images = min(
            10 * images, SCALES[run.scale].sizes["train"]
        )  # a GPU trains so fast on it that an epoch's two ends would count
    shown = random_images(run.scale, images, classes=100)
    seed_everything(0)
    model = build_model(run, shown.class_names, device)
    if work.trains:
        batches = run.method.training_batches(model, shown, device, shared=False)
        recipe = replace(run.recipe or Recipe(), epochs=1, batch_size=batch, learning_rate=1e-6, warmup_steps=0)
        few = Subset(batches, torch.arange(1))

        def go() -> object:
            return fit(model, batches, few, recipe, progress=False)
    else:
        batches = run.method.evaluation_batches(model, shown, device, run.noise)

        def go() -> object:
            return per_image_correctness(model, batches, batch)

    epochs = 1
    if device.type == "cuda" and work.run.recipe and work.trains:
        wanted = math.ceil(LEAST_SECONDS / time_each({"work": go}, repeats=1)["work"][0])
        epochs = min(work.run.recipe.epochs, wanted)
        recipe = replace(recipe, epochs=epochs)
    seconds = time_each({"work": go}, repeats=repeats)["work"]
    while device.type == "cuda" and sum(seconds) < LEAST_SECONDS:  # short measurements of a GPU say little
        seconds += time_each({"work": go}, repeats=repeats, warmup=0)["work"]
    rates = sorted(images * epochs / s for s in seconds)
    return Speed(median(rates), rates[0], rates[-1], _flop_per_image(model, batches, min(batch, images), work.trains) / 1e9, images)


def _flop_per_image(model: nn.Module, batches: Batches, batch: int, trains: bool) -> float:
    inputs, labels = batches[torch.arange(batch)]
    with FlopCounterMode(display=False) as counter:
        if trains:
            model.train()
            accumulate_gradient(model, [(inputs, labels)], batch)
        else:
            with torch.no_grad(), mixed_precision(labels.device):
                model.eval()(inputs)
    model.zero_grad()
    return float(counter.get_total_flops()) / batch


def matrix_rate(device: torch.device, repeats: int = 5) -> float:
    """FLOP/s of the product of two large square matrices in the precision of the runs: the best of several."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=precision(device)) for _ in range(2))
    seconds = time_each({"product": lambda: a @ b}, repeats=repeats, warmup=2)["product"]
    return 2 * size**3 / min(seconds)


def project(scale: ScaleName, seconds_per_image: Callable[[str], float]) -> dict[str, float]:
    """Seconds that the runs of each table take, one after the other, for one seed, from the seconds an image of each kind of work.

    What the first of several runs computes for all (`kept_for`) is an evaluation of all training images, beside `seconds_of`.
    """
    sizes = SCALES[scale].sizes
    seconds: dict[str, float] = {}
    kept: set[str] = set()
    for run in runs(scale).values():
        taken = seconds_of(run, seconds_per_image, sizes["train"], (1 + run.dataset.count("+")) * sizes[run.split])
        if run.recipe:
            new = kept_for(run) - kept
            kept |= new
            taken += len(new) * sizes["train"] * seconds_per_image(kind_of_evaluation(run))
        seconds[run.table] = seconds.get(run.table, 0.0) + taken
    return seconds


def bench(
    scale: ScaleName, device: torch.device, images: int | None, batch: int | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure every kind of work of a scale and project its tables; said line by line, and given back as plain values."""
    whole = device.type == "cuda"
    images, batch = images or (5120 if whole else 8), batch or (128 if whole else 4)
    where = provenance(device)
    say(f"device: {where['device']}, {where['precision']}, {where['threads']} threads, torch {where['torch']}, {where['commit']}")
    more = ", ten times as many of what is computed once" if whole else ""
    say(f"random weights and images; {images} images a measurement{more}, batch {batch}" + _rehearsed(scale, whole))
    rate = matrix_rate(device)
    say(f"matrix rate: {rate / 1e12:.2f} TFLOP/s")
    speeds = {}
    for work in works(scale):
        speeds[work.name] = speed = measure(work, device, images, batch, repeats=3 if whole or scale == "mini" else 1)
        say(
            f"{work.name + ':':<40} {speed.images_per_s:10,.1f} images/s ({speed.slowest:,.1f} to {speed.fastest:,.1f}), "
            f"{speed.gflop_per_image:5.1f} GFLOP an image, {speed.share(rate):4.0%} of the matrix rate"
        )
    seconds = project(scale, lambda kind: 1 / speeds[kind].images_per_s)
    for table in TABLES:
        say(f"{table + ':':<40} {duration(seconds[table]):>10}")
    total = sum(seconds[table] for table in TABLES)
    say(f"{'these tables, one process, one seed:':<40} {duration(total):>10}")
    if scale == "full":
        for line in bars({name: speed.images_per_s for name, speed in speeds.items()}, total):
            say(line)
    if scale == "full" and not whole:
        say("figures of a GPU: NOT RUN, this machine has no CUDA device")
    return {
        "scale": scale, "images": images, "batch": batch, "matrix_flop_per_s": rate, "provenance": where,
        "speeds": {name: asdict(speed) | {"share_of_matrix_rate": speed.share(rate)} for name, speed in speeds.items()},
        "seconds": seconds, "total_seconds": total,
    }  # fmt: skip


def bars(images_per_s: Mapping[str, float], total_seconds: float) -> list[str]:
    """The figures measured here beside the bars for one H200 at full scale."""
    first, last = (images_per_s[f"deep prompt, k = {block}"] for block in (0, 11))
    found = {
        "visual prompt, images/s": (f"{images_per_s['visual prompt']:,.0f}", "at least 8,000"),
        "k = 11 against k = 0": (f"{last / first:.1f} times", "at least 30 times"),
        "these tables": (duration(total_seconds), "40 min or less"),
    }
    return [f"{what + ':':<40} {here:>10} (on one H200: {bar})" for what, (here, bar) in found.items()]


def _rehearsed(scale: ScaleName, whole: bool) -> str:
    return "" if whole or scale == "mini" else ": a rehearsal at reduced length, which says nothing about a GPU"


def command(arguments: Namespace) -> None:
    for option in ("images", "batch"):
        if (given := getattr(arguments, option)) is not None and given < 2:
            raise VpError(f"--{option} {given}: give at least 2")
    say = partial(print, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    device = pick_device(arguments.device)
    with this_device().alone():
        measured = bench(arguments.scale, device, arguments.images, arguments.batch, say)
    if arguments.json:
        print(json.dumps(measured, indent=2))
