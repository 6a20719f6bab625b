"""How a Run is performed: images, split, model, batches, training, evaluation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vp.data import ImageSet, load_images, split_indices
from vp.data.folders import SIDE
from vp.data.sources import parts_of_union
from vp.evaluation import Subset, per_image_correctness
from vp.experiments.run import Result, Run, source_of
from vp.machine.provenance import provenance
from vp.machine.runtime import pick_device, seed_everything
from vp.models.weights import image_px
from vp.training import Fit, fit, load_trained, trained_parameters


def images_of(run: Run, split: str) -> ImageSet:
    """The images of one split that a Run looks at: all, or as many as its limit says."""
    return load_images(run.dataset, split, run.limit, class_names=run.class_names, side=picture_side(run.dataset, run.backbone))


def picture_side(dataset: str, backbone: str) -> int:
    """The side of squares that a folder's larger pictures are brought to: 224 px, or that of a larger backbone's own images."""
    return max(SIDE, image_px(backbone)) if any(Path(part).is_dir() for part in parts_of_union(dataset)) else SIDE


def build_model(run: Run, class_names: tuple[str, ...], device: torch.device | str = "cpu") -> Any:
    """The classifier of a Run, its prompt or head with random initial values."""
    return run.method.classifier(run.backbone, class_names, run.template, torch.device(device))


def restore_model(run: Run, trained: Result, class_names: tuple[str, ...], device: torch.device | str = "cpu") -> Any:
    """The classifier of a Run with trained weights: its own Result's, or those of the run it takes its weights from.

    Raises ValueError for the Result of any other run, or for weights of another shape.
    """
    source = source_of(run)
    expected, given = ((some.scale, some.dataset, some.backbone) for some in (source, trained))
    if trained.run != source.name or given != expected:
        raise ValueError(
            f"run {run.name!r} takes the weights of {source.name!r}, trained at {', '.join(expected)}; given those of "
            f"{trained.run!r}, trained at {', '.join(given)}"
        )
    model = build_model(run, class_names, device)
    prefix = f"{run.tested_epoch}/"
    load_trained(model, {k.removeprefix(prefix): v for k, v in trained.weights.items() if k.startswith(prefix)})
    return model


def train(run: Run, model: nn.Module, seed: int, device: torch.device, progress: bool = True) -> Fit:
    """Train the prompt or head of `model` by the Run's recipe on a seeded split of the training images."""
    if run.recipe is None:
        raise ValueError(f"run {run.name!r} has no recipe: there is nothing to train")
    images = images_of(run, "train")
    training, validation = split_indices(len(images), seed, run.validation_share)
    batches = run.method.training_batches(model, images, device)
    shown = run.method.augmented(model, images, batches, device)
    return fit(model, Subset(shown, training), Subset(batches, validation), run.recipe, name=run.name, progress=progress)


def perform(run: Run, seed: int = 0, device: str = "auto", progress: bool = True, trained: Result | None = None) -> Result:
    """Train and evaluate `run` from scratch; the store keeps the Result.

    Seeds are set before the split and the initial values. The validation part of the training images chooses the best epoch;
    test images are looked at once, at the end. A run with `weights_from` needs the Result of that run as `trained`: raises
    ValueError without it, for random weights must never be taken for trained ones. Raises NotAvailable when data, weights, the
    device or its memory are missing, TrainingDiverged when the loss was not finite.
    """
    chosen = pick_device(device)
    started = time.perf_counter()
    evaluated = images_of(run, run.split)
    if run.weights_from and trained is None:
        raise ValueError(f"run {run.name!r} needs the trained weights of {run.weights_from!r}: perform that run first")
    seed_everything(seed)
    fitted, parameters = None, 0
    if trained is not None:
        model, parameters = restore_model(run, trained, evaluated.class_names, chosen), trained.trained_parameters
    else:
        model = build_model(run, evaluated.class_names, chosen)
    if run.recipe:
        fitted = train(run, model, seed, chosen, progress)
        load_trained(model, fitted.last if run.tested_epoch == "last" else fitted.best)
        parameters = sum(p.numel() for p in trained_parameters(model).values())
    correct = per_image_correctness(model, run.method.evaluation_batches(model, evaluated, chosen, run.noise))
    weights = {f"{epoch}/{k}": v.cpu() for epoch in ("last", "best") for k, v in (getattr(fitted, epoch) if fitted else {}).items()}
    return Result(
        run=run.name,
        scale=run.scale,
        dataset=run.dataset,
        backbone=run.backbone,
        seed=seed,
        correct_images=correct,
        weights=weights,
        history=fitted.history if fitted else [],
        best_epoch=fitted.best_epoch if fitted else None,
        trained_parameters=parameters,
        seconds=round(time.perf_counter() - started, 2),
        provenance=provenance(chosen) | ({"images": evaluated.source} if evaluated.source else {}),
    )
