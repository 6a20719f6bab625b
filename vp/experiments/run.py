"""Every number of the report as one frozen Run, by name, at both scales, and the Result that comes out of one."""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from vp.data import GaussianNoise
from vp.evaluation import wilson_interval
from vp.experiments.methods import ZERO_SHOT, DeepTokens, Method, NewHead, VisualPrompt
from vp.experiments.scales import SCALES, Scale, ScaleName
from vp.machine.errors import VpError
from vp.models import DEFAULT_TEMPLATE, Template
from vp.models.weights import RANDOM
from vp.prompts.deep import Position, Readout
from vp.training import Recipe


@dataclass(frozen=True)
class Run:
    """One number: a backbone, perhaps with a prompt or a new head trained by a recipe, evaluated on a split of a dataset."""

    name: str
    table: str  # where the report prints it first, and the file of its expectation
    scale: ScaleName
    dataset: str
    split: Literal["train", "test"]  # which images the accuracy is measured on
    backbone: str
    method: Method = ZERO_SHOT  # what is learnt on the backbone
    recipe: Recipe | None = None  # None: nothing to train
    weights_from: str | None = None  # the run whose trained weights are evaluated here: on other data, under noise, scrambled
    noise: GaussianNoise | None = None
    tested_epoch: Literal["last", "best"] = "last"
    template: Template = DEFAULT_TEMPLATE
    class_names: tuple[str, ...] = ()  # in place of the dataset's own, in their order; none: its own
    validation_share: float = 0.2  # of the training images; they choose the best epoch
    limit: int | None = None  # this many images of each split, always the same ones, in place of all
    rehearsal: bool = False  # random weights and a few steps: whether it runs, not what comes out

    def __post_init__(self) -> None:
        if self.method.learns != (self.recipe is not None or self.weights_from is not None):
            raise ValueError(
                f"run {self.name!r}: a prompt or head needs a recipe or the run its weights come from, and nothing else does"
            )

    @property
    def kind(self) -> str | None:
        """Runs of one kind spread alike over seeds: those of a table, of a block and readout, all heads, all prompts under noise.
        None: no seed changes the number."""
        return self.method.spreads_like(self.table, self.noise is not None) if self.method.learns else None

    @property
    def relative_cost(self) -> float:
        """How long this Run trains beside others of its scale, in passes through one block; 0 where nothing trains."""
        return float(self.recipe.epochs * self.method.blocks_passed(SCALES[self.scale].blocks[-1] + 1)) if self.recipe else 0.0

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values; the method by the part of the network that it is: `prompt` or `head`."""
        fields = {name: value for name, value in asdict(self).items() if name != "method"}
        return fields | {"prompt": None, "head": None} | self.method.as_dict()

    def canonical(self) -> str:
        """Every setting that the number depends on, as JSON: all fields but names."""
        fields = {key: value for key, value in self.as_dict().items() if key not in ("name", "table", "scale", "weights_from")}
        return json.dumps(fields | {"method": type(self.method).__qualname__}, sort_keys=True)


@dataclass(frozen=True)
class Result:
    """The outcome of a Run for one seed: correctness by image (N,), trained weights, history (as in Fit), cost and provenance."""

    run: str
    scale: str
    dataset: str
    backbone: str
    seed: int
    correct_images: Tensor
    weights: dict[str, Tensor]
    history: list[dict[str, float]]
    best_epoch: int | None
    trained_parameters: int
    seconds: float
    provenance: dict[str, str]

    @property
    def correct(self) -> int:
        """Number of images whose top-1 class is the true one."""
        return int(self.correct_images.sum())

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.correct_images)

    @property
    def top1(self) -> float:
        """Top-1 accuracy in percent, 100 k / N."""
        return 100 * self.correct / self.total

    @property
    def validation_top1(self) -> float:
        """Top-1 on the validation images after the last epoch, in percent. Raises ValueError when nothing was trained."""
        if not self.history:
            raise ValueError(f"run {self.run!r} trained nothing: it has no validation accuracy")
        return 100 * self.history[-1]["validation_accuracy"]

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson interval of top-1, in percent."""
        low, high = wilson_interval(self.correct, self.total, confidence)
        return 100 * low, 100 * high

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON."""
        kept = (
            "run",
            "scale",
            "dataset",
            "backbone",
            "seed",
            "history",
            "best_epoch",
            "trained_parameters",
            "seconds",
            "provenance",
        )
        values = {key: getattr(self, key) for key in kept}
        return values | {"correct": self.correct, "total": self.total, "top1": self.top1, "interval95": self.interval()}


# -- the runs of the report, table by table ---------------------------------------------------------------------------------


CLASSES = ("10", "100")
TOKEN_COUNTS = (1, 4, 8)
COLUMNS: dict[str, tuple[Position, Readout, bool]] = {
    "front": ("front", "first", False),  # the report's front column reads the first token, which is a prompt (errata 1)
    "back": ("back", "class", False),  # by the theorem also every other position with the class readout
    "scrambled": ("back", "class", True),  # what the report's back column ran for n = 4 and 8 (errata 2)
}
HEADS: dict[str, NewHead] = {
    "residual-100": NewHead(),  # as the report trains it
    "residual-100-flip": NewHead(flip=0.5),
    "residual-100-frozen": NewHead("frozen"),
    "residual-100-frozen-flip": NewHead("frozen", flip=0.5),
    "residual-100-first": NewHead("frozen", stages=("layer1",)),
    "residual-100-last": NewHead("frozen", stages=("layer4",)),
}
CURVE_STDS = (0.2, 0.3, 0.4, 0.5)


def _table_1_2(scale: Scale) -> list[Run]:
    """A residual network fine-tuned on the 100-class set: heads, and heads with the first or last stage (report 1.2)."""
    return [
        Run(
            name,
            "table_1_2",
            scale.name,
            scale.datasets["100"],
            "test",
            scale.network,
            recipe=scale.stage_recipe if head.stages else scale.head_recipe,
            tested_epoch="best",
            method=head,
            validation_share=0.1,
        )
        for name, head in HEADS.items()
    ]


def _table_1(scale: Scale) -> list[Run]:
    """Zero-shot CLIP on train and test (report 2.1 a)."""
    return [
        Run(f"zero-shot-{classes}-{split}", "table_1", scale.name, scale.datasets[classes], split, scale.backbone)
        for classes in CLASSES
        for split in ("train", "test")
    ]


def _table_2(scale: Scale) -> list[Run]:
    """Visual prompts on test (report 2.2)."""
    prompts = {
        "fixed-patch": (VisualPrompt("fixed-patch", scale.patch_px), scale.patch_recipe),
        "padding": (VisualPrompt("padding", scale.padding_px), scale.padding_recipe),
    }
    return [
        Run(f"{kind}-{classes}", "table_2", scale.name, scale.datasets[classes], "test", scale.backbone, prompt, recipe)
        for classes in CLASSES
        for kind, (prompt, recipe) in prompts.items()
    ]


def deep_name(classes: str, block: int, n: int, column: str) -> str:
    """The name of a cell of table 3."""
    return f"deep-{classes}-block{block}-n{n}-{column}"


def _table_3(scale: Scale) -> list[Run]:
    """Deep prompts: datasets x blocks x token counts x columns (report 2.3), with the scrambled control as a third column.

    One token cannot be scrambled: the control of n = 1 is evaluated with the weights of the correct prompt.
    """
    return [
        Run(
            deep_name(classes, block, n, column),
            "table_3",
            scale.name,
            scale.datasets[classes],
            "test",
            scale.backbone,
            DeepTokens(n, block, position, readout, scrambled),
            recipe=None if scrambled and n == 1 else scale.deep_recipe,
            weights_from=deep_name(classes, block, n, "back") if scrambled and n == 1 else None,
        )
        for classes in CLASSES
        for block in scale.blocks
        for n in TOKEN_COUNTS
        for column, (position, readout, scrambled) in COLUMNS.items()
    ]


def _why(scale: Scale) -> list[Run]:
    """Why reading the first token fails late: is it the length of the training, or the number of tokens?"""
    last = scale.blocks[-1]
    position, readout, _ = COLUMNS["front"]
    long = replace(scale.deep_recipe, epochs=10 * scale.deep_recipe.epochs)
    tried = {
        "long": (DeepTokens(8, last, position, readout), long),
        "wide": (DeepTokens(24, last, position, readout), scale.deep_recipe),
    }
    return [
        Run(f"deep-100-block{last}-{what}", "why", scale.name, scale.datasets["100"], "test", scale.backbone, tokens, recipe)
        for what, (tokens, recipe) in tried.items()
    ]


def _elsewhere(run: Run, name: str, table: str, **changes: Any) -> Run:
    """A trained or zero-shot run evaluated under noise or on other data."""
    return replace(run, name=name, table=table, recipe=None, weights_from=run.name if run.method.learns else None, **changes)


def _table_5(scale: Scale, known: Mapping[str, Run]) -> list[Run]:
    """The 100-class set under Gaussian noise: clean values are runs of tables 1, 2 and 1.2 (report 2.4). And zero-shot on the
    10-class set, which a replication has."""
    clean_runs = {"residual-100": "residual-100", "zero-shot-100": "zero-shot-100-test", "padding-100": "padding-100"}
    noisy = [_elsewhere(known["zero-shot-10-test"], "zero-shot-10-noise", "table_5", noise=GaussianNoise())]
    for short, clean in {short: known[name] for short, name in clean_runs.items()}.items():
        noisy.append(_elsewhere(clean, f"{short}-noise", "table_5", noise=GaussianNoise()))
        noisy.append(_elsewhere(clean, f"{short}-noise-clamped", "table_5", noise=GaussianNoise(clamp=True)))
        if isinstance(clean.method, NewHead):
            continue
        noisy += [_elsewhere(clean, f"{short}-noise-{std}", "noise_curve", noise=GaussianNoise(std)) for std in CURVE_STDS]
    return noisy


def _table_6(scale: Scale, known: Mapping[str, Run]) -> list[Run]:
    """Prompts of one set evaluated on the 110 classes of both (report 2.5). Such runs are named `...-on-110`."""
    both = "+".join(scale.datasets[classes] for classes in CLASSES)
    middle = scale.blocks[len(scale.blocks) // 2]
    trained = [
        *(f"{kind}-{classes}" for kind in ("padding", "fixed-patch") for classes in CLASSES),
        *(deep_name(classes, middle, TOKEN_COUNTS[-1], "back") for classes in CLASSES),
    ]
    zero_shot = _elsewhere(known["zero-shot-10-test"], "zero-shot-on-110", "table_6", dataset=both)
    return [zero_shot, *(_elsewhere(known[name], f"{name}-on-110", "table_6", dataset=both) for name in trained)]


@cache
def runs(scale: str) -> dict[str, Run]:
    """All Runs of a scale by name, in the order of the report. Raises VpError for an unknown scale."""
    if scale not in SCALES:
        raise VpError(f"no scale {scale!r}: give one of {', '.join(SCALES)}")
    sizes = SCALES[scale]
    known = {run.name: run for table in (_table_1_2, _table_1, _table_2, _table_3, _why) for run in table(sizes)}
    for derived in (_table_5, _table_6):
        known |= {run.name: run for run in derived(sizes, known)}
    return known


def own_runs(file: Path) -> dict[str, Run]:
    """The Runs of a Python file, from its list `RUNS`, by name. Raises VpError where it has none."""
    if not file.is_file():
        raise VpError(f"there is no file {file}: give a Python file with a list RUNS of vp.experiments.Run")
    sys.path.insert(0, str(file.absolute().parent))
    found = getattr(import_module(file.stem), "RUNS", None)
    if not isinstance(found, list) or not found or not all(isinstance(run, Run) for run in found):
        raise VpError(f"{file} has RUNS = {found!r}: give a list of vp.experiments.Run")
    return {run.name: run for run in found}


def find_run(name: str, scale: str, own: Mapping[str, Run] | None = None) -> Run:
    """The Run called `name`, of a scale or of one's `own`. Raises VpError with the nearest names when there is none."""
    known = {**runs(scale), **(own or {})}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or list(known)[:3]
        raise VpError(f"no run {name!r} at scale {scale}: did you mean {', '.join(near)}? `python -m vp list` shows all")
    return known[name]


def vary(run: Run, limit: int | None = None, rehearsal: bool = False) -> Run:
    """A Run on `limit` images of each split, with its warm-up in proportion; or its rehearsal: random weights, two epochs."""
    if limit is not None and limit < 10:
        raise VpError(f"--limit {limit}: give at least 10 images, of which some train and some validate")
    if not rehearsal:
        return replace(run, limit=limit, recipe=warmed_up_on(limit or math.inf, run))
    recipe = run.recipe and replace(run.recipe, epochs=2, warmup_steps=min(2, run.recipe.warmup_steps))
    backbone = f"{run.backbone.partition('/')[0]}/{RANDOM}"
    return replace(run, limit=limit, rehearsal=True, recipe=recipe, backbone=backbone)


def warmed_up_on(images: float, run: Run) -> Recipe | None:
    """The run's recipe with as large a share of its warm-up as `images` are of the scale's training images, at most all."""
    share = min(1.0, images / SCALES[run.scale].sizes["train"])
    return run.recipe and replace(run.recipe, warmup_steps=math.ceil(share * run.recipe.warmup_steps))


def source_of(run: Run) -> Run:
    """The Run whose trained weights this one takes, varied as this one is; the Run itself when it takes none."""
    return vary(find_run(run.weights_from, run.scale), run.limit, run.rehearsal) if run.weights_from else run
