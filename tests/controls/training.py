"""Wrong schedules and training loops. Each breaks one sentence and must be rejected by the test named."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vp.evaluation import Batches
from vp.training import Fit, Recipe, fit, learning_rate_at, trained_parameters

# -- schedules: test_the_rate_is_warm_up_then_cosine, test_the_rate_has_no_jump_and_ends_near_zero ---------------------------


def cosine_over_all_steps(step: int, total_steps: int, recipe: Recipe) -> float:
    """Counts the cosine from step 0, as if there had been no warm-up: the rate jumps where it joins."""
    if step < min(recipe.warmup_steps, total_steps):
        return learning_rate_at(step, total_steps, recipe)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total_steps))


def cosine_that_starts_halfway(step: int, total_steps: int, recipe: Recipe) -> float:
    """Warms up to the full rate, then goes on from half of it."""
    rate = learning_rate_at(step, total_steps, recipe)
    return rate if step < recipe.warmup_steps else rate / 2


def cosine_that_stays_above_zero(step: int, total_steps: int, recipe: Recipe) -> float:
    """Ends at a tenth of the rate."""
    rate = learning_rate_at(step, total_steps, recipe)
    return rate if step < recipe.warmup_steps else max(rate, recipe.learning_rate / 10)


def quarter_of_a_cosine(step: int, total_steps: int, recipe: Recipe) -> float:
    """Ends at half of the rate: the cosine goes to pi / 2 only."""
    warmup = min(recipe.warmup_steps, total_steps)
    return learning_rate_at(step if step < warmup else warmup + (step - warmup) // 2, total_steps, recipe)


def warm_up_from_zero(step: int, total_steps: int, recipe: Recipe) -> float:
    """rate s / W: the first step does nothing."""
    warmup = min(recipe.warmup_steps, total_steps)
    return recipe.learning_rate * step / warmup if step < warmup else learning_rate_at(step, total_steps, recipe)


# -- loops -----------------------------------------------------------------------------------------------------------------


class _First:
    """The first `count` examples only."""

    def __init__(self, batches: Batches, count: int) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.batches[indices]


def drops_the_last_batch(model: nn.Module, train: Batches, validation: Batches, recipe: Recipe) -> Fit:
    """Trains on full batches only: test_an_epoch_shows_every_example_once."""
    full = len(train) // recipe.batch_size * recipe.batch_size
    return fit(model, _First(train, full), validation, recipe)


def always_shuffles(model: nn.Module, train: Batches, validation: Batches, recipe: Recipe) -> Fit:
    """Draws an order for each epoch whatever the recipe says: test_without_shuffle_all_epochs_have_one_order."""
    return fit(model, train, validation, replace(recipe, shuffle=True))


def takes_them_as_they_come(model: nn.Module, train: Batches, validation: Batches, recipe: Recipe) -> Fit:
    """Shows the examples in the order of their numbers: test_without_shuffle_all_epochs_have_one_order."""
    model.train()
    for _ in range(recipe.epochs):
        for indices in torch.arange(len(train)).split(recipe.batch_size):
            train[indices]
    return fit(model, _First(validation, 1), validation, recipe)


def best_is_last(model: nn.Module, train: Batches, validation: Batches, recipe: Recipe) -> Fit:
    """Calls the last weights best: test_best_are_the_weights_of_the_earliest_best_epoch."""
    fitted = fit(model, train, validation, recipe)
    return replace(fitted, best=fitted.last)


def best_is_alive(model: nn.Module, train: Batches, validation: Batches, recipe: Recipe) -> Fit:
    """Keeps the parameters themselves: test_what_fit_leaves_does_not_change_with_the_model."""
    fitted = fit(model, train, validation, recipe)
    return replace(fitted, best={name: p.detach() for name, p in trained_parameters(model).items()})


def last_is_alive(model: nn.Module, train: Batches, validation: Batches, recipe: Recipe) -> Fit:
    """Keeps the parameters themselves: test_what_fit_leaves_does_not_change_with_the_model."""
    fitted = fit(model, train, validation, recipe)
    return replace(fitted, last={name: p.detach() for name, p in trained_parameters(model).items()})


def latest_best(model: nn.Module, train: Batches, validation: Batches, recipe: Recipe) -> Fit:
    """Names the latest of equally good epochs: test_best_are_the_weights_of_the_earliest_best_epoch."""
    fitted = fit(model, train, validation, recipe)
    top = max(row["validation_top1"] for row in fitted.history)
    return replace(fitted, best_epoch=max(int(row["epoch"]) for row in fitted.history if row["validation_top1"] == top))


def _with_loss(fitted: Fit, loss: float) -> Fit:
    return replace(fitted, history=[{**row, "loss": loss} for row in fitted.history])


def loss_averaged_over_batches(model: nn.Module, train: Batches, validation: Batches, recipe: Recipe) -> Fit:
    """Gives a smaller last batch the weight of a full one: test_the_loss_of_an_epoch_is_the_mean_over_its_examples."""
    fitted = fit(model, train, validation, recipe)
    parts = [train[indices] for indices in torch.arange(len(train)).split(recipe.batch_size)]
    return _with_loss(fitted, fmean(cross_entropy(model(inputs), labels).item() for inputs, labels in parts))


def loss_of_the_last_batch(model: nn.Module, train: Batches, validation: Batches, recipe: Recipe) -> Fit:
    """Lets one batch speak for the epoch: test_the_loss_of_an_epoch_is_the_mean_over_its_examples."""
    fitted = fit(model, train, validation, recipe)
    inputs, labels = train[torch.arange(len(train))[-recipe.batch_size :]]
    return _with_loss(fitted, cross_entropy(model(inputs), labels).item())


def one_rate_for_all_steps(model: nn.Module, train: Batches, validation: Batches, recipe: Recipe) -> Fit:
    """Ignores the schedule: test_sgd_is_the_momentum_loop."""
    return fit(model, train, validation, replace(recipe, warmup_steps=0, schedule="constant"))


def no_momentum(model: nn.Module, train: Batches, validation: Batches, recipe: Recipe) -> Fit:
    """Forgets the velocity: test_sgd_is_the_momentum_loop."""
    return fit(model, train, validation, replace(recipe, momentum=0.0))
