"""Report 2.5: prompts on the 110 classes of both sets (table 6)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.conformance.agree import agree
from tests.support.strategies import pixels
from vp.data import ImageSet, load_images, union
from vp.experiments import Result, find_run, runs
from vp.experiments.perform import images_of, perform, restore_model
from vp.machine.errors import VpError
from vp.report.writeup import label_of


def image_set(seed: int, count: int, classes: int, name: str) -> ImageSet:
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))
    return ImageSet(name, "test", pixels(seed, count, 3, 4, 4), labels, tuple(f"{name} {i}" for i in range(classes)))


@pytest.mark.claim("union-of-both-sets")
@pytest.mark.specifies("union")
@pytest.mark.parametrize("sizes", [(5, 3, 8, 4), (6, 4, 2, 1)], ids=["second larger", "first larger"])
def test_the_union_keeps_every_image_with_its_own_class_name(impl, sizes: tuple[int, int, int, int]) -> None:
    """The union of two sets has all images of both, and each keeps its class name: labels of the second are shifted."""
    first, second = image_set(0, *sizes[:2], "dog"), image_set(1, *sizes[2:], "cat")
    first.labels.clamp_(max=sizes[1] - 2)  # a class without images, as a small part of a set has
    both = impl.union(*((one.pixels, one.labels, list(one.class_names)) for one in (first, second)))
    pixels_of_both, labels, names = both[0], [int(label) for label in both[1]], list(both[2])
    sources = [(one, j) for one in (first, second) for j in range(len(one))]
    found, expected = (len(pixels_of_both), len(labels), len(names)), (len(sources), len(sources), sizes[1] + sizes[3])
    assert found == expected, f"images, labels and class names are {found}, expected {expected}: all those of both sets"
    assert names == [*first.class_names, *second.class_names], (
        f"class names are {names}: expected the first set's, then the second's"
    )
    for i, (source, j) in enumerate(sources):
        which = f"image {i} of the union (image {j} of the set of {source.name}s)"
        agree(pixels_of_both[i], source.pixels[j], f"pixels of {which}", atol=0, rtol=0)
        own = source.class_names[source.labels[j]]
        assert 0 <= labels[i] < len(names), f"{which} has label {labels[i]}, which names none of the {len(names)} classes"
        assert names[labels[i]] == own, f"{which} has label {labels[i]}, {names[labels[i]]!r}: its class is {own!r}"


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
    return perform(replace(find_run("zero-shot-10-test", "mini"), name="other", limit=10), device="cpu")


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
        known = runs("mini")
        record(
            "table",
            id="table-6-parts",
            caption="Top-1 (%) on the images of either set, among all 110 names (seed 0).",
            head=["What", "10-class images", "100-class images"],
            rows=[[label_of(known[name], known), *(f"{100 * part.float().mean():.2f}" for part in parts)]],
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
