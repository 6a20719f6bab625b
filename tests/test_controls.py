"""The specification's own strength: it rejects every wrong implementation of the catalogue, and accepts correct ones unlike vp's.

Both are asked through conformance mode itself, in a session of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from tests.conformance import ours
from tests.conformance.names import NAMES
from tests.conformance.plugin import UNSHRUNK
from tests.controls import MODULES, catalogue

LEAST_CONTROLS = 50
A_HANDFUL = 5  # other tests that may reject a control, too
EQUIVALENTS = "tests.controls.equivalents"
RIGHT = [EQUIVALENTS, f"{EQUIVALENTS}:by_hooks", f"{EQUIVALENTS}:by_weights", "tests/conformance/examples/course_adapter.py"]


def conform(results: Path, *arguments: str) -> list[dict[str, Any]]:
    """A session of conformance mode, in this process's own Python and without workers of its own; what it says of each solution."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", f"--results={results}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert results.is_file(), f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
    found: list[dict[str, Any]] = json.loads(results.read_text(encoding="utf-8"))
    return found


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
    files = [f"tests/test_{test}.py" for test in tests]
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


def test_the_catalogue_is_no_handful() -> None:
    """There are wrong implementations enough, and every public name has some."""
    assert len(catalogue()) >= LEAST_CONTROLS
    assert {one.name for one in catalogue().values()} == {*NAMES}


def test_correct_implementations_unlike_ours_are_accepted(tmp_path: Path) -> None:
    """A complete solution that is written otherwise (loops, einsum, other layouts and precisions) passes every test."""
    whole, *others = conform(tmp_path / "equivalents.json", *(f"--impl={label}" for label in RIGHT))
    for solution in (whole, *others):
        assert not rejecting(solution), (solution["solution"], rejecting(solution))
        assert solution["holds"]
    assert {name for section in whole["sections"] for row in section["rows"] for name in row["names"]} == {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_vp_has_every_public_name(name: str) -> None:
    """What the specification can be asked of others, vp has itself."""
    assert callable(getattr(ours, name))


def test_every_control_says_what_is_wrong_with_it() -> None:
    """Each control stands in for a public name and says in a sentence what it does wrong."""
    for key, one in catalogue().items():
        assert one.name in NAMES, key
        assert one.says.endswith((".", ":")), key
        assert not one.rejected_by.startswith("tests/"), key
