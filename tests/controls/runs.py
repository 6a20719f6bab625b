"""Wrong ways to perform a run. Each is put in place by `pytest.MonkeyPatch` and breaks one sentence of tests/test_0_runs.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vp.data import GaussianNoise
from vp.evaluation import ImageBatches, PrefixBatches
from vp.experiments import Method, perform

PERFORM = "vp.experiments.perform"


def tests_training_images(patch: pytest.MonkeyPatch) -> None:
    """Accuracy is measured on training images."""
    own = perform.images_of
    patch.setattr(f"{PERFORM}.images_of", lambda run, split: own(run, "train"))


def trains_on_validation_images(patch: pytest.MonkeyPatch) -> None:
    """All images train, those that validate included."""
    own = perform.split_indices
    patch.setattr(f"{PERFORM}.split_indices", lambda n, *more: (torch.arange(n), own(n, *more)[1]))


def looks_at_test_images_early(patch: pytest.MonkeyPatch) -> None:
    """Test images are evaluated before training, too."""
    own = perform.build_model

    def build(run: Any, *more: Any) -> Any:
        model, images = own(run, *more), perform.images_of(run, run.split)
        perform.per_image_correctness(model, ImageBatches(images, model.preprocess))
        return model

    patch.setattr(f"{PERFORM}.build_model", build)


def shuffles_test_images(patch: pytest.MonkeyPatch) -> None:
    """Correctness comes back in another order than the images have."""
    own = perform.per_image_correctness
    patch.setattr(f"{PERFORM}.per_image_correctness", lambda model, batches: own(model, batches).flip(0))


def tests_the_other_epoch(patch: pytest.MonkeyPatch) -> None:
    """The best epoch's weights where the last are asked for, and the reverse."""
    own = perform.fit

    def fit(*given: Any, **more: Any) -> Any:
        fitted = own(*given, **more)
        return replace(fitted, last=fitted.best, best=fitted.last)

    patch.setattr(f"{PERFORM}.fit", fit)


def trains_under_noise(patch: pytest.MonkeyPatch) -> None:
    """The evaluation's noise is there in training as well."""

    def batches(_: Method, model: Any, images: Any, device: torch.device, **__: Any) -> ImageBatches:
        return ImageBatches(images, model.preprocess, device, GaussianNoise(0.1))

    patch.setattr(Method, "training_batches", batches)


def evaluates_without_noise(patch: pytest.MonkeyPatch) -> None:
    """The run's noise is forgotten."""
    patch.setattr(Method, "evaluation_batches", lambda _, model, images, device, __: ImageBatches(images, model.preprocess, device))


def keeps_prefixes_by_size(patch: pytest.MonkeyPatch) -> None:
    """The prefix of one dataset is used for another of as many images."""
    kept: dict[tuple[int, int], Any] = {}

    def prefix(images: Any, clip: Any, prompt: Any, device: torch.device, _: bool) -> Any:
        key = len(images), prompt.block
        if key not in kept:
            kept[key] = PrefixBatches(ImageBatches(images, clip.preprocess, device), clip, prompt)
        return kept[key]

    patch.setattr("vp.experiments.methods.training_prefix", prefix)


def seeds_too_late(patch: pytest.MonkeyPatch) -> None:
    """The prompt's initial values are drawn before the seed is set."""
    own, seed = perform.build_model, perform.seed_everything
    patch.setattr(f"{PERFORM}.seed_everything", lambda _: None)

    def build(run: Any, *more: Any) -> Any:
        model = own(run, *more)
        seed(0)
        return model

    patch.setattr(f"{PERFORM}.build_model", build)


class HookedCLIP(torch.nn.Module):
    """Tokens put into the shared CLIP by hooks while it computes: forwards that overlap get each other's."""

    def __init__(self, clip: Any, model: Any) -> None:
        super().__init__()
        self.clip, self.model = clip, model

    def forward(self, images: Tensor) -> Tensor:
        prompt, blocks = self.model.prompt, self.clip.model.visual.transformer.resblocks
        handles = [
            blocks[prompt.block].register_forward_pre_hook(lambda _, given: (prompt.insert(given[0]), *given[1:])),
            blocks[-1].register_forward_hook(lambda _, __, output: prompt.for_pooling(output)),
        ]
        try:
            logits: Tensor = self.model.logits(self.clip.model.encode_image(images))
            return logits
        finally:
            for handle in handles:
                handle.remove()
