"""The findings of the opening: every sentence follows from the numbers, whatever they are."""

from __future__ import annotations

from typing import Any

import pytest

from vp.experiments import runs
from vp.report.expectations import Verdict
from vp.report.writeup.findings import findings

RUNS = runs("mini")


def numbers(
    values: dict[str, float], report: dict[str, float] | None = None, verdict: Verdict = Verdict.REPRODUCED
) -> dict[str, Any]:
    return {
        name: {
            "dataset": run.dataset,
            "value": values.get(name),
            "report": (report or {}).get(name),
            "verdict": str(verdict if name in values else Verdict.NOT_RUN),
        }
        for name, run in RUNS.items()
    }


def found(values: dict[str, float], claims: Any = (), miniature: bool = True, **others: Any) -> list[dict[str, Any]]:
    return findings(numbers(values, **others), claims, miniature)


def padding(first: float, second: float) -> dict[str, float]:
    """Padding this far ahead of the patch on either set."""
    return {"padding-10": 80 + first, "padding-100": 60 + second, "fixed-patch-10": 80.0, "fixed-patch-100": 60.0}


@pytest.mark.parametrize(
    ("ahead", "sentence"),
    [
        ((7.69, 8.84), "Padding beats the one-pixel patch by 7.7 points on mini10 and 8.8 on mini100."),
        ((-7.69, -8.84), "Padding falls behind the one-pixel patch by 7.7 points on mini10 and 8.8 on mini100."),
        ((7.69, -8.84), "Padding against the one-pixel patch: +7.7 points on mini10 and -8.8 on mini100."),
        ((0.0, 0.04), "Padding is level with the one-pixel patch on mini10 and on mini100."),
        ((0.0, 2.0), "Padding beats the one-pixel patch by 0.0 points on mini10 and 2.0 on mini100."),
    ],
)
def test_a_finding_says_who_is_ahead_and_by_how_much(ahead: tuple[float, float], sentence: str) -> None:
    """The verb follows the sign of all differences; where signs differ each difference has its own."""
    assert [one["text"] for one in found(padding(*ahead))] == [sentence]


def test_what_was_not_measured_is_not_found() -> None:
    """A side of which a run is missing, or was only rehearsed, has no difference."""
    assert found({}) == []
    whole = padding(1, 2)
    assert found(whole, verdict=Verdict.REHEARSAL) == []
    (one,) = found({name: value for name, value in whole.items() if name != "padding-10"})
    assert one["text"] == "Padding beats the one-pixel patch by 2.0 points on mini100."
    deep = {name: 50.0 for name in RUNS if name.startswith("deep-") and name.endswith(("-back", "-front"))}
    assert any("before the first block" in one["text"] for one in found(deep))
    del deep["deep-10-block0-n4-back"]
    assert not any("where the class token is read" in one["text"] for one in found(deep))


def test_several_runs_of_a_side_count_by_their_mean_and_the_best_where_it_says_so() -> None:
    """A side of several runs is their mean; of the best deep prompt it is the largest, the scrambled control left out."""
    deep = {name: 50.0 for name in RUNS if name.startswith("deep-") and name.endswith(("-back", "-front", "-scrambled"))}
    deep |= {"deep-10-block0-n4-back": 56.0, "deep-10-block6-n1-scrambled": 99.0, "padding-10": 55.0, "padding-100": 55.0}
    texts = [one["text"] for one in found(deep)]
    assert "The best deep prompt against padding: +1.0 points on mini10 and -5.0 on mini100." in texts
    (early,) = [text for text in texts if text.startswith("A deep prompt before the first block")]
    assert early == (
        "A deep prompt before the first block beats one before the last by 1.0 points where the class token is read and 0.0 where "
        "the first token is."
    )


def test_the_reports_own_differences_stand_beside() -> None:
    """The same differences between the report's numbers, said to be CIFAR's where this run is a miniature."""
    report = {"padding-10": 92.74, "fixed-patch-10": 89.57}
    (one,) = found(padding(1, 2), report=report)
    assert one["report"] == "Report, on CIFAR: +3.2 and –"
    (one,) = found(padding(1, 2), report=report, miniature=False)
    assert one["report"] == "Report: +3.2 and –"
    (one,) = found(padding(1, 2))
    assert one["report"] == ""


def test_a_finding_has_the_verdicts_of_its_claims() -> None:
    """The claims that decide a finding come with it, each with its verdict; no other does."""
    claims = [{"id": name, "verdict": "contradicted"} for name in ("padding-beats-patch-100", "early-beats-late-back")]
    (one,) = found(padding(1, 2), claims)
    assert (one["section"], one["claims"]) == ("2.2", [{"id": "padding-beats-patch-100", "verdict": "contradicted"}])
