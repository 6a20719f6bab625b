"""pytest options, and the hooks that turn what tests record into the writeup at the top of the HTML report."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests import full_scale
from vp.devices import give_worker_its_device

ROOT = Path(__file__).parent
EXPECTATIONS = ROOT / "expectations"
SECTION_FILE = re.compile(r"test_(\d_\d)")  # tests/test_2_3_deep_prompts.py states claims of section 2.3
ENTRIES: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()
STARTED: pytest.StashKey[float] = pytest.StashKey()

# Workers share the cores: set before torch is imported, or each would start a thread per core.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
give_worker_its_device()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vp", "executable report")
    group.addoption("--scale", choices=("mini", "full"), default="full", help="mini: the embedded world on a CPU; full: CIFAR, GPU")
    group.addoption("--seeds", type=int, default=1, metavar="S", help="train every run with seeds 0 to S - 1 (default 1)")
    group.addoption("--fresh", action="store_true", help="train again what the store already has")
    group.addoption("--accept", action="store_true", help="write this run's numbers as expectations; the run still fails")
    full_scale.add_options(group)
    group.addoption("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: trains or measures at full scale; needs a CUDA device, weights and data")
    config.addinivalue_line("markers", "reproduces(*runs): these runs of vp.experiments are trained and judged by this test")
    config.addinivalue_line(
        "markers",
        "states(section, corrects=None): this test proves its docstring's first sentence, of a section of the report; "
        "`corrects` quotes the report where the sentence puts it right",
    )
    config.addinivalue_line("markers", "alone: measures time or memory; no other test of this machine runs at the same time")
    seeds = config.getoption("--seeds")
    if seeds < 1:
        raise pytest.UsageError(f"--seeds {seeds}: give at least 1")
    if config.getoption("--accept") and seeds < 3:
        raise pytest.UsageError(f"--accept with {seeds} seed(s): the spread of a number needs --seeds 3 or more")
    full_scale.configure(config)
    config.stash[ENTRIES] = []
    # --fresh means "newer than the start of the whole session", so that workers still share what one of them trains.
    config.stash[STARTED] = getattr(config, "workerinput", {}).get("vp_started", time.time())


def pytest_configure_node(node: Any) -> None:
    """Hand the controller's start time to each xdist worker."""
    node.workerinput["vp_started"] = node.config.stash[STARTED]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Full-scale reproduction needs a GPU. Runs go first, the slowest ahead; then what compares them; then all other tests;
    measurements last, for one waits until all others pause."""
    scale = config.getoption("--scale")
    for item in items:
        if item.get_closest_marker("reproduces") and scale == "full":
            item.add_marker(pytest.mark.gpu)
    items.sort(
        key=lambda item: (item.get_closest_marker("alone") is not None, _order(item.get_closest_marker("reproduces"), scale))
    )
    if scale == "mini" and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        # The miniature report is the report's sections; the machinery's own tests belong to the fast tier, unless asked for.
        others = [item for item in items if not SECTION_FILE.match(item.path.name)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if SECTION_FILE.match(item.path.name)]


def _order(marker: pytest.Mark | None, scale: str) -> tuple[int, float]:
    if marker is None:
        return 2, 0.0
    if not marker.args:
        return 1, 0.0
    from vp.experiments import find_run, relative_cost

    return 0, -sum(relative_cost(find_run(name, scale)) for name in marker.args)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """Tests share the device; one marked `alone` waits until it has the device to itself. Before any test changes VP_HOME."""
    from vp.runtime import VpError
    from vp.sharing import this_device

    with ExitStack() as turn:
        try:
            turn.enter_context(this_device().alone() if item.get_closest_marker("alone") else this_device().share())
        except VpError as error:
            item.add_marker(pytest.mark.skip(reason=f"NOT RUN: {error}"))
        return (yield)


# -- what reproduction tests use -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--scale")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """record(kind, **plain values): an entry of the writeup."""

    def add(kind: str, **values: Any) -> None:
        entry = {"kind": kind, **values}
        rehearse = request.config.getoption("--rehearse")
        request.node.stash.setdefault(ENTRIES, []).append(full_scale.rehearsed(entry) if rehearse else entry)

    return add


@pytest.fixture
def find(request: pytest.FixtureRequest, scale: str) -> Callable[[str], Any]:
    """find(run name): the Run as this session performs it (--limit, --rehearse)."""
    return lambda name: full_scale.as_performed(name, scale, request.config.option)


@pytest.fixture
def results(request: pytest.FixtureRequest, find: Callable[[str], Any]) -> Callable[..., list[Any]]:
    """results(run name, at_least=1): one Result a seed, from the store or trained now. What this machine lacks is NOT RUN.

    at_least: how many seeds the comparison needs, whatever `--seeds` says.
    """
    from vp.runtime import NotAvailable
    from vp.store import obtain

    options = request.config.option
    newer_than = request.config.stash[STARTED] if options.fresh else None

    def get(name: str, at_least: int = 1) -> list[Any]:
        run = find(name)
        seeds = range(max(options.seeds, at_least) if run.adaptation else 1)
        try:
            return [obtain(run, seed, device=options.device, newer_than=newer_than) for seed in seeds]
        except NotAvailable as missing:
            pytest.skip(f"NOT RUN: {missing}")

    return get


@pytest.fixture
def judge(request: pytest.FixtureRequest, scale: str, record: Callable[..., None]) -> Any:
    """Judges cells and orderings, and records them for the writeup (tests/asserts.py)."""
    from tests.asserts import Judge

    judge = Judge(scale, request.config.getoption("--accept"), record, _first_line(request.function))
    if limit := request.config.getoption("--limit"):
        judge.expectations = full_scale.on_some_images(judge.expectations, limit)
    return judge


@pytest.fixture(autouse=True)
def _no_gpu_is_not_run(request: pytest.FixtureRequest) -> None:
    """A full-scale test on a machine without CUDA is NOT RUN, with the reason and the cure."""
    if request.node.get_closest_marker("gpu") and full_scale.needs_a_gpu(request.config.option):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("NOT RUN: full scale needs a CUDA device and this machine has none; `--scale mini` runs here")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    rehearses = item.config.getoption("--rehearse") and item.get_closest_marker("reproduces")
    with full_scale.without_verdicts(lambda: item.stash.get(ENTRIES, [])) if rehearses else nullcontext():
        return (yield)


# -- from tests to the writeup ---------------------------------------------------------------------------------------------


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = (yield).get_result()
    entries = item.stash.get(ENTRIES, []) if call.when == "call" else []
    marker = item.get_closest_marker("reproduces")
    if marker and report.outcome != "passed" and not any(entry["kind"] == "cell" for entry in entries):
        reason = report.longrepr[2] if report.skipped else f"the test broke off: {call.excinfo.exconly() if call.excinfo else ''}"
        reason = reason.removeprefix("Skipped: ").removeprefix("NOT RUN: ")
        entries = [*entries, {"kind": "not run", "runs": [*marker.args], "reason": reason}]
        if not marker.args and not entries[:-1]:
            entries.append(_not_run(item, reason))
    if (stated := item.get_closest_marker("states")) and (call.when == "call" or report.outcome != "passed"):
        entries = [*entries, _statement(item, stated, report)]
    report.vp_entries = entries


def _not_run(item: pytest.Item, reason: str) -> dict[str, Any]:
    """A comparison that recorded nothing: its statement is NOT RUN, in the section that its file is named for."""
    named = SECTION_FILE.match(item.path.name)
    section = named.group(1).replace("_", ".") if named else ""
    return _statement_entry(item, section, reason, "NOT RUN")


def _first_line(function: Any) -> str:
    return str(function.__doc__).strip().splitlines()[0]


def _statement(item: pytest.Item, stated: pytest.Mark, report: pytest.TestReport) -> dict[str, Any]:
    """A theorem's entry: proved by its passing test, contradicted by a failing one, NOT RUN by a skipped one."""
    corrects = stated.kwargs.get("corrects")
    verdict = {"passed": "corrected" if corrects else "reproduced", "failed": "contradicted", "skipped": "NOT RUN"}[report.outcome]
    evidence = {"passed": "proved by", "failed": "refuted by", "skipped": "skipped:"}[report.outcome]
    return _statement_entry(item, stated.args[0], f"{evidence} {item.nodeid}", verdict, corrects)


def _statement_entry(item: pytest.Item, section: str, evidence: str, verdict: str, corrects: str | None = None) -> dict[str, Any]:
    return {
        "kind": "statement",
        "section": section,
        "sentence": _first_line(item.function),
        "evidence": evidence,
        "verdict": verdict,
        "corrects": corrects,
    }


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _CONTROLLER is not None:
        _CONTROLLER.stash[ENTRIES].extend(getattr(report, "vp_entries", []))


_CONTROLLER: pytest.Config | None = None


def pytest_sessionstart(session: pytest.Session) -> None:
    global _CONTROLLER
    if not hasattr(session.config, "workerinput"):
        _CONTROLLER = session.config


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --accept, write the measured numbers as expectations (the controller alone, once)."""
    if session.config is _CONTROLLER and session.config.getoption("--accept"):
        from vp.expectations import accept
        from vp.experiments import runs
        from vp.runtime import provenance

        scale = session.config.getoption("--scale")
        cells = {e["run"]: e for e in session.config.stash[ENTRIES] if e["kind"] == "cell"}
        where = next(iter(cells.values()))["provenance"] if cells else provenance()
        source = f"measured: torch {where['torch']}, {where['device']}, commit {where['commit'] or 'unknown'}"
        for table in dict.fromkeys(run.table for run in runs(scale).values()):
            here = {name: run for name, run in runs(scale).items() if run.table == table and name in cells}
            if here:
                measured = {name: cells[name]["seeds"] for name in here}
                kinds = {name: run.kind for name, run in here.items()}
                accept(EXPECTATIONS / scale / f"{table}.toml", measured, kinds, source)


def _computed_with(provenances: list[dict[str, str]]) -> str:
    """Versions, devices and commits of the results shown; of this session where it shows none."""
    from vp.runtime import provenance

    known = provenances or [provenance()]
    values = {key: sorted({one[key] for one in known if one.get(key)}) for key in known[0]}
    return "Computed with " + ", ".join(f"{key} {' and '.join(some)}" for key, some in values.items() if some) + "."


def pytest_html_report_title(report: Any) -> None:
    report.title = "vp: an executable report on visual prompting"


def pytest_html_results_summary(prefix: list[str], session: pytest.Session) -> None:
    from vp.expectations import load_expectations
    from vp.experiments import runs
    from vp.runtime import VpError
    from vp.writeup import render

    scale, seeds = session.config.getoption("--scale"), session.config.getoption("--seeds")
    words = {
        "mini": "Scale: mini. Every model here was really trained and tested, on an embedded world of drawn images (mini10 and "
        "mini100 in place of CIFAR-10 and CIFAR-100) with a miniature CLIP. Its numbers are held to this scale's own expectations; "
        "the report's numbers stand beside them, and what should carry over is how the methods compare.",
        "full": "Scale: full. CIFAR-10 and CIFAR-100 with OpenAI's CLIP ViT-B/32; numbers are held to the report's, within "
        "tolerances taken from independent replications.",
    }
    about = {
        "scale": f"{words[scale]} Seeds: {seeds}.{full_scale.in_words(session.config.option)}",
        "provenance": _computed_with([e["provenance"] for e in session.config.stash[ENTRIES] if e["kind"] == "cell"]),
    }
    try:
        prefix.append(render(session.config.stash[ENTRIES], runs(scale), load_expectations(EXPECTATIONS, "full"), about))
    except VpError as error:
        warnings.warn(f"no writeup: {error}", stacklevel=1)
