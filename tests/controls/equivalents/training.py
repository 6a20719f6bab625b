"""Right implementations of the names of sections 1.2, 2.4, 2.5 and of those that all share, written otherwise than vp."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Images = tuple[Tensor, Tensor, Sequence[str]]


def gaussian_noise(images: Tensor, std: float, seed: int) -> Tensor:
    """One stream for the whole batch, by numpy and in float64."""
    drawn = np.random.default_rng(seed).normal(scale=std, size=tuple(images.shape))
    return torch.from_numpy(images.numpy() + drawn)


def union(first: Images, second: Images) -> tuple[np.ndarray, Tensor, tuple[str, ...]]:
    """Image by image, with labels in 32 bits and names looked up."""
    names = tuple(first[2]) + tuple(second[2])
    pictures, labels = [], []
    for pixels, numbers, own in (first, second):
        for picture, number in zip(pixels, numbers, strict=True):
            pictures.append(picture.numpy())
            labels.append(names.index(own[int(number)]))
    return np.stack(pictures), torch.tensor(labels, dtype=torch.int32), names


def split(count: int, validation_share: float, seed: int) -> tuple[list[int], np.ndarray]:
    """By Python's own generator; the parts in increasing order, and of two kinds."""
    held_out = set(random.Random(seed).sample(range(count), math.floor(count * validation_share + 0.5)))
    return [i for i in range(count) if i not in held_out], np.array(sorted(held_out))


@torch.no_grad()
def accuracy(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Counts one image at a time, on a copy of the model."""
    asleep = copy.deepcopy(model).eval()
    right, total = torch.zeros(()), 0
    for inputs, labels in batches:
        for one, label in zip(inputs, labels, strict=True):
            right += bool(asleep(one[None]).argmax(-1) == label)
            total += 1
    return right / total


def learning_rate_at(step: int, total_steps: int, learning_rate: float, warmup_steps: int) -> Tensor:
    """As the smaller of a ramp and a wave, a tensor in float32."""
    ramp = torch.tensor((step + 1) / warmup_steps if step < warmup_steps else 1.0)
    done = max(0, step - warmup_steps) / max(1, total_steps - warmup_steps)
    return learning_rate * torch.minimum(ramp, torch.sin(torch.tensor(math.pi / 2 * (1 - done))) ** 2)


def fit(
    model: nn.Module,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    learning_rate: float,
    momentum: float,
    warmup_steps: int,
    epochs: int,
    batch_size: int,
) -> list[Any]:
    """A DataLoader, torch's SGD and LambdaLR, on a copy of the model; whole state dictionaries come back."""
    model = copy.deepcopy(model)
    loader = DataLoader(TensorDataset(*train), batch_size=batch_size, shuffle=True)
    total = epochs * len(loader)
    optimiser = torch.optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=learning_rate, momentum=momentum)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return (1 + math.cos(math.pi * (step - warmup_steps) / max(1, total - warmup_steps))) / 2

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    criterion = nn.CrossEntropyLoss()
    scores: list[int] = []
    states = []
    for _ in range(epochs):
        model.train()
        for inputs, labels in loader:
            optimiser.zero_grad()
            criterion(model(inputs), labels).backward()
            optimiser.step()
            scheduler.step()
        model.eval()
        with torch.inference_mode():
            scores.append(sum(int(model(x[None]).argmax()) == int(y) for x, y in zip(*validation, strict=True)))
        states.append(copy.deepcopy(model.state_dict()))
    best = int(np.argmax(scores))
    return [copy.deepcopy(states[-1]), states[best], best + 1]


def train_and_evaluate(model: nn.Module, train, validation, test, tested: str, *recipe: Any) -> float:
    """The states of the fit above, one test example at a time."""
    last, best, _ = fit(model, train, validation, *recipe)
    model.load_state_dict(best if tested == "best" else last)
    model.eval()
    with torch.inference_mode():
        right = [int(model(inputs[None]).argmax()) == int(label) for inputs, label in zip(*test, strict=True)]
    return sum(right) / len(right)


def checkpoint_name(settings: Mapping[str, Any]) -> str:
    """All settings, spelt out."""
    return "_".join(f"{key}={value!r}".replace("'", "") for key, value in sorted(settings.items())) + ".pth.tar"


def wilson_interval(correct: int, total: int) -> tuple[np.floating, np.floating]:
    """Both roots of the quadratic equation (k / N - p)^2 = z^2 p (1 - p) / N, by numpy."""
    square, share = 1.959963984540054**2, correct / total
    a, b, c = 1 + square / total, -(2 * share + square / total), share**2
    root = np.sqrt(max(b * b - 4 * a * c, 0.0))
    return np.float64((-b - root) / (2 * a)), np.float64((-b + root) / (2 * a))


def paired_p_value(first: Tensor, second: Tensor) -> float:
    """The share of all sign patterns that are at least as uneven, counted by binomial coefficients."""
    lead = [int(a) - int(b) for a, b in zip(first, second, strict=True) if a != b]
    uneven = abs(sum(lead))
    patterns = (math.comb(len(lead), k) for k in range(len(lead) + 1) if abs(len(lead) - 2 * k) >= uneven)
    return sum(patterns) / 2 ** len(lead)


def new_head(network: nn.Module, classes: int) -> nn.Module:
    """In the network itself, as most people do it."""
    for parameter in network.parameters():
        parameter.requires_grad = False
    network.fc = nn.Linear(network.fc.in_features, classes)
    network.fc.weight.data = torch.randn(classes, network.fc.in_features) / 100
    network.fc.bias.data.fill_(0)
    return network
