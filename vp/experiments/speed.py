"""How long a Run takes, from the seconds that an image takes in each kind of work: training by a kind of method, or evaluation."""

from __future__ import annotations

from collections.abc import Callable

from vp.experiments.run import Run
from vp.experiments.scales import SCALES


def kind_of_training(run: Run) -> str | None:
    """Runs of one kind train equally fast. None: nothing trains."""
    return run.method.work(SCALES[run.scale].blocks[-1] + 1) if run.recipe else None


def kind_of_evaluation(run: Run) -> str:
    """Runs of one kind are evaluated equally fast: by backbone, and whether noise is drawn, image by image on the CPU."""
    return f"evaluation{' under noise' if run.noise else ''}, {run.backbone.partition('/')[0]}"


def kept_for(run: Run) -> set[str]:
    """Names of the activations that a run caches for all training images: prefixes of deep prompts, features under a head."""
    kept = f"{run.dataset}, {kind_of_training(run)}"
    return {kept, f"{kept}, mirrored"} if run.method.keeps() > 1 else {kept} if run.method.keeps() else set()


def seconds_of(run: Run, seconds_per_image: Callable[[str], float], training: float, tested: float) -> float:
    """Seconds of a Run that trains and validates on `training` images and is evaluated on `tested` ones.

    After each epoch it passes its validation images, which is taken to cost a third of training on them: a step is a forward pass
    and a backward pass of about twice its work. What is computed once for several runs (`kept_for`) is not counted.
    """
    seconds = tested * seconds_per_image(kind_of_evaluation(run))
    if run.recipe and (kind := kind_of_training(run)):
        held_out = run.validation_share * training
        seconds += run.recipe.epochs * (training - held_out + held_out / 3) * seconds_per_image(kind)
    return seconds


def duration(seconds: float) -> str:
    """In words, to two digits: 45 s, 12 min, 7.3 h, 2.1 days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            value = seconds / size
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{seconds:.0f} s"
