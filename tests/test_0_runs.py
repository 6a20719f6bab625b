"""How a run is performed: which images train, validate and are tested, which weights are tested, and that runs do not meet.

What the other files prove of parts is asked here of the whole: `perform` and `obtain` on images whose answers are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
import torch

from tests.controls import runs as controls
from tests.support.known_answers import SPLITS, Watched, images
from tests.support.small_clip import WIDTH, small_model, tokenizer
from tests.support.strategies import pixels
from vp.data import GaussianNoise, ImageSet, Preprocess
from vp.experiments import DeepTokens, Result, Run, VisualPrompt, activations
from vp.experiments.perform import perform
from vp.experiments.store import obtain
from vp.models import FrozenCLIP
from vp.prompts import DeepPrompt, DeepPromptedCLIP, PromptedCLIP
from vp.training import Recipe

TRAIN, TEST, EPOCHS, BATCH = 45, 32, 3, 16  # an epoch on 36 images ends with a batch of 4
STEPS = Recipe(learning_rate=400.0, momentum=0.0, warmup_steps=0, schedule="constant", epochs=EPOCHS, batch_size=BATCH)
Patch = Callable[[pytest.MonkeyPatch], None]


def watched(**changes: object) -> tuple[Run, Watched]:
    """A run whose classifier notes all that it is shown; its answers change after the first epoch."""
    method = Watched()
    return replace(Run("watched", "none", "mini", "known", "test", "none", method, STEPS), **changes), method


@pytest.fixture(autouse=True)
def known_images(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"train": TRAIN, "test": TEST}
    monkeypatch.setattr(
        "vp.experiments.perform.load_images", lambda name, split, limit: images(name, split, limit or counts[split])
    )
    monkeypatch.setattr("vp.experiments.store.fingerprint_of", lambda *_: "none")


def done(run: Run, seed: int = 0, **more: object) -> Result:
    return perform(run, seed, device="cpu", progress=False, **more)


# -- which images ----------------------------------------------------------------------------------------------------------


def assert_images_are_the_runs() -> None:
    """Each epoch trains on the same part once and validates on the rest; test images come once, last, in order."""
    run, method = watched()
    result = done(run)
    notes = method.notes
    trained = [i for shown in notes if shown.training for i in shown.indices]
    validated = [i for shown in notes if not shown.training and shown.splits == {SPLITS["train"]} for i in shown.indices]
    tested = [i for shown in notes if shown.splits == {SPLITS["test"]} for i in shown.indices]
    assert all(shown.splits == {SPLITS["train"]} for shown in notes if shown.training)
    assert {*trained} | {*validated} == {*range(TRAIN)}
    assert not {*trained} & {*validated}
    assert len({*validated}) == round(run.validation_share * TRAIN)
    for part in (trained, validated):
        assert sorted(part) == sorted([*{*part}] * EPOCHS)
    assert tested == [*range(TEST)]
    first = next(nth for nth, shown in enumerate(notes) if shown.splits == {SPLITS["test"]})
    assert all(shown.splits == {SPLITS["test"]} and not shown.training for shown in notes[first:])
    assert sum(shown.training for shown in notes) == EPOCHS * -(-len({*trained}) // BATCH)
    assert result.correct_images.tolist() == [i % 3 == 0 for i in range(TEST)]


def test_the_runs_own_images_train_validate_and_are_tested() -> None:
    """Test images are those of the run's split, all of them, once, in order, after training; no image has two roles."""
    assert_images_are_the_runs()


@pytest.mark.parametrize(
    "wrong",
    [
        controls.tests_training_images,
        controls.trains_on_validation_images,
        controls.looks_at_test_images_early,
        controls.shuffles_test_images,
    ],
)
def test_runs_on_other_images_are_rejected(wrong: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training images tested, validation images trained on, test images seen early or in another order: each is found out."""
    wrong(monkeypatch)
    with pytest.raises(AssertionError):
        assert_images_are_the_runs()


def test_a_limit_takes_as_many_of_each_split() -> None:
    """A run on 10 images trains, validates and is tested on no others."""
    run, method = watched(limit=10)
    assert done(run).total == 10
    assert {i for shown in method.notes for i in shown.indices} == {*range(10)}


# -- which weights ---------------------------------------------------------------------------------------------------------


def assert_weights_are_the_epochs() -> None:
    """The last epoch answers test images right, the best epoch does not: which was tested can be told."""
    right = sum(i % 3 == 0 for i in range(TEST))
    for epoch, correct in (("last", right), ("best", 0)):
        run, _ = watched(tested_epoch=epoch)
        result = done(run)
        assert (result.correct, result.best_epoch) == (correct, 1)
        assert [row["validation_accuracy"] for row in result.history] == [1.0, 0.0, 0.0]


def test_the_weights_of_the_epoch_asked_for_are_tested() -> None:
    """`tested_epoch` decides between the last epoch and the best on validation images; history says what each was worth."""
    assert_weights_are_the_epochs()


def test_a_run_that_tests_the_other_epoch_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Best in place of last, and last in place of best."""
    controls.tests_the_other_epoch(monkeypatch)
    with pytest.raises(AssertionError):
        assert_weights_are_the_epochs()


@pytest.mark.parametrize("epoch", ["last", "best"])
def test_borrowed_weights_are_those_of_the_run_named(epoch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that borrows trains nothing: it tests the source's weights of its epoch, from the store as well."""
    source, _ = watched(tested_epoch=epoch)
    borrower, method = watched(name="borrower", recipe=None, weights_from="watched", tested_epoch=epoch)
    monkeypatch.setattr("vp.experiments.run.find_run", lambda name, scale: {"watched": source}[name])
    for _ in range(2):
        result = obtain(borrower, device="cpu", progress=False)
        assert torch.equal(result.correct_images, obtain(source, device="cpu").correct_images)
    assert not any(shown.training for shown in method.notes)
    assert sum(len(shown.indices) for shown in method.notes) == TEST  # performed once, then read


# -- noise -----------------------------------------------------------------------------------------------------------------


def assert_noise_is_the_evaluations() -> None:
    """Noise changes test images of the run that has it, and nothing else."""
    for noise in (GaussianNoise(0.1), None):
        run, method = watched(noise=noise)
        done(run)
        assert all(shown.whole for shown in method.notes if shown.splits == {SPLITS["train"]})
        assert all(shown.whole == (noise is None) for shown in method.notes if shown.splits == {SPLITS["test"]})


def test_noise_is_there_when_a_run_is_tested_and_never_else() -> None:
    """Training and validation see clean images; the next run without noise sees clean test images."""
    assert_noise_is_the_evaluations()


@pytest.mark.parametrize("wrong", [controls.trains_under_noise, controls.evaluates_without_noise])
def test_noise_elsewhere_is_rejected(wrong: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in training, or none in evaluation."""
    wrong(monkeypatch)
    with pytest.raises(AssertionError):
        assert_noise_is_the_evaluations()


# -- runs in one process ---------------------------------------------------------------------------------------------------

ADAM = Recipe("adam", learning_rate=0.3, warmup_steps=0, epochs=2, batch_size=5)
FRAME = Run("frame-a", "none", "mini", "a", "test", "small", VisualPrompt("padding", 2), ADAM)
RUNS = [
    FRAME,
    *(
        replace(FRAME, name=f"deep-{block}-{data}", dataset=data, method=DeepTokens(2, block, "front", "first"))
        for block in (1, 2)
        for data in "ab"
    ),
]


@pytest.fixture
def _small_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two datasets of as many images, and one CLIP whose logit scale is 100, for all runs of this process."""
    model = small_model()
    model.logit_scale.data.fill_(torch.tensor(100.0).log())
    clip = FrozenCLIP("small", model, tokenizer(), Preprocess(16))

    def load(name: str, split: str, limit: int | None) -> ImageSet:
        seed = 2 * ord(name) + SPLITS[split]
        return ImageSet(name, split, pixels(seed, 12, 3, 16, 16), torch.arange(12) % 2, ("house", "moon"))

    monkeypatch.setattr("vp.experiments.perform.load_images", load)
    monkeypatch.setattr("vp.experiments.methods.clip_of", lambda *_: clip)
    activations.forget_prefixes()
    yield
    activations.forget_prefixes()


def same(one: Result, other: Result) -> bool:
    weights = all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())
    return weights and one.history == other.history and torch.equal(one.correct_images, other.correct_images)


@pytest.fixture
def alone(_small_world: None) -> list[Result]:
    """What each run gives by itself."""
    found = []
    for run in RUNS:
        activations.forget_prefixes()
        found.append(done(run))
    return found


def assert_runs_do_not_meet(alone: list[Result]) -> None:
    """Each run gives bit for bit what it gives alone, whatever ran before, in either order, and whatever was drawn meanwhile."""
    for order in (RUNS, RUNS[::-1]):
        for run in order:
            torch.rand(3)
            assert same(done(run), alone[RUNS.index(run)]), run.name
    assert not same(done(RUNS[0], seed=1), alone[0])


def test_runs_of_one_process_do_not_influence_each_other(alone: list[Result]) -> None:
    """Performing A then B gives B's numbers bit for bit, with caches cold or warm, on datasets of equal size."""
    assert_runs_do_not_meet(alone)


@pytest.mark.parametrize("wrong", [controls.keeps_prefixes_by_size, controls.seeds_too_late])
def test_runs_that_meet_are_rejected(wrong: Patch, alone: list[Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix of another dataset of equal size, or initial values drawn before the seed, is found out."""
    wrong(monkeypatch)
    with pytest.raises(AssertionError):
        assert_runs_do_not_meet(alone)


# -- forwards that overlap -------------------------------------------------------------------------------------------------


def assert_forwards_may_overlap(build: Callable[[FrozenCLIP, DeepPromptedCLIP], torch.nn.Module]) -> None:
    """In four threads, prompted and zero-shot forwards on one CLIP give what they give alone."""
    torch.manual_seed(0)
    clip = FrozenCLIP("small", small_model(), tokenizer(), Preprocess(16))
    shown, names = torch.randn(4, 3, 16, 16), ("house", "moon")
    prompts = [DeepPrompt(n, WIDTH, block) for n, block in ((1, 0), (3, 1), (2, 2))]
    models: list[torch.nn.Module] = [build(clip, DeepPromptedCLIP(clip, names, prompt=prompt)) for prompt in prompts]
    models.append(PromptedCLIP(clip, names))
    together = Barrier(len(models))

    def ask(model: torch.nn.Module) -> list[torch.Tensor]:
        together.wait()
        with torch.no_grad():
            return [model(shown) for _ in range(40)]

    with torch.no_grad():
        alone = [model(shown) for model in models]
    with ThreadPoolExecutor(len(models)) as threads:
        for found, expected in zip(threads.map(ask, models), alone, strict=True):
            for logits in found:
                torch.testing.assert_close(logits, expected)


def test_forwards_on_one_clip_may_overlap() -> None:
    """The tokens of a prompt are no state of the CLIP that is shared: threads do not get each other's."""
    assert_forwards_may_overlap(lambda _, model: model)


def test_hooks_on_a_shared_clip_are_rejected() -> None:
    """Hooks put in place for a forward are seen by those of other threads."""
    with pytest.raises((AssertionError, RuntimeError)):
        assert_forwards_may_overlap(controls.HookedCLIP)
