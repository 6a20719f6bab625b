"""The specification's own strength: it rejects every wrong implementation of the catalogue, and accepts correct ones unlike vp's.

Both are asked through conformance mode itself, in sessions of their own: `pytest -n 2 tests/controls/check_controls.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conformance.names import NAMES
from tests.conformance.plugin import UNSHRUNK
from tests.controls import MODULES, catalogue
from tests.support.course_solutions import SOLUTIONS, misjudged, write
from tests.support.sessions import conform

A_HANDFUL = 5  # other tests that may reject a control, too
EQUIVALENTS = "tests.controls.equivalents"
COURSE = "course:tests/conformance/examples/course"
RIGHT = [
    EQUIVALENTS,
    f"{EQUIVALENTS}:by_hooks",
    f"{EQUIVALENTS}:by_weights",
    "tests/conformance/examples/course_adapter.py",
    COURSE,
]


def rejecting(solution: dict[str, Any]) -> set[str]:
    """The test functions that a solution fails."""
    rows = [row for section in solution["sections"] for row in section["rows"]]
    return {row["test"].rpartition("::")[2].partition("[")[0] for row in rows if row["verdict"] == "fail"}


@pytest.mark.parametrize("section", MODULES)
def test_every_control_is_rejected_by_the_test_named_for_it(section: str, tmp_path: Path) -> None:
    """Each wrong implementation fails the test named for it, and at most a handful of others: a failure points at the mistake."""
    modules, tests = MODULES[section]
    known = {key: one for key, one in catalogue().items() if one.module in modules}
    labels = [f"--impl=tests.controls:{key}" for key in known]
    files = [f"tests/{test}.py" for test in tests]
    asked = conform(tmp_path / "controls.json", f"--hypothesis-profile={UNSHRUNK}", *labels, *files)
    assert len(asked) == len(known) > 0
    complaints = []
    for solution in asked:
        key = solution["solution"].rpartition(":")[2]
        one, found = known[key], rejecting(solution)
        if one.rejected_by not in found:
            complaints.append(f"{key} ({one.says}) is rejected by {sorted(found) or 'none'}, not by {one.rejected_by}")
        elif len(found) > 1 + A_HANDFUL:
            complaints.append(f"{key} ({one.says}) is rejected by {len(found)} tests: {sorted(found)}")
    assert not complaints, "\n".join(complaints)


def test_correct_implementations_unlike_ours_are_accepted(tmp_path: Path) -> None:
    """A complete solution that is written otherwise (loops, einsum, other layouts and precisions) passes every test."""
    whole, *others = conform(tmp_path / "equivalents.json", *(f"--impl={label}" for label in RIGHT))
    for solution in (whole, *others):
        assert not rejecting(solution), (solution["solution"], rejecting(solution))
        assert solution["holds"]
    assert {name for section in whole["sections"] for row in section["rows"] for name in row["names"]} == {*NAMES}


def test_defects_of_the_courses_template_are_rejected_one_by_one(tmp_path: Path) -> None:
    """Each folder of the template with one defect fails the test named for it, at most three in all, and right ones none."""
    labels = [f"--impl={write(name, tmp_path, whole=True)}" for name in SOLUTIONS]
    asked = conform(tmp_path / "course.json", f"--hypothesis-profile={UNSHRUNK}", *labels)
    assert len(asked) == len(SOLUTIONS)
    assert not (wrong := misjudged(asked)), "\n".join(wrong)
