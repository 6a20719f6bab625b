"""How long a sweep will take, and what that rests on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

from vp.experiments import SCALES, DeepTokens, Result, Run, VisualPrompt, runs
from vp.experiments.own import count_images
from vp.experiments.speed import kept_for, kind_of_evaluation, kind_of_training, seconds_of
from vp.machine.errors import VpError
from vp.report.measured import MeasuredGpu
from vp.sweeps.shapes import VisionShape, vision_shape
from vp.sweeps.stored import stored
from vp.sweeps.tasks import Task

SecondsPerImage = Callable[[str], float]  # by kind of work; KeyError where it is not known


@dataclass
class Estimate:
    """Seconds of one device for the Tasks that are not in the store; how many have no basis; what it rests on, in words."""

    seconds: float = 0.0
    unknown: int = 0
    rests_on: list[str] = field(default_factory=list)


def passes(run: Run) -> float:
    """The work of a Run in passes of an image through a block: what runs of one kind take is proportional to it.

    A training step is a forward pass and a backward pass of about twice its work.
    """
    blocks = SCALES[run.scale].blocks[-1] + 1

    def of_an_image(kind: str) -> float:
        return blocks if kind == kind_of_evaluation(run) else 3 * run.method.blocks_passed(blocks)

    return seconds_of(run, of_an_image, count_images(run, "train") if run.recipe else 0, count_images(run, run.split))


def estimate(
    tasks: Sequence[Task],
    found: Sequence[Result | None],
    gpu: MeasuredGpu | None = None,
    measure: Callable[[Run], SecondsPerImage] | None = None,
    device: str = "auto",
) -> Estimate:
    """Of the Tasks without a Result in `found`: by seconds of stored results of like runs, those of the sweep and of the report;
    else by what was measured on `gpu`; else by `measure`, which measures the kinds of work of a Run here and now."""
    missing = [task for task, result in zip(tasks, found, strict=True) if result is None]
    like = _like(zip(tasks, found, strict=True))
    if wanted := {_alike(task.run) for task in missing} - {*like}:
        like |= _like(_of_the_report(wanted, {task.run.scale for task in missing}, device))
    counts: dict[str, int] = {}
    told, kept = Estimate(), set[str]()
    for task in missing:
        run = task.run
        if (rate := like.get(_alike(run))) is not None:
            told.seconds += rate * passes(run)
            basis = "like stored results"
        else:
            known, basis = _known(run, gpu, measure)
            try:
                told.seconds += _with_what_is_kept(run, known, kept)
            except KeyError:
                told.unknown += 1
                continue
        counts[basis] = counts.get(basis, 0) + 1
    told.rests_on = [f"{count} runs {basis}" for basis, count in counts.items()]
    if told.unknown:
        told.rests_on.append(f"{told.unknown} runs are not counted: nothing like them is in the store or was measured")
    return told


def _alike(run: Run) -> tuple[str, str | None, str]:
    """Runs for which this is the same take as long for each of their passes."""
    return run.backbone, kind_of_training(run), kind_of_evaluation(run)


def _like(known: Iterable[tuple[Task, Result | None]]) -> dict[tuple[str, str | None, str], float]:
    """Seconds a pass of each kind of run that is in the store, the median."""
    rates: dict[tuple[str, str | None, str], list[float]] = {}
    for task, result in known:
        if result is not None and result.seconds > 0:
            rates.setdefault(_alike(task.run), []).append(result.seconds / passes(task.run))
    return {kind: median(some) for kind, some in rates.items()}


def _of_the_report(wanted: set[tuple[str, str | None, str]], scales: set[str], device: str) -> Iterable[tuple[Task, Result | None]]:
    """The report's own runs of these kinds that are in the store."""
    for run in (run for scale in sorted(scales) for run in runs(scale).values() if _alike(run) in wanted):
        with suppress(VpError):  # images or weights that are not here
            yield Task(run, 0), stored(Task(run, 0), device)


def _known(run: Run, gpu: MeasuredGpu | None, measure: Callable[[Run], SecondsPerImage] | None) -> tuple[SecondsPerImage, str]:
    full = SCALES["full"]
    if gpu is not None and run.backbone in (full.backbone, full.network):
        return _of_gpu(gpu.images_per_s), f"by images/s of {gpu.device}, measured {gpu.date}"
    if gpu is not None and run.scale == "full" and (shape := vision_shape(run.backbone)) is not None:
        words = f"by images/s of {gpu.device} for {full.backbone}, scaled by the operations of their own backbones"
        return _scaled(_of_gpu(gpu.images_per_s), run, shape), words
    if measure is not None:
        return measure(run), "by images/s measured here now"
    nothing: dict[str, float] = {}
    return nothing.__getitem__, ""


def _of_gpu(images_per_s: Mapping[str, float]) -> SecondsPerImage:
    """Of blocks between measured ones by interpolation; a linear probe as any head on features."""
    measured = ((re.fullmatch(r"deep prompt, k = (\d+)", kind), rate) for kind, rate in images_per_s.items())
    deep = {int(block[1]): 1 / rate for block, rate in measured if block}

    def seconds_per_image(kind: str) -> float:
        kind = "head, frozen statistics" if kind == "linear probe" else kind
        if (rate := images_per_s.get(kind)) is not None:
            return 1 / rate
        block = re.match(r"deep prompt, k = (\d+)", kind)
        if block is None:
            raise KeyError(kind)
        k = int(block[1])
        below, above = (max((b for b in deep if b <= k), default=None), min((b for b in deep if b >= k), default=None))
        if below is None or above is None:
            raise KeyError(kind)
        share = (k - below) / (above - below) if above > below else 0.0
        return deep[below] + share * (deep[above] - deep[below])

    return seconds_per_image


def operations(tokens: int, width: int) -> float:
    """Floating-point operations of a transformer block on an image of T tokens of width D: T (24 D^2 + 4 T D)."""
    return tokens * (24.0 * width**2 + 4.0 * tokens * width)


def _scaled(known: SecondsPerImage, run: Run, shape: VisionShape) -> SecondsPerImage:
    """Seconds an image on another vision transformer: those of full scale's backbone times the ratio of operations.

    A deep prompt before block k of L takes (L - k) / L of one before block 0; before the last, what that takes at full scale.
    """
    full = SCALES["full"].backbone
    own = vision_shape(full)
    assert own is not None
    ratio = operations(shape.tokens, shape.width) / operations(own.tokens, own.width)
    whole = ratio * shape.blocks / own.blocks

    def seconds_per_image(kind: str) -> float:
        if kind.startswith("evaluation"):
            return whole * known(kind.replace(run.backbone.partition("/")[0], full.partition("/")[0]))
        if isinstance(run.method, DeepTokens):
            if run.method.block >= shape.blocks - 1:
                return ratio * known(f"deep prompt, k = {own.blocks - 1}")
            return whole * known("deep prompt, k = 0") * (shape.blocks - run.method.block) / shape.blocks
        return (whole if isinstance(run.method, VisualPrompt) else 1.0) * known(kind)

    return seconds_per_image


def _with_what_is_kept(run: Run, known: SecondsPerImage, kept: set[str]) -> float:
    """Seconds of a run; the first of several counts what is computed once for all as well. Raises KeyError for an unknown kind."""
    training = count_images(run, "train") if run.recipe else 0
    seconds = seconds_of(run, known, training, count_images(run, run.split))
    new = {f"{name}, {run.limit}" for name in kept_for(run)} - kept if run.recipe else set()
    kept |= new
    return seconds + len(new) * training * known(kind_of_evaluation(run))
