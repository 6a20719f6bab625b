"""The catalogue of wrong implementations is whole: `check_controls.py` asks each of them, by name."""

from __future__ import annotations

import pytest

from tests.conformance import ours
from tests.conformance.names import NAMES
from tests.controls import MODULES, catalogue
from tests.support.reporting import ROOT

LEAST_CONTROLS = 50


def test_the_catalogue_is_no_handful() -> None:
    """There are wrong implementations enough, and every public name has some."""
    assert len(catalogue()) >= LEAST_CONTROLS
    assert {one.name for one in catalogue().values()} == {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_vp_has_every_public_name(name: str) -> None:
    """What the specification can be asked of others, vp has itself."""
    assert callable(getattr(ours, name))


@pytest.mark.parametrize("section", MODULES)
def test_every_control_names_a_test_that_is_asked_about_it(section: str) -> None:
    """What must reject a control is a test of the files that are asked about its module."""
    modules, tests = MODULES[section]
    text = "".join((ROOT / "tests" / f"{test}.py").read_text("utf-8") for test in tests)
    named = {one.rejected_by for one in catalogue().values() if one.module in modules}
    assert {name for name in named if f"def {name}(" not in text} == set()
    assert named


def test_every_control_says_what_is_wrong_with_it() -> None:
    """Each control stands in for a public name and says in a sentence what it does wrong."""
    for key, one in catalogue().items():
        assert one.name in NAMES, key
        assert one.says.endswith((".", ":")), key
        assert not one.rejected_by.startswith("tests/"), key
