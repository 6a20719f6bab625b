"""Every number of the report as one frozen Run, by name, at both scales; and how a Run is performed.

A scale is a table of names and sizes, nothing more: nothing below this file knows at which scale it runs.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vp.data import ImageSet, load_images, train_validation_split
from vp.evaluation import ImageBatches, per_image_correctness, wilson_interval
from vp.models import DEFAULT_TEMPLATE, FrozenCLIP, load_clip
from vp.prompts import VISUAL_PROMPTS, PromptedCLIP
from vp.runtime import VpError, pick_device, provenance, seed_everything
from vp.training import Fit, Recipe, fit, load_trained

ScaleName = Literal["mini", "full"]


@dataclass(frozen=True)
class VisualPrompt:
    """Which visual prompt: a kind of VISUAL_PROMPTS and its size in pixels."""

    kind: str
    size: int

    def build(self, clip: FrozenCLIP) -> nn.Module:
        """A new prompt with random initial values, for the images that `clip` takes."""
        return VISUAL_PROMPTS[self.kind](self.size, clip.preprocess.size)


@dataclass(frozen=True)
class Run:
    """One number: a backbone, perhaps with a prompt trained by a recipe, evaluated on a split of a dataset."""

    name: str
    table: str  # where the report prints it first, and the file of its expectation
    scale: ScaleName
    dataset: str
    split: Literal["train", "test"]  # which images the accuracy is measured on
    backbone: str
    prompt: VisualPrompt | None = None  # None: zero-shot
    recipe: Recipe | None = None  # None: nothing to train
    tested_epoch: Literal["last", "best"] = "last"
    template: str = DEFAULT_TEMPLATE

    def canonical(self) -> str:
        """What the number depends on, as JSON: all fields but the names by which people call it."""
        fields = asdict(self)
        return json.dumps({key: fields[key] for key in sorted(fields) if key not in ("name", "table", "scale")}, sort_keys=True)


@dataclass(frozen=True)
class Result:
    """What came out of a Run for one seed: per-image correctness (N,), trained weights, history, cost and provenance."""

    run: str
    scale: str
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

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson interval of top-1, in percent."""
        low, high = wilson_interval(self.correct, self.total, confidence)
        return 100 * low, 100 * high

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON."""
        kept = ("run", "scale", "seed", "history", "best_epoch", "trained_parameters", "seconds", "provenance")
        values = {key: getattr(self, key) for key in kept}
        return values | {"correct": self.correct, "total": self.total, "top1": self.top1, "interval95": self.interval()}


# -- the scales: names and sizes -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Names and sizes of one scale. `datasets` gives the 10-class and the 100-class set."""

    name: ScaleName
    datasets: dict[str, str]
    backbone: str
    patch_px: int
    padding_px: int
    patch_recipe: Recipe
    padding_recipe: Recipe


SCALES: dict[str, Scale] = {
    "mini": Scale(
        name="mini",
        datasets={"10": "mini10", "100": "mini100"},
        backbone="mini-clip",
        patch_px=1,
        padding_px=6,
        patch_recipe=Recipe("adam", learning_rate=1.0, warmup_steps=0, epochs=2, batch_size=64),
        padding_recipe=Recipe("adam", learning_rate=0.1, warmup_steps=0, epochs=4, batch_size=64),
    ),
    "full": Scale(
        name="full",
        datasets={"10": "cifar10", "100": "cifar100"},
        backbone="ViT-B-32-quickgelu/openai",
        patch_px=1,
        padding_px=30,
        patch_recipe=Recipe(shuffle=False),
        padding_recipe=Recipe(shuffle=False),
    ),
}


def _table_1(scale: Scale) -> list[Run]:
    """Zero-shot CLIP on train and test (report 2.1 a)."""
    return [
        Run(f"zero-shot-{classes}-{split}", "table_1", scale.name, scale.datasets[classes], split, scale.backbone)
        for classes in ("10", "100")
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
        for classes in ("10", "100")
        for kind, (prompt, recipe) in prompts.items()
    ]


@cache
def runs(scale: str) -> dict[str, Run]:
    """All Runs of a scale by name, in the order of the report. Raises VpError for an unknown scale."""
    if scale not in SCALES:
        raise VpError(f"no scale {scale!r}: give one of {', '.join(SCALES)}")
    listed = [*_table_1(SCALES[scale]), *_table_2(SCALES[scale])]
    return {run.name: run for run in listed}


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


def build_model(run: Run, class_names: tuple[str, ...], device: torch.device | str = "cpu") -> PromptedCLIP:
    """The classifier of a Run, its prompt with random initial values."""
    clip = _backbone(run.backbone, torch.device(device))
    prompt = run.prompt.build(clip) if run.prompt else None
    return PromptedCLIP(clip, class_names, run.template, prompt).to(device)


def restore_model(run: Run, result: Result, class_names: tuple[str, ...], device: torch.device | str = "cpu") -> PromptedCLIP:
    """The classifier of a Run with the weights that its Result was measured with."""
    model = build_model(run, class_names, device)
    if run.prompt:
        prefix = f"{run.tested_epoch}/"
        load_trained(model, {k.removeprefix(prefix): v for k, v in result.weights.items() if k.startswith(prefix)})
    return model


def perform(run: Run, seed: int = 0, device: str = "auto", progress: bool = True) -> Result:
    """Train and evaluate `run` from scratch; the store keeps what comes back.

    Seeds are set before the split and the initial values. The validation part of the training images chooses the best epoch;
    test images are looked at once, at the end.
    """
    chosen = pick_device(device)
    started = time.perf_counter()
    seed_everything(seed)
    evaluated = load_images(run.dataset, run.split)
    model = build_model(run, evaluated.class_names, chosen)
    weights: dict[str, Tensor] = {}
    history: list[dict[str, float]] = []
    best_epoch, parameters = None, 0
    if run.recipe:
        fitted = train(run, model, seed, chosen, progress)
        weights = {f"last/{k}": v for k, v in fitted.last.items()} | {f"best/{k}": v for k, v in fitted.best.items()}
        load_trained(model, fitted.last if run.tested_epoch == "last" else fitted.best)
        history, best_epoch = fitted.history, fitted.best_epoch
        parameters = sum(p.numel() for p in fitted.last.values())
    correct = per_image_correctness(model, _batches(evaluated, model, chosen))
    seconds = round(time.perf_counter() - started, 2)
    kept = {name: tensor.cpu() for name, tensor in weights.items()}
    return Result(run.name, run.scale, seed, correct, kept, history, best_epoch, parameters, seconds, provenance(chosen))


def train(run: Run, model: PromptedCLIP, seed: int, device: torch.device, progress: bool = True) -> Fit:
    """Train the prompt of `model` by the Run's recipe on a seeded split of the training images."""
    if run.recipe is None:
        raise ValueError(f"run {run.name!r} has no recipe: there is nothing to train")
    training, validation = train_validation_split(load_images(run.dataset, "train"), seed)
    batches, held_out = _batches(training, model, device), _batches(validation, model, device)
    return fit(model, batches, held_out, run.recipe, name=run.name, progress=progress)


def _batches(images: ImageSet, model: PromptedCLIP, device: torch.device) -> ImageBatches:
    return ImageBatches(images, model.clip.preprocess, device)


# -- what a Result is addressed by -----------------------------------------------------------------------------------------

_CODE_OF_A_RUN = (
    "vp.data.images",
    "vp.data.preprocess",
    "vp.data.sources",
    "vp.evaluation.accuracy",
    "vp.experiments",
    "vp.models.clip",
    "vp.models.mini_clip",
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
        "seed": seed if run.recipe else 0,
        "data": {split: load_images(run.dataset, split).fingerprint for split in sorted(splits)},
        "backbone": _backbone(run.backbone, chosen).fingerprint,
        "device": chosen.type,
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
