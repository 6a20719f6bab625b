"""What reproduction tests assert, once: a cell within its expectation, an ordering by a paired test; and what they record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor

from conftest import EXPECTATIONS
from vp.evaluation import contrast_test, paired_test, wilson_interval
from vp.expectations import Verdict, cell_verdict, load_expectations, load_known_failures, ordering_verdict
from vp.experiments import Result

Cells = Sequence[Sequence[Result]]  # one sequence of results (a seed each) for each matching cell


class Judge:
    """Judges the numbers and orderings of one test and records what the writeup shows of them."""

    def __init__(
        self, scale: str, accept: bool, record: Callable[..., None], sentence: str, expectations: Path = EXPECTATIONS
    ) -> None:
        self.scale, self.accept, self.record, self.sentence = scale, accept, record, sentence
        self.expectations = load_expectations(expectations, scale)
        self.known_failures = load_known_failures(expectations, scale)

    def cell(self, results: Sequence[Result]) -> None:
        """Fails when the mean top-1 over the seeds is not within the tolerance of the committed expectation."""
        name, seeds, total = results[0].run, [result.top1 for result in results], results[0].total
        expectation = self.expectations.get(name)
        value = fmean(seeds)
        low, high = (100 * bound for bound in wilson_interval(round(value * total / 100), total))
        verdict = Verdict.NOT_RUN if expectation is None else cell_verdict(value, expectation)
        self.record(
            "cell",
            run=name,
            value=value,
            interval=(low, high),
            seeds=seeds,
            validation=fmean(result.validation_top1 for result in results) if results[0].history else None,
            verdict=str(verdict),
            provenance=results[0].provenance,
            expected=expectation.value if expectation else None,
            tolerance=expectation.tolerance if expectation else None,
            reason=None if expectation else "measured, but no expectation is committed for this run",
        )
        if self.accept:
            pytest.fail(f"{name}: {value:.2f} accepted as the expectation; run again without --accept to be judged by it")
        if expectation is None:
            if self.scale == "full":
                return  # neither the report nor a replication gives a value: shown, not judged
            pytest.fail(f"{name}: {value:.2f} measured, but no expectation is committed; run with --accept --seeds 3")
        if verdict is Verdict.CONTRADICTED:
            pytest.fail(
                f"{name}: top-1 {value:.2f}% (95% interval {low:.2f} to {high:.2f}), expected {expectation.value:.2f} "
                f"+- {expectation.tolerance:.2f} ({expectation.reason})"
            )

    def ordering(
        self,
        claim: str,
        section: str,
        first: Cells,
        second: Cells,
        *,
        or_equal: bool = False,
        sentence: str = "",
        corrects: str = "",
    ) -> None:
        """Is `first` better than `second` over all matching cells? A paired test over the images decides."""
        seeds = max(len(results) for results in (*first, *second))
        test = paired_test(*(torch.cat(list(_by_dataset(cells, seeds).values()), dim=1) for cells in (first, second)))
        pairs = [(fmean(r.top1 for r in one), fmean(r.top1 for r in other)) for one, other in zip(first, second, strict=True)]
        ahead = f", ahead in {sum(one > other for one, other in pairs)} of {len(pairs)} cells" if len(pairs) > 1 else ""
        evidence = (
            f"{_names(first)}: {100 * test.mean_difference:+.2f} points against {_names(second)}{ahead}; {test.first_better} "
            f"images better, {test.second_better} worse, {_p(test.p_value)}"
        )
        self.conclude(claim, section, sentence or self.sentence, evidence, ordering_verdict(test, or_equal), corrects)

    def contrast(
        self, claim: str, section: str, weights: Sequence[tuple[float, Cells]], *, sentence: str = "", corrects: str = ""
    ) -> None:
        """Is the weighted sum of accuracies above 0? A z-test over the images decides."""
        seeds = max(len(results) for _, cells in weights for results in cells)
        scores: dict[tuple[str, int], Tensor] = {}
        for weight, cells in weights:
            for images, correct in _by_dataset(cells, seeds).items():
                scores[images] = scores.get(images, torch.zeros(images[1])) + weight * correct.float().mean(0)
        test = contrast_test(*scores.values())
        evidence = f"difference of differences {100 * test.mean_difference:+.2f} points, {_p(test.p_value)}"
        self.conclude(claim, section, sentence or self.sentence, evidence, ordering_verdict(test), corrects)

    def conclude(self, claim: str, section: str, sentence: str, evidence: str, verdict: Verdict, corrects: str = "") -> None:
        """Records a statement with its verdict; fails when it is contradicted, unless that is a known failure (which is strict)."""
        known = self.known_failures.get(claim)
        if known and verdict is Verdict.CONTRADICTED:
            evidence += f". Known: {known}"
        if corrects and verdict is Verdict.REPRODUCED:
            verdict = Verdict.CORRECTED
        self.record(
            "statement", section=section, sentence=sentence, evidence=evidence, verdict=str(verdict), corrects=corrects or None
        )
        if known and verdict in (Verdict.REPRODUCED, Verdict.CORRECTED):
            pytest.fail(f"{claim} is listed as a known failure at scale {self.scale}, but is {verdict}: {evidence}")
        if not known and verdict is Verdict.CONTRADICTED:
            pytest.fail(f"{claim}: {sentence} {evidence}")


def _by_dataset(cells: Cells, seeds: int) -> dict[tuple[str, int], Tensor]:
    """Correctness (rows, N) for each set of N images: a row for each cell and seed. What is not trained has one for all seeds."""
    rows: dict[tuple[str, int], list[Tensor]] = {}
    for results in cells:
        if len(results) not in (1, seeds):
            raise ValueError(f"{results[0].run} has {len(results)} seeds, other cells {seeds}: ask for the same seeds of each")
        every_seed = list(results) * (seeds // len(results))
        rows.setdefault((results[0].dataset, results[0].total), []).extend(result.correct_images for result in every_seed)
    return {images: torch.stack(correct) for images, correct in rows.items()}


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value > 1e-99 else "p < 1e-99"


def _names(cells: Cells) -> str:
    return cells[0][0].run if len(cells) == 1 else f"{len(cells)} cells such as {cells[0][0].run}"
