"""How far a run is: a line that lives at the bottom of a terminal; in a pipe a plain line every 30 s; what is left, as measured.

Workers leave what they train in a folder, as small files; the controller reads them. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

import pytest
from tqdm import tqdm

EVERY_S = 30.0  # at most, in a pipe
REFRESH_S = 1.0  # on a terminal
PLAN = "plan.json"
SECONDS = "vp/seconds"  # in pytest's cache: how long each test took the last time
UNKNOWN_S = 0.25  # a test that was never seen, as long as few have ended
FIRST = 200  # as many tests: those that end first are the longest
ALONE_S = 25.0  # one that waits until no other runs, never seen: it measures times
REUSED_S = 1.0  # a test of runs that takes less found them in the store, and tells nothing of training


def plugin(config: pytest.Config) -> Controller | Worker:
    """The part of this process: of a worker, or of the session as a whole (which does a worker's part, too, without workers)."""
    given = getattr(config, "workerinput", {}).get("vp_progress")
    return Worker(Path(given), config.workerinput["workerid"]) if given else Controller(config)  # type: ignore[attr-defined]


@dataclass
class Estimate:
    """What is left, in seconds: training by its cost and what a unit of it took here, any other test by the time it took before.

    costs: of each test that trains, in any unit (vp's `relative_cost`); alone: tests that wait until no other runs.
    """

    costs: Mapping[str, float]
    alone: frozenset[str]
    before: Mapping[str, float]
    workers: int = 1
    took: dict[str, float] = field(default_factory=dict)

    def left(self, tests: Iterator[str] | list[str]) -> float | None:
        """None while nothing that trains has ended, though something has to."""
        todo = [test for test in tests if test not in self.took]
        trained = [test for test, seconds in self.took.items() if self.costs.get(test) and seconds > REUSED_S]
        units = sum(self.costs[test] for test in trained)
        training = sum(self.costs.get(test, 0.0) for test in todo)
        if training and not units:
            return None
        rate = sum(self.took[test] for test in trained) / units if training else 0.0
        others = [seconds for test, seconds in self.took.items() if not self.costs.get(test)]
        typical = (sum(others) + FIRST * UNKNOWN_S) / (len(others) + FIRST)
        unseen = {test: ALONE_S if test in self.alone else typical for test in todo if not self.costs.get(test)}
        rest = {test: self.before.get(test, seconds) for test, seconds in unseen.items()}
        alone = sum(seconds for test, seconds in rest.items() if test in self.alone)
        return alone + (training * rate + sum(rest.values()) - alone) / self.workers


class Worker:
    """Notes what this process trains. The first worker that has collected notes the plan."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        from vp.experiments import find_run

        scale, seeds = session.config.getoption("--scale"), session.config.getoption("--seeds")
        costs, runs = {}, {}
        if not session.config.getoption("--impl"):
            for item in session.items:
                marker = item.get_closest_marker("reproduces")
                if marker and (further := marker.kwargs.get("seeds_of")):
                    more = max(0, marker.kwargs["seeds"] - seeds)
                    costs[item.nodeid] = more * sum(find_run(name, scale).relative_cost for name in further)
                elif marker and marker.args:
                    known = [find_run(name, scale) for name in marker.args]
                    costs[item.nodeid] = seeds * sum(run.relative_cost for run in known)
                    runs[item.nodeid] = [run.name for run in known if run.recipe]
        alone = [item.nodeid for item in session.items if item.get_closest_marker("alone")]
        tests = [item.nodeid for item in session.items]
        _write(self.folder / PLAN, {"tests": tests, "costs": costs, "runs": runs, "alone": alone})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        if not item.get_closest_marker("reproduces"):
            return (yield)
        from vp.training import loop

        try:
            with patch.object(loop, "tqdm", self._bar):
                return (yield)
        finally:
            (self.folder / f"{self.name}.json").unlink(missing_ok=True)

    def _bar(self, *, total: int, desc: str, **_: Any) -> Bar:
        return Bar(self.folder / f"{self.name}.json", total, desc)


class Bar:
    """Stands in for tqdm where a run is trained: leaves its state in a file, at most once a second."""

    def __init__(self, file: Path, total: int, name: str) -> None:
        self.file, self.total, self.name = file, total, name
        self.n, self.epochs, self.validation, self.written = 0, 0, "", 0.0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.unlink(missing_ok=True)

    def update(self, n: int = 1) -> None:
        self.n += n
        if (now := time.monotonic()) > self.written + REFRESH_S:
            self.written = now
            state = {"run": self.name, "epoch": self.epochs + 1, "share": self.n / self.total, "validation": self.validation}
            _write(self.file, state)

    def set_postfix(self, validation: str) -> None:
        self.epochs, self.validation = self.epochs + 1, validation


def _write(file: Path, content: Any) -> None:
    """Complete or not at all; the controller may be gone."""
    part = file.with_suffix(f".{os.getpid()}")
    try:
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(file)
    except OSError:
        pass


class Controller:
    """Tells how far the session is."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.folder = Path(tempfile.mkdtemp(prefix="vp-progress-"))
        self.estimate = Estimate({}, frozenset(), {})
        self.seconds: dict[str, float] = {}
        self.tests: list[str] = []
        self.runs: dict[str, list[str]] = {}
        self.began = time.monotonic()
        self.screen: Screen | Lines | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["vp_progress"] = str(self.folder)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """The first sign of life, before anything that takes seconds is imported."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        self.estimate.workers = len(getattr(self.config.option, "tx", None) or ()) or 1
        self.estimate.before = self.config.cache.get(SECONDS, {}) if hasattr(self.config, "cache") and self.config.cache else {}
        if not hasattr(self.config.option, "tx") or not self.config.option.tx:
            self.config.pluginmanager.register(Worker(self.folder, "here"), "vp-progress-here")
        if reporter is None or self.config.option.collectonly:
            return
        self.screen = Screen(reporter._tw._file) if reporter.isatty else Lines(reporter)
        self.screen.show(f"{self.estimate.workers} worker(s): importing and collecting, some 10 s")
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._thread.start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        # A test that is not claimed (--impl) has a setup alone, one whose worker died only xdist's word of it.
        if report.when not in ("setup", "call") or (report.when == "setup" and report.skipped):
            self.estimate.took[report.nodeid] = self.seconds[report.nodeid]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._end()
        if hasattr(self.config, "cache") and self.config.cache and self.estimate.took:
            self.config.cache.set(SECONDS, {**self.estimate.before, **{k: round(v, 3) for k, v in self.estimate.took.items()}})

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self) -> None:
        self._end()

    def pytest_unconfigure(self) -> None:
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self) -> None:
        self._over.set()
        if self._thread:
            self._thread.join(5)
        if self.screen:
            self.screen.close()
        self.screen = None

    def _tell(self) -> None:
        assert self.screen is not None
        while not self._over.wait(self.screen.every_s):
            self.screen.show(self.line())

    def line(self) -> str:
        """Where the run stands, in a line."""
        self._read_plan()
        if not self.tests:
            return f"importing and collecting, {time.monotonic() - self.began:.0f} s so far"
        took = self.estimate.took
        parts = [f"{len(took)} of {len(self.tests)} tests"]
        if runs := {name for names in self.runs.values() for name in names}:
            done = {name for test in took for name in self.runs.get(test, ())}
            parts.append(f"{len(done)} of {len(runs)} runs")
        parts += [_training(file) for file in sorted(self.folder.glob("*.json")) if file.name != PLAN]
        left = self.estimate.left(self.tests)
        parts.append("time left: not known yet" if left is None else f"about {_duration(left)} left")
        return "; ".join(part for part in parts if part)

    def _read_plan(self) -> None:
        if self.tests:
            return
        try:
            plan = json.loads((self.folder / PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        self.estimate.costs, self.estimate.alone = plan["costs"], frozenset(plan["alone"])
        self.tests, self.runs = plan["tests"], plan["runs"]


def _training(file: Path) -> str:
    """What a worker trains now: `gw0 padding-100, epoch 3, 45%, validation 82.1%`."""
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    validation = f", validation {state['validation']}" if state["validation"] else ""
    return f"{file.stem} {state['run']}, epoch {state['epoch']}, {state['share']:.0%}{validation}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


class Lines:
    """In a pipe: a plain line, at most every 30 s."""

    every_s = EVERY_S

    def __init__(self, reporter: Any) -> None:
        self.reporter = reporter

    def show(self, line: str) -> None:
        writer = self.reporter._tw
        if getattr(writer, "width_of_current_line", 0):
            writer.line()
        writer.line(f"vp: {line}")
        writer.flush()

    def close(self) -> None:
        """Nothing is left to clean."""


class Screen:
    """On a terminal: its last row is ours, the rest scrolls above it, so that pytest's dots stay where they are."""

    every_s = REFRESH_S

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal
        self.rows = 0

    def show(self, line: str) -> None:
        columns, rows = shutil.get_terminal_size()
        if rows < 3:
            return
        if rows != self.rows:  # at first, or after a change of size: the last row is taken from what scrolls
            self.terminal.write(f"\n\x1b[A\x1b7\x1b[1;{rows - 1}r\x1b8")
            self.rows = rows
        shown = tqdm.format_meter(0, 0, 0, ncols=columns, bar_format="{desc}", prefix=f"vp: {line}")
        self.terminal.write(f"\x1b7\x1b[{rows};1H\x1b[2K{shown[:columns]}\x1b8")
        self.terminal.flush()

    def close(self) -> None:
        """The whole terminal scrolls again, and our row is empty."""
        if self.rows:
            self.terminal.write(f"\x1b7\x1b[r\x1b[{self.rows};1H\x1b[2K\x1b8")
            self.terminal.flush()
        self.rows = 0
