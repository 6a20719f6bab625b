"""Images whose set, split and index can be read off their pixels, and a classifier that notes all that it is shown.

Which images the classifier knows depends on its weights, so that every number of a run can be told beforehand. `Performance` is a
run as the classifier saw it: training and validation of each epoch, then the test.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vp.data import ImageSet
from vp.experiments import NewHead, Result, Run
from vp.training import Recipe

CLASSES = {"a": 10, "b": 100, "c": 2}
COUNTS = {"a": {"train": 45, "test": 32}, "b": {"train": 45, "test": 32}, "c": {"train": 45, "test": 251}}
SPLITS = ("train", "test")
MARGIN = 2.0  # of the logit of the class that is named over all others

Image = tuple[str, str, int]  # set, split, index
Perform = Callable[..., Result]


def label_of(image: Image) -> int:
    """The true class within the image's own set: neighbours differ, and so do the splits."""
    name, split, index = image
    return (7 * index + SPLITS.index(split)) % CLASSES[name]


def knows(image: Image, state: float) -> bool:
    """Does the classifier name this image's class when its weight is `state`? Three images of five, others at each state."""
    name, split, index = image
    mixed = 31 * index + 17 * SPLITS.index(split) + 7 * list(CLASSES).index(name) + 13 * math.floor(8 * state + 0.1234567)
    return mixed % 5 < 3


@cache
def images_of_set(name: str, split: str) -> ImageSet:
    """2 x 2 px: the index in the red channel, set and split in the green; the right column of the blue is bright."""
    count = COUNTS[name][split]
    pixels = torch.zeros(count, 3, 2, 2, dtype=torch.uint8)
    pixels[:, 0] = torch.arange(count)[:, None, None]
    pixels[:, 1] = 10 * list(CLASSES).index(name) + SPLITS.index(split)
    pixels[:, 2, :, 1] = 100
    labels = torch.tensor([label_of((name, split, i)) for i in range(count)])
    return ImageSet(name, split, pixels, labels, tuple(f"{name} {label}" for label in range(CLASSES[name])))


def images_of_run(run: Run, split: str) -> list[Image]:
    """All images of a split of the run's sets, in order."""
    return [(name, split, i) for name in run.dataset.split("+") for i in range(COUNTS[name][split])]


def count_of(run: Run, split: str) -> int:
    """How many images of a split the run may look at."""
    return sum(min(run.limit or count, count) for count in (COUNTS[name][split] for name in run.dataset.split("+")))


@dataclass(frozen=True)
class Shown:
    """A batch as it came to the classifier, and how it was asked."""

    inputs: Tensor  # (B, 3, 2, 2)
    training: bool
    gradients: bool
    precision: torch.dtype
    state: float  # of the classifier's weight
    start: tuple[float, ...]  # its initial values

    @cached_property
    def images(self) -> list[Image]:
        """Which they are."""
        index, code = (self.inputs[:, channel].mean((1, 2)).round().long().tolist() for channel in (0, 1))
        return [(list(CLASSES)[c // 10], SPLITS[c % 10], i) for i, c in zip(index, code, strict=True)]

    @cached_property
    def mirrored(self) -> list[bool]:
        """Which of them are mirrored."""
        columns = self.inputs[:, 2].mean(1)
        return (columns[:, 0] > columns[:, 1]).tolist()

    @property
    def noise(self) -> Tensor:
        """What the inputs have beside the images' own pixels."""
        clean = torch.stack([images_of_set(name, split).pixels[i] for name, split, i in self.images]).float()
        mirrored = torch.tensor(self.mirrored)[:, None, None, None]
        return self.inputs - torch.where(mirrored, clean.flip(-1), clean)


class Notes:
    """What a classifier was built from and shown; no setting of its method."""

    def __init__(self) -> None:
        self.built: list[dict[str, Any]] = []
        self.shown: list[Shown] = []
        self.features: list[Shown] = []  # what was asked for features

    def __deepcopy__(self, _: object) -> Notes:
        return self


class Ticks(torch.autograd.Function):
    """Logits as they are; the gradient of the weight is -1 at every step."""

    @staticmethod
    def forward(_: Any, logits: Tensor, weight: Tensor) -> Tensor:
        """Logits."""
        return logits.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The logits' gradient, and that of the weight."""
        return gradient, torch.tensor(-1.0)


class Known(nn.Module):
    """Names the true class of the images that it `knows`, and the next class for all others.

    Its weight is the sum of the learning rates so far, under SGD without momentum. `start` keeps its random initial values.
    """

    name = "known"
    fingerprint = "known"

    def __init__(self, class_names: tuple[str, ...], notes: Notes) -> None:
        super().__init__()
        self.class_names, self.notes = class_names, notes
        self.weight = nn.Parameter(torch.zeros(()))
        self.start = nn.Parameter(torch.rand(4))

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Pixels as they are, as numbers."""
        return pixels.float()

    def _shown(self, inputs: Tensor) -> Shown:
        precise = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        state, start = float(self.weight.detach()), tuple(self.start.tolist())
        return Shown(inputs.detach().clone(), self.training, torch.is_grad_enabled(), precise, state, start)

    def features(self, inputs: Tensor) -> Tensor:
        """Images (B, 3, 2, 2) to features, which are the images."""
        self.notes.features.append(self._shown(inputs))
        return inputs.clone()

    def check(self, images: Tensor) -> None:
        """Features give what images give."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (B, 3, 2, 2) to logits (B, K)."""
        shown = self._shown(inputs)
        self.notes.shown.append(shown)
        right = [self.class_names.index(f"{image[0]} {label_of(image)}") for image in shown.images]
        wrong = [not knows(image, shown.state) for image in shown.images]
        named = (torch.tensor(right) + torch.tensor(wrong)) % len(self.class_names)
        logits = MARGIN * nn.functional.one_hot(named, len(self.class_names)).float()
        ticked: Tensor = Ticks.apply(logits, self.weight)
        return ticked


@dataclass(frozen=True)
class KnownAnswers(NewHead):
    """The method of `Known`; batches, flips and features are those of NewHead."""

    notes: Notes = field(default_factory=Notes, compare=False, repr=False)

    def classifier(self, backbone: str, class_names: tuple[str, ...], template: str, device: torch.device) -> nn.Module:
        """A new `Known`, with a note of what it was built from."""
        built = {"backbone": backbone, "class_names": class_names, "template": template}
        model = Known(class_names, self.notes)
        drawn = (model.start.tolist(), random.random(), float(np.random.rand()))
        self.notes.built.append(built | {"drawn": drawn})
        return model

    def as_dict(self) -> dict[str, Any]:
        """The settings, without the notes."""
        return {self.part: {name: value for name, value in asdict(self).items() if name != "notes"}}


SGD = Recipe(learning_rate=1.0, momentum=0.0, warmup_steps=0, schedule="constant", epochs=4, batch_size=16)
RUN = Run("known", "none", "mini", "a", "test", "known", KnownAnswers(), SGD)


@dataclass(frozen=True)
class Epoch:
    """What was shown in training, then in validation."""

    training: list[Shown]
    validation: list[Shown]

    @property
    def trained(self) -> list[Image]:
        """The training images in their order."""
        return [image for shown in self.training for image in shown.images]

    @property
    def validated(self) -> list[Image]:
        """The validation images in their order."""
        return [image for shown in self.validation for image in shown.images]


@dataclass(frozen=True)
class Performance:
    """A run as its classifier saw it, and its result."""

    run: Run
    result: Result
    built: list[dict[str, Any]]
    epochs: list[Epoch]
    test: list[Shown]
    features: list[Shown]

    @property
    def tested(self) -> list[Image]:
        """The test images in their order."""
        return [image for shown in self.test for image in shown.images]

    def in_training(self) -> Iterator[Shown]:
        """All that was shown before the test."""
        for epoch in self.epochs:
            yield from epoch.training
            yield from epoch.validation

    @property
    def tested_epoch(self) -> int:
        """The 1-based epoch whose weights the sentence wants tested: the last, or the earliest of those that validate best."""
        accuracies = [correct_of(epoch.validation) for epoch in self.epochs]
        return len(accuracies) if self.run.tested_epoch == "last" else accuracies.index(max(accuracies)) + 1


def correct_of(batches: list[Shown]) -> int:
    """How many of the images are known."""
    return sum(knows(image, shown.state) for shown in batches for image in shown.images)


def performance(perform: Perform, run: Run, seed: int = 0, **more: Any) -> Performance:
    """Perform a run of KnownAnswers and sort what its classifier was shown.

    An epoch is what was shown in training mode and what follows it; the test is what follows the last validation.
    """
    notes = Notes()
    assert isinstance(run.method, KnownAnswers)
    run = replace(run, method=replace(run.method, notes=notes))
    result = perform(run, seed, device="cpu", progress=False, **more)
    epochs: list[Epoch] = []
    test: list[Shown] = []
    previous = False
    for shown in notes.shown:
        if shown.training and not previous:
            epochs.append(Epoch([], []))
        previous = shown.training
        (epochs[-1].training if shown.training else epochs[-1].validation if epochs else test).append(shown)
    if epochs:
        validation = round(run.validation_share * count_of(run, "train"))
        last, seen = epochs[-1].validation, 0
        following = last[:]
        last.clear()
        while following and seen < validation:
            last.append(following.pop(0))
            seen += len(last[-1].images)
        test += following
    return Performance(run, result, notes.built, epochs, test, notes.features)
