"""vp.training: the schedule, the loop against loops written by hand, what `Fit` keeps, and what is refused."""

from __future__ import annotations

import copy
import io
import math
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from tests.controls import training as controls
from tests.strategies import seeds, tensor
from vp.evaluation import Batches, per_image_correctness
from vp.runtime import seed_everything
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


def assert_warm_up_then_cosine(learning_rate_at: Schedule, total: int, recipe: Recipe) -> None:
    np.testing.assert_allclose(rates_of(learning_rate_at, total, recipe), plain_schedule(total, recipe), rtol=1e-9, atol=1e-12)


def assert_no_jump_and_near_zero(learning_rate_at: Schedule, total: int, recipe: Recipe) -> None:
    rising = min(recipe.warmup_steps, total)
    relative = rates_of(learning_rate_at, total, recipe) / recipe.learning_rate
    steps = np.abs(np.diff(relative))
    if rising:
        assert relative[rising - 1] == pytest.approx(1)
        assert (np.diff(relative[:rising]) > 0).all()
        assert (steps[: rising - 1] <= 1 / rising + 1e-9).all()
    if falling := total - rising:
        assert relative[rising] == pytest.approx(1)
        assert (np.diff(relative[rising:]) < 0).all()
        assert (steps[rising:] <= np.pi / 2 / falling).all()
        assert relative[-1] <= (np.pi / 2 / falling) ** 2 + 1e-9 if falling > 1 else relative[-1] == pytest.approx(1)


@given(total=totals, warmup=warmups, rate=rates)
def test_the_rate_is_warm_up_then_cosine(total: int, warmup: int, rate: float) -> None:
    """The rate is rate (s + 1) / W in the warm-up, then rate (1 + cos(pi (s - W) / (T - W))) / 2, for any W and T."""
    assert_warm_up_then_cosine(learning_rate_at, total, Recipe(learning_rate=rate, warmup_steps=warmup))


@given(total=totals, warmup=warmups, rate=rates)
def test_the_rate_has_no_jump_and_ends_near_zero(total: int, warmup: int, rate: float) -> None:
    """The rate rises in equal steps, reaches its full value where warm-up and cosine join, then only falls, to nearly 0."""
    assert_no_jump_and_near_zero(learning_rate_at, total, Recipe(learning_rate=rate, warmup_steps=warmup))


@given(total=totals, warmup=warmups, rate=rates)
def test_a_constant_schedule_stays_after_the_warm_up(total: int, warmup: int, rate: float) -> None:
    """A constant schedule warms up as the cosine does and stays at its full rate."""
    recipe = Recipe(learning_rate=rate, warmup_steps=warmup, schedule="constant")
    given_rates, rising = rates_of(learning_rate_at, total, recipe), min(warmup, total)
    np.testing.assert_allclose(given_rates[:rising], plain_schedule(total, recipe)[:rising])
    assert (given_rates[rising:] == rate).all()


def test_the_reports_schedule_by_its_numbers() -> None:
    """The report's 6,260 steps: 0.04 at first, 40 after the 1,000th, half of it midway, under a thousandth of it at the end."""
    marks = {step: learning_rate_at(step, 6260, Recipe()) for step in (0, 499, 999, 1000, 3630, 6259)}
    assert marks == {
        0: pytest.approx(0.04),
        499: pytest.approx(20),
        999: pytest.approx(40),
        1000: pytest.approx(40),
        3630: pytest.approx(20),
        6259: pytest.approx(0, abs=1e-5),
    }


@pytest.mark.parametrize(
    "wrong",
    [
        controls.cosine_over_all_steps,
        controls.cosine_that_starts_halfway,
        controls.cosine_that_stays_above_zero,
        controls.quarter_of_a_cosine,
        controls.warm_up_from_zero,
    ],
    ids=name_of,
)
def test_wrong_schedules_are_rejected(wrong: Schedule) -> None:
    """A schedule that jumps, that never comes near 0 or that starts with a step of nothing fails both properties."""
    recipe = Recipe(learning_rate=2.0, warmup_steps=10)
    for rejects in (assert_warm_up_then_cosine, assert_no_jump_and_near_zero):
        rejects(learning_rate_at, 40, recipe)
        with pytest.raises(AssertionError):
            rejects(wrong, 40, recipe)


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


@given(
    seed=seeds,
    count=st.integers(1, 8),
    batch_size=st.integers(1, 9),
    epochs=st.integers(1, 4),
    warmup=st.integers(0, 5),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    shuffle=st.booleans(),
)
def test_sgd_is_the_momentum_loop(
    seed: int, count: int, batch_size: int, epochs: int, warmup: int, momentum: float, shuffle: bool
) -> None:
    """SGD under the schedule gives the weights of a loop written by hand."""
    recipe = Recipe("sgd", 0.1, momentum, warmup, epochs=epochs, batch_size=batch_size, shuffle=shuffle)
    assert_momentum_loop(fit, count, recipe, seed)


@pytest.mark.parametrize("wrong", [controls.one_rate_for_all_steps, controls.no_momentum], ids=name_of)
def test_wrong_steps_are_rejected(wrong: Loop) -> None:
    """A loop that ignores the schedule or the momentum ends at other weights."""
    with pytest.raises(AssertionError):
        assert_momentum_loop(wrong, 7, SMALL, 0)


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


@given(count=st.integers(1, 20), batch_size=st.integers(1, 21), epochs=st.integers(1, 3), shuffle=st.booleans())
def test_an_epoch_shows_every_example_once(count: int, batch_size: int, epochs: int, shuffle: bool) -> None:
    """Every epoch shows every example exactly once: the last batch may be smaller, none is dropped."""
    assert_every_example_once(fit, count, replace(SMALL, batch_size=batch_size, epochs=epochs, shuffle=shuffle))


def test_a_loop_that_drops_the_last_batch_is_rejected() -> None:
    """A loop over full batches only fails the property that every example is shown."""
    with pytest.raises(AssertionError):
        assert_every_example_once(controls.drops_the_last_batch, 7, SMALL)


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


class Shifted(nn.Module):
    """logits = inputs + shift: large inputs decide the class whatever the training does to the shift."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :CLASSES] + self.shift


class Scripted:
    """Validation of which epoch e gets counts[e] of 5 right; keeps the model's shift at each."""

    def __init__(self, model: Shifted, counts: list[int]) -> None:
        self.model, self.counts = model, counts
        self.shifts: list[Tensor] = []

    def __len__(self) -> int:
        return 5

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        right = self.counts[len(self.shifts)]
        self.shifts.append(self.model.shift.detach().clone())
        labels = (torch.arange(5) >= right).long()
        return torch.tensor([1e6, 0, 0]).expand(5, 3), labels


def assert_earliest_best(loop: Loop, counts: list[int]) -> None:
    model = Shifted()
    validation = Scripted(model, counts)
    fitted = loop(model, Examples(4), validation, replace(SMALL, epochs=len(counts)))
    best = counts.index(max(counts))
    assert fitted.best_epoch == best + 1
    assert torch.equal(fitted.best["shift"], validation.shifts[best])
    assert torch.equal(fitted.last["shift"], validation.shifts[-1])
    assert [(row["epoch"], row["validation_top1"]) for row in fitted.history] == [(e, k / 5) for e, k in enumerate(counts, start=1)]


@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_best_are_the_weights_of_the_earliest_best_epoch(counts: list[int]) -> None:
    """Best are the weights after the earliest of the epochs that validate best, last those of the end; a row for each epoch."""
    assert_earliest_best(fit, counts)


@pytest.mark.parametrize("wrong", [controls.best_is_last, controls.latest_best], ids=name_of)
def test_wrong_bests_are_rejected(wrong: Loop) -> None:
    """A loop that keeps the last weights, or names the latest of equal epochs, fails the property of the best."""
    with pytest.raises(AssertionError):
        assert_earliest_best(wrong, [1, 4, 4, 0])


def assert_copies(loop: Loop) -> None:
    model = linear()
    fitted = loop(model, Examples(7), Examples(5), SMALL)
    kept = copy.deepcopy((fitted.last, fitted.best))
    fit(model, Examples(7, seed=1), Examples(5), SMALL)
    for before, after in zip(kept, (fitted.last, fitted.best), strict=True):
        assert torch.equal(before["weight"], after["weight"])
    assert fitted.last["weight"].data_ptr() != fitted.best["weight"].data_ptr()
    assert not fitted.last["weight"].requires_grad


def test_what_fit_leaves_does_not_change_with_the_model() -> None:
    """Last and best are copies of their own: training on changes neither."""
    assert_copies(fit)


@pytest.mark.parametrize("wrong", [controls.best_is_last, controls.best_is_alive, controls.last_is_alive], ids=name_of)
def test_weights_that_share_memory_are_rejected(wrong: Loop) -> None:
    """A best that is an alias of the last, or either one of the live parameters, fails the property of the copies."""
    with pytest.raises(AssertionError):
        assert_copies(wrong)


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
    assert fitted.history[-1]["validation_top1"] == 1


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

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(WIDTH, CLASSES)
            self.modes: list[tuple[int, bool]] = []

        def forward(self, inputs: Tensor) -> Tensor:
            self.modes.append((len(inputs), self.inner.training))
            return self.inner(inputs)

    model = Watched()
    fit(model, Examples(3), Examples(2), SMALL)
    assert model.modes == [(3, True), (2, False)] * SMALL.epochs
    assert len(per_image_correctness(model, Examples(2))) == 2
