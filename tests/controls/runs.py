"""Wrong ways to perform a run, and to obtain one. Each breaks one sentence of tests/test_0_runs.py, whose table names it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from vp.data import GaussianNoise, ImageSet, load_images
from vp.evaluation import ImageBatches, PrefixBatches, Subset, accuracy, batches
from vp.experiments import Result, activations, methods, perform, store
from vp.models import FrozenCLIP
from vp.prompts import prompted
from vp.training import loop

Wrong = Callable[..., Result]


def wrong(do: Wrong) -> Callable[[Callable[[], Iterator[object]]], Wrong]:
    """`do` while the decorated context lasts."""

    def register(context: Callable[[], Iterator[object]]) -> Wrong:
        broken = contextmanager(context)

        @wraps(context)
        def doing(*given: Any, **more: Any) -> Result:
            with broken():
                return do(*given, **more)

        return doing

    return register


performed, obtained = wrong(perform.perform), wrong(store.obtain)


def rewritten(function: Any, old: str, new: str) -> Any:
    """A function with other words in its source."""
    source = inspect.getsource(function)
    if source.count(old) != 1:  # no AssertionError, which would pass for a rejection
        raise LookupError(f"{function.__name__} does not say {old!r} exactly once: mend the control")
    names = dict(vars(sys.modules[function.__module__]))
    exec(compile("from __future__ import annotations\n" + source.replace(old, new), function.__name__, "exec"), names)
    return names[function.__name__]


def put(where: Any, name: str, by: Any) -> Any:
    """Another thing by that name, while the context lasts."""
    return mock.patch.object(where, name, by)


# -- which images ----------------------------------------------------------------------------------------------------------


@performed
def tests_training_images() -> Iterator[object]:
    """Accuracy is measured on training images."""
    own = perform.images_of
    with put(perform, "images_of", lambda run, split: own(run, "train")):
        yield


@performed
def tests_one_set_of_a_union() -> Iterator[object]:
    """The second set of a union is not tested."""
    own = perform.per_image_correctness

    def correctness(model: Any, shown: Any) -> Tensor:
        half = torch.arange(len(shown) // 2)
        return own(model, Subset(shown, half) if len(shown) == 64 else shown)

    with put(perform, "per_image_correctness", correctness):
        yield


@performed
def tests_whole_batches_only() -> Iterator[object]:
    """Images that fill no batch are dropped from evaluation."""
    own = perform.per_image_correctness
    with put(
        perform,
        "per_image_correctness",
        lambda model, shown: own(model, Subset(shown, torch.arange(len(shown) // 250 * 250)) if len(shown) > 250 else shown),
    ):
        yield


@performed
def tests_in_another_order() -> Iterator[object]:
    """Correctness comes back in another order than the images have."""
    own = perform.per_image_correctness
    with put(perform, "per_image_correctness", lambda model, shown: own(model, shown).flip(0)):
        yield


@performed
def ignores_the_limit() -> Iterator[object]:
    """All images in place of as many as the limit says."""
    with put(perform, "load_images", lambda name, split, *_, **__: load_images(name, split)):
        yield


@performed
def trains_on_validation_images() -> Iterator[object]:
    """All images train, those that validate included."""
    own = perform.split_indices
    with put(perform, "split_indices", lambda count, *more: (torch.arange(count), own(count, *more)[1])):
        yield


@performed
def validates_on_training_images() -> Iterator[object]:
    """Images that train validate."""
    own = perform.split_indices

    def split(count: int, *more: Any) -> tuple[Tensor, Tensor]:
        training, validation = own(count, *more)
        return training, training[: len(validation)]

    with put(perform, "split_indices", split):
        yield


@performed
def trains_on_test_images() -> Iterator[object]:
    """Training looks at the split that is tested."""
    own = perform.images_of
    with put(perform, "images_of", lambda run, split: own(run, "test")):
        yield


@performed
def ignores_the_validation_share() -> Iterator[object]:
    """A fifth of the images validates, whatever the run says."""
    own = perform.split_indices
    with put(perform, "split_indices", lambda count, seed, _: own(count, seed)):
        yield


@performed
def looks_at_test_images_early() -> Iterator[object]:
    """Test images are evaluated before training, too."""
    own = perform.build_model

    def build(run: Any, *more: Any) -> Any:
        model, images = own(run, *more), perform.images_of(run, run.split)
        perform.per_image_correctness(model, ImageBatches(images, model.preprocess))
        return model

    with put(perform, "build_model", build):
        yield


@performed
def chooses_the_epoch_on_test_images() -> Iterator[object]:
    """Test images validate."""
    own_train, own_fit = perform.train, perform.fit

    def train(run: Any, model: Any, *more: Any) -> Any:
        shown = ImageBatches(perform.images_of(run, run.split), model.preprocess)
        with put(perform, "fit", lambda model, train, _, *given, **named: own_fit(model, train, shown, *given, **named)):
            return own_train(run, model, *more)

    with put(perform, "train", train):
        yield


# -- which labels ----------------------------------------------------------------------------------------------------------


@performed
def loses_labels_in_subsets() -> Iterator[object]:
    """A subset has the images asked for, with the labels of others."""

    class Mixed(Subset):
        def __getitem__(self, indices: Tensor) -> tuple[Any, Tensor]:
            return super().__getitem__(indices)[0], self.batches[indices][1]

    with put(perform, "Subset", Mixed):
        yield


@performed
def loses_labels_in_flips() -> Iterator[object]:
    """Mirrored images come last in a batch, their labels stay where they were."""

    class Mixed(methods.FlippedAtRandom):
        def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            stream = torch.get_rng_state()
            flip = torch.rand(len(indices)) < self.p
            torch.set_rng_state(stream)
            inputs, labels = super().__getitem__(indices)
            return torch.cat([inputs[~flip], inputs[flip]]), labels

    with put(methods, "FlippedAtRandom", Mixed):
        yield


@performed
def keeps_labels_of_a_union_as_they_were() -> Iterator[object]:
    """Labels of the second set of a union are not shifted."""

    def load(name: str, split: str, limit: int | None, **_: Any) -> ImageSet:
        images = load_images(name, split, limit)
        parts = [load_images(one, split, limit).labels for one in name.split("+")]
        return replace(images, labels=torch.cat(parts))

    with put(perform, "load_images", load):
        yield


@performed
def keeps_features_in_another_order() -> Iterator[object]:
    """Features that are kept belong to other images."""
    own = batches.ComputedBatches._all
    with put(batches.ComputedBatches, "_all", lambda self, *given: tuple(part.flip(0) for part in own(self, *given))):
        yield


@performed
def validates_on_mirrored_images() -> Iterator[object]:
    """Validation sees what training sees."""
    own = perform.fit
    with put(
        perform,
        "fit",
        lambda model, train, held, *more, **named: own(model, train, Subset(train.batches, held.indices), *more, **named),
    ):
        yield


@performed
def tests_mirrored_images() -> Iterator[object]:
    """Test images are mirrored."""
    kind = methods.NewHead
    own = kind.evaluation_batches
    with put(kind, "evaluation_batches", lambda self, model, images, *more: own(self, model, images.flipped(), *more)):
        yield


# -- which weights ---------------------------------------------------------------------------------------------------------


def _fitted(change: Callable[[Any], Any]) -> Any:
    own = perform.fit
    return put(perform, "fit", lambda *given, **named: change(own(*given, **named)))


@performed
def tests_the_other_epoch() -> Iterator[object]:
    """The best epoch's weights where the last are asked for, and the reverse."""
    with _fitted(lambda fitted: replace(fitted, last=fitted.best, best=fitted.last)):
        yield


@performed
def tests_the_last_epoch_always() -> Iterator[object]:
    """The last epoch's weights are taken for the best."""
    with _fitted(lambda fitted: replace(fitted, best=fitted.last)):
        yield


@performed
def tests_the_latest_of_the_best() -> Iterator[object]:
    """Of epochs that validate equally well, the latest counts."""
    with put(perform, "fit", rewritten(loop.fit, "if correct > best_correct", "if correct >= best_correct")):
        yield


@performed
def tests_untrained_weights() -> Iterator[object]:
    """Initial weights are tested: training is lost."""
    own = perform.train

    def train(run: Any, model: Any, *more: Any) -> Any:
        before = {name: p.detach().clone() for name, p in perform.trained_parameters(model).items()}
        fitted = own(run, model, *more)
        return replace(fitted, last=before, best=before)

    with put(perform, "train", train):
        yield


@obtained
def borrows_nothing() -> Iterator[object]:
    """Random weights are taken for borrowed ones."""
    own = perform.restore_model

    def restore(run: Any, trained: Any, *more: Any) -> Any:
        own(run, trained, *more)
        return perform.build_model(run, *more)

    with put(perform, "restore_model", restore):
        yield


@obtained
def borrows_of_seed_0() -> Iterator[object]:
    """The weights borrowed are those of seed 0."""
    own = store.obtain
    with put(store, "obtain", lambda run, _, **more: own(run, 0, **more)):
        yield


@obtained
def borrows_the_other_epoch() -> Iterator[object]:
    """The weights borrowed are those of the other epoch."""
    own = perform.restore_model

    def restore(run: Any, *more: Any) -> Any:
        return own(replace(run, tested_epoch="best" if run.tested_epoch == "last" else "last"), *more)

    with put(perform, "restore_model", restore):
        yield


@obtained
def evaluates_borrowed_weights_without_noise() -> Iterator[object]:
    """A run that borrows weights forgets its noise."""
    own = methods.NewHead.evaluation_batches
    with put(methods.NewHead, "evaluation_batches", lambda self, model, images, device, _: own(self, model, images, device)):
        yield


_FIRST: list[Result] = []


@obtained
def borrows_of_whoever_came_first() -> Iterator[object]:
    """Weights of the first run that was borrowed from serve all."""
    own = perform.restore_model

    def restore(run: Any, trained: Result, *more: Any) -> Any:
        _FIRST.append(trained)
        return own(run, replace(trained, weights=_FIRST[0].weights), *more)

    with put(perform, "restore_model", restore):
        yield


# -- what is stored --------------------------------------------------------------------------------------------------------


@obtained
def stores_by_name() -> Iterator[object]:
    """Results are found by the name of their run."""
    with put(store, "run_key", lambda run, *_: run.name * 24):
        yield


@obtained
def stores_all_seeds_as_one() -> Iterator[object]:
    """Results of all seeds have one address."""
    own = store.run_key
    with put(store, "run_key", lambda run, _, device: own(run, 0, device)):
        yield


@obtained
def stores_one_epoch_for_both() -> Iterator[object]:
    """The best epoch's weights are read as the last one's."""
    own = store.result_in

    def load(*given: Any) -> Result:
        found = own(*given)
        return replace(found, weights={name: found.weights[name.replace("last/", "best/")] for name in found.weights})

    with put(store, "result_in", load):
        yield


@obtained
def stores_correctness_in_another_order() -> Iterator[object]:
    """Which images are right is lost, how many are is not."""
    own = store.result_in

    def load(*given: Any) -> Result:
        found = own(*given)
        return replace(found, correct_images=found.correct_images.sort(descending=True).values)

    with put(store, "result_in", load):
        yield


def code_of_none(_: Any) -> str:
    """The code of no method counts."""
    return ""


def code_as_text(method: Any) -> str:
    """Comments of a method's file count."""
    return Path(inspect.getfile(type(method))).read_text(encoding="utf-8")


# -- seeds -----------------------------------------------------------------------------------------------------------------


@performed
def never_seeds() -> Iterator[object]:
    """No seed is set."""
    with put(perform, "seed_everything", lambda _: None):
        yield


@performed
def seeds_alike() -> Iterator[object]:
    """One seed serves all."""
    own = perform.seed_everything
    with put(perform, "seed_everything", lambda _: own(0)):
        yield


@performed
def seeds_torch_only() -> Iterator[object]:
    """numpy and random are not seeded."""
    with put(perform, "seed_everything", torch.manual_seed):
        yield


@performed
def seeds_too_late() -> Iterator[object]:
    """The seed is set after the initial values are drawn."""
    own_build, own_seed = perform.build_model, perform.seed_everything
    asked: list[int] = []

    def build(*given: Any) -> Any:
        model = own_build(*given)
        own_seed(asked[-1])
        return model

    with put(perform, "seed_everything", asked.append), put(perform, "build_model", build):
        yield


@performed
def splits_alike_for_all_seeds() -> Iterator[object]:
    """The same images validate for every seed."""
    own = perform.split_indices
    with put(perform, "split_indices", lambda count, _, share: own(count, 0, share)):
        yield


@performed
def shuffles_once() -> Iterator[object]:
    """Every epoch has the order of the first."""
    own = perform.fit
    with put(
        perform, "fit", lambda model, train, held, recipe, **named: own(model, train, held, replace(recipe, shuffle=False), **named)
    ):
        yield


@performed
def shuffles_always() -> Iterator[object]:
    """Images are shuffled where they should not be."""
    own = perform.fit
    with put(
        perform, "fit", lambda model, train, held, recipe, **named: own(model, train, held, replace(recipe, shuffle=True), **named)
    ):
        yield


@performed
def orders_alike_for_all_seeds() -> Iterator[object]:
    """The order of images and their flips are the same for every seed."""
    own = perform.fit

    def fit(*given: Any, **named: Any) -> Any:
        torch.manual_seed(0)
        return own(*given, **named)

    with put(perform, "fit", fit):
        yield


# -- noise, template, precision --------------------------------------------------------------------------------------------


@performed
def trains_under_noise() -> Iterator[object]:
    """The evaluation's noise is there in training as well."""
    noise = GaussianNoise(0.1)
    with put(
        methods.NewHead,
        "training_batches",
        lambda _, model, images, device, **__: ImageBatches(images, model.preprocess, device, noise),
    ):
        yield


@performed
def evaluates_without_noise() -> Iterator[object]:
    """The run's noise is forgotten."""
    own = methods.NewHead.evaluation_batches
    with put(methods.NewHead, "evaluation_batches", lambda self, model, images, device, _: own(self, model, images, device)):
        yield


@performed
def evaluates_under_other_noise() -> Iterator[object]:
    """The noise has the run's strength and another seed."""
    own = methods.NewHead.evaluation_batches

    def shown(self: Any, model: Any, images: Any, device: Any, noise: GaussianNoise | None) -> Any:
        return own(self, model, images, device, noise and replace(noise, seed=noise.seed + 1))

    with put(methods.NewHead, "evaluation_batches", shown):
        yield


@performed
def draws_noise_by_place_in_the_batch() -> Iterator[object]:
    """An image's noise depends on where in its batch it stands."""
    own = GaussianNoise.__call__
    with put(GaussianNoise, "__call__", lambda self, images, indices: own(self, images, torch.arange(len(indices)))):
        yield


_LEFT_ON: list[GaussianNoise] = []


@performed
def leaves_noise_on() -> Iterator[object]:
    """Once a run had noise, all later ones have it."""
    own = methods.NewHead.evaluation_batches

    def shown(self: Any, model: Any, images: Any, device: Any, noise: GaussianNoise | None) -> Any:
        if noise:
            _LEFT_ON.append(noise)
        return own(self, model, images, device, noise or (_LEFT_ON[-1] if _LEFT_ON else None))

    with put(methods.NewHead, "evaluation_batches", shown):
        yield


@performed
def forgets_the_template() -> Iterator[object]:
    """Every run has the default template."""
    own = perform.build_model
    with put(perform, "build_model", lambda run, *more: own(replace(run, template=type(run).template), *more)):
        yield


@performed
def sorts_class_names() -> Iterator[object]:
    """Class names come in alphabetical order, labels do not."""
    own = perform.build_model
    with put(perform, "build_model", lambda run, names, *more: own(run, tuple(sorted(names)), *more)):
        yield


@performed
def evaluates_in_half_precision() -> Iterator[object]:
    """Evaluation computes in half precision, whatever the run is computed in."""
    with put(accuracy, "mixed_precision", lambda device: torch.autocast(device.type, torch.bfloat16)):
        yield


@performed
def evaluates_in_full_precision() -> Iterator[object]:
    """Evaluation computes in float32, whatever the run is computed in."""
    with put(accuracy, "mixed_precision", lambda _: nullcontext()):
        yield


@performed
def evaluates_in_training_mode() -> Iterator[object]:
    """Nobody puts the classifier into evaluation mode."""
    with put(accuracy, "in_mode", lambda *_, **__: nullcontext()):
        yield


# -- steps and history -----------------------------------------------------------------------------------------------------


def _rate(changed: Callable[..., float]) -> Any:
    own = loop.learning_rate_at
    return put(loop, "learning_rate_at", lambda step, total, recipe: changed(own, step, total, recipe))


def _recipe(**changes: Any) -> Any:
    own = perform.fit
    return put(
        perform, "fit", lambda model, train, held, recipe, **named: own(model, train, held, replace(recipe, **changes), **named)
    )


@performed
def counts_steps_from_1() -> Iterator[object]:
    """Each step has the rate of the next."""
    with _rate(lambda own, step, total, recipe: own(min(step + 1, total), total, recipe)):
        yield


@performed
def counts_steps_anew_each_epoch() -> Iterator[object]:
    """Each epoch has a schedule of its own."""
    with _rate(lambda own, step, total, recipe: own(step % (total // recipe.epochs), total // recipe.epochs, recipe)):
        yield


@performed
def never_warms_up() -> Iterator[object]:
    """The rate starts at its full height."""
    with _recipe(warmup_steps=0):
        yield


@performed
def forgets_momentum() -> Iterator[object]:
    """Each step goes by its own gradient alone."""
    with _recipe(momentum=0.0):
        yield


@performed
def trains_an_epoch_less() -> Iterator[object]:
    """The last epoch is not trained."""
    own = perform.fit
    with put(
        perform,
        "fit",
        lambda model, train, held, recipe, **named: own(
            model, train, held, replace(recipe, epochs=max(1, recipe.epochs - 1)), **named
        ),
    ):
        yield


@performed
def trains_whole_batches_only() -> Iterator[object]:
    """Images that fill no batch are dropped from training."""
    own = perform.fit

    def fit(model: Any, train: Any, held: Any, recipe: Any, **named: Any) -> Any:
        whole = max(1, len(train) // recipe.batch_size) * recipe.batch_size
        return own(model, Subset(train, torch.arange(len(train))[:whole]), held, recipe, **named)

    with put(perform, "fit", fit):
        yield


@performed
def averages_losses_of_unequal_batches() -> Iterator[object]:
    """The loss of an epoch is the mean of its batches, however small."""
    with put(perform, "fit", rewritten(loop.fit, "loss_sum / len(train)", "sum(values) / len(values)")):
        yield


@performed
def counts_correct_images_as_accuracy() -> Iterator[object]:
    """History has the number of correct validation images in place of their share."""
    with put(perform, "fit", rewritten(loop.fit, "correct / len(validation)})", "float(correct)})")):
        yield


@performed
def counts_epochs_from_0() -> Iterator[object]:
    """The first epoch is number 0."""
    with _fitted(lambda fitted: replace(fitted, best_epoch=fitted.best_epoch - 1)):
        yield


def says_another_set(*given: Any, **more: Any) -> Result:
    """The result has the name of another set."""
    return replace(perform.perform(*given, **more), dataset="another")


# -- runs in one process ---------------------------------------------------------------------------------------------------

_BY_SIZE: dict[tuple[int, int, Any], Any] = {}
_BY_CLASSES: dict[int, Tensor] = {}
_BY_NAMES: dict[tuple[str, ...], Tensor] = {}


@performed
def keeps_prefixes_by_size() -> Iterator[object]:
    """The prefix of one dataset is used for another of as many images."""

    def prefix(images: Any, clip: Any, prompt: Any, device: torch.device, _: bool) -> Any:
        key = len(images), prompt.block, activations.last_block_kind(clip, prompt)
        if key not in _BY_SIZE:
            _BY_SIZE[key] = PrefixBatches(ImageBatches(images, clip.preprocess, device), clip, prompt)
        return _BY_SIZE[key]

    with put(methods, "training_prefix", prefix):
        yield


@performed
def keeps_prefixes_whatever_the_block() -> Iterator[object]:
    """The prefix of one block is used for another."""
    own = activations.training_prefix

    def prefix(images: Any, clip: Any, prompt: Any, *more: Any) -> Any:
        same = [kept for key, kept in activations._PREFIX.items() if key[0] == images.fingerprint]
        kind = activations.last_block_kind(clip, prompt)
        return same[0][None] if kind is None and same and None in same[0] else own(images, clip, prompt, *more)

    with put(methods, "training_prefix", prefix):
        yield


@performed
def addresses_files_without_their_images() -> Iterator[object]:
    """What is computed once of one dataset is read for another."""
    own = activations.address_of
    blank = type("Blank", (), {"fingerprint": "images"})()
    with (
        put(activations, "address_of", lambda what, _, *more, **named: own(what, blank, *more, **named)),
        put(methods, "address_of", lambda what, _, *more, **named: own(what, blank, *more, **named)),
    ):
        yield


@performed
def keeps_text_features_by_number_of_classes() -> Iterator[object]:
    """Text features of one set's classes serve another set of as many."""
    own = FrozenCLIP.class_features

    def features(self: Any, names: Any, template: str) -> Tensor:
        return _BY_CLASSES.setdefault(len(names), own(self, names, template))

    with put(FrozenCLIP, "class_features", features):
        yield


@performed
def keeps_text_features_whatever_the_template() -> Iterator[object]:
    """Text features of one template serve another."""
    own = FrozenCLIP.class_features

    def features(self: Any, names: Any, template: str) -> Tensor:
        return _BY_NAMES.setdefault(tuple(names), own(self, names, template))

    with put(FrozenCLIP, "class_features", features):
        yield


@performed
def changes_the_shared_clip() -> Iterator[object]:
    """A run leaves its mark on the CLIP that all share."""
    own = perform.per_image_correctness

    def correctness(model: Any, *more: Any) -> Tensor:
        found = own(model, *more)
        if hasattr(model, "clip"):
            model.clip.model.visual.class_embedding.data += 0.1
        return found

    with put(perform, "per_image_correctness", correctness):
        yield


# -- values as large as real ones ------------------------------------------------------------------------------------------


def _scaled(change: Callable[[Tensor], Tensor]) -> Any:
    own = prompted.cosine_logits
    return put(prompted, "cosine_logits", lambda images, texts, scale: own(images, texts, change(scale)))


@performed
def caps_the_logit_scale() -> Iterator[object]:
    """A logit scale above 50 counts as 50."""
    with _scaled(lambda scale: scale.clamp(max=50)):
        yield


@performed
def takes_the_logit_scale_for_its_logarithm() -> Iterator[object]:
    """Logits are scaled by the logarithm of the scale."""
    with _scaled(torch.log):
        yield


@performed
def multiplies_features_in_half_precision() -> Iterator[object]:
    """Logits are computed in the precision of the features."""
    with put(prompted, "cosine_logits", lambda images, texts, scale: (scale * images @ texts.to(images.dtype).T).to(images.dtype)):
        yield


@performed
def keeps_labels_in_few_bits() -> Iterator[object]:
    """Labels above 63 come back as others."""
    own = perform.load_images
    with put(
        perform,
        "load_images",
        lambda *given, **named: (lambda images: replace(images, labels=images.labels % 64))(own(*given, **named)),
    ):
        yield


# -- forwards that overlap -------------------------------------------------------------------------------------------------


class HookedCLIP(torch.nn.Module):
    """Tokens put into the shared CLIP by hooks while it computes: forwards that overlap get each other's."""

    tidy = True

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        prompt, clip = self.model.prompt, self.model.clip
        blocks = clip.model.visual.transformer.resblocks
        handles = [
            blocks[prompt.block].register_forward_pre_hook(lambda _, given: (prompt.insert(given[0]), *given[1:])),
            blocks[-1].register_forward_hook(lambda _, __, output: prompt.for_pooling(output)),
        ]
        try:
            features = clip.model.encode_image(images)
        except RuntimeError:
            if self.tidy:
                self._remove(handles)
            raise
        self._remove(handles)
        logits: Tensor = self.model.logits(features)
        return logits

    @staticmethod
    def _remove(handles: list[Any]) -> None:
        for handle in handles:
            handle.remove()


class UntidyHookedCLIP(HookedCLIP):
    """The same, and an exception leaves the hooks in place."""

    tidy = False


class TokensByAttribute(torch.nn.Module):
    """The tokens of the forward that began last are an attribute of the shared CLIP, which its blocks read."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        clip = self.model.clip
        visual = clip.model.visual
        clip.prompt_in_use = self.model.prompt
        sequence = visual._embeds(images)
        for index, block in enumerate(visual.transformer.resblocks):
            if index == self.model.prompt.block:
                sequence = clip.prompt_in_use.insert(sequence)
            sequence = block(sequence)
        pooled = visual._pool(clip.prompt_in_use.for_pooling(sequence))[0]
        logits: Tensor = self.model.logits(pooled if visual.proj is None else pooled @ visual.proj)
        return logits
