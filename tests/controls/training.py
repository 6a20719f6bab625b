"""Wrong schedules, fits and names. Each breaks one sentence; those of no public name say which test must reject them."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.conformance import ours
from tests.controls import control
from vp.evaluation import Batches
from vp.training import Fit, Recipe, fit

Examples = tuple[Tensor, Tensor]  # inputs, labels
Left = tuple[dict[str, Tensor], dict[str, Tensor], int]  # last, best, best epoch


# -- schedules ---------------------------------------------------------------------------------------------------------------

RATE = "test_the_rate_is_warm_up_then_cosine"
JUMPS = "test_the_rate_has_no_jump_and_ends_near_zero"


@control("learning_rate_at", JUMPS)
def cosine_over_all_steps(step: int, total_steps: int, learning_rate: float, warmup_steps: int) -> float:
    """Counts the cosine from step 0, as if there had been no warm-up: the rate jumps where it joins."""
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    return learning_rate * 0.5 * (1 + math.cos(math.pi * step / total_steps))


@control("learning_rate_at", RATE)
def no_warm_up(step: int, total_steps: int, learning_rate: float, warmup_steps: int) -> float:
    """Falls from the first step on."""
    return ours.learning_rate_at(step, total_steps, learning_rate, 0)


@control("learning_rate_at", JUMPS)
def cosine_that_starts_halfway(step: int, total_steps: int, learning_rate: float, warmup_steps: int) -> float:
    """Warms up to the full rate, then goes on from half of it."""
    rate = ours.learning_rate_at(step, total_steps, learning_rate, warmup_steps)
    return rate if step < warmup_steps else rate / 2


@control("learning_rate_at", JUMPS)
def cosine_that_stays_above_zero(step: int, total_steps: int, learning_rate: float, warmup_steps: int) -> float:
    """Ends at a tenth of the rate."""
    rate = ours.learning_rate_at(step, total_steps, learning_rate, warmup_steps)
    return rate if step < warmup_steps else learning_rate / 10 + 0.9 * rate


@control("learning_rate_at", JUMPS)
def quarter_of_a_cosine(step: int, total_steps: int, learning_rate: float, warmup_steps: int) -> float:
    """Ends at half of the rate: the cosine goes to pi / 2 only."""
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    return learning_rate * 0.5 * (1 + math.cos(math.pi / 2 * (step - warmup_steps) / (total_steps - warmup_steps)))


@control("learning_rate_at", JUMPS)
def warm_up_from_zero(step: int, total_steps: int, learning_rate: float, warmup_steps: int) -> float:
    """rate s / W: the first step does nothing."""
    rate = ours.learning_rate_at(step, total_steps, learning_rate, warmup_steps)
    return learning_rate * step / warmup_steps if step < warmup_steps else rate


@control("learning_rate_at", RATE)
def straight_line_to_zero(step: int, total_steps: int, learning_rate: float, warmup_steps: int) -> float:
    """Falls in a straight line in place of a cosine."""
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    return learning_rate * (1 - (step - warmup_steps) / (total_steps - warmup_steps))


# -- fits ------------------------------------------------------------------------------------------------------------------

STEPS = "test_sgd_is_the_momentum_loop"
BEST = "test_best_are_the_weights_of_the_earliest_best_epoch"
COPIES = "test_what_fit_leaves_does_not_change_with_the_model"
MODES = "test_training_and_validation_have_their_modes"
FROZEN = "test_what_requires_no_gradient_stays_as_it_was"


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _fit(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    learning_rate: float,
    momentum: float,
    warmup_steps: int,
    epochs: int,
    batch_size: int,
    *,
    reduction: str = "mean",  # of the loss of a batch
    per_epoch: bool = False,  # whether the schedule counts epochs in place of steps
    awake: bool = False,  # whether the model stays in training mode
    asleep: bool = False,  # whether it stays in the mode of the first validation
    better: Callable[[float, float], bool] = operator.gt,  # a score than the best before
    by_loss: bool = False,  # whether the training loss says which epoch is best
) -> Left:
    """A loop of its own, right unless told otherwise."""
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0, momentum=momentum)
    inputs, labels = train
    per_pass = math.ceil(len(labels) / batch_size)
    step, highest, best, best_epoch = 0, -math.inf, {}, 0
    model.train()
    for epoch in range(1, epochs + 1):
        if not asleep:
            model.train()
        losses = []
        for indices in torch.randperm(len(labels)).split(batch_size):
            at = (epoch - 1) * per_pass if per_epoch else step
            optimiser.param_groups[0]["lr"] = ours.learning_rate_at(at, epochs * per_pass, learning_rate, warmup_steps)
            loss = cross_entropy(model(inputs[indices]), labels[indices], reduction=reduction)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            step += 1
        model.train(awake)
        with torch.no_grad():
            score = (model(validation[0]).argmax(1) == validation[1]).float().mean().item()
        if by_loss:
            score = -fmean(losses)
        if better(score, highest):
            highest, best, best_epoch = score, _copy(model), epoch
    return _copy(model), best, best_epoch


@control("fit", STEPS)
def loss_summed_over_the_batch(*given: Any) -> Left:
    """Sums the loss over a batch in place of averaging it."""
    return _fit(*given, reduction="sum")


@control("fit", STEPS)
def schedule_by_epochs(*given: Any) -> Left:
    """Changes the rate after each epoch, not after each step."""
    return _fit(*given, per_epoch=True)


@control("fit", BEST)
def latest_best(*given: Any) -> Left:
    """Keeps the latest of equally good epochs."""
    return _fit(*given, better=operator.ge)


@control("fit", BEST)
def best_by_training_loss(*given: Any) -> Left:
    """Calls the epoch of the lowest training loss the best."""
    return _fit(*given, by_loss=True)


@control("fit", MODES)
def validates_in_training_mode(*given: Any) -> Left:
    """Never leaves training mode."""
    return _fit(*given, awake=True)


@control("fit", MODES)
def stays_in_evaluation_mode(*given: Any) -> Left:
    """Does not come back to training mode after the first validation."""
    return _fit(*given, asleep=True)


@control("fit", STEPS)
def one_rate_for_all_steps(
    model: nn.Module, train: Examples, validation: Examples, learning_rate: float, momentum: float, warmup_steps: int, *rest: Any
) -> Left:
    """Ignores the schedule."""
    epochs, batch_size = rest
    recipe = Recipe("sgd", learning_rate, momentum, 0, "constant", epochs, batch_size)
    fitted = fit(model, ours._Examples(*train), ours._Examples(*validation), recipe, progress=False)
    return fitted.last, fitted.best, fitted.best_epoch


@control("fit", STEPS)
def no_momentum(model: nn.Module, train: Examples, validation: Examples, learning_rate: float, momentum: float, *rest: Any) -> Left:
    """Forgets the momentum."""
    return ours.fit(model, train, validation, learning_rate, 0.0, *rest)


@control("fit", "test_an_epoch_shows_every_example_once")
def drops_the_last_batch(model: nn.Module, train: Examples, validation: Examples, *rest: Any) -> Left:
    """Trains on full batches only."""
    batch_size = rest[-1]
    full = len(train[1]) // batch_size * batch_size or len(train[1])
    return ours.fit(model, (train[0][:full], train[1][:full]), validation, *rest)


@control("fit", "test_an_epoch_shows_every_example_once")
def draws_with_replacement(model: nn.Module, train: Examples, *rest: Any) -> Left:
    """Draws the examples of an epoch with replacement: some are shown twice, some never."""
    drawn = torch.randint(len(train[1]), (len(train[1]),))
    return ours.fit(model, (train[0][drawn], train[1][drawn]), *rest)


@control("fit", FROZEN)
def trains_what_is_frozen(model: nn.Module, *rest: Any) -> Left:
    """Hands all parameters to the optimiser and makes them require a gradient."""
    return ours.fit(model.requires_grad_(True), *rest)


@control("fit", BEST)
def best_is_last(*given: Any) -> Left:
    """Calls the last weights best: the same tensors."""
    last, _, best_epoch = ours.fit(*given)
    return last, last, best_epoch


@control("fit", COPIES)
def best_is_alive(model: nn.Module, *rest: Any) -> Left:
    """Keeps the model's own parameters for the best: they go on changing."""
    last, _, best_epoch = ours.fit(model, *rest)
    return last, {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}, best_epoch


@control("fit", COPIES)
def last_is_alive(model: nn.Module, *rest: Any) -> Left:
    """Keeps the model's own parameters for the last: they go on changing."""
    _, best, best_epoch = ours.fit(model, *rest)
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}, best, best_epoch


@control("fit", BEST)
def epochs_from_zero(*given: Any) -> Left:
    """Counts epochs from 0."""
    last, best, best_epoch = ours.fit(*given)
    return last, best, best_epoch - 1


# -- trained and evaluated ---------------------------------------------------------------------------------------------------

ASKED = "test_the_accuracy_of_a_run_is_that_of_the_weights_asked_for"
ONCE = "test_test_examples_are_looked_at_once_after_training"


@control("train_and_evaluate", ASKED)
def tests_the_validation_examples(model: nn.Module, train: Examples, validation: Examples, test: Examples, *rest: Any) -> float:
    """Reports the accuracy on validation examples."""
    return ours.train_and_evaluate(model, train, validation, validation, *rest)


@control("train_and_evaluate", ASKED)
def tests_the_last_epoch_whatever_is_asked(*given: Any) -> float:
    """Tests the model as training leaves it: the last epoch, also where the best is asked for."""
    model, train, validation, test, _, *recipe = given
    return ours.train_and_evaluate(model, train, validation, test, "last", *recipe)


@control("train_and_evaluate", ASKED)
def takes_the_best_for_the_last(*given: Any) -> float:
    """Always tests the best epoch."""
    model, train, validation, test, _, *recipe = given
    return ours.train_and_evaluate(model, train, validation, test, "best", *recipe)


@control("train_and_evaluate", ONCE)
def chooses_the_epoch_by_test_examples(
    model: nn.Module, train: Examples, validation: Examples, test: Examples, *rest: Any
) -> float:
    """Takes the test examples for validation: the best epoch is the one that does best on them."""
    return ours.train_and_evaluate(model, train, test, test, *rest)


@control("train_and_evaluate", ONCE)
def tests_twice(model: nn.Module, train: Examples, validation: Examples, test: Examples, *rest: Any) -> float:
    """Looks at the test examples before training, too, as a sanity check."""
    ours.accuracy(model, [test])
    return ours.train_and_evaluate(model, train, validation, test, *rest)


# -- names of checkpoints ----------------------------------------------------------------------------------------------------

COLLIDE = "test_no_two_runs_share_a_checkpoint"


@control("checkpoint_name", COLLIDE)
def name_without_the_seed(settings: dict[str, Any]) -> str:
    """Leaves the seed out: the second seed overwrites the first, or is taken for it."""
    return "-".join(str(settings[key]) for key in ("dataset", "method", "prompt_size", "learning_rate")) + ".pt"


@control("checkpoint_name", COLLIDE)
def name_of_a_rounded_rate(settings: dict[str, Any]) -> str:
    """Rounds the learning rate to two digits after the point."""
    rate = f"{settings['learning_rate']:.2f}"
    return "-".join(str(settings[key]) for key in ("dataset", "method", "prompt_size", "seed")) + f"-{rate}.pt"


@control("checkpoint_name", COLLIDE)
def name_without_separators(settings: dict[str, Any]) -> str:
    """Writes the numbers one behind the other: 1 and 11 become what 11 and 1 become."""
    return "".join(str(settings[key]) for key in ("dataset", "method", "prompt_size", "seed", "learning_rate")) + ".pt"


@control("checkpoint_name", "test_a_checkpoint_is_found_again_by_its_settings")
def name_of_the_moment(settings: dict[str, Any]) -> str:
    """Never the same name again: what was trained is not found."""
    parts = [str(settings[key]) for key in ("dataset", "method", "prompt_size", "seed", "learning_rate")]
    return "-".join([*parts, str(time.perf_counter_ns())]) + ".pt"


@control("checkpoint_name", "test_a_checkpoint_is_found_again_by_its_settings")
def name_in_the_order_given(settings: dict[str, Any]) -> str:
    """Depends on the order in which the settings are given."""
    return "-".join(map(str, settings.values())) + ".pt"


# -- loops of vp -------------------------------------------------------------------------------------------------------------


class _First:
    """The first `count` examples only."""

    def __init__(self, batches: Batches, count: int) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.batches[indices]


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
