"""Wrong ways to judge claims and to correct for many of them. Each breaks one sentence and must be rejected by the test named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from vp.report.claims import Judgement, judge_claims
from vp.report.expectations import Verdict


def uncorrected(p_values: Sequence[float]) -> list[float]:
    """Takes each ordering for the only one: test_holms_adjusted_p_values_are_those_published."""
    return [*p_values]


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """Corrects the largest p as sharply as the smallest: test_holms_adjusted_p_values_are_those_published."""
    return [min(1.0, len(p_values) * p) for p in p_values]


def step_down_without_memory(p_values: Sequence[float]) -> list[float]:
    """Lets a larger p become the smaller adjusted one: test_holms_adjusted_p_values_are_those_published."""
    ranks = {place: rank for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__))}
    return [min(1.0, (len(p_values) - ranks[place]) * p) for place, p in enumerate(p_values)]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Bounds the share of false rejections, not the chance of any: test_holms_adjusted_p_values_are_those_published."""
    return [float(p) for p in stats.false_discovery_control(p_values)] if p_values else []


def normal_interval(values: Sequence[float]) -> tuple[float, float]:
    """Takes the spread of a few seeds for known: test_the_seed_spread_is_students."""
    half = float(stats.norm.ppf(0.975)) * stdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half


def interval_of_one_seed(values: Sequence[float]) -> tuple[float, float]:
    """Where one seed falls, not the mean: test_the_seed_spread_is_students."""
    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values)
    return fmean(values) - half, fmean(values) + half


def best_of_its_tests(claims: Any, entries: Any, *others: Any, **more: Any) -> list[Judgement]:
    """Counts a claim as verified when any of its tests passed: test_a_claim_is_as_good_as_its_worst_test."""
    known = [entry for entry in entries if entry["kind"] != "test" or entry["outcome"] == "passed"]
    known = [{**entry, "cases": [entry["test"]]} if entry["kind"] == "test" else entry for entry in known]
    return judge_claims(claims, known, *others, **more)


def skips_count_as_passes(claims: Any, entries: Any, *others: Any, **more: Any) -> list[Judgement]:
    """Takes a skipped test for a passed one: test_a_skipped_or_deselected_test_leaves_its_claim_not_run."""
    known = [{**entry, "outcome": "passed"} if entry.get("outcome") == "skipped" else entry for entry in entries]
    return judge_claims(claims, known, *others, **more)


def forgets_what_was_deselected(claims: Any, entries: Any, *others: Any, **more: Any) -> list[Judgement]:
    """Looks at the tests that ran only: test_a_skipped_or_deselected_test_leaves_its_claim_not_run."""
    known = [{**entry, "cases": [entry["test"]]} if entry["kind"] == "test" else entry for entry in entries]
    return judge_claims(claims, known, *others, **more)


def accidents_refute(claims: Any, entries: Any, *others: Any, **more: Any) -> list[Judgement]:
    """Takes an error on the way for a refutation: test_an_accident_refutes_nothing."""
    known = [{**entry, "refuted": True} if entry["kind"] == "test" else entry for entry in entries]
    return judge_claims(claims, known, *others, **more)


def never_corrected(claims: Any, *others: Any, **more: Any) -> list[Judgement]:
    """Calls the report right where only its correction is: test_a_claim_true_in_its_corrected_form_is_corrected."""
    return [
        replace(one, verdict=Verdict.REPRODUCED) if one.verdict is Verdict.CORRECTED else one
        for one in judge_claims(claims, *others, **more)
    ]


def judges_orderings_alone(claims: Any, *others: Any, **more: Any) -> list[Judgement]:
    """Gives each ordering a family of its own: test_orderings_of_a_family_are_judged_together."""
    alone = {name: replace(claim, family=name if claim.family else "") for name, claim in claims.items()}
    return judge_claims(alone, *others, **more)


def corrects_for_those_that_ran(claims: Any, entries: Any, *others: Any, **more: Any) -> list[Judgement]:
    """Makes a partial run more significant than a whole one: test_orderings_that_did_not_run_count."""
    ran = {entry["claim"] for entry in entries if entry["kind"] == "judged"}
    return judge_claims({name: claim for name, claim in claims.items() if name in ran}, entries, *others, **more)


def failures_refute_what_was_recorded(claims: Any, entries: Any, links: Any, *others: Any, **more: Any) -> list[Judgement]:
    """Looks at each claim of a failed test by itself: test_a_failure_at_one_claim_says_nothing_of_the_one_before."""
    known = list(entries)
    alone = [[entry for entry in known if entry.get("claim", name) == name] for name in claims]
    return [judge_claims({name: claims[name]}, own, links, *others, **more)[0] for name, own in zip(claims, alone, strict=True)]
