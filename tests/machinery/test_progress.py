"""tests/support/progress.py and ending.py: how far a run is, what is left, and what its end says."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import ending
from tests.support.progress import Bar, Controller, Estimate, Lines, Screen
from tests.support.sessions import Session

COSTS = {"a": 10.0, "b": 30.0, "c": 20.0}


def estimate(
    took: dict[str, float], workers: int = 1, alone: tuple[str, ...] = (), before: dict[str, float] | None = None
) -> Estimate:
    return Estimate(COSTS, frozenset(alone), before or {}, workers, took)


@pytest.mark.parametrize(
    ("took", "workers", "left"),
    [
        ({"a": 5.0}, 1, 25.0),  # half a second a unit, 50 units to go
        ({"a": 5.0}, 2, 12.5),
        ({"a": 5.0, "b": 25.0}, 1, 15.0),  # 30 s for 40 units, 20 to go
        ({"a": 5.0, "b": 15.0, "c": 10.0}, 1, 0.0),
        ({}, 1, None),
    ],
)
def test_training_is_estimated_by_its_cost(took: dict[str, float], workers: int, left: float | None) -> None:
    """What is to be trained takes as long a unit of cost as what was trained here, shared among the workers."""
    assert estimate(took, workers).left(["a", "b", "c"]) == (left if left is None else pytest.approx(left))


def test_what_was_found_in_the_store_tells_nothing_of_training() -> None:
    """A run that was read, in less than a second, has no part in what a unit of training takes."""
    assert estimate({"a": 0.2}, 1).left([*COSTS]) is None
    assert estimate({"a": 0.2, "b": 30.0}, 1).left([*COSTS]) == pytest.approx(30.0 / COSTS["b"] * COSTS["c"])


def test_other_tests_take_what_they_took_before() -> None:
    """A test that does not train takes its time of the last session, or what such tests take; one alone is not shared."""
    trained = {"a": 5.0, "b": 15.0, "c": 10.0}
    assert estimate(trained, 2, before={"x": 8.0}).left([*COSTS, "x"]) == pytest.approx(4.0)
    assert estimate(trained, 2, ("x",), {"x": 8.0}).left([*COSTS, "x"]) == pytest.approx(8.0)
    assert estimate(trained, 2, ("x",)).left([*COSTS, "x"]) == pytest.approx(25.0)  # a measurement that was never seen
    ended = {f"x{i}": 3.0 for i in range(200)}
    assert estimate({**trained, **ended}, 2).left([*COSTS, *ended, "z"]) == pytest.approx((3.0 + 0.25) / 2 / 2)


def test_the_estimate_is_right_from_the_middle_on() -> None:
    """Where costs tell times up to a fifth, what is left at the half is known within 30%."""
    costs = {f"run-{i}": float(1 + i % 7) for i in range(40)}
    seconds = {name: cost * (0.8 + 0.4 * (i % 3) / 2) for i, (name, cost) in enumerate(costs.items())}
    for ended in range(20, 39):
        took = dict([*seconds.items()][:ended])
        told = Estimate(costs, frozenset(), {}, 1, took).left([*costs])
        truth = sum(seconds.values()) - sum(took.values())
        assert told == pytest.approx(truth, rel=0.3)


def test_a_bar_leaves_what_is_trained(tmp_path: Path) -> None:
    """While a run trains, its file has name, epoch, share and validation accuracy; afterwards it is gone."""
    file = tmp_path / "gw0.json"
    with Bar(file, 10, "padding-10") as bar:
        bar.update(3)
        assert json.loads(file.read_text()) == {"run": "padding-10", "epoch": 1, "share": 0.3, "validation": ""}
        bar.set_postfix(validation="81.0%")
        bar.written = 0.0
        bar.update()
        assert json.loads(file.read_text()) == {"run": "padding-10", "epoch": 2, "share": 0.4, "validation": "81.0%"}
    assert [*tmp_path.iterdir()] == []


def test_the_line_says_how_far_the_run_is(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Tests and runs done of all, what each worker trains now, and the time left."""
    controller = Controller(pytestconfig)
    try:
        assert controller.line().startswith("importing and collecting")
        plan = {"tests": ["a", "b", "x"], "costs": {"a": 10.0, "b": 30.0}, "runs": {"a": ["one"], "b": ["two"]}, "alone": []}
        (controller.folder / "plan.json").write_text(json.dumps(plan))
        assert controller.line() == "0 of 3 tests; 0 of 2 runs; time left: not known yet"
        controller.estimate.took["a"] = 100.0
        bar = Bar(controller.folder / "gw1.json", 4, "two")
        bar.update()
        assert controller.line() == "1 of 3 tests; 1 of 2 runs; gw1 two, epoch 1, 25%; about 5 min left"
    finally:
        controller.pytest_unconfigure()
    assert not controller.folder.exists()


def test_a_terminal_has_its_last_row_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is drawn in the last row with the cursor put back; at the end the row is empty and the whole screen scrolls."""
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((20, 10)))
    terminal = io.StringIO()
    screen = Screen(terminal)
    screen.show("a line that is longer than the terminal is wide")
    drawn = terminal.getvalue()
    assert "\x1b[1;9r" in drawn
    assert "\x1b[10;1H\x1b[2Kvp: a line that is l\x1b8" in drawn
    screen.close()
    assert terminal.getvalue().removeprefix(drawn) == "\x1b7\x1b[r\x1b[10;1H\x1b[2K\x1b8"


def test_a_pipe_has_whole_lines() -> None:
    """In a pipe a line does not go on behind pytest's dots."""

    class Writer(io.StringIO):
        width_of_current_line = 3

        def line(self, text: str = "") -> None:
            self.write(f"{text}\n")

    class Reporter:
        _tw = Writer("...")

    Reporter._tw.seek(0, io.SEEK_END)
    Lines(Reporter()).show("5 of 9 tests")
    assert Reporter._tw.getvalue() == "...\nvp: 5 of 9 tests\n"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_session_says_at_once_that_it_lives(workers: str, tmp_path: Path) -> None:
    """Before anything is imported, with workers or without, a line says what happens."""
    project(tmp_path)
    done = Session(tmp_path, "-p", "no:hypothesispytest", "-n", workers, "-q").done()
    assert done.said.lstrip().startswith(f"vp: {max(1, int(workers))} worker(s): importing and collecting"), done.said
    assert " passed" in done.said


def project(folder: Path, test: str = "def test_it(): pass\n") -> None:
    root = Path(__file__).parents[2]
    (folder / "tests").mkdir()
    for name in ("conftest.py", "pyproject.toml"):
        (folder / name).write_text((root / name).read_text("utf-8"), "utf-8")
    (folder / "tests" / "test_it.py").write_text(test)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--html", "--results"])
def test_what_cannot_be_written_is_refused_at_the_start(option: str, tmp_path: Path) -> None:
    """A folder that is missing, or is no folder, is a usage error of one line before any test runs."""
    project(tmp_path)
    for place, words in (("missing/out", "there is no folder"), ("tests", "that is a folder"), ("/proc/out", "cannot be written")):
        done = Session(tmp_path, f"{option}={place}").done()
        assert done.returncode == pytest.ExitCode.USAGE_ERROR
        assert done.said.startswith(f"ERROR: {option} {place}: {words}")
        assert done.said.strip().count("\n") == 0


def test_the_end_of_a_run_is_at_most_ten_lines() -> None:
    """Findings, counts, what is contradicted by name, what was not run and why, the page, and how long it took."""
    claims = [{"id": f"claim-{i}", "verdict": "contradicted", "reason": ""} for i in range(8)]
    claims += [{"id": "x", "verdict": "NOT RUN", "reason": reason} for reason in ("no GPU", "no GPU", "no data", "else")]
    content: dict[str, Any] = {
        "findings": [
            {"section": section, "text": f"Found in {section}.", "claims": [{"id": "a", "verdict": "reproduced"}]}
            for section in ("1.2.a", "2.2", "2.2", "2.3", "2.3", "2.3")
        ],
        "statements": {"reproduced": 3, "within noise": 0, "contradicted": 8, "NOT RUN": 4},
        "argued": 2,
        "chapters": [{"sections": [{"claims": claims}]}],
    }
    told = [*ending.lines(content, "report.html", 125.9)]
    assert len(told) <= 10
    assert told[0] == "Found in 2.2. (reproduced)"
    assert "Found in 1.2.a. (reproduced)" not in told
    assert told[-4:] == [
        "Statements: 3 reproduced, 8 contradicted, 4 NOT RUN, 2 argued",
        "Contradicted: claim-0, claim-1, claim-2, claim-3, claim-4, claim-5 and 2 more",
        "Not run: 2 (no GPU), 1 (no data), 1 for other reasons",
        "Page: report.html; 2 min 5 s",
    ]


def test_a_quarter_second_of_telling_ends_with_the_session(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """The thread that tells is over as soon as the session is: nothing is drawn after the end."""
    controller, told = Controller(pytestconfig), []

    class Screens:
        every_s = 0.02

        def show(self, line: str) -> None:
            told.append(line)

        def close(self) -> None:
            told.append("closed")

    controller.screen = Screens()  # type: ignore[assignment]
    controller._thread = threading.Thread(target=controller._tell, daemon=True)
    controller._thread.start()
    time.sleep(0.2)
    controller.pytest_keyboard_interrupt()
    ended = len(told)
    time.sleep(0.1)
    assert told[-1] == "closed"
    assert 3 < ended == len(told)
    controller.pytest_unconfigure()
