"""What reproduction tests assert, once: a cell within its expectation, an ordering by a paired test; and what they record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor

from tests.support.reporting import EXPECTATIONS
from vp.evaluation import ContrastTest, PairedTest, contrast_test, paired_test, wilson_interval
from vp.experiments import Result, Run, find_run
from vp.experiments.store import obtain
from vp.report.claims import Claim, fails_its_test, family_size, find_claim, load_claims
from vp.report.expectations import (
    Expectation,
    Verdict,
    cell_verdict,
    load_expectations,
    load_known_failures,
    load_unjudged,
    ordering_verdict,
)
from vp.report.gaps import climb, in_words

Cells = Sequence[Sequence[Result]]  # one sequence of results (a seed each) for each matching cell


@cache
def _read(folder: Path, scale: str) -> tuple[dict[str, Claim], dict[str, Expectation], dict[str, str], dict[str, str]]:
    """What a judge holds numbers and orderings to, read once."""
    reasons = load_unjudged(folder, scale), load_known_failures(folder, scale)
    return load_claims(folder), load_expectations(folder, scale), *reasons


class Judge:
    """Judges the numbers and orderings of one test, which decide the claims of its marker, and records what they come to."""

    def __init__(
        self,
        scale: str,
        accept: bool,
        record: Callable[..., None],
        claims: Sequence[str],
        *,
        find: Callable[[str], Run] | None = None,
        device: str = "auto",
        expectations: Path = EXPECTATIONS,
    ) -> None:
        self.scale, self.accept, self.record, self.own, self.device = scale, accept, record, claims, device
        self.find = find or (lambda name: find_run(name, scale))  # the Run as this session performs it
        self.explains = True
        self.claims, self.expectations, self.unjudged, self.known_failures = _read(expectations, scale)
        self.limit: int | None = None  # this many images of each set, in place of all
        self.obtained: Sequence[Result] = ()  # what the test has asked for so far

    def cell(self, results: Sequence[Result]) -> None:
        """Fails when the mean top-1 over the seeds is not within the tolerance of the committed expectation."""
        name, seeds, total = results[0].run, [result.top1 for result in results], results[0].total
        expectation = self.expectations.get(name)
        unjudged = next((reason for pattern, reason in self.unjudged.items() if fnmatchcase(name, pattern)), None)
        value = fmean(seeds)
        low, high = (100 * bound for bound in wilson_interval(round(value * total / 100), total))
        verdict = Verdict.NOT_RUN if expectation is None else cell_verdict(value, expectation)
        missed = expectation is not None and verdict is Verdict.CONTRADICTED and not self.accept
        why = None if expectation else f"measured, but not judged: {unjudged or 'no expectation is committed for this run'}"
        gap = self._explain(results[0], expectation) if missed and expectation and self.explains else None
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
            reason=why or gap,
        )
        if self.accept:
            pytest.fail(f"{name}: {value:.2f} accepted as the expectation; run again without --accept to be judged by it")
        if expectation is None and not unjudged:
            pytest.fail(
                f"{name}: {value:.2f} measured, but no expectation is committed; run with --accept --seeds 3 at mini scale, "
                "or give the reason in expectations/unjudged.toml"
            )
        if expectation and missed:
            pytest.fail(
                f"{name}: top-1 {value:.2f}% (95% interval {low:.2f} to {high:.2f}), expected {expectation.value:.2f} "
                f"+- {expectation.tolerance:.2f} ({expectation.reason}). {gap}"
            )

    def _explain(self, result: Result, expectation: Expectation) -> str:
        """Which setting closes the gap. An accident on the way is told in its place: it must not hide the failure itself."""
        run = self.find(result.run)
        try:
            source = obtain(self.find(run.weights_from), result.seed, device=self.device) if run.weights_from else None
            return in_words(climb(run, source or (result if run.recipe else None), expectation, self.device))
        except Exception as error:
            return f"The gap could not be explained: {type(error).__name__}: {error}."

    def ordering(self, first: Cells, second: Cells, *, or_equal: bool = False, claim: str = "", note: str = "") -> None:
        """Is `first` better than `second` over all matching cells? A paired test over the images decides; `note` goes with it."""
        self.decide(*paired(first, second, note), or_equal=or_equal, claim=claim)

    def contrast(self, weights: Sequence[tuple[float, Cells]], *, words: str = "", claim: str = "") -> None:
        """Is the weighted sum of accuracies, called `words`, above 0? A z-test over the images decides."""
        self.decide(*contrasted(weights, words), claim=claim)

    def every(self, tests: Sequence[tuple[PairedTest | ContrastTest, str]], *, claim: str = "") -> None:
        """Is the first better in every one of some tests, each with its evidence? The one that says so least decides.

        All hold if the largest p-value is small enough; one that is reversed is so if its p-value is, times their number.
        """
        reversed_ = [(test, evidence) for test, evidence in tests if test.mean_difference <= 0]
        if reversed_:
            test, evidence = min(reversed_, key=lambda one: one[0].p_value)
            test = replace(test, p_value=min(1.0, len(tests) * test.p_value))
        else:
            test, evidence = max(tests, key=lambda one: one[0].p_value)
        holding = f"{len(tests) - len(reversed_)} of {len(tests)} as claimed"
        self.decide(test, f"{holding}; the one that is so least: {evidence}", claim=claim)

    def decide(self, test: PairedTest | ContrastTest, evidence: str, *, or_equal: bool = False, claim: str = "") -> None:
        """Records an ordering; fails when it is contradicted even by Bonferroni's bound over the orderings of its family.

        The verdict is given when all orderings of the family have arrived (vp.report.claims.judge_claims).
        """
        name = self._claim(claim)
        family = self.claims[name].family
        if not family:
            raise ValueError(f"claim {name!r} is of kind {self.claims[name].kind}, but is decided as an ordering: see claims.toml")
        bound = min(1.0, test.p_value * family_size(family, self.claims))
        tests = {"paired": asdict(test) if isinstance(test, PairedTest) else None}
        tests["contrast"] = asdict(test) if isinstance(test, ContrastTest) else None
        self._conclude(name, evidence, ordering_verdict(replace(test, p_value=bound), or_equal), **tests, or_equal=or_equal)

    def conclude(self, evidence: str, verdict: Verdict, *, claim: str = "") -> None:
        """Records a verdict on a claim; fails when it is contradicted, unless that is a known failure (which is strict)."""
        self._conclude(self._claim(claim), evidence, verdict, paired=None, contrast=None, or_equal=False)

    def note(self, evidence: str, verdict: Verdict, *, claim: str = "") -> None:
        """Records a verdict that depends on the machine, such as one on times: it fails nothing."""
        name = self._claim(claim)
        self.record(
            "judged",
            claim=name,
            evidence=evidence,
            verdict=str(verdict),
            known_failure="",
            paired=None,
            contrast=None,
            or_equal=False,
        )

    def _claim(self, named: str) -> str:
        """The claim meant: the one named, or the only one of the test's marker."""
        if (named and named not in self.own) or (not named and len(self.own) != 1):
            raise ValueError(f"the test is marked with claims {list(self.own)}, asked for {named!r}: name one of them")
        return find_claim(named or self.own[0], self.claims).id

    def _conclude(self, claim: str, evidence: str, verdict: Verdict, **others: object) -> None:
        known, reason = self.known_failures.get(claim, ""), ""
        if self.limit and any(result.trained_parameters for result in self.obtained):
            verdict, reason = Verdict.NOT_RUN, f"trained on {self.limit} images only"
            others |= {"paired": None, "contrast": None}
        entry = {"claim": claim, "evidence": evidence, "verdict": str(verdict), "known_failure": known, "reason": reason}
        self.record("judged", **entry, **others)
        if not fails_its_test(verdict, known):
            return
        if known:
            pytest.fail(f"{claim} is listed as a known failure at scale {self.scale}, but is {verdict}: {evidence}")
        one = self.claims[claim]
        pytest.fail(f"{claim}: {one.corrected or one.sentence} {evidence}")


def paired(first: Cells, second: Cells, note: str = "") -> tuple[PairedTest, str]:
    """The paired test of `first` being better than `second` over all matching cells, and its evidence in words."""
    seeds = max(len(results) for results in (*first, *second))
    test = paired_test(*(torch.cat(list(_by_dataset(cells, seeds).values()), dim=1) for cells in (first, second)))
    pairs = [(fmean(r.top1 for r in one), fmean(r.top1 for r in other)) for one, other in zip(first, second, strict=True)]
    ahead = f", ahead in {sum(one > other for one, other in pairs)} of {len(pairs)} cells" if len(pairs) > 1 else ""
    evidence = (
        f"{_names(first)}: {100 * test.mean_difference:+.2f} points against {_names(second)}{ahead}; {test.first_better} "
        f"images better, {test.second_better} worse, {_p(test.p_value)}{f'; {note}' if note else ''}"
    )
    return test, evidence


def contrasted(weights: Sequence[tuple[float, Cells]], words: str = "") -> tuple[ContrastTest, str]:
    """The z-test of a weighted sum of accuracies, called `words`, being above 0, and its evidence."""
    seeds = max(len(results) for _, cells in weights for results in cells)
    scores: dict[tuple[str, int], Tensor] = {}
    for weight, cells in weights:
        for images, correct in _by_dataset(cells, seeds).items():
            scores[images] = scores.get(images, torch.zeros(images[1])) + weight * correct.float().mean(0)
    test = contrast_test(*scores.values())
    return test, f"{words or 'difference of differences'}: {100 * test.mean_difference:+.2f} points, {_p(test.p_value)}"


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
