"""Part 1 of the template: a pretrained network gets a new head (train.py), on noisy images, too (cifar100_utils.py)."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from tests.conformance.course.bench import Batches, Bench, Held, Shown

Names = dict[str, Callable[..., Any]]


def names(modules: Mapping[str, ModuleType], bench: Bench) -> Names:
    """The specification's names that these modules have, as functions that call them."""
    train = modules.get("train")
    found: Names = {}
    if hasattr(train, "get_model"):
        found["new_head"] = lambda network, classes: new_head(train.get_model, bench, network, classes)
    if hasattr(train, "evaluate_model"):
        found["accuracy"] = lambda model, batches: accuracy(train.evaluate_model, model, batches)
    if hasattr(train, "train_model") and hasattr(train, "evaluate_model"):

        def train_and_evaluate(
            model, train_set, validation, test, tested, learning_rate, momentum, warmup_steps, epochs, batch_size
        ) -> float:
            if tested != "best":
                raise NotImplementedError("train_model gives back the best epoch, not the last")
            trained = train_model(train, bench, model, train_set, validation, learning_rate, epochs, batch_size)
            return accuracy(train.evaluate_model, trained, [test])

        found["train_and_evaluate"] = train_and_evaluate
    return found


def new_head(get_model: Callable[..., nn.Module], bench: Bench, network: nn.Module, classes: int) -> nn.Module:
    """What get_model makes of the network that it loads. Which parameters train may be left to train_model: then declined."""
    with bench.with_network(network):
        model = get_model(num_classes=classes)
    if isinstance(model, nn.Module) and all(parameter.requires_grad for parameter in model.parameters()):
        raise NotImplementedError("get_model freezes nothing: what trains is said in train_model")
    return model


def accuracy(
    evaluate_model: Callable[..., Any], model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], device: str = "cpu"
) -> float:
    """The share of right answers that evaluate_model finds; in percent, too. Modes are the caller's business in the template."""
    modes = [(module, module.training) for module in model.modules()]
    right = Batches([(torch.eye(2), torch.arange(2))] * 2)
    try:
        full = float(evaluate_model(nn.Identity(), right, device))  # of a model that is always right: 1, or 100
        found = float(evaluate_model(model, Batches(batches), device))
    finally:
        for module, training in modes:
            module.training = training
    return found / 100 if full > 50 else found


def train_model(
    train: ModuleType,
    bench: Bench,
    model: nn.Module,
    train_set: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    learning_rate: float,
    epochs: int,
    batch_size: int,
) -> nn.Module:
    """The model as train_model gives it back, trained on these sets: its own optimiser, at a constant rate."""
    inputs, labels = validation
    validation = torch.cat([inputs, Held.always_right(inputs)]), torch.cat([labels, labels.new_zeros(1)])
    sets = tuple(Shown(*one, ()) for one in (train_set, validation))
    held = Held("fc", model)
    if not hasattr(train, "get_train_validation_set"):
        raise NotImplementedError("train.py imports no get_train_validation_set")
    with mock.patch.object(train, "get_train_validation_set", return_value=sets):
        trained = train.train_model(
            held, learning_rate, batch_size, epochs, str(bench.scratch), str(bench.scratch / "best.pt"), "cpu"
        )
    return held if trained is None else trained


def noise_of(kinds: Sequence[Callable[..., Any]]) -> Callable[[Tensor, float, int], Tensor]:
    """The template's AddGaussianNoise, given one image after the other, as a set's transform is; of two the seed tells which."""

    def gaussian_noise(images: Tensor, std: float, seed: int) -> Tensor:
        seed_all(seed)
        kind = kinds[seed % len(kinds)]
        options = {"always_apply": True} if "always_apply" in inspect.signature(kind).parameters else {}
        add = kind(mean=0.0, std=std, **options)
        return torch.stack([add(image) for image in images])

    return gaussian_noise


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
