"""Wrong accuracies, tests and verdicts. Each breaks one sentence and must be rejected by the test named."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

import torch
from scipy import stats
from torch import Tensor, nn

from vp.evaluation import Batches, PairedTest, paired_test, per_image_correctness
from vp.expectations import Verdict


def average_of_batch_accuracies(model: nn.Module, batches: Batches, batch_size: int) -> float:
    """Gives the images of a small last batch more weight than the others: test_accuracy_is_k_of_n."""
    correct = per_image_correctness(model, batches, batch_size).double()
    return fmean(part.mean().item() for part in correct.split(batch_size))


def accuracy_of_full_batches(model: nn.Module, batches: Batches, batch_size: int) -> float:
    """Leaves out the smaller last batch: test_accuracy_is_k_of_n."""
    full = len(batches) // batch_size * batch_size
    return per_image_correctness(model, batches, batch_size)[:full].double().mean().item()


def forgets_the_mode(model: nn.Module, batches: Batches) -> Tensor:
    """Leaves the model in evaluation mode: test_evaluation_leaves_no_trace."""
    model.eval()
    return per_image_correctness(model, batches)


def wakes_frozen_modules(model: nn.Module, batches: Batches) -> Tensor:
    """Puts every module into the mode of the outermost one: test_evaluation_leaves_no_trace."""
    correct = per_image_correctness(model, batches)
    model.train(model.training)
    return correct


def predicts_in_training_mode(model: nn.Module, batches: Batches) -> Tensor:
    """Drops features and moves running statistics while it measures: test_evaluation_leaves_no_trace."""
    inputs, labels = batches[torch.arange(len(batches))]
    return model(inputs).argmax(1) == labels


def wald_interval(correct: int, total: int) -> tuple[float, float]:
    """The textbook's p +- 1.96 standard errors: test_intervals_are_those_published."""
    share = correct / total
    half = 1.96 * (share * (1 - share) / total) ** 0.5
    return share - half, share + half


def seeds_as_images(first: Tensor, second: Tensor) -> PairedTest:
    """Counts each image once a seed: test_seeds_are_not_images."""
    return paired_test(first.flatten(), second.flatten())


def unpaired(first: Tensor, second: Tensor) -> PairedTest:
    """Compares two proportions as if they were of different images: test_the_paired_test_is_mcnemars."""
    table = [[int(some.sum()), int((~some).sum())] for some in (first, second)]
    return PairedTest(0, 0, 0.0, float(stats.fisher_exact(table).pvalue))


def one_sided(first: Tensor, second: Tensor) -> PairedTest:
    """Knows beforehand which is better: test_the_paired_test_is_mcnemars, test_the_paired_test_is_symmetric."""
    test = paired_test(first, second)
    p_value = float(stats.binomtest(test.first_better, test.first_better + test.second_better, alternative="greater").pvalue)
    return PairedTest(test.first_better, test.second_better, test.mean_difference, p_value)


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
