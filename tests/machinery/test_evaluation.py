"""vp.evaluation: correctness image by image, accuracy as k of N, intervals and paired tests against published numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from tests.conformance.agree import agree
from tests.controls import claims as claims_controls
from tests.controls import evaluation as controls
from tests.support.strategies import pixels, seeds, tensor
from vp.data import ImageSet, Preprocess
from vp.evaluation import (
    ImageBatches,
    PairedTest,
    Subset,
    contrast_test,
    holm_adjusted,
    paired_test,
    per_image_correctness,
    predict,
    prediction_half_width,
    seed_spread,
    wilson_interval,
)

CLASSES = 3
counts = st.integers(1, 20)


def name_of(function: Callable[..., object]) -> str:
    return function.__name__


class Examples:
    """N random rows that a model may take for logits, with random labels."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.inputs = tensor(seed, count, CLASSES)
        self.labels = pixels(seed, count).long() % CLASSES

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs[indices], self.labels[indices]


# -- correctness -----------------------------------------------------------------------------------------------------------


@given(seed=seeds, count=counts, batch_size=st.integers(1, 25))
def test_correctness_is_that_of_a_loop_over_images(seed: int, count: int, batch_size: int) -> None:
    """Correctness in batches of any size is that of a loop that asks the model about one image at a time."""
    examples = Examples(count, seed)
    predicted, true = predict(nn.Identity(), examples, batch_size)
    loop = [max(range(CLASSES), key=lambda k: row[k]) for row in examples.inputs.tolist()]
    assert predicted.tolist() == loop
    assert torch.equal(true, examples.labels)
    correct = per_image_correctness(nn.Identity(), examples, batch_size)
    assert correct.dtype == torch.bool
    assert correct.tolist() == [k == label for k, label in zip(loop, examples.labels.tolist(), strict=True)]


def in_batches(examples: Examples, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(examples.inputs.split(batch_size), examples.labels.split(batch_size), strict=True))


@pytest.mark.specifies("accuracy")
@given(seed=seeds, count=counts, batch_size=st.integers(1, 25))
def test_accuracy_is_k_of_n(impl, seed: int, count: int, batch_size: int) -> None:
    """Accuracy is k / N: every image counts the same, whatever the batches."""
    examples = Examples(count, seed)
    correct = sum(int(row.argmax()) == int(label) for row, label in zip(examples.inputs, examples.labels, strict=True))
    batches = in_batches(examples, batch_size)
    sizes = [len(labels) for _, labels in batches]
    agree(impl.accuracy(nn.Identity(), batches), correct / count, f"accuracy, {correct} of {count} right in batches of {sizes}")


@pytest.mark.specifies("accuracy")
def test_accuracy_of_a_whole_test_set_is_exact(impl) -> None:
    """Of 10,000 images in batches of 128, the last of 16, none is lost and none is rounded away: 7,001 right are 0.7001."""
    examples = Examples(10_000)
    examples.labels = examples.inputs.argmax(1)
    examples.labels[7_001:] = (examples.labels[7_001:] + 1) % CLASSES
    agree(impl.accuracy(nn.Identity(), in_batches(examples, 128)), 0.7001, "accuracy, 7,001 of 10,000 right", atol=1e-6, rtol=0)


def sleeping() -> nn.Sequential:
    """A model in training mode with a layer put to evaluation mode, and with layers whose modes differ in what they do."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(CLASSES), nn.Dropout(0.5), nn.BatchNorm1d(CLASSES))
    model[2].eval()
    return model


@pytest.mark.specifies("accuracy")
def test_accuracy_is_that_of_evaluation_mode(impl) -> None:
    """Nothing is dropped and no batch normalises itself while accuracy is measured."""
    model, examples = sleeping(), Examples(60)
    examples.labels = examples.inputs.argmax(1)
    found = float(impl.accuracy(model, in_batches(examples, 20)))
    assert found <= 1, f"a model that is right on all images has accuracy {found:.3g}: expected a share, from 0 to 1"
    assert found == 1, f"a model that is right on all images in evaluation mode has accuracy {found:.3g}: was it in training mode?"


@pytest.mark.specifies("accuracy")
def test_evaluation_leaves_no_trace(impl) -> None:
    """After accuracy was measured each module is in its own mode again, and no buffer has changed."""
    model = sleeping()
    before = copy.deepcopy(model.state_dict())
    impl.accuracy(model, in_batches(Examples(20), 20))
    for module, mode, which in zip(
        model.modules(), (True, True, True, False), ("the model", "layer 0", "layer 1", "layer 2"), strict=True
    ):
        modes = ["evaluation", "training"]
        assert module.training == mode, f"{which} was in {modes[mode]} mode and is left in {modes[module.training]} mode"
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert not moved, f"measuring accuracy has changed {', '.join(moved)} of the model"


def test_correctness_of_each_image_is_that_of_evaluation_mode() -> None:
    """Correctness is that of evaluation mode image by image, not on the whole only."""
    examples = Examples(20)
    assert torch.equal(per_image_correctness(sleeping(), examples), examples.inputs.argmax(1) == examples.labels)


def test_the_mode_is_restored_after_an_error() -> None:
    """A model that fails half way is left in its mode, too."""
    model, examples = sleeping(), Examples(4)
    examples.inputs = examples.inputs[:, :1]
    with pytest.raises(RuntimeError):
        predict(model, examples)
    assert [module.training for module in model.modules()] == [True, True, True, False]


def test_evaluation_keeps_no_graph() -> None:
    """Evaluation needs no gradients and leaves none behind."""
    model = nn.Linear(CLASSES, CLASSES)
    per_image_correctness(model, Examples(4))
    assert model.weight.grad is None


@given(seed=seeds, count=st.integers(1, 6))
def test_image_batches_are_the_preprocessed_images(seed: int, count: int) -> None:
    """A batch of images is what preprocessing each image gives, in the order asked for, repetitions included."""
    images = ImageSet("some", "test", pixels(seed, count, 3, 6, 6), torch.arange(count), tuple(map(str, range(count))))
    preprocess, batches = Preprocess(5), ImageBatches(images, Preprocess(5))
    indices = pixels(seed, 4).long() % count
    inputs, labels = batches[indices]
    assert len(batches) == count
    assert torch.equal(labels, indices)
    assert torch.equal(inputs, torch.cat([preprocess(images.pixels[i][None]) for i in indices]))


@given(seed=seeds, count=st.integers(1, 10))
def test_a_subset_is_those_examples(seed: int, count: int) -> None:
    """A subset has the examples at its indices, numbered anew."""
    examples, chosen = Examples(count, seed), pixels(seed, 5).long() % count
    subset = Subset(examples, chosen)
    inputs, labels = subset[torch.tensor([4, 0])]
    assert len(subset) == 5
    assert torch.equal(inputs, examples.inputs[chosen[[4, 0]]])
    assert torch.equal(labels, examples.labels[chosen[[4, 0]]])


# -- the interval of a proportion ------------------------------------------------------------------------------------------

PUBLISHED = {  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
    (81, 263): (0.2553, 0.3662),
    (15, 148): (0.0624, 0.1605),
    (0, 20): (0.0, 0.1611),
    (1, 29): (0.0061, 0.1718),
}


@pytest.mark.specifies("wilson_interval")
def test_intervals_are_those_published(impl) -> None:
    """Wilson's interval is the one Newcombe printed for his four examples."""
    for (correct, total), printed in PUBLISHED.items():
        found = [float(bound) for bound in impl.wilson_interval(correct, total)]
        agree(found, printed, f"bounds (low, high) for {correct} of {total}", atol=5e-5, rtol=0)


@st.composite
def proportions(draw: st.DrawFn) -> tuple[int, int]:
    total = draw(st.integers(1, 20_000))
    return draw(st.integers(0, total)), total


@given(proportion=proportions(), confidence=st.floats(0.5, 0.999))
def test_an_interval_ends_where_the_score_test_does(proportion: tuple[int, int], confidence: float) -> None:
    """At each bound inside (0, 1) the score test of k / N against it is just at its level: |z| is the normal quantile."""
    correct, total = proportion
    for bound in wilson_interval(correct, total, confidence):
        if 0 < bound < 1:
            z = (correct / total - bound) / math.sqrt(bound * (1 - bound) / total)
            assert abs(z) == pytest.approx(stats.norm.ppf(0.5 + confidence / 2), rel=1e-4)


@pytest.mark.specifies("wilson_interval")
@given(proportion=proportions())
def test_an_interval_solves_the_score_equation(impl, proportion: tuple[int, int]) -> None:
    """At each bound p inside (0, 1) the share k / N is 1.96 standard errors away, those of p itself."""
    correct, total = proportion
    for bound in map(float, impl.wilson_interval(correct, total)):
        if 1e-6 < bound < 1 - 1e-6:
            z = (correct / total - bound) / math.sqrt(bound * (1 - bound) / total)
            agree(abs(z), 1.96, f"standard errors between {correct}/{total} and the bound {bound:.5g}", atol=0, rtol=1e-2)


@pytest.mark.specifies("wilson_interval")
@given(proportion=proportions())
def test_an_interval_contains_its_proportion(impl, proportion: tuple[int, int]) -> None:
    """The interval contains k / N, lies within [0, 1] and mirrors that of N - k."""
    correct, total = proportion
    low, high = map(float, impl.wilson_interval(correct, total))
    told = f"the interval of {correct} of {total} is ({low:.5g}, {high:.5g})"
    assert low >= -1e-9, f"{told}: a share is not below 0"
    assert high <= 1 + 1e-9, f"{told}: a share is not above 1"
    assert low - 1e-9 <= correct / total <= high + 1e-9, f"{told}, without {correct}/{total} itself"
    mirrored = [1 - float(bound) for bound in impl.wilson_interval(total - correct, total)]
    agree(mirrored[::-1], (low, high), f"1 - the interval of {total - correct} of {total}, (low, high)")


@given(proportion=proportions())
def test_bounds_do_not_leave_0_to_1_by_rounding(proportion: tuple[int, int]) -> None:
    """No bound is below 0, above 1 or on the wrong side of k / N, not even by rounding."""
    correct, total = proportion
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= correct / total <= high <= 1
    assert wilson_interval(total - correct, total) == pytest.approx((1 - high, 1 - low))


@given(proportion=proportions(), times=st.integers(2, 50))
def test_more_images_narrow_the_interval(proportion: tuple[int, int], times: int) -> None:
    """The same share of more images has a narrower interval, and less confidence, too."""
    correct, total = proportion

    def width(*given_: float) -> float:
        low, high = wilson_interval(*given_)
        return high - low

    assert width(times * correct, times * total) < width(correct, total)
    assert width(correct, total, 0.9) < width(correct, total, 0.95)


@pytest.mark.parametrize(("correct", "total"), [(-1, 5), (6, 5), (0, 0), (1, 0), (0, -1)])
def test_impossible_counts_are_refused(correct: int, total: int) -> None:
    """More correct than there are, fewer than none, or none at all: refused with what was given."""
    with pytest.raises(ValueError, match=f"{correct} correct of {total}: expected 0 <= correct <= total"):
        wilson_interval(correct, total)


# -- the paired test -------------------------------------------------------------------------------------------------------

Paired = Callable[[Tensor, Tensor], PairedTest]


def discordant(first_only: int, second_only: int, both: int = 0, neither: int = 0) -> tuple[Tensor, Tensor]:
    """Correctness of two classifiers with these cells of their 2 x 2 table."""
    cells = [(True, False)] * first_only + [(False, True)] * second_only + [(True, True)] * both + [(False, False)] * neither
    first, second = torch.tensor(cells, dtype=torch.bool).reshape(-1, 2).T
    return first, second


def two_by_two(first_only: int, second_only: int, both: int, neither: int) -> str:
    return f"p, {first_only} right by the first only, {second_only} by the second only, {both} by both, {neither} by neither"


@pytest.mark.specifies("paired_p_value")
def test_the_paired_test_is_mcnemars(impl) -> None:
    """For one seed the test is McNemar's exact one, as in a published example: 9 against 2 gives p = 0.065."""
    # M. P. Fay, "Exact McNemar's test" (R package exact2x2): 21, 9, 2, 12; p = 2 (1 + 11 + 55) / 2^11 = 0.06543.
    cells = (9, 2, 21, 12)
    agree(impl.paired_p_value(*discordant(*cells)), 134 / 2048, two_by_two(*cells), atol=1e-9, rtol=1e-5)


@pytest.mark.specifies("paired_p_value")
@given(first_only=st.integers(0, 60), second_only=st.integers(0, 60), both=st.integers(0, 3), neither=st.integers(1, 3))
def test_only_images_that_differ_count(impl, first_only: int, second_only: int, both: int, neither: int) -> None:
    """The p-value is the binomial test's over the images that only one gets right; the others do not count."""
    cells = (first_only, second_only, both, neither)
    decided = first_only + second_only
    tail = sum(math.comb(decided, k) for k in range(min(first_only, second_only) + 1))
    found = float(impl.paired_p_value(*discordant(*cells)))
    agree(found, min(1.0, 2 * tail / 2**decided), two_by_two(*cells), atol=0, rtol=1e-5)
    agree(found, stats.binomtest(first_only, decided).pvalue if decided else 1.0, two_by_two(*cells), atol=0, rtol=1e-5)


@pytest.mark.specifies("paired_p_value")
def test_the_paired_test_takes_whole_test_sets(impl) -> None:
    """With as many images as a test set has, 10,000 of which 2,000 differ, the p-value is exact, too."""
    cells = (1_040, 960, 7_000, 1_000)
    agree(
        float(impl.paired_p_value(*discordant(*cells))), stats.binomtest(1_040, 2_000).pvalue, two_by_two(*cells), atol=0, rtol=1e-4
    )


@pytest.mark.specifies("paired_p_value")
@given(first_only=st.integers(0, 20), second_only=st.integers(0, 20), both=st.integers(0, 3), neither=st.integers(1, 3))
def test_the_p_value_is_two_sided(impl, first_only: int, second_only: int, both: int, neither: int) -> None:
    """Exchanging the classifiers keeps the p-value, which is a probability."""
    first, second = discordant(first_only, second_only, both, neither)
    found, exchanged = float(impl.paired_p_value(first, second)), float(impl.paired_p_value(second, first))
    told = two_by_two(first_only, second_only, both, neither)
    agree(exchanged, found, f"{told}, with first and second exchanged", atol=0, rtol=1e-5)
    assert 0 < found <= 1 + 1e-6, f"{told}: got {found:.5g}, which is no probability above 0"


@st.composite
def correctness_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Correctness (S, N) of two classifiers."""
    seed, count, images = draw(seeds), draw(st.integers(1, 5)), draw(st.integers(1, 40))
    first, second = pixels(seed, 2, count, images) < torch.tensor(draw(st.tuples(seeds, seeds))).view(2, 1, 1) % 257
    return first, second


@given(pair=correctness_pairs())
def test_the_paired_test_is_symmetric(pair: tuple[Tensor, Tensor]) -> None:
    """Exchanging the classifiers exchanges their counts, negates the difference and keeps the p-value."""
    test, other = paired_test(*pair), paired_test(*reversed(pair))
    assert (other.first_better, other.second_better, other.p_value) == (test.second_better, test.first_better, test.p_value)
    assert other.mean_difference == -test.mean_difference
    assert 0 < test.p_value <= 1


@given(pair=correctness_pairs())
def test_an_image_speaks_for_whom_more_seeds_say(pair: tuple[Tensor, Tensor]) -> None:
    """An image counts for the classifier that gets it right in more seeds; the difference is that of the accuracies."""
    first, second = (some.tolist() for some in pair)
    leads = [sum(row[i] for row in first) - sum(row[i] for row in second) for i in range(len(first[0]))]
    test = paired_test(*pair)
    assert test.first_better == sum(lead > 0 for lead in leads)
    assert test.second_better == sum(lead < 0 for lead in leads)
    assert test.mean_difference == pytest.approx((pair[0].double().mean() - pair[1].double().mean()).item())


def assert_seeds_are_not_images(paired: Paired) -> None:
    first, second = discordant(9, 2, both=21, neither=12)
    alone = paired_test(first, second)
    for count in (1, 2, 5):
        assert paired(first.expand(count, -1), second.expand(count, -1)) == alone


def test_seeds_are_not_images() -> None:
    """S identical seeds prove no more than one: the images are the sample."""
    assert_seeds_are_not_images(paired_test)


def test_seeds_counted_as_images_are_rejected() -> None:
    """A test over all seeds' images strung together fails the property that seeds are not images."""
    with pytest.raises(AssertionError):
        assert_seeds_are_not_images(controls.seeds_as_images)


@pytest.mark.specifies("paired_p_value")
def test_the_paired_test_keeps_its_level(impl) -> None:
    """If neither is better, p <= alpha has a probability of at most alpha, for every alpha: an exact sum over all outcomes."""
    for images in range(1, 16):
        p_values = [float(impl.paired_p_value(*discordant(k, images - k))) for k in range(images + 1)]
        for alpha in p_values:
            chance = sum(math.comb(images, k) for k, p in enumerate(p_values) if p <= alpha) / 2**images
            told = f"if neither is better, p <= {alpha:.5g} has a chance of {chance:.5g} on {images} images that differ"
            assert chance <= alpha * (1 + 1e-6), told


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.ones(3), torch.ones(4)),
        (torch.ones(2, 3), torch.ones(3)),
        (torch.ones(1, 2, 3), torch.ones(1, 2, 3)),
        (torch.ones(0), torch.ones(0)),
        (torch.ones(0, 3), torch.ones(0, 3)),
    ],
)
def test_correctness_of_other_images_is_refused(first: Tensor, second: Tensor) -> None:
    """Shapes that cannot be of the same images, and none at all, are refused with both shapes."""
    with pytest.raises(ValueError, match=r"paired correctness has shapes .* and .*: expected equal \(S, N\)"):
        paired_test(first.bool(), second.bool())


def test_predictions_are_not_correctness() -> None:
    """Class numbers given in place of booleans are refused, not added up."""
    with pytest.raises(ValueError, match=r"is torch\.int64 and torch\.bool: expected torch\.bool"):
        paired_test(torch.tensor([4, 2]), torch.tensor([True, False]))


# -- contrasts: a difference of differences --------------------------------------------------------------------------------


@given(seed=seeds, sizes=st.lists(st.integers(2, 30), min_size=1, max_size=3))
def test_a_contrast_is_the_z_test_of_the_sum_of_means(seed: int, sizes: list[int]) -> None:
    """A contrast is the sum of the groups' means against its standard error, the images of each group being the sample."""
    groups = [tensor(seed + i, size) for i, size in enumerate(sizes)]
    contrast = contrast_test(*groups)
    means = [sum(group.tolist()) / len(group) for group in groups]
    variances = [sum((x - m) ** 2 for x in g.tolist()) / (len(g) - 1) / len(g) for g, m in zip(groups, means, strict=True)]
    z = sum(means) / math.sqrt(sum(variances))
    assert contrast.mean_difference == pytest.approx(sum(means), abs=1e-5)
    assert contrast.p_value == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=1e-4)
    mirrored = contrast_test(*(-group for group in groups))
    assert (mirrored.mean_difference, mirrored.p_value) == pytest.approx((-contrast.mean_difference, contrast.p_value))


def test_the_contrast_keeps_its_level() -> None:
    """Of 2,000 contrasts of scores without a difference, 5% fall below the 5% level, within what chance allows."""
    below = sum(contrast_test(tensor(i, 200), tensor(10_000 + i, 50)).p_value < 0.05 for i in range(2000))
    low, high = wilson_interval(below, 2000, confidence=0.9999)
    assert low <= 0.05 <= high


@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.5, 0.0), (-0.5, 0.0)])
def test_a_contrast_without_spread_is_certain(value: float, p_value: float) -> None:
    """Scores that are all equal to 0 differ in nothing; all equal to something else differ for certain."""
    contrast = contrast_test(torch.full((5,), value))
    assert (contrast.mean_difference, contrast.p_value) == (value, p_value)


@pytest.mark.parametrize("groups", [(), (torch.ones(1),), (torch.ones(3), torch.ones(2, 2)), (torch.ones(0),)])
def test_a_contrast_needs_two_images_a_group(groups: tuple[Tensor, ...]) -> None:
    """No group, a group of one image, or scores that are not one an image are refused."""
    with pytest.raises(ValueError, match=r"expected \(N,\) each, N of at least 2"):
        contrast_test(*groups)


# -- many tests at once ----------------------------------------------------------------------------------------------------


def assert_holm(adjust: Callable[[Sequence[float]], list[float]]) -> None:
    assert adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust([0.9, 0.4, 0.02]) == pytest.approx([0.9, 0.8, 0.06])


def test_holms_adjusted_p_values_are_those_published() -> None:
    """Of p = 0.01, 0.04, 0.03 and 0.005 the first and last are significant at 5% (Wikipedia, Holm-Bonferroni method)."""
    assert_holm(holm_adjusted)


@pytest.mark.parametrize(
    "wrong",
    [
        claims_controls.uncorrected,
        claims_controls.bonferroni,
        claims_controls.step_down_without_memory,
        claims_controls.benjamini_hochberg,
    ],
    ids=name_of,
)
def test_wrong_corrections_are_rejected(wrong: Callable[[Sequence[float]], list[float]]) -> None:
    """No correction, one that is too sharp, one that is not monotone and one of another error fail the published example."""
    with pytest.raises(AssertionError):
        assert_holm(wrong)


@given(p_values=st.lists(st.floats(0, 1), max_size=8))
def test_a_correction_lies_between_none_and_bonferronis(p_values: list[float]) -> None:
    """Adjusted p-values keep their order, are at least p and at most m p, which the smallest one is."""
    adjusted = holm_adjusted(p_values)
    assert len(adjusted) == len(p_values)
    for p, one in zip(p_values, adjusted, strict=True):
        assert min(1.0, p) <= one <= min(1.0, len(p_values) * p)
    if p_values:
        assert min(adjusted) == min(1.0, len(p_values) * min(p_values))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_holm_bounds_the_chance_of_any_false_rejection() -> None:
    """Of 4,000 families of ten true null hypotheses at most about 5% have any rejection, where a single p rejects 40%."""
    p_values = torch.rand(4000, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rejecting = sum(min(holm_adjusted(family)) < 0.05 for family in p_values.tolist())
    assert 150 < rejecting < 250
    assert (p_values.amin(1) < 0.05).double().mean() > 0.35


@pytest.mark.parametrize("p_values", [[-0.1], [1.1], [0.5, float("nan")]])
def test_what_is_no_p_value_is_refused(p_values: list[float]) -> None:
    """A p-value outside [0, 1] is an error that shows them."""
    with pytest.raises(ValueError, match="expected 0 to 1 each"):
        holm_adjusted(p_values)


# -- the spread over seeds -------------------------------------------------------------------------------------------------

SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]  # Student (1908): hours of sleep gained by ten patients, R's `sleep`


def assert_students(interval: Callable[[Sequence[float]], tuple[float, float]]) -> None:
    assert interval(SLEEP) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)


def test_the_seed_spread_is_students() -> None:
    """Student's sleep data have mean 1.58, standard deviation 1.23 and, as R's t.test prints, the interval 0.7001 to 2.4599."""
    spread = seed_spread(SLEEP)
    assert (spread.mean, spread.std) == pytest.approx((1.58, 1.229995), abs=1e-6)
    assert_students(lambda values: seed_spread(values).interval)


def test_two_seeds_have_a_spread() -> None:
    """Of 1 and 3 the mean is 2, the standard deviation the root of 2, and the interval 12.7062 to either side of the mean."""
    spread = seed_spread([1, 3])
    assert (spread.mean, spread.std, *spread.interval) == pytest.approx((2, 2**0.5, 2 - 12.706205, 2 + 12.706205), abs=1e-5)


@pytest.mark.parametrize("wrong", [claims_controls.normal_interval, claims_controls.interval_of_one_seed], ids=name_of)
def test_wrong_spreads_are_rejected(wrong: Callable[[Sequence[float]], tuple[float, float]]) -> None:
    """A spread taken for known, or that of one seed for that of the mean, fails the published example."""
    with pytest.raises(AssertionError):
        assert_students(wrong)


@pytest.mark.parametrize("values", [[], [90.0], [90.0, float("nan")], [90.0, float("inf")]])
def test_one_seed_has_no_spread(values: list[float]) -> None:
    """Fewer than two seeds, or a value that is not finite, is an error."""
    with pytest.raises(ValueError, match="give finite values of at least two seeds"):
        seed_spread(values)


# -- where one more seed falls ---------------------------------------------------------------------------------------------


def assert_by_hand(half_width: Callable[[Sequence[float]], float]) -> None:
    # s = 1, n = 3, and the t table gives 9.925 for 2 degrees of freedom: 9.925 sqrt(4 / 3) = 11.460.
    assert half_width([90.0, 91.0, 92.0]) == pytest.approx(9.925 * math.sqrt(4 / 3), rel=1e-4)


def test_the_half_width_is_the_one_computed_by_hand() -> None:
    """Of 90, 91 and 92 the 99% prediction interval reaches 11.46 to either side."""
    assert_by_hand(prediction_half_width)


@pytest.mark.parametrize("wrong", [controls.half_width_of_the_mean, controls.normal_half_width], ids=name_of)
def test_wrong_half_widths_are_rejected(wrong: Callable[[Sequence[float]], float]) -> None:
    """The interval of the mean, or one by the normal quantile, fails the example computed by hand."""
    with pytest.raises(AssertionError):
        assert_by_hand(wrong)


@pytest.mark.parametrize("value", [90.0, 90.1, 70.35, 0.0])
def test_equal_values_have_the_spread_of_the_floor(value: float) -> None:
    """Seeds that agree exactly are believed to the floor only: 0.2 points, so 2.29 to either side of three."""
    assert prediction_half_width([value] * 3) == pytest.approx(9.925 * 0.2 * math.sqrt(4 / 3), rel=1e-4)


@given(values=st.lists(st.floats(0, 100), min_size=2, max_size=6), shift=st.floats(-50, 50))
def test_the_half_width_is_a_spread(values: list[float], shift: float) -> None:
    """The half width does not move with the values, grows in proportion to their spread and to the confidence."""
    width = prediction_half_width(values, floor=0)
    assert prediction_half_width([value + shift for value in values], floor=0) == pytest.approx(width, abs=1e-9)
    assert prediction_half_width([2 * value for value in values], floor=0) == pytest.approx(2 * width, abs=1e-9)
    assert prediction_half_width(values, confidence=0.9, floor=0) <= width
    assert prediction_half_width(values) >= width


def test_one_more_seed_falls_inside_as_often_as_promised() -> None:
    """Of 20,000 normal samples of four, a fifth value lies within the 95% interval of the others in 95% of cases."""
    draws = tensor(0, 20_000, 5).double()
    mean, spread = draws[:, :4].mean(1), draws[:, :4].std(1)
    per_unit = prediction_half_width([-1.0, 0.0, 0.0, 1.0], confidence=0.95) / torch.tensor([-1.0, 0, 0, 1]).std().item()
    inside = ((draws[:, 4] - mean).abs() <= per_unit * spread).sum().item()
    low, high = wilson_interval(int(inside), 20_000, confidence=0.9999)
    assert low <= 0.95 <= high


@pytest.mark.parametrize("values", [[], [90.0], [90.0, math.nan], [90.0, math.inf]])
def test_a_spread_needs_two_finite_values(values: list[float]) -> None:
    """No value, one, or one that is no number says nothing about spread."""
    with pytest.raises(ValueError, match="says nothing about spread: give finite values of at least two seeds"):
        prediction_half_width(values)
