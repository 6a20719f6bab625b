""".ci/proof.py, the steps of `.ci/gpu`: limits, what a failed step leaves, the order, and what may be kept."""

from __future__ import annotations

import json
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from tests.support.reporting import ROOT

EIGHT_MINUTES = 8 * 60


@pytest.fixture
def proof(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, whose rehearsal has two steps: one that fails and one that is well."""
    spec = spec_from_file_location("proof", ROOT / ".ci" / "proof.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_the_steps_fit_into_eight_minutes(proof: Any) -> None:
    """Laws come first, then speed, costs, the miniature and every cell rehearsed by four workers; limits add up to 8 min."""
    steps = proof.steps("cuda", False, "scratch")
    assert [*steps] == ["laws", "bench", "costs", "miniature", "rehearsal"]
    assert sum(limit_s for _, limit_s in steps.values()) <= EIGHT_MINUTES
    assert {"--rehearse", "-n4", "--device=cuda"} <= {*steps["rehearsal"][0]}
    assert {"--scale=mini", "-n4"} <= {*steps["miniature"][0]}
    assert "gpu and not reproduces" in steps["laws"][0]


@pytest.mark.slow
def test_a_step_ends_at_its_limit_with_all_that_it_started(proof: Any, tmp_path: Path) -> None:
    """What runs too long is killed, its children as well, and says so; what it printed until then stays."""
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(tmp_path / 'alive')!r}).touch()"
    start = f"subprocess.Popen([sys.executable, '-c', {child!r}])"
    text = f"import subprocess, sys, time; print('begun', flush=True); {start}; time.sleep(60)"
    log = tmp_path / "log"
    began = time.monotonic()
    step = proof.perform(program(text), log, tmp_path / "errors", 1.5, {})
    assert time.monotonic() - began < 20
    assert step["outcome"] == "ended at its limit of 2 s"
    assert log.read_text() == "begun\n"
    time.sleep(3)
    assert not (tmp_path / "alive").exists()


def test_later_steps_run_although_earlier_ones_failed(
    proof: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed step is named with the end of what it said, the next runs, and the proof as a whole fails."""
    planned = {"laws": (program("print('it broke'); raise SystemExit(3)"), 30.0), "bench": (program("print('{\"a\": 1}')"), 30.0)}
    monkeypatch.setattr(proof, "steps", lambda *_: planned)
    monkeypatch.setenv("VP_GPU_OUT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["proof", "--device", "cpu"])
    assert proof.main() == 1
    found = json.loads((tmp_path / "proof.json").read_text())
    assert found["steps"]["laws"]["outcome"] == "failed, exit 3"
    assert (found["steps"]["bench"]["outcome"], found["bench"]) == ("passed", {"a": 1})
    text = (tmp_path / "proof.txt").read_text()
    assert "== laws: failed, exit 3" in text
    assert "it broke" in text
    assert text in capsys.readouterr().out


OUTCOMES = """<testsuites><testsuite>
<testcase classname="tests.machinery.test_a" name="test_x[1]"/>
<testcase classname="tests.test_b" name="test_y"><failure message="1 is not 2"/></testcase>
<testcase classname="tests.test_b" name="test_z"><skipped message="NOT RUN: no GPU"/></testcase>
</testsuite></testsuites>"""


def test_outcomes_are_read_by_test(proof: Any, tmp_path: Path) -> None:
    """Each test is passed, or says what it says instead; without a file there are none."""
    (tmp_path / "x.xml").write_text(OUTCOMES)
    assert proof.tests_of(tmp_path / "x.xml") == {
        "test_a::test_x[1]": "passed",
        "test_b::test_y": "failure: 1 is not 2",
        "test_b::test_z": "NOT RUN: no GPU",
    }
    assert proof.tests_of(tmp_path / "missing.xml") == {}


@pytest.mark.parametrize("change", [{"rehearsed": True}, {"provenance": {"device": "B", "commit": "c"}}])
def test_rehearsals_and_other_devices_are_not_kept(
    change: dict[str, Any], proof: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rehearsal says nothing of a GPU, and one entry is of one device: exit code 2 and one line."""
    one = {"rehearsed": False, "provenance": {"device": "A", "commit": "c"}, "steps": {}, "networks": {}, "date": "2030-01-31"}
    files = [tmp_path / "one.json", tmp_path / "other.json"]
    for file, content in zip(files, (one, one | change), strict=True):
        file.write_text(json.dumps(content))
    monkeypatch.setattr(sys, "argv", ["proof", "--keep", *map(str, files)])
    assert proof.main() == 2
    assert "proofs to keep must be of one device and no rehearsals" in capsys.readouterr().err
