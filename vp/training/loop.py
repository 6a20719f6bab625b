"""The one training loop: any module, the parameters that require a gradient, SGD or Adam under a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from vp.evaluation.accuracy import halved, in_mode, per_image_correctness
from vp.evaluation.batches import Batches
from vp.machine.errors import VpError, out_of_memory
from vp.machine.runtime import mixed_precision, precision
from vp.training.cuda_graphs import Accumulate, recorded, replayable
from vp.training.schedule import Recipe, learning_rate_at


class TrainingDiverged(VpError):
    """The loss, or a trained parameter, became NaN or infinite."""


@dataclass(frozen=True)
class Fit:
    """The outcome of training: the learnt state after the last and the best epoch (by validation), and the history.

    The history has for each epoch its number `epoch`, the mean cross-entropy `loss` and `validation_accuracy`, from 0 to 1.
    `last` and `best` are separate copies of `learnt_state`; epochs count from 1, the earliest of equally good ones is best.
    """

    last: dict[str, Tensor]
    best: dict[str, Tensor]
    best_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name. Raises ValueError when there is none to train."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient: nothing to train")
    return trained


def learnt_state(model: nn.Module) -> dict[str, Tensor]:
    """All that training changes, by name: trained parameters, and the running statistics of BatchNorm layers that follow the
    model into training mode, whether their weights train or not."""
    with in_mode(model, training=True):
        moving = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.training]
    statistics = {f"{name}.{key}": buffer for name, module in moving for key, buffer in module.named_buffers()}
    return {**trained_parameters(model), **statistics}


def load_trained(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put weights kept by `Fit` back into a model of the same build. Raises ValueError when names or shapes differ."""
    learnt = learnt_state(model)
    given, expected = ({name: tuple(p.shape) for name, p in some.items()} for some in (weights, learnt))
    if given != expected:
        raise ValueError(f"weights {given} do not fit the trained parameters {expected}")
    with torch.no_grad():
        for name, value in learnt.items():
            value.copy_(weights[name])


def accumulate_gradient(
    model: nn.Module,
    parts: Iterable[tuple[Any, Tensor]],
    count: int,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> Tensor:
    """Add the gradient of the mean cross-entropy of a batch of `count` examples to the trained parameters, part by part.

    `parts` are inputs and labels; each weighs by its examples, so that the sum is the gradient of the whole batch, up to rounding.
    `scale` is applied to each part's loss before its backward pass. Gives back the mean loss, a scalar that stays on the device.
    """
    losses = []
    for inputs, labels in parts:
        with mixed_precision(labels.device):
            logits = model(inputs)
        loss = cross_entropy(logits.float(), labels) * (len(labels) / count)
        scale(loss).backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def fit(
    model: nn.Module, train: Batches, validation: Batches, recipe: Recipe, *, name: str = "train", progress: bool = True
) -> Fit:
    """Train `model` on `train` by cross-entropy and validate after every epoch.

    Seed before building the model (`seed_everything`): the order of images is drawn from torch's global stream. Progress is
    shown on a terminal only. When the device's memory is too small for a batch, it is split from then on, which changes nothing
    but rounding. Raises OutOfMemory where it cannot be split, TrainingDiverged after an epoch in which the loss or the trained
    parameters were not finite (for the loss: with what was learnt before that epoch), ValueError when there is nothing to train
    on or to validate on.
    """
    parameters = list(trained_parameters(model).values())
    if not len(train) or not len(validation):
        raise ValueError(f"{len(train)} examples to train on and {len(validation)} to validate on: give at least one of each")
    if recipe.optimiser == "sgd":
        optimiser: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=recipe.momentum)
    else:
        optimiser = torch.optim.Adam(parameters, lr=recipe.learning_rate)
    fixed_order = torch.randperm(len(train))
    total_steps = recipe.epochs * math.ceil(len(train) / recipe.batch_size)
    step, best_correct, best_epoch = 0, -1, 0
    at_once = recipe.batch_size
    device = parameters[0].device
    scaler = GradScaler(device.type, enabled=precision(device) == torch.float16)
    accumulate: Accumulate = partial(accumulate_gradient, model, scale=scaler.scale)
    if replayable(model):
        accumulate = recorded(accumulate, parameters, device)
    learnt = learnt_state(model)
    best: dict[str, Tensor] = {}
    history: list[dict[str, float]] = []
    with tqdm(total=total_steps, desc=name, unit="step", leave=False, disable=None if progress else True) as bar:
        for epoch in range(1, recipe.epochs + 1):
            model.train()
            order = torch.randperm(len(train)) if recipe.shuffle else fixed_order
            before = {key: value.detach().clone() for key, value in learnt.items()}
            losses: list[Tensor] = []  # they stay on the device, which need not wait for the CPU at every step
            for indices in order.split(recipe.batch_size):
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate_at(step, total_steps, recipe)
                stream = torch.get_rng_state()
                while True:
                    optimiser.zero_grad()
                    try:
                        parts = (train[some] for some in indices.split(at_once))
                        losses.append(accumulate(parts, len(indices)))
                        break
                    except (RuntimeError, MemoryError) as error:
                        if not out_of_memory(error):
                            raise
                        at_once = halved(min(at_once, len(indices)), model, error)
                        torch.set_rng_state(stream)  # the parts are flipped as the batch was
                scaler.step(optimiser)
                scaler.update()
                step += 1
                bar.update()
            values = torch.stack(losses).tolist()
            if diverged := [loss for loss in values if not math.isfinite(loss)]:
                load_trained(model, before)
                raise TrainingDiverged(f"loss {diverged[0]} in epoch {epoch} of {name}: give a rate below {recipe.learning_rate:g}")
            loss_sum = sum(loss * len(indices) for loss, indices in zip(values, order.split(recipe.batch_size), strict=True))
            if not all(p.isfinite().all() for p in parameters):
                raise TrainingDiverged(
                    f"parameters not finite after epoch {epoch} of {name}: give a rate below {recipe.learning_rate:g}"
                )
            correct = int(per_image_correctness(model, validation).sum())
            history.append({"epoch": epoch, "loss": loss_sum / len(train), "validation_accuracy": correct / len(validation)})
            bar.set_postfix(validation=f"{correct / len(validation):.1%}")
            if correct > best_correct:
                best_correct, best_epoch = correct, epoch
                best = {key: value.detach().clone() for key, value in learnt.items()}
    return Fit({key: value.detach().clone() for key, value in learnt.items()}, best, best_epoch, history)
