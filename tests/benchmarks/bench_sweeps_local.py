"""What a sweep costs beside its runs: `pytest -s tests/benchmarks/bench_sweeps_local.py`.

Bars: under 50 ms a run of scheduling at 2,000 trivial runs on two cores; warm processes 1.5 times as fast as cold ones.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from vp.experiments.own import own_run
from vp.experiments.perform import perform
from vp.experiments.run import vary
from vp.experiments.store import result_path, run_key, save_result
from vp.sweeps import Outcome, Task
from vp.sweeps.local import LocalEngine

RUNS = 2000


def test_milliseconds_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Prints wall-clock and CPU time a run where all are in the store, which is all that a sweep itself does."""
    run = vary(own_run("mini10", "fixed-patch", size=1, recipe="epochs=1"), 20)
    result = perform(run, 0, "cpu", progress=False)
    tasks = [Task(run, seed) for seed in range(RUNS)]
    for task in tasks:
        key = run_key(run, task.seed, "cpu")
        save_result(result_path(run, key), replace(result, seed=task.seed), key)
    ended: list[float] = []
    inside: list[float] = []

    def tell(outcome: Outcome) -> None:
        assert outcome.kind == "reused"
        ended.append(time.perf_counter())
        inside.append(outcome.seconds)

    cpu = time.process_time()
    LocalEngine(2, "cpu", tmp_path / "logs").perform(tasks, tell)
    cpu = time.process_time() - cpu
    first = RUNS // 10  # when both processes are there and warm
    wall = (ended[-1] - ended[first]) / (RUNS - 1 - first)
    median = sorted(inside)[RUNS // 2]
    with capsys.disabled():
        print(
            f"\n{RUNS:,} runs of the store, 2 processes: {1000 * wall:.1f} ms a run by the clock, {1000 * median:.1f} ms in "
            f"its process (median); the parent's CPU {1000 * cpu / RUNS:.2f} ms a run (bar: 50 ms)"
        )


def test_warm_against_cold(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Prints how long 10 short runs take in one process that stays, and in a process each."""
    run = vary(own_run("mini10", "deep", block=6, recipe="epochs=1"), 40)
    seconds = {}
    for how, first_seed in (("warm", 0), ("cold", 10)):
        tasks = [Task(run, first_seed + seed) for seed in range(10)]
        started = time.perf_counter()
        for some in [tasks] if how == "warm" else [[task] for task in tasks]:
            LocalEngine(1, "cpu", tmp_path / how).perform(some, lambda outcome: None)
        seconds[how] = time.perf_counter() - started
    with capsys.disabled():
        words = ", ".join(f"{how} {taken:.1f} s" for how, taken in seconds.items())
        print(f"\n10 runs: {words}: {seconds['cold'] / seconds['warm']:.1f} times (bar: 1.5)")
