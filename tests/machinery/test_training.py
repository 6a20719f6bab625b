"""vp.training: the schedule, the loop against loops written by hand, what `Fit` keeps, and what is refused."""

from __future__ import annotations

import copy
import io
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from tests.conformance.agree import agree
from tests.controls import training as controls
from tests.support.reporting import ROOT
from tests.support.strategies import seeds, tensor
from vp.evaluation import Batches, per_image_correctness
from vp.experiments import own_runs
from vp.experiments.store import obtain
from vp.machine.runtime import seed_everything
from vp.models.mini_clip import IMAGE_PX
from vp.training import Fit, Recipe, TrainingDiverged, fit, learning_rate_at, load_trained, trained_parameters

Loop = Callable[[nn.Module, Batches, Batches, Recipe], Fit]
Schedule = Callable[[int, int, Recipe], float]

CLASSES, WIDTH = 3, 4
SMALL = Recipe("sgd", learning_rate=0.1, warmup_steps=2, epochs=3, batch_size=3)


def name_of(function: Callable[..., object]) -> str:
    return function.__name__


class Examples:
    """N random examples that remember in which batches they were asked for."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.inputs = tensor(seed, count, WIDTH)
        self.labels = torch.arange(count) % CLASSES
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(indices.tolist())
        return self.inputs[indices], self.labels[indices]


def linear(seed: int = 0) -> nn.Linear:
    seed_everything(seed)
    return nn.Linear(WIDTH, CLASSES, bias=False)


# -- the schedule ----------------------------------------------------------------------------------------------------------

totals = st.integers(1, 300)
warmups = st.integers(0, 400)
rates = st.floats(1e-3, 100)


def rates_of(learning_rate_at: Schedule, total: int, recipe: Recipe) -> np.ndarray:
    return np.array([learning_rate_at(step, total, recipe) for step in range(total)])


def plain_schedule(total: int, recipe: Recipe) -> np.ndarray:
    """All rates at once, the cosine as a squared one: (1 + cos x) / 2 = cos^2(x / 2)."""
    rising = min(recipe.warmup_steps, total)
    ramp = np.linspace(0, 1, rising + 1)[1:]
    falling = np.linspace(0, np.pi / 2, total - rising, endpoint=False)
    return recipe.learning_rate * np.concatenate([ramp, np.cos(falling) ** 2])


def asked_rates(impl, total: int, warmup: int, rate: float) -> np.ndarray:
    """All rates of a training, over the full rate."""
    return np.array([float(impl.learning_rate_at(step, total, rate, warmup)) for step in range(total)]) / rate


@pytest.mark.specifies("learning_rate_at")
@given(total=totals, data=st.data(), rate=rates)
def test_the_rate_is_warm_up_then_cosine(impl, total: int, data: st.DataObject, rate: float) -> None:
    """The rate is rate (s + 1) / W in the warm-up, then rate (1 + cos(pi (s - W) / (T - W))) / 2, for any W and T."""
    warmup = data.draw(st.integers(0, total), "warm-up steps")
    expected = plain_schedule(total, Recipe(learning_rate=1.0, warmup_steps=warmup))
    what = f"rate / full rate of each of {total} steps, {warmup} of them warm-up,"
    agree(asked_rates(impl, total, warmup, rate), expected, what, atol=1e-6, rtol=1e-5)


@pytest.mark.specifies("learning_rate_at")
@given(total=totals, data=st.data(), rate=rates)
def test_the_rate_has_no_jump_and_ends_near_zero(impl, total: int, data: st.DataObject, rate: float) -> None:
    """The rate rises in equal steps, reaches its full value where warm-up and cosine join, then only falls, to nearly 0."""
    rising = data.draw(st.integers(0, total), "warm-up steps")
    relative = asked_rates(impl, total, rising, rate)
    steps = np.abs(np.diff(relative))
    told = f"of {total} steps, {rising} of them warm-up"
    if rising:
        agree(relative[rising - 1], 1, f"{told}, the last of the warm-up: rate / full rate")
        assert relative[0] > 0, f"{told}, the first has rate {relative[0]:.4g}: it does nothing"
        assert (np.diff(relative[:rising]) > 0).all(), f"{told}, not every one of the warm-up is larger than the one before"
        largest = steps[: rising - 1].max(initial=0)
        assert largest <= 1.001 / rising + 1e-6, (
            f"{told}, the warm-up rises by up to {largest:.4g} at a step: expected {1 / rising:.4g}"
        )
    if falling := total - rising:
        agree(relative[rising], 1, f"{told}, the first after the warm-up: rate / full rate")
        assert (np.diff(relative[rising:]) < 1e-7).all(), f"{told}, not every one after the warm-up is smaller than the one before"
        largest = steps[rising:].max(initial=0)
        bound = np.pi / 2 / falling
        assert largest <= bound + 1e-6, (
            f"{told}, the rate falls by {largest:.4g} of the full one at a step: expected at most {bound:.4g}"
        )
        if falling > 1:
            end = f"{told}, the last has rate / full rate {relative[-1]:.4g}"
            assert relative[-1] <= bound**2 + 1e-6, f"{end}: expected at most {bound**2:.4g}, nearly 0"


@given(total=totals, warmup=warmups, rate=rates)
def test_a_warm_up_longer_than_the_training_is_cut_to_it(total: int, warmup: int, rate: float) -> None:
    """For any W and T the rate is that of W = min(W, T), up to rounding."""
    recipe = Recipe(learning_rate=rate, warmup_steps=warmup)
    np.testing.assert_allclose(rates_of(learning_rate_at, total, recipe), plain_schedule(total, recipe), rtol=1e-9, atol=1e-12)


@given(total=totals, warmup=warmups, rate=rates)
def test_a_constant_schedule_stays_after_the_warm_up(total: int, warmup: int, rate: float) -> None:
    """A constant schedule warms up as the cosine does and stays at its full rate."""
    recipe = Recipe(learning_rate=rate, warmup_steps=warmup, schedule="constant")
    given_rates, rising = rates_of(learning_rate_at, total, recipe), min(warmup, total)
    np.testing.assert_allclose(given_rates[:rising], plain_schedule(total, recipe)[:rising])
    assert (given_rates[rising:] == rate).all()


@pytest.mark.specifies("learning_rate_at")
def test_the_reports_schedule_by_its_numbers(impl) -> None:
    """The report's 6,260 steps: 0.04 at first, 40 after the 1,000th, half of it midway, under a thousandth of it at the end."""
    for step, expected in {0: 0.04, 499: 20, 999: 40, 1000: 40, 3630: 20, 6259: 0}.items():
        agree(
            impl.learning_rate_at(step, 6260, 40.0, 1000), expected, f"rate of step {step} of 6,260, 1,000 of them warm-up, at 40"
        )


# -- the optimisers, against loops written by hand -------------------------------------------------------------------------


def assert_momentum_loop(loop: Loop, count: int, recipe: Recipe, seed: int) -> None:
    """v = m v + g, W = W - rate v, with g = (softmax - one-hot)^T X / B, in float64 over the batches that were asked for."""
    examples, model = Examples(count, seed), linear(seed)
    weight, velocity = model.weight.detach().double(), torch.zeros(CLASSES, WIDTH, dtype=torch.float64)
    fitted = loop(model, examples, Examples(2), recipe)
    steps = recipe.epochs * math.ceil(count / recipe.batch_size)
    assert len(examples.asked) == steps
    for batch, rate in zip(examples.asked, plain_schedule(steps, recipe), strict=True):
        inputs, labels = examples.inputs[batch].double(), examples.labels[batch]
        gradient = ((inputs @ weight.T).softmax(1) - one_hot(labels, CLASSES)).T @ inputs / len(batch)
        velocity = recipe.momentum * velocity + gradient
        weight = weight - rate * velocity
    torch.testing.assert_close(fitted.last["weight"].double(), weight, atol=1e-5, rtol=1e-4)


class Seen:
    """What a model was asked about, in all of its copies: training examples by number, a list a step, and its modes."""

    def __init__(self, train: Tensor) -> None:
        self.number = {tuple(row): i for i, row in enumerate(train.tolist())}
        self.steps: list[list[int]] = []
        self.modes: dict[str, set[bool]] = {"training": set(), "validation": set()}

    def __deepcopy__(self, memo: dict[int, object]) -> Seen:
        return self

    def note(self, inputs: Tensor, training: bool) -> None:
        rows = [self.number.get(tuple(row), -1) for row in inputs.tolist()]
        if -1 in rows:
            self.modes["validation"].add(training)
        elif torch.is_grad_enabled():
            self.steps.append(rows)
            self.modes["training"].add(training)


class Watched(nn.Module):
    """A linear layer that remembers what it was asked about."""

    def __init__(self, train: Tensor, seed: int = 0) -> None:
        super().__init__()
        self.layer, self.seen = linear(seed), Seen(train)

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.note(inputs, self.layer.training)
        return self.layer(inputs)


def some(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """N random inputs and labels."""
    examples = Examples(count, seed)
    return examples.inputs, examples.labels


def learnt(weights: object, name: str, which: str) -> Tensor:
    """A parameter of those that a fit has left."""
    assert isinstance(weights, Mapping), f"`{which}` is a {type(weights).__name__}: expected tensors by parameter name"
    assert name in weights, f"`{which}` has {', '.join(map(str, weights)) or 'nothing'}: expected the trained parameter {name}, too"
    return torch.as_tensor(weights[name]).detach()


@pytest.mark.specifies("fit")
@given(
    seed=seeds,
    count=st.integers(1, 8),
    batch_size=st.integers(1, 9),
    epochs=st.integers(1, 4),
    warmup=st.integers(0, 5),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
)
def test_sgd_is_the_momentum_loop(impl, seed: int, count: int, batch_size: int, epochs: int, warmup: int, momentum: float) -> None:
    """SGD under the schedule gives the weights of a loop written by hand."""
    steps = epochs * math.ceil(count / batch_size)
    warmup = min(warmup, steps)
    inputs, labels = some(count, seed)
    model = Watched(inputs, seed)
    weight, velocity = model.layer.weight.detach().double(), torch.zeros(CLASSES, WIDTH, dtype=torch.float64)
    last, _, _ = impl.fit(model, (inputs, labels), some(2, seed + 1), 0.1, momentum, warmup, epochs, batch_size)
    told = f"{count} examples in batches of {batch_size} for {epochs} epoch(s)"
    assert len(model.seen.steps) == steps, f"{told} took {len(model.seen.steps)} steps: expected {steps}"
    for batch, rate in zip(model.seen.steps, plain_schedule(steps, Recipe("sgd", 0.1, warmup_steps=warmup)), strict=True):
        some_inputs = inputs[batch].double()
        gradient = ((some_inputs @ weight.T).softmax(1) - one_hot(labels[batch], CLASSES)).T @ some_inputs / len(batch)
        velocity = momentum * velocity + gradient
        weight = weight - rate * velocity
    what = f"weights after {told}, {warmup} warm-up steps, momentum {momentum},"
    agree(learnt(last, "layer.weight", "last"), weight, what, atol=1e-5, rtol=1e-4)


@given(seed=seeds, count=st.integers(1, 8), batch_size=st.integers(1, 9), epochs=st.integers(1, 4), shuffle=st.booleans())
def test_the_momentum_loop_in_one_order_and_in_many(seed: int, count: int, batch_size: int, epochs: int, shuffle: bool) -> None:
    """SGD is the loop written by hand with a new order for each epoch and with one for all."""
    assert_momentum_loop(fit, count, Recipe("sgd", 0.1, 0.9, 2, epochs=epochs, batch_size=batch_size, shuffle=shuffle), seed)


@given(seed=seeds, count=st.integers(1, 8), epochs=st.integers(1, 4), warmup=st.integers(0, 5))
def test_adam_is_torchs_own(seed: int, count: int, epochs: int, warmup: int) -> None:
    """Adam under the schedule takes the steps of torch's Adam, to the bit."""
    recipe = Recipe("adam", learning_rate=0.05, warmup_steps=warmup, epochs=epochs, batch_size=3)
    examples, model = Examples(count, seed), linear(seed)
    other = copy.deepcopy(model)
    adam = torch.optim.Adam(other.parameters())
    fitted = fit(model, examples, Examples(2), recipe)
    for step, batch in enumerate(examples.asked):
        adam.param_groups[0]["lr"] = learning_rate_at(step, len(examples.asked), recipe)
        adam.zero_grad()
        cross_entropy(other(examples.inputs[batch]), examples.labels[batch]).backward()
        adam.step()
    assert torch.equal(fitted.last["weight"], other.weight)


class HalfFrozen(nn.Module):
    """A frozen layer, a partly frozen one and a buffer, in front of what trains."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.head.bias.requires_grad_(False)
        self.register_buffer("offset", torch.randn(WIDTH))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.frozen(inputs + self.offset))


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_only_what_requires_a_gradient_changes(optimiser: str) -> None:
    """Parameters that require no gradient, and buffers, are bit-equal after training; the others have changed."""
    model = HalfFrozen()
    before = copy.deepcopy(model.state_dict())
    fitted = fit(model, Examples(7), Examples(2), replace(SMALL, optimiser=optimiser))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight"} == set(fitted.last) == set(fitted.best)


@pytest.mark.specifies("fit")
def test_what_requires_no_gradient_stays_as_it_was(impl) -> None:
    """Training changes the parameters that require a gradient and nothing else of the model."""
    torch.manual_seed(0)
    model = HalfFrozen()
    before = copy.deepcopy(model.state_dict())
    last, best, _ = impl.fit(model, some(7), some(2, 1), 0.1, 0.9, 2, 3, 3)
    for which, weights in (("last", last), ("best", best)):
        moved = not torch.equal(learnt(weights, "head.weight", which), before["head.weight"])
        assert moved, f"head.weight, which requires a gradient, is in `{which}` what it was before training"
    for where, state in (("the model", model.state_dict()), ("`last`", last), ("`best`", best)):
        for name in sorted(before.keys() & state.keys() - {"head.weight"}):
            assert torch.equal(state[name], before[name]), f"{name} of {where}, which requires no gradient, has changed in training"


# -- randomness and order --------------------------------------------------------------------------------------------------


def trained_from(seed: int) -> tuple[Fit, Examples]:
    examples = Examples(11)
    return fit(linear(seed), examples, Examples(5), SMALL), examples


@given(seed=seeds)
def test_the_same_seed_gives_the_same_fit(seed: int) -> None:
    """The same seed on the same machine gives a bit-equal fit, in weights, history and order; another seed another one."""
    (first, order), (second, again), (third, other) = trained_from(seed), trained_from(seed), trained_from((seed + 1) % 2**32)
    assert torch.equal(first.last["weight"], second.last["weight"])
    assert torch.equal(first.best["weight"], second.best["weight"])
    assert (first.history, first.best_epoch, order.asked) == (second.history, second.best_epoch, again.asked)
    assert not torch.equal(first.last["weight"], third.last["weight"])
    assert order.asked != other.asked


def epochs_of(loop: Loop, count: int, recipe: Recipe) -> list[list[list[int]]]:
    """The batches that each epoch asked for."""
    examples = Examples(count)
    loop(linear(), examples, Examples(2), recipe)
    per_epoch = len(examples.asked) // recipe.epochs
    return [examples.asked[start : start + per_epoch] for start in range(0, len(examples.asked), per_epoch)]


def assert_every_example_once(loop: Loop, count: int, recipe: Recipe) -> None:
    full, rest = divmod(count, recipe.batch_size)
    for batches in epochs_of(loop, count, recipe):
        assert sorted(index for batch in batches for index in batch) == list(range(count))
        assert [len(batch) for batch in batches] == [recipe.batch_size] * full + [rest] * (rest > 0)


@pytest.mark.specifies("fit")
@given(count=st.integers(1, 20), batch_size=st.integers(1, 21), epochs=st.integers(1, 3))
def test_an_epoch_shows_every_example_once(impl, count: int, batch_size: int, epochs: int) -> None:
    """Every epoch shows every example exactly once: the last batch may be smaller, none is dropped."""
    inputs, labels = some(count)
    model = Watched(inputs)
    impl.fit(model, (inputs, labels), some(2, 1), 0.1, 0.9, 0, epochs, batch_size)
    full, rest = divmod(count, batch_size)
    sizes, expected = [len(step) for step in model.seen.steps], ([batch_size] * full + [rest] * (rest > 0)) * epochs
    told = f"{count} examples in batches of {batch_size}, {epochs} epoch(s)"
    assert sizes == expected, f"{told}: the batches had {sizes} examples, expected {expected}"
    shown = [number for step in model.seen.steps for number in step]
    for epoch in range(epochs):
        here = sorted(shown[epoch * count : (epoch + 1) * count])
        assert here == list(range(count)), f"{told}: epoch {epoch + 1} showed {here}, expected each of 0 to {count - 1} once"


@given(count=st.integers(1, 20), batch_size=st.integers(1, 21), epochs=st.integers(1, 3))
def test_one_order_for_all_epochs_shows_every_example_once(count: int, batch_size: int, epochs: int) -> None:
    """Without shuffle, too, every epoch shows every example exactly once."""
    assert_every_example_once(fit, count, replace(SMALL, batch_size=batch_size, epochs=epochs, shuffle=False))


def assert_one_random_order(loop: Loop) -> None:
    first, *others = epochs_of(loop, 30, replace(SMALL, shuffle=False))
    assert all(epoch == first for epoch in others)
    assert [index for batch in first for index in batch] != list(range(30))


def test_without_shuffle_all_epochs_have_one_order() -> None:
    """Without shuffle one random order serves all epochs, as in the report's runs; with it each epoch has its own."""
    assert_one_random_order(fit)
    shuffled = epochs_of(fit, 30, SMALL)
    assert len({str(epoch) for epoch in shuffled}) == SMALL.epochs


@pytest.mark.parametrize("wrong", [controls.always_shuffles, controls.takes_them_as_they_come], ids=name_of)
def test_wrong_orders_are_rejected(wrong: Loop) -> None:
    """A loop that shuffles each epoch, or never, fails the property of the one random order."""
    with pytest.raises(AssertionError):
        assert_one_random_order(wrong)


# -- what is kept ----------------------------------------------------------------------------------------------------------


VALIDATED = 5
MARK = 100.0  # validation inputs say so, and their number, in their first column;
TEST_MARK = 200.0  # so do test inputs


class Script(list[int]):
    """How many validation examples are right after each epoch, shared by all copies of the model that keeps to it."""

    def __deepcopy__(self, memo: dict[int, object]) -> Script:
        return self


class Scripted(nn.Module):
    """logits = inputs + shift in training, a batch an epoch; after epoch e validation gets counts[e] of 5 right, as written."""

    def __init__(self, counts: list[int]) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(CLASSES))
        self.counts, self.trained, self.shifts = Script(counts), Script(), Memory()

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs[0, 0] < MARK:
            if torch.is_grad_enabled():
                self.trained.append(len(inputs))
            return inputs[:, :CLASSES] + self.shift
        epoch = len(self.trained)
        self.shifts.setdefault(epoch, self.shift.detach().clone())
        right = self.counts[epoch - 1] if 0 < epoch <= len(self.counts) else 0
        numbers = (inputs[:, 0] - MARK).long()
        return 10 * one_hot((numbers + (numbers >= right)) % CLASSES, CLASSES).to(inputs)


class Memory(dict[int, Tensor]):
    """The shift as it was validated after each epoch, shared by all copies of a model."""

    def __deepcopy__(self, memo: dict[int, object]) -> Memory:
        return self


def marked() -> tuple[Tensor, Tensor]:
    """Validation examples for Scripted."""
    inputs = torch.zeros(VALIDATED, WIDTH)
    inputs[:, 0] = MARK + torch.arange(VALIDATED)
    return inputs, torch.arange(VALIDATED) % CLASSES


@pytest.mark.specifies("fit")
@given(counts=st.lists(st.integers(0, VALIDATED), min_size=1, max_size=5))
def test_best_are_the_weights_of_the_earliest_best_epoch(impl, counts: list[int]) -> None:
    """Best are the weights after the earliest of the epochs that validate best, last those of the end."""
    model = Scripted(counts)
    last, best, best_epoch = impl.fit(model, some(4), marked(), 0.1, 0.9, 0, len(counts), 4)
    told = f"with {counts} of {VALIDATED} validation examples right after the epochs"
    assert len(model.trained) == len(counts), f"{told} there were {len(model.trained)} steps of one batch: expected {len(counts)}"
    expected = counts.index(max(counts)) + 1
    assert int(best_epoch) == expected, f"{told}, the best epoch is said to be {best_epoch}: expected {expected}"
    for epoch in (expected, len(counts)):
        assert epoch in model.shifts, f"{told}, nothing was validated after epoch {epoch}"
    agree(learnt(best, "shift", "best"), model.shifts[expected], f"{told}, `best`", atol=0, rtol=0)
    agree(learnt(last, "shift", "last"), model.shifts[len(counts)], f"{told}, `last`", atol=0, rtol=0)


class Examined(Scripted):
    """Scripted, and asked about test examples: with the weights of epoch e it gets tests[e] of 5 right."""

    def __init__(self, counts: list[int], tests: list[int]) -> None:
        super().__init__(counts)
        self.tests, self.looks = Script(tests), Looks()

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs[0, 0] < TEST_MARK:
            return super().forward(inputs)
        numbers = (inputs[:, 0] - TEST_MARK).long()
        self.looks.extend((number, len(self.trained)) for number in numbers.tolist())
        epoch = next((e for e, shift in self.shifts.items() if torch.equal(shift, self.shift)), 0)
        right = self.tests[epoch - 1] if epoch else 0
        return 10 * one_hot((numbers + (numbers >= right)) % CLASSES, CLASSES).to(inputs)


class Looks(list[tuple[int, int]]):
    """Test examples in the order they were asked about, each with the number of steps before; shared by all copies of a model."""

    def __deepcopy__(self, memo: dict[int, object]) -> Looks:
        return self


@pytest.mark.specifies("train_and_evaluate")
@given(
    counts=st.lists(st.integers(0, VALIDATED), min_size=1, max_size=5),
    tests=st.permutations(range(VALIDATED + 1)),
    tested=st.sampled_from(["last", "best"]),
)
def test_the_accuracy_of_a_run_is_that_of_the_weights_asked_for(impl, counts: list[int], tests: list[int], tested: str) -> None:
    """Trained and evaluated, a model has the accuracy on test examples of its last, or of its best validated, epoch."""
    model, (inputs, labels) = Examined(counts, tests), marked()
    test = (inputs + torch.tensor([TEST_MARK - MARK, *[0.0] * (WIDTH - 1)]), labels)
    found = impl.train_and_evaluate(model, some(4), marked(), test, tested, 0.1, 0.9, 0, len(counts), 4)
    epoch = len(counts) if tested == "last" else counts.index(max(counts)) + 1
    told = f"accuracy, {tested}, with {counts} validation and {tests[: len(counts)]} test examples of {VALIDATED} right by epoch"
    agree(float(found), tests[epoch - 1] / VALIDATED, told, atol=1e-6, rtol=0)


@pytest.mark.specifies("train_and_evaluate")
@pytest.mark.parametrize("tested", ["last", "best"])
def test_test_examples_are_looked_at_once_after_training(impl, tested: str) -> None:
    """The model is asked about each test example once, when training has ended: no epoch is chosen by them."""
    model, (inputs, labels) = Examined([1, 3, 2], [2, 1, 3]), marked()
    test = (inputs + torch.tensor([TEST_MARK - MARK, *[0.0] * (WIDTH - 1)]), labels)
    impl.train_and_evaluate(model, some(4), marked(), test, tested, 0.1, 0.9, 0, 3, 4)
    early = [number for number, steps in model.looks if steps < 3]
    assert not early, f"test examples {sorted({*early})} were looked at before training had ended"
    asked = sorted(number for number, _ in model.looks)
    assert asked == [*range(VALIDATED)], f"test examples {asked} were looked at: expected each of the {VALIDATED} once"


@given(counts=st.lists(st.integers(0, VALIDATED), min_size=1, max_size=5))
def test_the_history_has_a_row_for_each_epoch(counts: list[int]) -> None:
    """The history tells each epoch's number and the share of validation examples that it got right."""
    validation = Examples(VALIDATED)
    validation.inputs, validation.labels = marked()
    history = fit(Scripted(counts), Examples(4), validation, replace(SMALL, batch_size=4, epochs=len(counts))).history
    assert [(row["epoch"], row["validation_accuracy"]) for row in history] == [(e, k / 5) for e, k in enumerate(counts, start=1)]


@pytest.mark.specifies("fit")
def test_what_fit_leaves_does_not_change_with_the_model(impl) -> None:
    """Last and best are copies of their own: what becomes of the model, or of one of them, changes no other."""
    model = Scripted([1, 2])
    last, best, _ = impl.fit(model, some(4), marked(), 0.1, 0.9, 0, 2, 4)
    of_last, of_best = learnt(last, "shift", "last"), learnt(best, "shift", "best")
    kept = [of_last.clone(), of_best.clone()]
    with torch.no_grad():
        model.shift.add_(1)
        agree(of_last, kept[0], "`last`, when the model has changed afterwards,", atol=0, rtol=0)
        agree(of_best, kept[1], "`best`, when the model has changed afterwards,", atol=0, rtol=0)
        of_last.add_(1)
        agree(of_best, kept[1], "`best`, when `last` was changed afterwards,", atol=0, rtol=0)


def test_training_on_changes_nothing_that_a_fit_has_left() -> None:
    """Last and best stay as they were when the model is trained on, share no memory and require no gradient."""
    model = linear()
    fitted = fit(model, Examples(7), Examples(5), SMALL)
    kept = copy.deepcopy((fitted.last, fitted.best))
    fit(model, Examples(7, seed=1), Examples(5), SMALL)
    for before, after in zip(kept, (fitted.last, fitted.best), strict=True):
        assert torch.equal(before["weight"], after["weight"])
    assert fitted.last["weight"].data_ptr() != fitted.best["weight"].data_ptr()
    assert not fitted.last["weight"].requires_grad


@pytest.mark.specifies("fit")
def test_training_and_validation_have_their_modes(impl) -> None:
    """Examples are trained on in training mode and validated in evaluation mode, in every epoch."""
    inputs, labels = some(7)
    model = Watched(inputs)
    impl.fit(model, (inputs, labels), some(2, 1), 0.1, 0.9, 0, 3, 3)
    assert False not in model.seen.modes["training"], "some training batch was shown in evaluation mode"
    assert True not in model.seen.modes["validation"], "some validation was in training mode"


def assert_mean_loss(loop: Loop) -> None:
    examples, model = Examples(7), linear()
    fitted = loop(model, examples, Examples(2), replace(SMALL, learning_rate=1e-30))
    logits = model(examples.inputs).detach().double()
    expected = (logits.logsumexp(1) - logits[range(7), examples.labels]).mean().item()
    assert [row["loss"] for row in fitted.history] == [pytest.approx(expected, rel=1e-5)] * SMALL.epochs


def test_the_loss_of_an_epoch_is_the_mean_over_its_examples() -> None:
    """The loss in the history is the cross-entropy averaged over examples, a smaller last batch not counted for more."""
    assert_mean_loss(fit)


@pytest.mark.parametrize("wrong", [controls.loss_averaged_over_batches, controls.loss_of_the_last_batch], ids=name_of)
def test_wrong_epoch_losses_are_rejected(wrong: Loop) -> None:
    """A loss averaged over unequal batches, or of one batch, fails the property of the mean."""
    with pytest.raises(AssertionError):
        assert_mean_loss(wrong)


def test_training_learns() -> None:
    """On examples that can be separated the loss falls and validation ends at 100%."""
    examples = Examples(30)
    examples.inputs = one_hot(examples.labels, WIDTH).float()
    fitted = fit(linear(), examples, examples, replace(SMALL, epochs=10, learning_rate=1.0))
    first, second, *_, last = (row["loss"] for row in fitted.history)
    assert first > second > last
    assert fitted.history[-1]["validation_accuracy"] == 1


def test_loaded_weights_are_the_trained_ones() -> None:
    """Weights that a fit has left, put into a model of the same build, give it back to the bit."""
    model = HalfFrozen()
    untrained = copy.deepcopy(model)
    fitted = fit(model, Examples(7), Examples(2), SMALL)
    load_trained(untrained, fitted.last)
    assert all(torch.equal(value, untrained.state_dict()[name]) for name, value in model.state_dict().items())
    model.head.weight.data += 1
    assert torch.equal(untrained.head.weight, fitted.last["head.weight"])


@pytest.mark.parametrize(
    "weights",
    [{}, {"head.weight": torch.zeros(CLASSES, 1)}, {"weight": torch.zeros(CLASSES, WIDTH)}, {"head.bias": torch.zeros(CLASSES)}],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[str, Tensor]) -> None:
    """Weights with another name or shape, or none, are refused and nothing is changed."""
    model = HalfFrozen()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="do not fit the trained parameters"):
        load_trained(model, weights)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_beyond_those_that_train_are_refused() -> None:
    """Weights with one name too many are refused: they belong to another model."""
    with pytest.raises(ValueError, match="do not fit"):
        load_trained(linear(), {"weight": torch.zeros(CLASSES, WIDTH), "bias": torch.zeros(CLASSES)})


# -- where it is kept ------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, list[object]] = {
    "dataset": ["mini10", "mini100"],
    "method": ["padding", "fixed-patch", "random-patch"],
    "prompt_size": [1, 11, 30],
    "seed": [0, 1, 11],
    "learning_rate": [40.0, 4.0, 0.04, 0.001, 0.0012],
}


@pytest.mark.specifies("checkpoint_name")
def test_no_two_runs_share_a_checkpoint(impl) -> None:
    """Runs that differ in any setting have checkpoints of different names, so that none overwrites or stands in for another."""
    names: dict[str, dict[str, object]] = {}
    for values in product(*SETTINGS.values()):
        settings = dict(zip(SETTINGS, values, strict=True))
        name = impl.checkpoint_name(dict(settings))
        other = names.setdefault(name, settings)
        differ = ", ".join(f"{key} ({other[key]} and {settings[key]})" for key in SETTINGS if other[key] != settings[key])
        assert other == settings, f"two runs that differ in {differ} share the name {name!r}"


@pytest.mark.specifies("checkpoint_name")
def test_a_checkpoint_is_found_again_by_its_settings(impl) -> None:
    """The same settings have the same name again, in whatever order they are given, and it is one for a file."""
    settings = {key: values[0] for key, values in SETTINGS.items()}
    name, again = impl.checkpoint_name(dict(settings)), impl.checkpoint_name(dict(settings))
    assert again == name, f"the same settings were named {name!r}, then {again!r}"
    reordered = impl.checkpoint_name(dict(reversed(settings.items())))
    assert reordered == name, f"the same settings in another order are named {reordered!r}: expected {name!r}"
    assert not {*name} & {*'/\\:*?"<>|\0'}, f"{name!r} is no file name everywhere"
    assert len(name) <= 255, f"a name of {len(name)} letters is too long for a file"


# -- what is refused -------------------------------------------------------------------------------------------------------


def test_no_step_waits_for_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss stays on the device until the epoch ends, so that a GPU is never waited for at a step."""
    asked = []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda self: asked.append(self.shape) or item(self))
    fit(linear(), Examples(12), Examples(2), replace(SMALL, batch_size=1), name="my-run")
    assert asked == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training(value: float) -> None:
    """A NaN or infinite loss stops the training with a line that names run and epoch and advises; weights are those of before."""
    examples, model = Examples(7), linear()
    before = model.weight.detach().clone()
    examples.inputs[:] = value
    with pytest.raises(TrainingDiverged, match=r"loss nan in epoch 1 of my-run: give a rate below 0\.1") as error:
        fit(model, examples, Examples(2), SMALL, name="my-run")
    assert "\n" not in str(error.value)
    assert torch.equal(model.weight, before)


def test_weights_that_are_not_finite_are_never_kept() -> None:
    """When the last step of an epoch throws the weights to infinity, training stops: no later loss would tell."""
    steep = Recipe("sgd", learning_rate=3e38, momentum=0, warmup_steps=0, schedule="constant", epochs=1, batch_size=9)
    examples = Examples(7)
    examples.inputs *= 100
    with pytest.raises(TrainingDiverged, match=r"parameters not finite after epoch 1 of train: give a rate below 3e\+38"):
        fit(linear(), examples, Examples(2), steep)


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimiser": "adamw"},
        {"schedule": "linear"},
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"momentum": -0.1},
        {"momentum": 1.0},
        {"epochs": 0},
        {"batch_size": 0},
        {"warmup_steps": -1},
    ],
    ids=str,
)
def test_a_recipe_that_cannot_train_is_refused(wrong: dict[str, object]) -> None:
    """A recipe that cannot train is refused when it is written, not hours later."""
    with pytest.raises(ValueError, match=r"give|must be"):
        Recipe(**wrong)


def test_a_model_with_nothing_to_train_is_refused() -> None:
    """A model without a parameter that requires a gradient is refused by name."""
    for use in (trained_parameters, lambda model: fit(model, Examples(3), Examples(2), SMALL), lambda m: load_trained(m, {})):
        with pytest.raises(ValueError, match="Linear has no parameter that requires a gradient"):
            use(linear().requires_grad_(False))


@pytest.mark.parametrize(("train", "validation"), [(0, 2), (2, 0)])
def test_no_examples_are_refused(train: int, validation: int) -> None:
    """No example to train on, or none to validate on, is refused with both counts."""
    with pytest.raises(ValueError, match=f"{train} examples to train on and {validation} to validate on"):
        fit(linear(), Examples(train), Examples(validation), SMALL)


# -- the terminal ----------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_for_terminals(progress: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr is no terminal nothing is written; on a terminal a bar names the run, if progress is wanted."""
    fit(linear(), Examples(7), Examples(2), SMALL, name="my-run", progress=progress)
    assert capfd.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fit(linear(), Examples(7), Examples(2), SMALL, name="my-run", progress=progress)
    assert ("my-run" in terminal.getvalue()) == progress


def test_validation_does_not_see_the_training_mode() -> None:
    """Validation is in evaluation mode and training in training mode, in every epoch."""

    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(WIDTH, CLASSES)
            self.modes: list[tuple[int, bool]] = []

        def forward(self, inputs: Tensor) -> Tensor:
            self.modes.append((len(inputs), self.inner.training))
            return self.inner(inputs)

    model = Attentive()
    fit(model, Examples(3), Examples(2), SMALL)
    assert model.modes == [(3, True), (2, False)] * SMALL.epochs
    assert len(per_image_correctness(model, Examples(2))) == 2


@pytest.mark.slow
def test_the_readmes_own_method_is_performed_and_stored(tmp_path: Path) -> None:
    """What README shows under "A prompt of your own" runs as it stands there, on fewer images, and is then found in the store."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## A prompt of your own")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "ring_of_the_readme.py"
    file.write_text(code.replace("limit=1000", "limit=60").replace("epochs=3", "epochs=1"))
    (run,) = own_runs(file).values()
    first = obtain(run, device="cpu", progress=False)
    assert (first.total, first.trained_parameters, len(first.history)) == (60, 3 * IMAGE_PX**2, 1)
    with mock.patch("vp.experiments.store.perform", side_effect=AssertionError):
        assert torch.equal(obtain(run, device="cpu").correct_images, first.correct_images)
