"""vp.report.gaps: a wrong setting, planted in the miniature, is found by the rung that undoes it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch

from vp.data import GaussianNoise, ImageSet, load_images
from vp.evaluation import per_image_correctness
from vp.experiments import Result, Run, find_run
from vp.experiments.methods import clip_of
from vp.experiments.perform import build_model, restore_model
from vp.machine.runtime import computing_in
from vp.models import FrozenCLIP
from vp.models.templates import templates_of
from vp.report import gaps
from vp.report.expectations import Expectation
from vp.report.gaps import Rung, climb, in_words

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def all_images() -> ImageSet:
    """Twenty classes of the miniature 100-class set, whose names have spaces, and among which activation and precision matter."""
    every = load_images("mini100", "test")
    some = every.take(torch.where((every.labels >= 40) & (every.labels < 60))[0])
    return replace(some, labels=some.labels - 40, class_names=some.class_names[40:60])


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    """The backbone that runs share: what is planted in it must be taken out again."""
    shared: Any = clip_of("mini-clip", CPU)
    return shared


def correct(run: Run, images: ImageSet, trained: Result | None = None) -> torch.Tensor:
    names = images.class_names
    model = restore_model(run, trained, names) if trained else build_model(run, names)
    return per_image_correctness(model, run.method.evaluation_batches(model, images, CPU, run.noise))


def matters(right: torch.Tensor, wrong: torch.Tensor, images: ImageSet) -> ImageSet:
    """The images that the right setting gets right and the wrong one wrong: there the accuracy is 100% or nothing."""
    assert (right & ~wrong).any(), "the planted setting makes no difference to find"
    return images.take(torch.where(right & ~wrong)[0])


def closing(
    run: Run, images: ImageSet, monkeypatch: pytest.MonkeyPatch, trained: Result | None = None, expected: float = 100.0
) -> list[str]:
    """The rungs by which a run that gets all of `images` wrong comes to get them right (or the reverse: expected 0)."""
    monkeypatch.setattr(gaps, "images_of", lambda *_: images)
    rungs = climb(run, trained, Expectation(expected, 1e-6, "", ""), "cpu")
    assert [rung.closes for rung in rungs] == [rung.value == expected for rung in rungs]
    assert not all(rung.closes for rung in rungs), "a ladder whose every rung closes the gap explains nothing"
    return [rung.setting for rung in rungs if rung.closes]


ZERO_SHOT = find_run("zero-shot-100-test", "mini")


@pytest.mark.slow
def test_a_wrong_template_is_found(all_images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with another template is told from the right one by the rung that brings the right template back."""
    wrong = replace(ZERO_SHOT, template="the {} of nothing at all")
    images = matters(correct(ZERO_SHOT, all_images), correct(wrong, all_images), all_images)
    assert "template “This is a photo of a {}”" in closing(wrong, images, monkeypatch)


@pytest.mark.slow
def test_a_missing_ensemble_is_found(all_images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with one template is told from a published number of an ensemble by the rung that averages them."""
    right = replace(ZERO_SHOT, template=templates_of("simple"))
    images = matters(correct(right, all_images), correct(ZERO_SHOT, all_images), all_images)
    assert f"ensemble of {len(right.template)} templates" in closing(ZERO_SHOT, images, monkeypatch)


@pytest.mark.slow
def test_clamped_noise_is_found(all_images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose noisy images are clamped is told from one that leaves them, by this rung alone."""
    right = replace(find_run("zero-shot-100-noise", "mini"), noise=GaussianNoise(0.5))
    wrong = replace(right, noise=GaussianNoise(0.5, clamp=True))
    some = all_images.take(torch.arange(0, 320, 4))
    monkeypatch.setattr(gaps, "images_of", lambda *_: some)
    expected = 100 * float(correct(right, some).double().mean())
    rungs = climb(wrong, None, Expectation(expected, 1e-6, "", ""), "cpu")
    assert [rung.setting for rung in rungs if rung.closes] == ["noise not clamped"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "rung"),
    [(gaps.other_activation, "QuickGELU in place of GELU"), (lambda clip: gaps.resizing(clip, "bilinear"), "bicubic resizing")],
    ids=["activation", "resize mode"],
)
def test_a_wrong_backbone_is_found(
    plant: Callable[[FrozenCLIP], AbstractContextManager[Any]],
    rung: str,
    all_images: ImageSet,
    clip: FrozenCLIP,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another activation or another way of resizing, planted in the shared backbone, is found; the backbone is left as it was."""
    right = correct(ZERO_SHOT, all_images)
    with plant(clip):
        images = matters(right, correct(ZERO_SHOT, all_images), all_images)
        assert rung in closing(ZERO_SHOT, images, monkeypatch)
        assert not correct(ZERO_SHOT, images).any()
    assert correct(ZERO_SHOT, images).all()


@pytest.mark.slow
def test_underscores_kept_are_found(all_images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of class names with underscores, as CIFAR-100's files have them, is told from one of names with spaces."""
    right = correct(ZERO_SHOT, all_images)
    with monkeypatch.context() as kept:
        kept.setattr("vp.models.clip.fill_template", lambda template, names: [template.format(n.replace(" ", "_")) for n in names])
        images = matters(correct(ZERO_SHOT, all_images), right, all_images)
    assert "underscores kept in class names" in closing(ZERO_SHOT, images, monkeypatch)


def test_text_has_the_other_activation_too(clip: FrozenCLIP) -> None:
    """What was computed of texts, or of weights, by one activation is not used with the other, nor left behind."""
    usual = clip.class_features(("moon",))
    with gaps.other_activation(clip):
        assert not torch.allclose(clip.class_features(("moon",)), usual)
    assert clip.class_features(("moon",)) is usual


@pytest.mark.slow
def test_weights_of_the_wrong_epoch_are_found(all_images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that tests the last epoch's weights where the best one's were meant is found by this rung alone."""
    run = find_run("padding-100", "mini")
    parameters = {
        f"prompt.{name}": value.detach() for name, value in build_model(run, all_images.class_names).prompt.named_parameters()
    }
    weights = {f"best/{name}": 0 * value for name, value in parameters.items()}
    weights |= {f"last/{name}": 3 * value for name, value in parameters.items()}
    known = {"run": run.name, "scale": run.scale, "dataset": run.dataset, "backbone": run.backbone, "seed": 0, "history": []}
    rest = {"best_epoch": 0, "trained_parameters": 0, "seconds": 0.0, "provenance": {}}
    trained = Result(**known, **rest, correct_images=torch.zeros(1, dtype=torch.bool), weights=weights)
    right = correct(replace(run, tested_epoch="best"), all_images, trained)
    images = matters(right, correct(run, all_images, trained), all_images)
    assert closing(run, images, monkeypatch, trained) == ["weights of the best epoch"]


@pytest.mark.slow
def test_a_wrong_precision_is_found(all_images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in half precision, on whatever device, is told from one in float32; every precision but its own is a rung."""
    right = correct(ZERO_SHOT, all_images)
    with computing_in(torch.bfloat16):
        images = matters(right, correct(ZERO_SHOT, all_images), all_images)
        monkeypatch.setattr(gaps, "images_of", lambda *_: images)
        rungs = {rung.setting: rung.closes for rung in climb(ZERO_SHOT, None, Expectation(100.0, 1e-6, "", ""), "cpu")}
        assert rungs["float32"]
        assert "float16" in rungs
        assert "bfloat16" not in rungs
    assert correct(ZERO_SHOT, images).all()


def test_a_number_that_no_rung_reaches(all_images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ladder evaluates in half precision, too, and a number that no rung reaches is closed by none."""
    monkeypatch.setattr(gaps, "images_of", lambda *_: all_images.take(torch.arange(0, 320, 16)))
    rungs = climb(ZERO_SHOT, None, Expectation(50.5, 1e-6, "", ""), "cpu")
    assert {"bfloat16", "float16"} <= {rung.setting for rung in rungs}
    assert "float32" not in {rung.setting for rung in rungs}
    assert not any(rung.closes for rung in rungs)


def test_the_ladder_in_words() -> None:
    """The ladder says which rungs close the gap, or that none does and what each gave."""
    rungs = [Rung("bicubic resizing", 80.0, True), Rung("bfloat16", 71.25, False)]
    assert in_words(rungs) == "The gap closes with: bicubic resizing (80.00)."
    assert in_words(rungs[1:]) == "No single setting closes the gap: bfloat16 71.25."
