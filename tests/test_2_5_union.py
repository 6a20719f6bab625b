"""Report 2.5: prompts on the 110 classes of both sets (table 6)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.controls import union as controls
from tests.strategies import pixels
from vp.data import ImageSet, load_images, union
from vp.experiments import Result, find_run, runs
from vp.performing import images_of, perform, restore_model
from vp.runtime import VpError


def image_set(seed: int, count: int, classes: int, name: str) -> ImageSet:
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))
    return ImageSet(name, "test", pixels(seed, count, 3, 4, 4), labels, tuple(f"{name} {i}" for i in range(classes)))


def assert_pools(join) -> None:
    first, second = image_set(0, 5, 3, "cat"), image_set(1, 8, 4, "dog")
    both = join(first, second)
    assert len(both) == 13
    assert both.class_names == first.class_names + second.class_names
    for i in range(13):
        source, j = (first, i) if i < 5 else (second, i - 5)
        assert torch.equal(both.pixels[i], source.pixels[j])
        assert both.class_names[both.labels[i]] == source.class_names[source.labels[j]]


@pytest.mark.claim("union-of-both-sets")
def test_the_union_keeps_every_image_with_its_own_class_name() -> None:
    """The union of two sets has all images of both, and each keeps its class name: labels of the second are shifted."""
    assert_pools(union)


@pytest.mark.parametrize("wrong", [controls.unshifted_labels, controls.names_exchanged, controls.second_set_alone])
def test_wrong_unions_are_rejected(wrong) -> None:
    """A union that loses the label offset, the order of names or a set fails the property."""
    with pytest.raises(AssertionError):
        assert_pools(wrong)


@pytest.mark.claim("union-has-110-classes")
def test_the_miniature_union_has_110_classes() -> None:
    """The union of the 10-class and the 100-class set has 110 classes, under a tenth of them the first set's."""
    both = load_images("mini10+mini100", "test")
    assert len(both.class_names) == len(set(both.class_names)) == 110
    seen_by_10, seen_by_100 = (len(load_images(name, "test").class_names) / 110 for name in ("mini10", "mini100"))
    assert seen_by_10 < 0.1 < 0.5 < seen_by_100
    assert len(both) == len(load_images("mini10", "test")) + len(load_images("mini100", "test"))


def test_overlapping_class_names_are_refused() -> None:
    """Two sets with a class name in common cannot be told apart by name."""
    first = image_set(0, 2, 3, "cat")
    with pytest.raises(VpError, match="both have a class 'cat 0': give sets with distinct class names"):
        union(first, replace(first, name="other"))


def test_images_of_two_sizes_are_refused() -> None:
    """Two sets of different image sizes are not pooled silently."""
    small = ImageSet("small", "test", pixels(0, 1, 3, 2, 2), torch.zeros(1, dtype=torch.long), ("x",))
    with pytest.raises(VpError, match="bring them to one size first"):
        union(image_set(0, 2, 3, "cat"), small)


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_a_prompt_on_foreign_data_is_named_so(scale: str) -> None:
    """A run that evaluates a prompt on data it was not trained for says so in its name, and no other run does."""
    for run in runs(scale).values():
        foreign = run.weights_from is not None and runs(scale)[run.weights_from].dataset != run.dataset
        assert run.name.endswith("-on-110") == (foreign or run.dataset.count("+") == 1), run.name


def test_a_missing_checkpoint_is_an_error() -> None:
    """A prompt to be evaluated elsewhere needs its trained weights: a random prompt never stands in."""
    with pytest.raises(ValueError, match="needs the trained weights of 'padding-10': perform that run first"):
        perform(find_run("padding-10-on-110", "mini"))


@pytest.fixture(scope="module")
def other_result() -> Result:
    """A result of some other run."""
    return perform(replace(find_run("zero-shot-10-test", "mini"), name="other"), device="cpu")


def test_the_checkpoint_of_another_run_is_an_error(other_result: Result) -> None:
    """Weights of another run are refused by name."""
    run = find_run("padding-10-on-110", "mini")
    with pytest.raises(ValueError, match="weights of 'padding-10', trained at mini, mini10, mini-clip; given those of 'other'"):
        restore_model(run, other_result, ("a",))


@pytest.mark.parametrize("field", ["scale", "dataset", "backbone"])
def test_a_checkpoint_of_another_scale_dataset_or_backbone_is_an_error(field: str, other_result: Result) -> None:
    """Weights trained at another scale, on another dataset or around another backbone are refused, whatever the run's name."""
    run = find_run("padding-10-on-110", "mini")
    with pytest.raises(ValueError, match="something else"):
        restore_model(run, replace(other_result, run="padding-10", **{field: "something else"}), ("a",))


# -- table 6 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(run, marks=pytest.mark.reproduces(run)) for run, it in runs("mini").items() if it.table == "table_6"]
)
def test_table_6_accuracy_on_110_classes(name: str, results, judge, record, find) -> None:
    """A prompt learnt on one set reaches the accuracy of table 6 on the 110 classes of both."""
    found = results(name)
    try:
        judge.cell(found)
    finally:
        first = len(images_of(find("zero-shot-10-test"), "test"))
        parts = [found[0].correct_images[:first], found[0].correct_images[first:]]
        record(
            "table",
            id="table-6-parts",
            caption="Top-1 (%) on the images of either set, among all 110 names (seed 0).",
            head=["Run", "10-class images", "100-class images"],
            rows=[[name, *(f"{100 * part.float().mean():.2f}" for part in parts)]],
        )


@pytest.mark.claim("padding-100-better-on-110")
@pytest.mark.reproduces
def test_the_prompt_of_the_100_class_set_is_better_on_110(results, judge) -> None:
    """The prompt trained on the 100-class set performs better on the 110 classes than the prompt trained on the 10-class set."""
    judge.ordering([results("padding-100-on-110")], [results("padding-10-on-110")])


@pytest.mark.claim("padding-10-beats-zero-shot-on-110")
@pytest.mark.reproduces
def test_the_10_class_padding_still_beats_zero_shot_on_110(results, judge) -> None:
    """Having seen under a tenth of the classes, the prompt of the 10-class set is no worse than zero-shot CLIP on all 110."""
    padding, baseline = results("padding-10-on-110"), results("zero-shot-on-110")
    judge.ordering([padding], [baseline], or_equal=True)


@pytest.mark.claim("padding-10-worse-than-patch-on-110")
@pytest.mark.reproduces
def test_the_10_class_padding_is_worse_than_a_single_pixel(results, judge) -> None:
    """On 110 classes the padding prompt of the 10-class set is worse than its one-pixel patch."""
    judge.ordering([results("fixed-patch-10-on-110")], [results("padding-10-on-110")])
