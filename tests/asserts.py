"""What reproduction tests assert, once: a cell within its expectation, an ordering by a paired test; and what they record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import pytest
import torch

from vp.evaluation import paired_test, wilson_interval
from vp.expectations import Expectation, Verdict, cell_verdict, ordering_verdict
from vp.experiments import Result

Record = Callable[..., None]


def judge_cell(results: Sequence[Result], expectation: Expectation | None, record: Record, *, accept: bool = False) -> None:
    """Fails when the mean top-1 over the seeds is neither within the tolerance nor within the noise of the test images."""
    name = results[0].run
    seeds = [result.top1 for result in results]
    value, total = fmean(seeds), results[0].total
    low, high = (100 * bound for bound in wilson_interval(round(value * total / 100), total))
    verdict = Verdict.NOT_RUN if expectation is None else cell_verdict(value, (low, high), expectation)
    cell = {"run": name, "value": value, "interval": (low, high), "seeds": seeds, "verdict": str(verdict)}
    record(
        "cell",
        **cell,
        expected=expectation.value if expectation else None,
        tolerance=expectation.tolerance if expectation else None,
        reason=None if expectation else "no expectation is committed for this run",
    )
    if accept:
        pytest.fail(f"{name}: {value:.2f} accepted as the expectation; run again without --accept to be judged by it")
    if expectation is None:
        pytest.fail(f"{name}: {value:.2f} measured, but no expectation is committed; run with --accept --seeds 3")
    if verdict is Verdict.CONTRADICTED:
        pytest.fail(
            f"{name}: top-1 {value:.2f}% (95% interval {low:.2f} to {high:.2f}), expected {expectation.value:.2f} "
            f"+- {expectation.tolerance:.2f} ({expectation.reason})"
        )


def judge_ordering(
    first: Sequence[Result], second: Sequence[Result], sentence: str, section: str, record: Record, *, or_equal: bool = False
) -> None:
    """Fails when the paired test says that the first is significantly worse than the second."""
    seeds = max(len(first), len(second))
    stacked = [torch.stack([one.correct_images for one in (list(some) * seeds)[:seeds]]) for some in (first, second)]
    test = paired_test(*stacked)
    verdict = ordering_verdict(test, or_equal)
    evidence = (
        f"{first[0].run} {100 * test.mean_difference:+.2f} points against {second[0].run}; {test.first_better} images better, "
        f"{test.second_better} worse, p = {test.p_value:.2g} ({len(first[0].correct_images)} images, {seeds} seed(s))"
    )
    record("statement", section=section, sentence=sentence, evidence=evidence, verdict=str(verdict))
    assert verdict is not Verdict.CONTRADICTED, f"{sentence} {evidence}"


def sentence_of(request: pytest.FixtureRequest) -> str:
    """The first line of the running test's docstring: what the writeup shows."""
    documentation: Any = request.function.__doc__
    return str(documentation).strip().splitlines()[0]
