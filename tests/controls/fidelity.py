"""Wrong ways to judge what the miniature shares with full scale. Each breaks one rule and must be rejected by the test named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vp.report.fidelity import ALLOWED, FACTOR, Contrast, Judged, judge


def sign_of_the_first_value(contrasts: Sequence[Contrast], values: Mapping[str, float]) -> list[Judged]:
    """Looks at the first run instead of the difference: test_the_sign_is_that_of_the_difference."""
    return [
        one if one.own is None else replace(one, sign=values[one.contrast.first] * one.contrast.real > 0)
        for one in judge(contrasts, values)
    ]


def size_without_sign(contrasts: Sequence[Contrast], values: Mapping[str, float]) -> list[Judged]:
    """Calls an opposite difference of the same size faithful: test_a_size_agrees_only_where_the_sign_does."""
    return [
        one
        if one.own is None or one.contrast.nearly_nothing
        else replace(one, size=1 / FACTOR <= abs(one.own / one.contrast.real) <= FACTOR)
        for one in judge(contrasts, values)
    ]


def missing_agrees(contrasts: Sequence[Contrast], values: Mapping[str, float]) -> list[Judged]:
    """Counts what was not measured as agreement: test_a_missing_run_agrees_in_nothing."""
    return [replace(one, sign=True, size=True) if one.own is None else one for one in judge(contrasts, values)]


def missing_is_nothing(contrasts: Sequence[Contrast], values: Mapping[str, float]) -> list[Judged]:
    """Takes 0% for a run that was not measured: test_a_missing_run_agrees_in_nothing."""
    runs = [run for contrast in contrasts for run in (contrast.first, contrast.second)]
    return judge(contrasts, dict.fromkeys(runs, 0.0) | dict(values))


def at_most_twice(contrasts: Sequence[Contrast], values: Mapping[str, float]) -> list[Judged]:
    """Accepts a difference that is much too small: test_a_factor_of_two_holds_in_both_directions."""
    return [
        replace(one, size=one.sign and one.own / one.contrast.real <= FACTOR) if one.own is not None and one.contrast.real else one
        for one in judge(contrasts, values)
    ]


def at_least_half(contrasts: Sequence[Contrast], values: Mapping[str, float]) -> list[Judged]:
    """Accepts a difference that is much too large: test_a_factor_of_two_holds_in_both_directions."""
    return [
        replace(one, size=one.sign and one.own / one.contrast.real >= 1 / FACTOR)
        if one.own is not None and one.contrast.real
        else one
        for one in judge(contrasts, values)
    ]


def sign_of_nearly_nothing(contrasts: Sequence[Contrast], values: Mapping[str, float]) -> list[Judged]:
    """Asks for the sign of a difference of 0.1 points: test_next_to_nothing_has_no_sign."""
    return [one if one.own is None else replace(one, sign=one.own * one.contrast.real > 0) for one in judge(contrasts, values)]


def anything_is_nearly_nothing(contrasts: Sequence[Contrast], values: Mapping[str, float]) -> list[Judged]:
    """Lets every small difference agree, whatever full scale's: test_the_sign_is_that_of_the_difference."""
    return [one if one.own is None else replace(one, sign=one.sign or abs(one.own) < ALLOWED) for one in judge(contrasts, values)]
