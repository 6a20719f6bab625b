"""How a run is performed. The accuracy of a run is one sentence, and each of its words is stated here:

"On these images, split so by this seed, this method around this frozen backbone was trained by this recipe, and the weights of this
epoch were asked about those images, under this noise."

What other files prove of the parts is asked here of the whole, `perform` and `obtain`, on images whose answers are known
(tests/support/known_answers.py). Each `assert_` function is a sentence: it holds for vp, and it rejects the
wrong ways to perform a run that are listed beside it (tests/controls/runs.py).
"""

from __future__ import annotations

import importlib.util
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from threading import Barrier, get_ident
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from tests.controls import runs as controls
from tests.support.known_answers import (
    CLASSES,
    COUNTS,
    MARGIN,
    RUN,
    SGD,
    Known,
    KnownAnswers,
    Perform,
    Performance,
    correct_of,
    count_of,
    images_of_run,
    images_of_set,
    knows,
    performance,
)
from tests.support.small_clip import BLOCKS, WIDTH, small_model, tokenizer
from tests.support.strategies import pixels, seeds, tensor
from vp.data import GaussianNoise, ImageSet, Preprocess, sources
from vp.experiments import ZERO_SHOT, DeepTokens, Result, Run, VisualPrompt, activations, store
from vp.experiments.perform import perform
from vp.experiments.store import obtain, run_key
from vp.machine import computed_once
from vp.machine.runtime import computing_in
from vp.models import FrozenCLIP
from vp.prompts import VISUAL_PROMPTS, DeepPrompt, DeepPromptedCLIP, FastDeepPromptedCLIP, PromptedCLIP
from vp.prompts.deep import tokens_before_block
from vp.training import Recipe, load_trained
from vp.training.schedule import learning_rate_at

# -- the world -------------------------------------------------------------------------------------------------------------

PICTURES = {
    "north": ("house", "moon"),
    "south": ("leaf", "tree"),
}  # as many images of as many classes, of which a CLIP knows nothing
KNOWN_RUNS: dict[str, Run] = {}  # what `weights_from` may name


def world(name: str, split: str) -> ImageSet:
    """The sets whose answers are known, and two sets of random pictures."""
    if name in CLASSES:
        return images_of_set(name, split)
    seed = 2 * list(PICTURES).index(name) + ("train", "test").index(split)
    return ImageSet(name, split, pixels(seed, 12, 3, 16, 16), torch.arange(12) % 2, PICTURES[name])


def clip_at(logit_scale: float = 100.0) -> FrozenCLIP:
    """The small CLIP, always with the same weights."""
    model = small_model()
    model.logit_scale.data.fill_(math.log(logit_scale))
    return FrozenCLIP("small", model, tokenizer(), Preprocess(16))


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`load_images` finds this file's sets, `clip_of` the small CLIP, one for all runs of a test."""
    clip = cache(clip_at)  # made when it is first asked for
    sources._load.cache_clear()
    activations.forget_prefixes()
    monkeypatch.setattr(sources, "WORLD_NAMES", (*CLASSES, *PICTURES))
    monkeypatch.setattr(sources, "world", world)
    monkeypatch.setattr("vp.experiments.methods.clip_of", lambda *_: clip())
    monkeypatch.setattr(store, "fingerprint_of", lambda name, _: name)
    monkeypatch.setattr("vp.experiments.run.runs", lambda _: KNOWN_RUNS)
    yield
    sources._load.cache_clear()
    activations.forget_prefixes()


# -- the runs that each sentence is asked of -------------------------------------------------------------------------------

NOISE = GaussianNoise(0.1)
MANY = 30  # images whose order, or whose flips, do not come twice by chance
FLIPPED = KnownAnswers(flip=0.5)
FROM_FEATURES = KnownAnswers("frozen", flip=0.5)
RUNS = [
    RUN,
    replace(RUN, dataset="a+b", tested_epoch="best", method=FLIPPED, noise=NOISE, validation_share=0.5),
    replace(
        RUN, dataset="b", split="train", method=FROM_FEATURES, tested_epoch="best", recipe=replace(SGD, epochs=6, batch_size=7)
    ),
    replace(RUN, dataset="c", limit=20, noise=GaussianNoise(0.05, seed=3), recipe=replace(SGD, epochs=1, shuffle=False)),
    replace(RUN, dataset="c", noise=NOISE, template="{}", recipe=replace(SGD, momentum=0.9, warmup_steps=5, schedule="cosine")),
    replace(RUN, dataset="a+b", method=FROM_FEATURES, recipe=Recipe("adam", 0.3, warmup_steps=7, epochs=3, batch_size=200)),
    replace(RUN, recipe=replace(SGD, shuffle=False, epochs=3, batch_size=9)),
]


@st.composite
def known_runs(draw: st.DrawFn) -> Run:
    """Runs on images whose answers are known, with any word of the sentence changed."""
    recipe = Recipe(
        draw(st.sampled_from(["sgd", "adam"])),
        learning_rate=draw(st.sampled_from([0.25, 1.0, 40.0])),
        momentum=draw(st.sampled_from([0.0, 0.9])),
        warmup_steps=draw(st.integers(0, 20)),
        schedule=draw(st.sampled_from(["cosine", "constant"])),
        epochs=draw(st.integers(1, 4)),
        batch_size=draw(st.integers(5, 50)),
        shuffle=draw(st.booleans()),
    )
    method = KnownAnswers(draw(st.sampled_from(["drifting", "frozen"])), draw(st.sampled_from([0.0, 0.5, 1.0])))
    return replace(
        RUN,
        dataset=draw(st.sampled_from(["a", "b", "a+b", "b+a", "c"])),
        split=draw(st.sampled_from(["train", "test"])),
        method=method,
        recipe=recipe,
        noise=draw(st.sampled_from([None, NOISE, GaussianNoise(0.05, seed=1)])),
        tested_epoch=draw(st.sampled_from(["last", "best"])),
        template=draw(st.sampled_from([RUN.template, "{}"])),
        validation_share=draw(st.sampled_from([0.1, 0.2, 0.5])),
        limit=draw(st.sampled_from([None, 10, 20])),
    )


Sentence = Callable[[Performance], None]


# -- which images ----------------------------------------------------------------------------------------------------------


def assert_the_runs_images_are_tested(seen: Performance) -> None:
    """Tested are the images of the run's set and split, all of them, once, in their order; with a limit as many of each set."""
    run, everything = seen.run, images_of_run(seen.run, seen.run.split)
    place = {image: i for i, image in enumerate(everything)}
    assert {*seen.tested} <= {*everything}
    places = [place[image] for image in seen.tested]
    assert len(places) == seen.result.total == count_of(run, run.split)
    assert all(one < other for one, other in pairwise(places))
    if run.limit is None:
        assert seen.tested == everything


def assert_no_image_has_two_roles(seen: Performance) -> None:
    """Each epoch trains on the same part of the training images, each once, and validates on all others."""
    run, everything = seen.run, {*images_of_run(seen.run, "train")}
    assert run.recipe is not None
    assert len(seen.epochs) == run.recipe.epochs
    first = seen.epochs[0]
    count = count_of(run, "train")
    assert len(first.validated) == round(run.validation_share * count)
    assert len(first.trained) + len(first.validated) == count
    assert len({*first.trained, *first.validated}) == count
    assert {*first.trained, *first.validated} <= everything
    for epoch in seen.epochs:
        assert sorted(epoch.trained) == sorted(first.trained)
        assert epoch.validated == first.validated


def assert_test_images_are_looked_at_last(seen: Performance) -> None:
    """No image of the tested split is looked at before the weights are final, unless that is the split that trains."""
    if seen.run.split == "test":
        looked_at = [image for shown in seen.in_training() for image in shown.images]
        assert {split for _, split, _ in looked_at} == {"train"}
    states = {shown.state for shown in seen.test}
    assert len(states) == 1
    asked = [image for shown in seen.features for image in shown.images if image[1] == "test"]
    assert len(asked) in (0, seen.result.total)


# -- which labels ----------------------------------------------------------------------------------------------------------


def assert_labels_stay_with_their_images(seen: Performance) -> None:
    """An image's own label decides whether it is right, through subsets, flips, unions, limits and kept features; so does it in
    training: loss and validation accuracy of each epoch are those computed by hand."""
    assert seen.result.correct_images.tolist() == [knows(image, shown.state) for shown in seen.test for image in shown.images]
    assert seen.run.recipe is not None
    classes = sum(CLASSES[name] for name in seen.run.dataset.split("+"))
    of_all = math.log(math.exp(MARGIN) + classes - 1)
    for number, (epoch, row) in enumerate(zip(seen.epochs, seen.result.history, strict=True), start=1):
        losses = [of_all - MARGIN * knows(image, shown.state) for shown in epoch.training for image in shown.images]
        assert row["epoch"] == number
        assert row["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert row["validation_accuracy"] == pytest.approx(correct_of(epoch.validation) / len(epoch.validated), rel=1e-9)


def assert_only_training_images_are_mirrored(seen: Performance) -> None:
    """Training images are mirrored as often as the run says, drawn anew in every epoch; no other image ever is."""
    assert isinstance(seen.run.method, KnownAnswers)
    flip = seen.run.method.flip
    patterns = []
    for epoch in seen.epochs:
        mirrored = [one for shown in epoch.training for one in shown.mirrored]
        assert not any(one for shown in epoch.validation for one in shown.mirrored)
        assert flip == 0.5 or {*mirrored} == {flip == 1.0}
        patterns.append(sorted(zip(epoch.trained, mirrored, strict=True)))
    assert not any(one for shown in seen.test for one in shown.mirrored)
    if flip == 0.5 and len(patterns[0]) >= MANY:
        assert all(0.1 < sum(mirrored for _, mirrored in pattern) / len(pattern) < 0.9 for pattern in patterns)
        assert len({*map(tuple, patterns)}) == len(patterns)


# -- which weights ---------------------------------------------------------------------------------------------------------


def assert_weights_of_the_epoch_asked_for_are_tested(seen: Performance) -> None:
    """The weights tested are those that the last epoch ended with, or the earliest of the epochs that validated best; both are kept
    under their names."""
    after = [epoch.validation[0].state for epoch in seen.epochs]
    assert all(shown.state == state for epoch, state in zip(seen.epochs, after, strict=True) for shown in epoch.validation)
    best = [correct_of(epoch.validation) for epoch in seen.epochs]
    best_epoch = best.index(max(best)) + 1
    assert {shown.state for shown in seen.test} == {after[seen.tested_epoch - 1]}
    assert seen.result.best_epoch == best_epoch
    kept = {name: float(value) for name, value in seen.result.weights.items() if name.endswith("weight")}
    assert kept == {"last/weight": after[-1], "best/weight": after[best_epoch - 1]}
    assert seen.result.trained_parameters == 5


# -- noise, template, precision, mode --------------------------------------------------------------------------------------


def assert_noise_is_the_tests(seen: Performance) -> None:
    """Each test image has the run's noise, which depends on its place in the set; training and validation images have none."""
    assert all(shown.noise.abs().max() == 0 for shown in seen.in_training())
    noise = torch.cat([shown.noise for shown in seen.test])
    expected = torch.zeros_like(noise)
    if seen.run.noise:
        expected = seen.run.noise(expected, torch.arange(len(noise)))
    torch.testing.assert_close(noise, expected, atol=1e-4, rtol=0)


def assert_the_classifier_is_the_runs(seen: Performance) -> None:
    """Backbone, class names in the order of the labels, and template reach the one classifier that is built; it trains in training
    mode with gradients, and is asked in evaluation mode without."""
    names = tuple(f"{name} {label}" for name in seen.run.dataset.split("+") for label in range(CLASSES[name]))
    (built,) = seen.built
    assert (built["backbone"], built["class_names"], built["template"]) == (seen.run.backbone, names, seen.run.template)
    trained = [shown for epoch in seen.epochs for shown in epoch.training]
    asked = [*seen.test, *(shown for epoch in seen.epochs for shown in epoch.validation)]
    assert all(shown.training and shown.gradients for shown in trained)
    assert not any(shown.training or shown.gradients for shown in asked)


def assert_the_result_says_whose_it_is(seen: Performance) -> None:
    """A result has the name, scale, set and backbone of its run."""
    run, result = seen.run, seen.result
    assert (result.run, result.scale, result.dataset, result.backbone) == (run.name, run.scale, run.dataset, run.backbone)
    assert result.top1 == 100 * sum(knows(image, seen.test[0].state) for image in seen.tested) / len(seen.tested)


# -- steps -----------------------------------------------------------------------------------------------------------------


def assert_steps_are_the_schedules(seen: Performance) -> None:
    """There are as many steps as the recipe says, in batches as large as it says, each at its schedule's rate. Images are shuffled
    in every epoch, or keep one order, as it says."""
    recipe = seen.run.recipe
    assert recipe is not None
    count = count_of(seen.run, "train")
    count -= round(seen.run.validation_share * count)
    sizes = [len(part) for part in torch.arange(count).split(recipe.batch_size)]
    assert [[len(shown.images) for shown in epoch.training] for epoch in seen.epochs] == [sizes] * recipe.epochs
    states = [shown.state for epoch in seen.epochs for shown in epoch.training] + [float(seen.result.weights["last/weight"])]
    velocity, total = 0.0, len(sizes) * recipe.epochs
    for step, (before, after) in enumerate(pairwise(states)):
        velocity = 1 + recipe.momentum * velocity if recipe.optimiser == "sgd" else 1.0
        expected = velocity * learning_rate_at(step, total, recipe)
        assert after - before == pytest.approx(expected, rel=1e-3, abs=1e-6 * (recipe.learning_rate + after)), step
    orders = {tuple(epoch.trained) for epoch in seen.epochs}
    if not recipe.shuffle:
        assert len(orders) == 1
    elif count >= MANY:
        assert len(orders) == recipe.epochs


OF_ONE_RUN: dict[Sentence, list[Perform]] = {
    assert_the_runs_images_are_tested: [
        controls.tests_training_images,
        controls.tests_one_set_of_a_union,
        controls.tests_whole_batches_only,
        controls.ignores_the_limit,
    ],
    assert_no_image_has_two_roles: [
        controls.trains_on_validation_images,
        controls.validates_on_training_images,
        controls.trains_on_test_images,
        controls.ignores_the_validation_share,
        controls.trains_an_epoch_less,
    ],
    assert_test_images_are_looked_at_last: [
        controls.looks_at_test_images_early,
        controls.chooses_the_epoch_on_test_images,
    ],
    assert_labels_stay_with_their_images: [
        controls.tests_in_another_order,
        controls.loses_labels_in_subsets,
        controls.loses_labels_in_flips,
        controls.keeps_labels_of_a_union_as_they_were,
        controls.keeps_labels_in_few_bits,
        controls.keeps_features_in_another_order,
        controls.sorts_class_names,
        controls.averages_losses_of_unequal_batches,
        controls.counts_correct_images_as_accuracy,
    ],
    assert_only_training_images_are_mirrored: [controls.validates_on_mirrored_images, controls.tests_mirrored_images],
    assert_weights_of_the_epoch_asked_for_are_tested: [
        controls.tests_the_other_epoch,
        controls.tests_the_last_epoch_always,
        controls.tests_the_latest_of_the_best,
        controls.tests_untrained_weights,
        controls.counts_epochs_from_0,
    ],
    assert_noise_is_the_tests: [
        controls.trains_under_noise,
        controls.evaluates_without_noise,
        controls.evaluates_under_other_noise,
        controls.draws_noise_by_place_in_the_batch,
        controls.leaves_noise_on,
    ],
    assert_the_classifier_is_the_runs: [
        controls.forgets_the_template,
        controls.sorts_class_names,
        controls.evaluates_in_training_mode,
    ],
    assert_steps_are_the_schedules: [
        controls.counts_steps_from_1,
        controls.counts_steps_anew_each_epoch,
        controls.never_warms_up,
        controls.forgets_momentum,
        controls.trains_whole_batches_only,
        controls.shuffles_once,
        controls.shuffles_always,
    ],
    assert_the_result_says_whose_it_is: [controls.says_another_set],
}


def first_line(sentence: Callable[..., object]) -> str:
    return sentence.__name__.removeprefix("assert_")


@cache
def by_vp() -> list[Performance]:
    """RUNS as vp performs them, one after the other."""
    return [performance(perform, run) for run in RUNS]


@pytest.mark.parametrize("sentence", OF_ONE_RUN, ids=first_line)
def test_each_word_of_a_run_holds(sentence: Sentence) -> None:
    """Images, labels, weights, noise, template and steps of a run are those that it names."""
    for seen in by_vp():
        sentence(seen)


@given(run=known_runs(), seed=seeds)
def test_each_word_of_any_run_holds(run: Run, seed: int) -> None:
    """The same for any run: sets, unions, limits, flips, recipes and epochs as they are drawn."""
    seen = performance(perform, run, seed)
    for sentence in OF_ONE_RUN:
        sentence(seen)


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        pytest.param(sentence, wrong, id=f"{wrong.__name__}-{first_line(sentence)}")
        for sentence, ways in OF_ONE_RUN.items()
        for wrong in ways
    ],
)
def test_a_wrong_way_to_perform_a_run_is_rejected(sentence: Sentence, wrong: Perform) -> None:
    """Each sentence fails for a way to perform runs that breaks it."""

    def check() -> None:
        for run in RUNS:
            sentence(performance(wrong, run))

    with pytest.raises(AssertionError):
        check()


# -- seeds and precision ---------------------------------------------------------------------------------------------------


def drawn_by(perform: Perform, seed: int, before: int) -> list[object]:
    """Initial values with what numpy and random draw, the split, the order and the flips, after other things were drawn."""
    random.seed(before)
    np.random.seed(before)
    torch.manual_seed(before)
    seen = performance(perform, replace(RUN, method=FLIPPED), seed)
    place = {i: nth for nth, i in enumerate(sources.split_indices(COUNTS["a"]["train"], seed)[0].tolist())}
    order = [place.get(i) for epoch in seen.epochs for _, _, i in epoch.trained]
    flips = [one for epoch in seen.epochs for shown in epoch.training for one in shown.mirrored]
    return [*seen.built[0]["drawn"], sorted(seen.epochs[0].validated), order, flips, seen.result.weights["last/start"].tolist()]


def assert_the_seed_decides(perform: Perform) -> None:
    """One seed gives the same initial values, split, order and flips, whatever was drawn before. Another seed gives others."""
    first = drawn_by(perform, 3, before=1)
    assert drawn_by(perform, 3, before=2) == first
    assert all(one != other for one, other in zip(first, drawn_by(perform, 4, before=1), strict=True))


def assert_precision_is_the_runs(perform: Perform) -> None:
    """Training, validation and test compute in the precision that the run is computed in, and the next run in its own."""
    for precision in (torch.bfloat16, torch.float32, torch.float16):
        with computing_in(precision):
            seen = performance(perform, RUN)
        assert {shown.precision for shown in (*seen.in_training(), *seen.test)} == {precision}
        assert seen.result.provenance["precision"] == str(precision).removeprefix("torch.")


# -- borrowed and stored ---------------------------------------------------------------------------------------------------

Obtain = Perform


def same(one: Result, other: Result) -> bool:
    """Equal in all but the time it took, tensors bit by bit."""
    tensors = one.weights.keys() == other.weights.keys() and all(
        torch.equal(t, other.weights[key]) for key, t in one.weights.items()
    )
    plain = [{key: value for key, value in result.summary().items() if key != "seconds"} for result in (one, other)]
    return tensors and torch.equal(one.correct_images, other.correct_images) and plain[0] == plain[1]


@cache
def done(run: Run, seed: int) -> Result:
    """What vp gives without a store."""
    return perform(run, seed, device="cpu", progress=False)


STORED = [RUN, replace(RUN, noise=NOISE, dataset="b"), replace(RUN, tested_epoch="best"), replace(RUN, method=FROM_FEATURES)]


def assert_borrowed_weights_are_those_of_the_run_named(obtain: Obtain) -> None:
    """A run that borrows trains nothing. It tests, on its own images and under its own noise, the weights of its epoch that the run
    named has for the same seed."""
    KNOWN_RUNS.clear()
    KNOWN_RUNS["first"] = replace(RUN, name="first", recipe=replace(SGD, epochs=6))
    KNOWN_RUNS["second"] = replace(RUN, name="second", recipe=replace(SGD, learning_rate=0.7))
    for source in KNOWN_RUNS.values():
        for epoch in ("last", "best"):
            changes = {"dataset": "a+b", "noise": NOISE, "recipe": None, "tested_epoch": epoch, "weights_from": source.name}
            borrower = replace(RUN, name=f"{source.name}-elsewhere", **changes)
            for seed in (0, 3):
                seen = performance(obtain, borrower, seed)
                weights = done(source, seed).weights
                assert not any(shown.training for shown in seen.test)
                assert seen.epochs == []
                assert seen.result.seed == seed
                assert {shown.state for shown in seen.test} == {float(weights[f"{epoch}/weight"])}
                assert {shown.start for shown in seen.test} == {tuple(weights[f"{epoch}/start"].tolist())}
                for sentence in (assert_the_runs_images_are_tested, assert_noise_is_the_tests, assert_the_result_says_whose_it_is):
                    sentence(seen)
                assert seen.result.correct_images.tolist() == [knows(image, seen.test[0].state) for image in seen.tested]
                again = performance(obtain, borrower, seed)
                assert again.test == []
                assert same(again.result, seen.result)


def assert_stored_is_performed(obtain: Obtain) -> None:
    """What is obtained is what is performed, bit for bit, the first time and when it is read, for each run, seed and epoch; runs of
    one name that differ do not meet."""
    for _ in range(2):
        for run in STORED:
            for seed in (0, 1):
                assert same(obtain(run, seed, device="cpu", progress=False), done(run, seed))


# -- runs in one process ---------------------------------------------------------------------------------------------------

ADAM = Recipe("adam", learning_rate=0.3, warmup_steps=0, epochs=2, batch_size=10)
FRAME = Run("frame", "none", "mini", "north", "test", "small", VisualPrompt("padding", 2), ADAM)
LAST = BLOCKS - 1
MEETING = [
    FRAME,
    replace(FRAME, dataset="south", noise=GaussianNoise(0.5)),
    replace(FRAME, template="{}", tested_epoch="best"),
    replace(FRAME, method=ZERO_SHOT, recipe=None),
    *(
        replace(FRAME, dataset=name, method=DeepTokens(2, block, position, readout))
        for name, block, position, readout in (
            ("north", 0, "back", "class"),
            ("north", 1, "front", "first"),
            ("north", LAST, "front", "first"),
            ("south", 1, "front", "first"),
            ("south", LAST, "back", "class"),
        )
    ),
]


def every_pair(count: int) -> Iterator[int]:
    """Numbers below `count`, each pair of them once as neighbours, in a circle (de Bruijn)."""
    for i in range(count):
        yield i
        for j in range(i + 1, count):
            yield from (i, j)


@cache
def first_of_a_process() -> list[Result]:
    """What vp gives for each run of MEETING as the first of a process: no cache is warm, no file written, the CLIP is new."""
    found = []
    for run in MEETING:
        clip = clip_at()
        with pytest.MonkeyPatch.context() as cold, tempfile.TemporaryDirectory() as folder:
            cold.setenv("VP_HOME", folder)
            cold.setattr("vp.experiments.methods.clip_of", lambda *_, clip=clip: clip)
            activations.forget_prefixes()
            found.append(perform(run, device="cpu", progress=False))
    activations.forget_prefixes()
    return found


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """What each run gives alone. From then on whatever can be kept in files is kept."""
    found = first_of_a_process()
    monkeypatch.setattr(computed_once, "LEAST_SECONDS", -math.inf)
    return found


def assert_runs_do_not_meet(perform: Perform, alone: list[Result]) -> None:
    """After any other run, a run gives bit for bit what it gives alone; so it does from memory, and from files."""
    order = [*every_pair(len(MEETING)), 0]
    for nth in order:
        torch.rand(3)
        assert same(perform(MEETING[nth], device="cpu", progress=False), alone[nth]), MEETING[nth]
    for nth in (*range(len(MEETING)), *reversed(range(len(MEETING)))):
        activations.forget_prefixes()
        assert same(perform(MEETING[nth], device="cpu", progress=False), alone[nth]), MEETING[nth]


def test_the_runs_that_meet_differ(alone: list[Result]) -> None:
    """No two of the runs give the same, so that one taken for another is noticed."""
    for i, one in enumerate(alone):
        assert not any(
            torch.equal(one.correct_images, other.correct_images) and one.history == other.history for other in alone[:i]
        )


def test_runs_of_one_process_do_not_influence_each_other(alone: list[Result]) -> None:
    """Performing A then B gives B's numbers bit for bit, for every A and B, with caches cold or warm."""
    assert_runs_do_not_meet(perform, alone)


@pytest.mark.parametrize(
    "wrong",
    [
        controls.keeps_prefixes_by_size,
        controls.keeps_prefixes_whatever_the_block,
        controls.addresses_files_without_their_images,
        controls.keeps_text_features_by_number_of_classes,
        controls.keeps_text_features_whatever_the_template,
        controls.changes_the_shared_clip,
        controls.seeds_too_late,
        controls.never_seeds,
    ],
    ids=lambda wrong: wrong.__name__,
)
def test_runs_that_meet_are_rejected(wrong: Perform, alone: list[Result]) -> None:
    """What one run leaves for another is found out: prefixes, files, text features, weights, random streams."""
    with pytest.raises(AssertionError):
        assert_runs_do_not_meet(wrong, alone)


# -- values as large as real ones ------------------------------------------------------------------------------------------


def assert_logits_are_scaled_cosines(perform: Perform) -> None:
    """The loss is the cross-entropy of logits that are exp(logit_scale) times cosines, at 100 and above; nothing caps the scale."""
    recipe = replace(SGD, learning_rate=1e-9, epochs=1, batch_size=4)  # next to nothing: weights stay initial
    for scale in (100.0, 250.0):
        clip = clip_at(scale)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vp.experiments.methods.clip_of", lambda *_, clip=clip: clip)
            result = perform(replace(FRAME, recipe=recipe), device="cpu", progress=False)
        prompt = VISUAL_PROMPTS["padding"](2, 16)
        load_trained(prompt, {key.removeprefix("last/prompt."): t for key, t in result.weights.items() if key.startswith("last/")})
        images = world("north", "train")
        training, validation = sources.split_indices(len(images), 0, FRAME.validation_share)
        texts = clip.model.encode_text(tokenizer()([FRAME.template.format(name) for name in images.class_names]))
        with torch.no_grad():
            features = clip.model.encode_image(prompt(clip.preprocess(images.pixels)))
        logits = scale * normalize(features.double(), dim=-1) @ normalize(texts.double(), dim=-1).T
        (row,) = result.history
        assert row["loss"] == pytest.approx(float(cross_entropy(logits[training], images.labels[training])), rel=1e-4)
        right = logits[validation].argmax(1) == images.labels[validation]
        assert row["validation_accuracy"] == pytest.approx(float(right.double().mean()))


class NarrowlyRight(nn.Module):
    """In place of a CLIP: 110 classes, image features in half precision, each next to its class and nearly as near to another."""

    def __init__(self, dtype: torch.dtype, preprocess: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.preprocess, self.scale = preprocess, torch.tensor(100.0)
        texts = normalize(tensor(0, 110, 64), dim=-1)
        labels = torch.cat([world("a", "test").labels, 10 + world("b", "test").labels])
        nearly = texts[labels] * (1 + torch.finfo(dtype).eps / 2) + texts[(labels + 1) % 110]
        self.texts, self.features = texts, normalize(nearly, dim=-1).to(dtype)
        assert torch.equal((self.features.double() @ texts.double().T).argmax(1), labels)

    def class_features(self, names: tuple[str, ...], _: str) -> Tensor:
        """Text features (110, 64)."""
        assert len(names) == 110
        return self.texts

    def encode_image(self, images: Tensor) -> Tensor:
        """The features of the images of the union of a and b, by what their pixels say."""
        index, code = (images[:, channel, 0, 0].long() for channel in (0, 1))
        return self.features[index + (code > 9) * COUNTS["a"]["test"]]


def assert_half_precision_decides_between_near_classes(perform: Perform) -> None:
    """Features in bfloat16 or float16 name the right one of 110 classes though another is nearer than half precision can tell."""
    for dtype in (torch.bfloat16, torch.float16):
        clip = NarrowlyRight(dtype, Known(("any",), KnownAnswers().notes).preprocess)
        with pytest.MonkeyPatch.context() as patch, computing_in(dtype):
            patch.setattr("vp.experiments.methods.clip_of", lambda *_, clip=clip: clip)
            result = perform(replace(RUN, dataset="a+b", method=ZERO_SHOT, recipe=None), device="cpu", progress=False)
        assert result.correct == result.total == 2 * COUNTS["a"]["test"]


# -- the sentences of several runs -----------------------------------------------------------------------------------------

OF_SEVERAL_RUNS: dict[Callable[[Perform], None], tuple[Perform, list[Perform]]] = {
    assert_the_seed_decides: (
        perform,
        [
            controls.never_seeds,
            controls.seeds_alike,
            controls.seeds_torch_only,
            controls.seeds_too_late,
            controls.splits_alike_for_all_seeds,
            controls.orders_alike_for_all_seeds,
        ],
    ),
    assert_precision_is_the_runs: (perform, [controls.evaluates_in_half_precision, controls.evaluates_in_full_precision]),
    assert_borrowed_weights_are_those_of_the_run_named: (
        obtain,
        [
            controls.borrows_nothing,
            controls.borrows_of_seed_0,
            controls.borrows_the_other_epoch,
            controls.borrows_of_whoever_came_first,
            controls.evaluates_borrowed_weights_without_noise,
        ],
    ),
    assert_stored_is_performed: (
        obtain,
        [
            controls.stores_by_name,
            controls.stores_all_seeds_as_one,
            controls.stores_one_epoch_for_both,
            controls.stores_correctness_in_another_order,
        ],
    ),
    assert_logits_are_scaled_cosines: (perform, [controls.caps_the_logit_scale, controls.takes_the_logit_scale_for_its_logarithm]),
    assert_half_precision_decides_between_near_classes: (perform, [controls.multiplies_features_in_half_precision]),
}


@pytest.mark.parametrize("sentence", OF_SEVERAL_RUNS, ids=first_line)
def test_what_is_said_of_several_runs_holds(sentence: Callable[[Perform], None]) -> None:
    """Seeds, precision, borrowed weights, the store and large values are as each run says."""
    sentence(OF_SEVERAL_RUNS[sentence][0])


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        pytest.param(sentence, wrong, id=f"{wrong.__name__}-{first_line(sentence)}")
        for sentence, (_, ways) in OF_SEVERAL_RUNS.items()
        for wrong in ways
    ],
)
def test_a_wrong_way_to_perform_several_runs_is_rejected(sentence: Callable[[Perform], None], wrong: Perform) -> None:
    """Each sentence fails for a way to perform or obtain runs that breaks it."""
    with pytest.raises(AssertionError):
        sentence(wrong)


def test_weights_of_another_run_are_refused() -> None:
    """A run that borrows is not performed without weights, nor with those of a run that it does not name."""
    KNOWN_RUNS.clear()
    KNOWN_RUNS["named"] = replace(RUN, name="named")
    borrower = replace(RUN, name="borrower", recipe=None, weights_from="named")
    with pytest.raises(ValueError, match="perform that run first"):
        perform(borrower, device="cpu", progress=False)
    with pytest.raises(ValueError, match="takes the weights of 'named'"):
        perform(borrower, device="cpu", progress=False, trained=perform(RUN, device="cpu", progress=False))


# -- what a key knows ------------------------------------------------------------------------------------------------------

METHOD = """
from dataclasses import dataclass
from vp.experiments import NewHead
@dataclass(frozen=True)
class Mine(NewHead):
    def blocks_passed(self, blocks):
        return 3
"""


def key_of(path: Path, source: str) -> str:
    """The key of a run by a method that is defined in a file of one's own."""
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
        return run_key(replace(RUN, method=module.Mine()), 0, "cpu")


def assert_keys_know_a_methods_own_code(key_of: Callable[[Path, str], str], folder: Path) -> None:
    """A statement changed in the file that defines a method gives another key; a comment gives the same."""
    path = folder / "a_method_of_ones_own.py"
    first = key_of(path, METHOD)
    assert key_of(path, METHOD + "# a comment\n") == first
    assert key_of(path, METHOD.replace("3", "4")) != first


def test_a_key_knows_the_code_of_a_method_from_elsewhere(tmp_path: Path) -> None:
    """Results of a method of one's own are not taken for those of its next version."""
    assert_keys_know_a_methods_own_code(key_of, tmp_path)


@pytest.mark.parametrize("code_of", [controls.code_of_none, controls.code_as_text], ids=lambda wrong: wrong.__name__)
def test_keys_that_know_no_code_or_every_comment_are_rejected(
    code_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key without a method's code, or with its comments, is no address."""
    monkeypatch.setattr(store, "_code_of", code_of)
    with pytest.raises(AssertionError):
        assert_keys_know_a_methods_own_code(key_of, tmp_path)


# -- forwards that overlap -------------------------------------------------------------------------------------------------

NAMES = ("house", "moon")
Build = Callable[[DeepPromptedCLIP], nn.Module]


class Interrupted(DeepPrompt):
    """A prompt that does something else in the middle of its forward, the first time."""

    meanwhile: Callable[[], object] | None = None

    def insert(self, sequence: Tensor) -> Tensor:
        """Does it while the blocks before k have run, and those from k on have not."""
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        return super().insert(sequence)


def prompted(clip: FrozenCLIP, n: int = 2, block: int = 1, kind: type[DeepPrompt] = DeepPrompt) -> DeepPromptedCLIP:
    torch.manual_seed(n)
    return DeepPromptedCLIP(clip, NAMES, prompt=kind(n, WIDTH, block, "front", "class"))


def logits_and_gradients(model: nn.Module, images: Tensor) -> list[Tensor]:
    logits = model(images)
    learnt = [p for p in model.parameters() if p.requires_grad]
    return [logits.detach(), *(torch.autograd.grad(logits.square().sum(), learnt) if learnt else ())]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


class Together(DeepPrompt):
    """A prompt whose forward pauses in the middle, when called by a thread for the first time."""

    pause: Callable[[], object] = staticmethod(lambda: None)

    def insert(self, sequence: Tensor) -> Tensor:
        """Pauses while the blocks before k have run, and those from k on have not."""
        self.pause()
        return super().insert(sequence)


def assert_threads_may_share_a_clip(build: Build) -> None:
    """In four threads, prompted and zero-shot forwards on one CLIP, and gradients, are those that each gives alone: also when all
    prompted ones are in the middle of their forward while zero-shot begins and ends."""
    clip, images = clip_at(), tensor(0, 4, 3, 16, 16)
    deep = [prompted(clip, n, block, Together) for n, block in ((1, 0), (3, 1), (2, 2))]
    models, bare = [build(model) for model in deep], PromptedCLIP(clip, NAMES)
    alone = [logits_and_gradients(model, images) for model in (*models, bare)]
    begun, ended = (Barrier(len(alone), timeout=30) for _ in range(2))
    paused: set[int] = set()

    def pause() -> None:
        if get_ident() not in paused:
            paused.add(get_ident())
            begun.wait()
            ended.wait()

    for model in deep:
        model.prompt.pause = pause

    def zero_shot() -> list[Tensor]:
        paused.add(get_ident())  # hooks, if there are any, must not make it pause
        begun.wait()
        try:
            return [bare(images), clip.model.encode_image(images)]
        finally:
            ended.wait()

    with torch.no_grad():
        expected = [bare(images), clip.model.encode_image(images)]
    with ThreadPoolExecutor(len(alone)) as threads:
        answers = [threads.submit(logits_and_gradients, model, images) for model in models]
        assert_close(threads.submit(zero_shot).result(), expected)
        for answer, one in zip(answers, alone, strict=False):
            assert_close(answer.result(), one)


def assert_forwards_may_nest(build: Build) -> None:
    """A forward within another forward on one CLIP gives what it gives alone, and so does the outer one."""
    clip, images = clip_at(), tensor(0, 4, 3, 16, 16)
    outer = prompted(clip, kind=Interrupted)
    others = [build(prompted(clip, 3, 0)), build(prompted(clip, 1, 2)), PromptedCLIP(clip, NAMES)]
    expected, alone = logits_and_gradients(build(outer), images), [logits_and_gradients(other, images) for other in others]
    found: list[list[Tensor]] = []
    outer.prompt.meanwhile = lambda: found.extend(logits_and_gradients(other, images) for other in others)
    assert_close(logits_and_gradients(build(outer), images), expected)
    assert len(found) == len(others)
    for one, other in zip(found, alone, strict=True):
        assert_close(one, other)


def assert_an_exception_leaves_nothing(build: Build) -> None:
    """After a forward that fails in the middle, the CLIP and the prompt answer as before."""
    clip, images = clip_at(), tensor(0, 4, 3, 16, 16)
    failing, others = prompted(clip, kind=Interrupted), [build(prompted(clip, 3, 0)), PromptedCLIP(clip, NAMES)]
    models = [build(failing), *others]
    before = [logits_and_gradients(model, images) for model in models]

    def fail() -> None:
        raise RuntimeError("in the middle")

    failing.prompt.meanwhile = fail
    with pytest.raises(RuntimeError, match="in the middle"):
        models[0](images)
    for model, expected in zip(models, before, strict=True):
        assert_close(logits_and_gradients(model, images), expected)


def assert_copies_are_whole(build: Build) -> None:
    """A copy made in the middle of a forward answers as the original does, zero-shot and prompted; its tokens are its own."""
    clip, images = clip_at(), tensor(0, 4, 3, 16, 16)
    model = prompted(clip, kind=Interrupted)
    expected, bare = logits_and_gradients(build(model), images), logits_and_gradients(PromptedCLIP(clip, NAMES), images)
    copies: list[DeepPromptedCLIP] = []
    model.prompt.meanwhile = lambda: copies.append(deepcopy(model))
    build(model)(images)
    (copied,) = copies
    assert_close(logits_and_gradients(PromptedCLIP(copied.clip, NAMES), images), bare)
    assert_close(logits_and_gradients(build(copied), images), expected)
    with torch.no_grad():
        copied.prompt.tokens.neg_()  # a constant added to all values would be lost in a LayerNorm
    assert not torch.allclose(build(copied)(images), expected[0])
    assert_close(logits_and_gradients(build(model), images), expected)


class FromPrefix(nn.Module):
    """The quick version, from the sequences that enter block k."""

    def __init__(self, model: DeepPromptedCLIP) -> None:
        super().__init__()
        self.quick = FastDeepPromptedCLIP(model.clip, NAMES, prompt=model.prompt)

    def forward(self, images: Tensor) -> Tensor:
        """Preprocessed images to logits."""
        logits: Tensor = self.quick(tokens_before_block(self.quick.clip, images, self.quick.prompt.block))
        return logits


OVERLAPPING: dict[Callable[[Build], None], list[Build]] = {
    assert_threads_may_share_a_clip: [controls.HookedCLIP],
    assert_forwards_may_nest: [controls.HookedCLIP, controls.TokensByAttribute],
    assert_an_exception_leaves_nothing: [controls.UntidyHookedCLIP],
    assert_copies_are_whole: [controls.HookedCLIP],
}


@pytest.mark.parametrize("build", [lambda model: model, FromPrefix], ids=["plain", "from prefixes"])
@pytest.mark.parametrize("sentence", OVERLAPPING, ids=first_line)
def test_a_forward_has_no_state(sentence: Callable[[Build], None], build: Build) -> None:
    """A prompt's tokens are no state of the CLIP that is shared: threads, nested forwards, errors and copies do not meet them."""
    sentence(build)


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        pytest.param(sentence, wrong, id=f"{wrong.__name__}-{first_line(sentence)}")
        for sentence, ways in OVERLAPPING.items()
        for wrong in ways
    ],
)
def test_a_forward_with_state_is_rejected(sentence: Callable[[Build], None], wrong: Build) -> None:
    """Hooks on, or attributes of, a CLIP that is shared are seen by forwards that overlap."""
    with pytest.raises((AssertionError, RuntimeError)):
        sentence(wrong)
