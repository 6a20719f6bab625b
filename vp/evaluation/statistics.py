"""What a count of correct images says, or a correlation of few values: intervals and paired tests (scipy underneath)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, variance

import scipy
import torch
from torch import Tensor


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion k / N, within [0, 1] (Wilson 1927).

    Raises ValueError unless 0 <= correct <= total and total > 0.
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} correct of {total}: expected 0 <= correct <= total and a total above 0")
    interval = scipy.stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class PairedTest:
    """Two classifiers on the same images: how many the first, and the second, gets right more often."""

    first_better: int
    second_better: int
    mean_difference: float  # accuracy of the first minus that of the second, as a proportion
    p_value: float


def paired_test(first: Tensor, second: Tensor) -> PairedTest:
    """Exact two-sided sign test over images of two classifiers' correctness, booleans (S, N) for S seeds of N images.

    An image counts for the classifier that gets it right in more of the seeds. Under the null hypothesis the images that
    count for either are Binomial(n, 1/2). The images, not the seeds, are the sample. With one seed, or shape (N,), this is
    McNemar's exact test (McNemar 1947). Raises ValueError when the two do not speak of the same images.
    """
    if first.shape != second.shape or first.ndim not in (1, 2) or first.numel() == 0:
        raise ValueError(f"paired correctness has shapes {tuple(first.shape)} and {tuple(second.shape)}: expected equal (S, N)")
    if not first.dtype == second.dtype == torch.bool:
        raise ValueError(f"paired correctness is {first.dtype} and {second.dtype}: expected torch.bool")
    difference = torch.atleast_2d(first).sum(0) - torch.atleast_2d(second).sum(0)
    first_better, second_better = int((difference > 0).sum()), int((difference < 0).sum())
    decided = first_better + second_better
    p_value = float(scipy.stats.binomtest(first_better, decided).pvalue) if decided else 1.0
    return PairedTest(first_better, second_better, float(difference.sum()) / first.numel(), p_value)


@dataclass(frozen=True)
class ContrastTest:
    """Is a weighted sum of accuracies, such as a difference of differences, above or below 0?"""

    mean_difference: float
    p_value: float


def contrast_test(*groups: Tensor) -> ContrastTest:
    """Two-sided z-test of the sum of the groups' mean scores against 0; the images of each group (N,) are the sample.

    Cells on the same images belong into one group, their weighted correctness added image by image; cells on other images
    are another group: z = sum_g mean_g / sqrt(sum_g s_g^2 / N_g). Raises ValueError for a group of fewer than two images.
    """
    if not groups or any(group.ndim != 1 or len(group) < 2 for group in groups):
        raise ValueError(f"groups have shapes {[tuple(group.shape) for group in groups]}: expected (N,) each, N of at least 2")
    estimate = sum(float(group.mean()) for group in groups)
    error = math.sqrt(sum(float(group.var()) / len(group) for group in groups))
    p_value = 2 * float(scipy.stats.norm.sf(abs(estimate) / error)) if error else float(estimate == 0)
    return ContrastTest(estimate, p_value)


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given, of m tests of one family: reject those below a, and the chance of any false
    rejection is at most a, however the tests depend on each other (Holm 1979).

    With p_(1) <= ... <= p_(m): adjusted p_(k) = min(1, max_{j <= k} (m - j + 1) p_(j)). Raises ValueError for a p outside [0, 1].
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values are {list(p_values)}: expected 0 to 1 each")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, (len(p_values) - rank) * p_values[place])
        adjusted[place] = min(1.0, largest)
    return adjusted


@dataclass(frozen=True)
class SeedSpread:
    """A number over n seeds: its mean, the standard deviation of one seed, and an interval of the mean."""

    mean: float
    std: float
    interval: tuple[float, float]


def seed_spread(values: Sequence[float], confidence: float = 0.95) -> SeedSpread:
    """Mean, standard deviation s (n - 1 in the denominator) and mean +- t(n - 1) s / sqrt(n) over n seeds (Student 1908).

    The interval is of the mean over all seeds; where one more seed falls is `prediction_half_width`. Raises ValueError for fewer
    than two values or one that is not finite.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        raise ValueError(f"{list(values)} says nothing about spread: give finite values of at least two seeds")
    mean, std = fmean(values), math.sqrt(variance(values))
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2, len(values) - 1)) * std / math.sqrt(len(values))
    return SeedSpread(mean, std, (mean - half, mean + half))


@dataclass(frozen=True)
class Correlation:
    """Pearson's r with its confidence interval, and r without each of the values in turn."""

    r: float
    interval: tuple[float, float]
    leave_one_out: tuple[float, ...]

    @property
    def range_without_one(self) -> tuple[float, float]:
        """Smallest and largest r that leaving out one value gives: wide when r rests on that value."""
        return min(self.leave_one_out), max(self.leave_one_out)


def correlation(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> Correlation:
    """Pearson's r of N pairs; its interval is tanh(artanh r +- z / sqrt(N - 3)) (Fisher 1921).

    Raises ValueError for fewer than four pairs, for unequal numbers of values, for one that is not finite, and where r is not
    defined because one of the two is constant, or would be without one of its values.
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"{len(x)} and {len(y)} values: give equally many, four or more")
    if not all(map(math.isfinite, (*x, *y))):
        raise ValueError(f"{list(x)} and {list(y)}: give finite values")
    for name, values in (("first", x), ("second", y)):
        if any(len({*values[:i], *values[i + 1 :]}) == 1 for i in range(len(values))):
            raise ValueError(f"r is not defined: the {name} values {list(values)} are constant, or are so without one of them")
    whole = scipy.stats.pearsonr(x, y)
    interval = whole.confidence_interval(confidence)
    without = [float(scipy.stats.pearsonr([*x[:i], *x[i + 1 :]], [*y[:i], *y[i + 1 :]]).statistic) for i in range(len(x))]
    return Correlation(float(whole.statistic), (float(interval.low), float(interval.high)), tuple(without))


def signed_rank_test(ratios: Sequence[float]) -> tuple[float, float]:
    """Median of paired ratios, and the two-sided p-value of Wilcoxon's signed-rank test that their logarithms lie around 0.

    Raises ValueError for no ratios, for one that is not finite and above 0, or when all are 1.
    """
    if not ratios or not all(0 < ratio < math.inf for ratio in ratios) or {*ratios} == {1}:
        raise ValueError(f"ratios {list(ratios)}: give finite values above 0, not all of them 1")
    return median(ratios), float(scipy.stats.wilcoxon([math.log(ratio) for ratio in ratios]).pvalue)


def above_trend(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """By how much each y lies above the least-squares line of y on x. Raises ValueError when all x are equal."""
    line = scipy.stats.linregress(x, y)
    return [float(value - line.intercept - line.slope * at) for at, value in zip(x, y, strict=True)]


def prediction_half_width(
    values: Sequence[float], similar: Sequence[Sequence[float]] = (), confidence: float = 0.99, floor: float = 0.2
) -> float:
    """Half width of the interval in which one more seed falls: t(df) s sqrt(1 + 1/n), s at least `floor`.

    s is pooled over `values` (n seeds) and the seeds of `similar` cells: s^2 = sum (n_i - 1) s_i^2 / df, df = sum (n_i - 1).
    `floor` (in the unit of `values`) stands for what machines differ by through rounding alone. Raises ValueError for fewer than
    two values or one that is not finite.
    """
    cells = [values, *similar]
    for cell in cells:
        if len(cell) < 2 or not all(map(math.isfinite, cell)):
            raise ValueError(f"{list(cell)} says nothing about spread: give finite values of at least two seeds")
    freedom = sum(len(cell) - 1 for cell in cells)
    pooled = math.sqrt(sum((len(cell) - 1) * variance(cell) for cell in cells) / freedom)
    quantile = float(scipy.stats.t.ppf(0.5 + confidence / 2, freedom))
    return quantile * max(pooled, floor) * math.sqrt(1 + 1 / len(values))
