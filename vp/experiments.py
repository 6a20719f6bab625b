"""Every number of the report as one frozen Run, by name, at both scales; and how a Run is performed.

A scale is a table of names and sizes, nothing more: nothing below this file knows at which scale it runs.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vp.data import GaussianNoise, ImageSet, load_images, split_indices
from vp.evaluation import Batches, ImageBatches, PrefixBatches, Subset, per_image_correctness, wilson_interval
from vp.models import DEFAULT_TEMPLATE, FrozenCLIP, load_clip
from vp.prompts import VISUAL_PROMPTS, BatchScrambledDeepPrompt, DeepPrompt, FastDeepPromptedCLIP, PromptedCLIP
from vp.prompts.deep import Position, Readout
from vp.runtime import VpError, pick_device, provenance, seed_everything
from vp.training import Fit, Recipe, fit, load_trained

ScaleName = Literal["mini", "full"]


@dataclass(frozen=True)
class VisualPrompt:
    """Which visual prompt: a kind of VISUAL_PROMPTS and its size in pixels."""

    kind: str
    size: int

    def __str__(self) -> str:
        return f"{self.kind.replace('-', ' ')}, {self.size} px"

    def build(self, clip: FrozenCLIP) -> nn.Module:
        """A new prompt with random initial values, for the images that `clip` takes."""
        return VISUAL_PROMPTS[self.kind](self.size, clip.preprocess.size)


@dataclass(frozen=True)
class DeepTokens:
    """Which deep prompt: n tokens before block k, where they stand, which token is read out, and whether it is the control."""

    n: int
    block: int
    position: Position
    readout: Readout
    scrambled: bool = False

    def __str__(self) -> str:
        control = ", batch-scrambled (control)" if self.scrambled else ""
        return f"{self.n} token(s) before block {self.block}, {self.position}, {self.readout} readout{control}"

    def build(self, clip: FrozenCLIP) -> DeepPrompt:
        """A new prompt with random initial tokens of `clip`'s width."""
        kind = BatchScrambledDeepPrompt if self.scrambled else DeepPrompt
        return kind(self.n, clip.model.visual.transformer.width, self.block, self.position, self.readout)


@dataclass(frozen=True)
class Run:
    """One number: a backbone, perhaps with a prompt trained by a recipe, evaluated on a split of a dataset."""

    name: str
    table: str  # where the report prints it first, and the file of its expectation
    scale: ScaleName
    dataset: str
    split: Literal["train", "test"]  # which images the accuracy is measured on
    backbone: str
    prompt: VisualPrompt | DeepTokens | None = None  # None: zero-shot
    recipe: Recipe | None = None  # None: nothing to train
    weights_from: str | None = None  # the run whose trained prompt is evaluated here, on other data or under noise
    noise: GaussianNoise | None = None
    tested_epoch: Literal["last", "best"] = "last"
    template: str = DEFAULT_TEMPLATE

    def __post_init__(self) -> None:
        if (self.prompt is not None) != (self.recipe is not None or self.weights_from is not None):
            raise ValueError(f"run {self.name!r}: a prompt needs a recipe or the run its weights come from, and only a prompt does")

    def canonical(self) -> str:
        """What the number depends on, as JSON: all fields but the names by which people call it."""
        fields = {key: value for key, value in asdict(self).items() if key not in ("name", "table", "scale", "weights_from")}
        return json.dumps(fields, sort_keys=True)


@dataclass(frozen=True)
class Result:
    """What came out of a Run for one seed: per-image correctness (N,), trained weights, history, cost and provenance."""

    run: str
    scale: str
    dataset: str
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
        return 100 * self.history[-1]["validation_top1"]

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson interval of top-1, in percent."""
        low, high = wilson_interval(self.correct, self.total, confidence)
        return 100 * low, 100 * high

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON."""
        kept = ("run", "scale", "dataset", "seed", "history", "best_epoch", "trained_parameters", "seconds", "provenance")
        values = {key: getattr(self, key) for key in kept}
        return values | {"correct": self.correct, "total": self.total, "top1": self.top1, "interval95": self.interval()}


# -- the scales: names and sizes -------------------------------------------------------------------------------------------


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


SCALES: dict[str, Scale] = {
    "mini": Scale(
        name="mini",
        datasets={"10": "mini10", "100": "mini100"},
        backbone="mini-clip",
        patch_px=1,
        padding_px=6,
        blocks=(0, 6, 11),
        # Rates are chosen on validation images: tests/bench_recipes.py prints the table.
        patch_recipe=Recipe("adam", learning_rate=1.0, warmup_steps=0, epochs=2, batch_size=64),
        padding_recipe=Recipe("adam", learning_rate=0.1, warmup_steps=0, epochs=4, batch_size=64),
        deep_recipe=Recipe("adam", learning_rate=0.1, warmup_steps=0, epochs=3, batch_size=64),
    ),
    "full": Scale(
        name="full",
        datasets={"10": "cifar10", "100": "cifar100"},
        backbone="ViT-B-32-quickgelu/openai",
        patch_px=1,
        padding_px=30,
        blocks=(0, 6, 11),
        patch_recipe=Recipe(shuffle=False),
        padding_recipe=Recipe(shuffle=False),
        deep_recipe=Recipe(shuffle=False),
    ),
}
CLASSES = ("10", "100")
TOKEN_COUNTS = (1, 4, 8)
COLUMNS: dict[str, tuple[Position, Readout, bool]] = {
    "front": ("front", "first", False),  # the report's front column reads the first token, which is a prompt (errata 1)
    "back": ("back", "class", False),  # by the theorem also every other position with the class readout
    "scrambled": ("back", "class", True),  # what the report's back column ran for n = 4 and 8 (errata 2)
}
CURVE_STDS = (0.2, 0.3, 0.4, 0.5)


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
    """Deep prompts: datasets x blocks x token counts x columns (report 2.3), with the scrambled control as a third column."""
    return [
        Run(
            deep_name(classes, block, n, column),
            "table_3",
            scale.name,
            scale.datasets[classes],
            "test",
            scale.backbone,
            DeepTokens(n, block, position, readout, scrambled),
            scale.deep_recipe,
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
    return replace(run, name=name, table=table, recipe=None, weights_from=run.name if run.prompt else None, **changes)


def _table_5(scale: Scale, known: Mapping[str, Run]) -> list[Run]:
    """The 100-class set under Gaussian noise: clean values are runs of tables 1 and 2 (report 2.4)."""
    noisy = []
    for short, clean in {"zero-shot-100": known["zero-shot-100-test"], "padding-100": known["padding-100"]}.items():
        noisy.append(_elsewhere(clean, f"{short}-noise", "table_5", noise=GaussianNoise()))
        noisy.append(_elsewhere(clean, f"{short}-noise-clamped", "table_5", noise=GaussianNoise(clamp=True)))
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
    known = {run.name: run for table in (_table_1, _table_2, _table_3, _why) for run in table(sizes)}
    for derived in (_table_5, _table_6):
        known |= {run.name: run for run in derived(sizes, known)}
    return known


def find_run(name: str, scale: str) -> Run:
    """The Run called `name`. Raises VpError with the nearest names when there is none."""
    known = runs(scale)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or list(known)[:3]
        raise VpError(f"no run {name!r} at scale {scale}: did you mean {', '.join(near)}? `python -m vp list` shows all")
    return known[name]


# -- performing a Run ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _backbone(name: str, device: torch.device) -> FrozenCLIP:
    return load_clip(name, device)


Model = PromptedCLIP | FastDeepPromptedCLIP


def build_model(run: Run, class_names: tuple[str, ...], device: torch.device | str = "cpu") -> Model:
    """The classifier of a Run, its prompt with random initial values."""
    clip = _backbone(run.backbone, torch.device(device))
    if isinstance(run.prompt, DeepTokens):
        return FastDeepPromptedCLIP(clip, class_names, run.template, prompt=run.prompt.build(clip)).to(device)
    return PromptedCLIP(clip, class_names, run.template, run.prompt.build(clip) if run.prompt else None).to(device)


def restore_model(run: Run, trained: Result, class_names: tuple[str, ...], device: torch.device | str = "cpu") -> Model:
    """The classifier of a Run with trained weights: its own Result's, or those of the run it takes its weights from.

    Raises ValueError for the Result of any other run, or for weights of another shape.
    """
    if trained.run != (run.weights_from or run.name):
        raise ValueError(f"run {run.name!r} takes the weights of {run.weights_from or run.name!r}, given those of {trained.run!r}")
    model = build_model(run, class_names, device)
    prefix = f"{run.tested_epoch}/"
    load_trained(model, {k.removeprefix(prefix): v for k, v in trained.weights.items() if k.startswith(prefix)})
    return model


@lru_cache(maxsize=2)
def _prefix(images: ImageSet, clip: FrozenCLIP, block: int, device: torch.device, noise: GaussianNoise | None) -> PrefixBatches:
    """Shared by all runs of a process with the same data and block, one after another."""
    return PrefixBatches(ImageBatches(images, clip.preprocess, device, noise), clip, block)


def batches_for(model: Model, images: ImageSet, device: torch.device, noise: GaussianNoise | None = None) -> Batches:
    """What `model` takes of `images`: pictures, or what the backbone makes of them before the prompt's block."""
    if isinstance(model, FastDeepPromptedCLIP):
        return _prefix(images, model.clip, model.prompt.block, device, noise)
    return ImageBatches(images, model.clip.preprocess, device, noise)


def train(run: Run, model: Model, seed: int, device: torch.device, progress: bool = True) -> Fit:
    """Train the prompt of `model` by the Run's recipe on a seeded split of the training images."""
    if run.recipe is None:
        raise ValueError(f"run {run.name!r} has no recipe: there is nothing to train")
    images = load_images(run.dataset, "train")
    training, validation = split_indices(len(images), seed)
    batches = batches_for(model, images, device)
    return fit(model, Subset(batches, training), Subset(batches, validation), run.recipe, name=run.name, progress=progress)


def perform(run: Run, seed: int = 0, device: str = "auto", progress: bool = True, trained: Result | None = None) -> Result:
    """Train and evaluate `run` from scratch; the store keeps what comes back.

    Seeds are set before the split and the initial values. The validation part of the training images chooses the best epoch;
    test images are looked at once, at the end. A run with `weights_from` needs the Result of that run as `trained`: raises
    ValueError without it, for a random prompt must never be taken for a trained one.
    """
    chosen = pick_device(device)
    started = time.perf_counter()
    evaluated = load_images(run.dataset, run.split)
    if run.weights_from and trained is None:
        raise ValueError(f"run {run.name!r} needs the trained prompt of {run.weights_from!r}: perform that run first")
    seed_everything(seed)
    fitted, parameters = None, 0
    if trained is not None:
        model, parameters = restore_model(run, trained, evaluated.class_names, chosen), trained.trained_parameters
    else:
        model = build_model(run, evaluated.class_names, chosen)
    if run.recipe:
        fitted = train(run, model, seed, chosen, progress)
        load_trained(model, fitted.last if run.tested_epoch == "last" else fitted.best)
        parameters = sum(p.numel() for p in fitted.last.values())
    correct = per_image_correctness(model, batches_for(model, evaluated, chosen, run.noise))
    weights = {f"{epoch}/{k}": v.cpu() for epoch in ("last", "best") for k, v in (getattr(fitted, epoch) if fitted else {}).items()}
    return Result(
        run=run.name,
        scale=run.scale,
        dataset=run.dataset,
        seed=seed,
        correct_images=correct,
        weights=weights,
        history=fitted.history if fitted else [],
        best_epoch=fitted.best_epoch if fitted else None,
        trained_parameters=parameters,
        seconds=round(time.perf_counter() - started, 2),
        provenance=provenance(chosen),
    )


# -- what a Result is addressed by -----------------------------------------------------------------------------------------

_CODE_OF_A_RUN = (
    "vp.data.images",
    "vp.data.noise",
    "vp.data.preprocess",
    "vp.data.sources",
    "vp.evaluation.accuracy",
    "vp.evaluation.batches",
    "vp.experiments",
    "vp.models.clip",
    "vp.models.mini_clip",
    "vp.prompts.deep",
    "vp.prompts.prompted",
    "vp.prompts.visual",
    "vp.runtime",
    "vp.training",
)


@cache
def code_version(modules: tuple[str, ...] = _CODE_OF_A_RUN) -> str:
    """Hash of the statements of the modules a Run's number depends on; comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for module in modules:
        spec = find_spec(module)
        assert spec is not None
        digest.update(_statements(Path(str(spec.origin)).read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def _statements(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def run_key(run: Run, seed: int, device: str = "auto") -> str:
    """Content hash that addresses a Result: the Run's canonical form, seed, data, backbone, kind of device and code."""
    chosen = pick_device(device)
    splits = {run.split, "train"} if run.recipe else {run.split}
    parts = {
        "run": run.canonical(),
        "seed": seed if run.prompt else 0,
        "data": {split: load_images(run.dataset, split).fingerprint for split in sorted(splits)},
        "backbone": _backbone(run.backbone, chosen).fingerprint,
        "device": chosen.type,
        "code": code_version(),
        "weights": run_key(find_run(run.weights_from, run.scale), seed, device) if run.weights_from else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
