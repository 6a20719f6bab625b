"""What a sweep on Ray costs beside its runs: `pytest -s -n 0 tests/benchmarks/bench_sweeps.py` (about ten minutes on two cores).

- scheduling: 2,000 runs that do next to nothing, each performed and stored; wall time a run, what the performers worked of it, and
  the rest, which is the overhead (bar: under 50 ms);
- warm performers against cold tasks: the forty runs of tests/machinery/test_ray.py, by performers that stay and as tasks of Ray
  with `max_calls=1`, a process each (bar: 1.5 times);
- a performer's start, with its variables as an argument and with Ray's runtime_env, which rules out processes started ahead.

Each starts a local Ray with a core a performer. Times are of this machine as busy as it is.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.machinery.test_ray import forty_tasks
from vp.experiments import Method, Run
from vp.machine.devices import usable_cores
from vp.sweeps import Outcome, Task

pytest.importorskip("ray", reason='NOT RUN: needs Ray: pip install -e ".[cluster]"')
RUNS = 2000
COLD = 12  # of the forty, evenly; the others would take as long


@dataclass(frozen=True)
class Nothing(Method):
    """Says the first class of every image."""

    number: int
    learns = False

    def classifier(self, backbone: str, class_names: tuple[str, ...], template: Any, device: torch.device) -> torch.nn.Module:
        return First(len(class_names))

    def evaluation_batches(self, model: Any, images: Any, device: torch.device, noise: Any = None) -> Any:
        from vp.data import Preprocess
        from vp.evaluation import ImageBatches

        return ImageBatches(images, Preprocess(images.pixels.shape[-1]), device, noise)


class First(torch.nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.eye(self.classes)[:1].expand(len(images), -1)


def nothing(number: int) -> Task:
    return Task(Run(f"nothing-{number}", "bench", "mini", "mini10", "test", "mini-clip", Nothing(number), limit=10), 0)


@pytest.fixture
def connected() -> Any:
    """A local Ray, started outside of what is measured."""
    from vp.sweeps.cluster import connected

    with connected(None):
        yield


@pytest.mark.usefixtures("connected")
def test_scheduling_overhead() -> None:
    """Prints milliseconds a run at 2,000 trivial runs."""
    from vp.sweeps.ray import RayEngine

    told = list[tuple[float, Outcome]]()
    started = time.perf_counter()
    RayEngine(device="cpu").perform(
        [nothing(number) for number in range(RUNS)], lambda outcome: told.append((time.perf_counter() - started, outcome))
    )
    wall = time.perf_counter() - started
    assert [outcome.kind for _, outcome in told] == ["done"] * RUNS
    first, last = told[0][0], told[-1][0]
    performers = usable_cores()
    worked = sum(outcome.seconds for _, outcome in told[1:]) / performers
    print(
        f"\n{RUNS} trivial runs, {performers} performers: {wall:.1f} s in all, of which {first:.1f} s until the first was told of; "
        f"then {1000 * (last - first) / RUNS:.1f} ms a run, of which a performer worked {1000 * worked / RUNS:.1f}: overhead "
        f"{1000 * (last - first - worked) / RUNS:.1f} ms a run (with the start: {1000 * (wall - worked) / RUNS:.1f}; bar 50)"
    )


@pytest.mark.usefixtures("connected")
def test_warm_performers_against_cold_tasks() -> None:
    """Prints how much faster forty runs are with performers that keep models loaded."""
    import ray

    from vp.sweeps.performer import Performer, Terms, code_here
    from vp.sweeps.ray import RayEngine

    started = time.perf_counter()
    told = list[Outcome]()
    RayEngine(device="cpu").perform(forty_tasks(), told.append)
    warm = time.perf_counter() - started
    assert {outcome.kind for outcome in told} == {"done"}

    @ray.remote(num_cpus=1, max_calls=1)
    def cold(terms: Terms, task: Task) -> Any:
        return Performer(terms).perform([task])

    environment = {"VP_HOME": os.environ["VP_HOME"] + "-cold"}  # as empty as the other was
    terms = Terms(code_here(), environment, os.getcwd(), None, "cpu", 1)
    some = forty_tasks()[:: len(forty_tasks()) // COLD][:COLD]
    started = time.perf_counter()
    assert [ended.kind for (ended,) in ray.get([cold.remote(terms, task) for task in some])] == ["done"] * len(some)
    each = (time.perf_counter() - started) / len(some)
    print(
        f"\nforty runs: {warm:.1f} s with warm performers, their start included; as cold tasks {each:.2f} s each ({len(some)} "
        f"measured), {40 * each:.0f} s for forty: {40 * each / warm:.1f} times as long (bar 1.5)"
    )


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("how", ["argument", "runtime_env"])
def test_a_performers_start(how: str) -> None:
    """Prints seconds until a performer says hello, and milliseconds of a call in which it has nothing to do."""
    import ray

    from vp.sweeps.performer import Performer, Terms, code_here

    variables = {"VP_HOME": os.environ["VP_HOME"]}
    terms = Terms(code_here(), variables if how == "argument" else {}, os.getcwd(), None, "cpu", 1)
    options: dict[str, Any] = {"num_cpus": 1} | ({"runtime_env": {"env_vars": variables}} if how == "runtime_env" else {})
    time.sleep(10)  # until those that Ray starts ahead are there
    started = time.perf_counter()
    actor = ray.remote(Performer).options(**options).remote(terms)
    ray.get(actor.hello.remote())
    hello, calls = time.perf_counter() - started, 200
    started = time.perf_counter()
    for _ in range(calls):
        ray.get(actor.perform.remote([]))
    each = (time.perf_counter() - started) / calls
    print(f"\nvariables as {how}: hello after {hello:.1f} s; a call of nothing {1000 * each:.1f} ms")
