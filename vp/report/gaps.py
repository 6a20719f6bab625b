"""Why does an accuracy miss its expectation? A ladder of evaluations with one setting changed each says which closes the gap.

Nothing is trained again: the trained weights are evaluated under the settings that implementations of prompted CLIP most often
differ in. A rung closes the gap when the accuracy it gives lies within the tolerance of the expectation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from open_clip.transformer import QuickGELU
from torch import nn

from vp.evaluation import per_image_correctness
from vp.experiments import ZERO_SHOT, Result, Run
from vp.experiments.perform import build_model, images_of, restore_model
from vp.machine.runtime import computing_in, pick_device, precision
from vp.models import DEFAULT_TEMPLATE, FrozenCLIP, is_network
from vp.models.fast_blocks import FusedQuickGELU
from vp.models.templates import templates_of
from vp.report.expectations import Expectation, Verdict, cell_verdict

TEMPLATES = (DEFAULT_TEMPLATE, "a photo of a {}.", "This a photo of a {}", "{}")
RESIZE_MODES = ("bicubic", "bilinear")
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Rung:
    """One setting changed, the top-1 (%) that it gives, and whether that lies within the tolerance of the expectation."""

    setting: str
    value: float
    closes: bool


def climb(run: Run, trained: Result | None, expectation: Expectation, device: str = "auto") -> list[Rung]:
    """The rungs that apply to a run. `trained` holds the weights of a run that trains, or of the run it takes them from."""
    chosen = pick_device(device)
    images = images_of(run, run.split)
    names = images.class_names

    def top1(changed: Run, texts: list[str] | None = None) -> float:
        model: Any = restore_model(changed, trained, names, chosen) if trained else build_model(changed, names, chosen)
        if texts:
            model.text_features = model.clip.encode_text(texts)
        correct = per_image_correctness(model, changed.method.evaluation_batches(model, images, chosen, changed.noise))
        return 100 * float(correct.double().mean())

    found: dict[str, float] = {}
    if run.recipe:
        other: Literal["last", "best"] = "best" if run.tested_epoch == "last" else "last"
        found[f"weights of the {other} epoch"] = top1(replace(run, tested_epoch=other))
    if run.noise:
        words = "noise clamped to [0, 1]" if not run.noise.clamp else "noise not clamped"
        found[words] = top1(replace(run, noise=replace(run.noise, clamp=not run.noise.clamp)))
    for dtype in PRECISIONS:
        if dtype != precision(chosen):
            with computing_in(dtype):
                found[str(dtype).removeprefix("torch.")] = top1(run)
    if not is_network(run.backbone):
        for template in TEMPLATES:
            if template != run.template:
                found[f"template “{template}”"] = top1(replace(run, template=template))
        ensemble = templates_of("simple" if run.scale == "mini" else "openai")  # 7 and 80; the miniature knows few of their words
        if ensemble != run.template:
            found[f"ensemble of {len(ensemble)} templates"] = top1(replace(run, template=ensemble))
        if isinstance(run.template, str) and any(" " in name for name in names):  # CIFAR-100's files have `aquarium_fish`
            found["underscores kept in class names"] = top1(run, [run.template.format(name.replace(" ", "_")) for name in names])
        clip: Any = build_model(replace(run, method=ZERO_SHOT, recipe=None, weights_from=None), ("any",), chosen).clip
        with other_activation(clip) as name:
            found[name] = top1(run)
        for mode in RESIZE_MODES:
            if mode != clip.preprocess.mode:
                with resizing(clip, mode):
                    found[f"{mode} resizing"] = top1(run)
    return [Rung(name, value, cell_verdict(value, expectation) is Verdict.REPRODUCED) for name, value in found.items()]


def in_words(rungs: list[Rung]) -> str:
    """The ladder's outcome, in a sentence."""
    closing = [f"{rung.setting} ({rung.value:.2f})" for rung in rungs if rung.closes]
    if closing:
        return f"The gap closes with: {'; '.join(closing)}."
    tried = ", ".join(f"{rung.setting} {rung.value:.2f}" for rung in rungs)
    return f"No single setting closes the gap: {tried}."


@contextmanager
def other_activation(clip: FrozenCLIP) -> Iterator[str]:
    """GELU in place of QuickGELU or the reverse, in both towers, while the context lasts."""
    quick_kinds = (QuickGELU, FusedQuickGELU)
    children = [(module, name, child) for module in clip.modules() for name, child in module.named_children()]
    places = [place for place in children if isinstance(place[2], (*quick_kinds, nn.GELU))]
    quick = any(isinstance(child, quick_kinds) for *_, child in places)
    usual, clip.kept = clip.kept, {}  # text features of the other activation
    try:
        for module, name, _ in places:
            setattr(module, name, nn.GELU() if quick else QuickGELU())
        yield "GELU in place of QuickGELU" if quick else "QuickGELU in place of GELU"
    finally:
        clip.kept = usual
        for module, name, child in places:
            setattr(module, name, child)


@contextmanager
def resizing(clip: FrozenCLIP, mode: str) -> Iterator[None]:
    """Another resize mode while the context lasts."""
    usual = clip.preprocess
    try:
        clip.preprocess = replace(usual, mode=mode)
        yield
    finally:
        clip.preprocess = usual
