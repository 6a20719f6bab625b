"""Wrong accuracies, tests and verdicts. Each breaks one sentence; those of no public name say which test must reject them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy import stats
from torch import Tensor, nn

from tests.conformance import ours
from tests.controls import control
from vp.evaluation import PairedTest, paired_test, wilson_interval
from vp.report.expectations import Verdict

List = Sequence[tuple[Tensor, Tensor]]  # batches


@control("accuracy", "test_accuracy_is_k_of_n")
def average_of_batch_accuracies(model: nn.Module, batches: List) -> float:
    """Averages over batches: the images of a small last batch weigh more than the others."""
    return fmean(ours.accuracy(model, [batch]) for batch in batches)


@control("accuracy", "test_accuracy_is_k_of_n")
def accuracy_of_full_batches(model: nn.Module, batches: List) -> float:
    """Divides by full batches: a smaller last batch is taken for one of the size of the others."""
    right = sum(ours.accuracy(model, [batch]) * len(batch[1]) for batch in batches)
    return right / (len(batches) * len(batches[0][1]))


@control("accuracy", "test_accuracy_is_k_of_n")
def accuracy_without_the_last_batch(model: nn.Module, batches: List) -> float:
    """Leaves out a smaller last batch."""
    full = [batch for batch in batches if len(batch[1]) == len(batches[0][1])]
    return ours.accuracy(model, full)


@control("accuracy", "test_accuracy_is_k_of_n")
def accuracy_in_per_cent(model: nn.Module, batches: List) -> float:
    """Per cent for a share."""
    return 100 * ours.accuracy(model, batches)


@control("accuracy", "test_evaluation_leaves_no_trace")
def forgets_the_mode(model: nn.Module, batches: List) -> float:
    """Leaves the model in evaluation mode."""
    model.eval()
    return ours.accuracy(model, batches)


@control("accuracy", "test_evaluation_leaves_no_trace")
def wakes_frozen_modules(model: nn.Module, batches: List) -> float:
    """Puts every module into the mode of the outermost one."""
    found = ours.accuracy(model, batches)
    model.train(model.training)
    return found


@control("accuracy", "test_accuracy_is_that_of_evaluation_mode")
def accuracy_in_training_mode(model: nn.Module, batches: List) -> float:
    """Drops features and moves running statistics while it measures."""
    right = sum(int((model(inputs).argmax(1) == labels).sum()) for inputs, labels in batches)
    return right / sum(len(labels) for _, labels in batches)


@control("wilson_interval", "test_intervals_are_those_published")
def wald_interval(correct: int, total: int) -> tuple[float, float]:
    """The textbook's p +- 1.96 standard errors."""
    share = correct / total
    half = 1.96 * (share * (1 - share) / total) ** 0.5
    return share - half, share + half


@control("wilson_interval", "test_intervals_are_those_published")
def wilson_interval_of_99_percent(correct: int, total: int) -> tuple[float, float]:
    """Wilson's, at another level."""
    return wilson_interval(correct, total, 0.99)


@control("wilson_interval", "test_intervals_are_those_published")
def wilson_interval_around_the_share(correct: int, total: int) -> tuple[float, float]:
    """Wilson's width, but centred on k / N."""
    low, high = wilson_interval(correct, total)
    share, half = correct / total, (high - low) / 2
    return max(share - half, 0.0), min(share + half, 1.0)


@control("paired_p_value", "test_the_paired_test_is_mcnemars")
def unpaired(first: Tensor, second: Tensor) -> float:
    """Compares two proportions as if they were of different images."""
    table = [[int(some.sum()), int((~some).sum())] for some in (first, second)]
    return float(stats.fisher_exact(table).pvalue)


@control("paired_p_value", "test_the_p_value_is_two_sided")
def one_sided(first: Tensor, second: Tensor) -> float:
    """Knows beforehand which is better."""
    better, worse = int((first & ~second).sum()), int((second & ~first).sum())
    return float(stats.binomtest(better, better + worse, alternative="greater").pvalue) if better + worse else 1.0


@control("paired_p_value", "test_the_paired_test_is_mcnemars")
def mcnemar_by_chi_square(first: Tensor, second: Tensor) -> float:
    """McNemar's approximation by chi-square in place of the exact sum."""
    better, worse = int((first & ~second).sum()), int((second & ~first).sum())
    return float(stats.chi2.sf((better - worse) ** 2 / (better + worse), 1)) if better + worse else 1.0


@control("paired_p_value", "test_only_images_that_differ_count")
def doubled_beyond_one(first: Tensor, second: Tensor) -> float:
    """Doubles a tail of more than a half."""
    better, worse = int((first & ~second).sum()), int((second & ~first).sum())
    return float(2 * stats.binom.cdf(min(better, worse), better + worse, 0.5))


def seeds_as_images(first: Tensor, second: Tensor) -> PairedTest:
    """Counts each image once a seed: test_seeds_are_not_images."""
    return paired_test(first.flatten(), second.flatten())


def half_width_of_the_mean(values: Sequence[float]) -> float:
    """Where the mean lies, not where one more seed falls: test_the_half_width_is_the_one_computed_by_hand."""
    return float(stats.t.ppf(0.995, len(values) - 1)) * stdev(values) / len(values) ** 0.5


def normal_half_width(values: Sequence[float]) -> float:
    """Takes the spread of three seeds for known: test_the_half_width_is_the_one_computed_by_hand."""
    return float(stats.norm.ppf(0.995)) * stdev(values) * (1 + 1 / len(values)) ** 0.5


def verdict_by_mean_alone(test: PairedTest) -> Verdict:
    """Takes any difference for a fact: test_an_ordering_needs_a_significant_difference."""
    return Verdict.REPRODUCED if test.mean_difference > 0 else Verdict.CONTRADICTED


def verdict_by_p_value_alone(test: PairedTest) -> Verdict:
    """Does not ask for whom the difference speaks: test_an_ordering_needs_a_significant_difference."""
    return Verdict.REPRODUCED if test.p_value < 0.05 else Verdict.WITHIN_NOISE


@control("paired_p_value", "test_the_paired_test_takes_whole_test_sets")
def a_sum_that_overflows(first: Tensor, second: Tensor) -> float:
    """Adds up binomial coefficients as floats, which no float holds for a thousand images."""
    better, worse = int((first & ~second).sum()), int((second & ~first).sum())
    tail = sum(float(math.comb(better + worse, k)) * 0.5 ** (better + worse) for k in range(min(better, worse) + 1))
    return min(1.0, 2 * tail)
