"""pytest options, the order of tests, and the fixtures of tests that reproduce runs. tests/support/reporting.py writes results."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.conformance import options as conformance
from tests.support import ending, full_scale, progress, reporting
from tests.support.reporting import ENTRIES, SECTION_FILE, claims_of, ledger
from vp.machine.devices import give_worker_its_device, usable_cores

STARTED: pytest.StashKey[float] = pytest.StashKey()

# Workers share the cores: set before torch is imported, or each would start a thread per core.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // int(workers))))
give_worker_its_device()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vp", "executable report")
    group.addoption("--scale", choices=("mini", "full"), default="full", help="mini: the embedded world; full: CIFAR, GPU")
    group.addoption("--seeds", type=int, default=1, metavar="S", help="train every run with seeds 0 to S - 1 (default 1)")
    group.addoption("--fresh", action="store_true", help="train again what the store already has")
    group.addoption("--accept", action="store_true", help="mini: write this run's numbers as expectations; the run still fails")
    full_scale.add_options(group)
    group.addoption("--slow", action="store_true", help="also vp's own slow tests: whole sessions, browser, training, clusters")
    group.addoption("--results", type=Path, metavar="FILE", help="write the content of the writeup as JSON")
    conformance.add_options(group)
    group.addoption("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: trains or measures at full scale; needs a CUDA device, weights and data")
    config.addinivalue_line(
        "markers", "reproduces(*runs, seeds_of, seeds): these runs of vp.experiments are trained and judged; more seeds of others"
    )
    config.addinivalue_line(
        "markers",
        "claim(*ids): this test decides these claims of expectations/claims.toml; {name} in an id is a parameter of the test",
    )
    config.addinivalue_line(
        "markers", "specifies(*names): states what these public names must do; with --impl, those of someone else's solution"
    )
    config.addinivalue_line(
        "markers", "purity: says that what is given stays as it was; with --impl it fails for a change in place"
    )
    config.addinivalue_line("markers", "alone: measures time or memory; no other test of this machine runs at the same time")
    config.addinivalue_line(
        "markers", "slow: a test of vp's own machinery that takes seconds; with --slow, and where its file is named"
    )
    config.addinivalue_line("markers", "cluster: several nodes, or a bucket; NOT RUN without the extra `cluster`")
    config.addinivalue_line("markers", "browser: opens the page in chromium; NOT RUN without selenium, chromium and its driver")
    config.addinivalue_line("markers", "cluster: starts Ray on this machine; NOT RUN without `-m cluster` and the package ray")
    seeds = config.getoption("--seeds")
    if seeds < 1:
        raise pytest.UsageError(f"--seeds {seeds}: give at least 1")
    if config.getoption("--accept") and seeds < 3:
        raise pytest.UsageError(f"--accept with {seeds} seed(s): the spread of a number needs --seeds 3 or more")
    if config.getoption("--accept") and config.getoption("--scale") == "full":
        raise pytest.UsageError("--accept belongs to --scale mini: what full scale is held to are the report's own numbers")
    full_scale.configure(config)
    ending.refuse_what_cannot_be_written(config)
    config.pluginmanager.register(reporting, "vp-reporting")
    config.pluginmanager.register(progress.plugin(config), "vp-progress")
    usual, asked = hypothesis.settings.get_profile("default"), os.environ.get("VP_EXAMPLES")
    for profile, examples in (("dev", 10), ("ci", 25)):  # --hypothesis-profile=ci: hypothesis itself loads what is asked for
        hypothesis.settings.register_profile(profile, parent=usual, deadline=None, max_examples=int(asked or examples))
    if not config.getoption("--hypothesis-profile", None):
        hypothesis.settings.load_profile("dev")
    if config.getoption("--impl"):
        from tests.conformance.plugin import Conformance

        config.pluginmanager.register(Conformance(config), "vp-conformance")
    # --fresh means "newer than the start of the whole session", so that workers still share what one of them trains.
    config.stash[STARTED] = getattr(config, "workerinput", {}).get("vp_started", time.time())


def pytest_collection() -> None:
    """Before test modules are imported, and after a worker has its device."""
    importlib.import_module("tests.support.randomness")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Before xdist reads how many workers it has."""
    conformance.use_workers(config)


@pytest.hookimpl(optionalhook=True)
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
        _keep(config, items, lambda item: bool(SECTION_FILE.match(item.path.name)))
    elif _leaves_slow_tests_out(config):
        _keep(config, items, lambda item: item.get_closest_marker("slow") is None)


def _keep(config: pytest.Config, items: list[pytest.Item], wanted: Callable[[pytest.Item], bool]) -> None:
    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = [item for item in items if wanted(item)]


def _leaves_slow_tests_out(config: pytest.Config) -> bool:
    """Unless they are asked for: by --slow, by their marker, or by the name of a file."""
    asked = (
        config.getoption("--slow")
        or config.getoption("--impl")
        or "slow" in config.option.markexpr
        or "cluster" in config.option.markexpr
    )
    return not asked and config.args_source is pytest.Config.ArgsSource.TESTPATHS


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What was left out is said."""
    if config.getoption("--scale") == "full" and config.option.markexpr == "not gpu" and _leaves_slow_tests_out(config):
        terminalreporter.write_line(
            "left out: slow tests of vp's own machinery (whole sessions, a browser, training); --slow adds them"
        )


def _order(marker: pytest.Mark | None, scale: str) -> tuple[int, float]:
    if marker is None:
        return 2, 0.0
    if not marker.args:
        return 1, 0.0
    from vp.experiments import find_run

    return 0, -sum(find_run(name, scale).relative_cost for name in marker.args)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """Tests share the device; one marked `alone` waits until it has the device to itself. Before any test changes VP_HOME."""
    if item.config.getoption("--impl"):
        return (yield)  # nothing is measured

    from vp.machine.device_lock import this_device
    from vp.machine.errors import VpError

    with ExitStack() as turn:
        try:
            turn.enter_context(this_device().alone() if item.get_closest_marker("alone") else this_device().share())
        except VpError as error:
            item.add_marker(pytest.mark.skip(reason=f"NOT RUN: {error}"))
        return (yield)


@pytest.fixture(autouse=True)
def _own_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tests that reproduce runs use the user's store; every other test has an empty one."""
    if request.node.get_closest_marker("reproduces") is None:
        monkeypatch.setenv("VP_HOME", str(tmp_path_factory.mktemp("vp-home")))
        monkeypatch.delenv("VP_STORE", raising=False)


@pytest.fixture(scope="session")
def impl(request: pytest.FixtureRequest) -> Any:
    """What a test marked `specifies` speaks of: vp, or the solution of --impl (tests/conformance)."""
    from tests.conformance.subject import Ours, Subject

    asked = request.config.pluginmanager.get_plugin("vp-conformance")
    return Subject(asked.solution(request.param) if asked else Ours())


@pytest.fixture(autouse=True)
def _names_of_the_test(request: pytest.FixtureRequest) -> None:
    """`impl` has the names of the test's marker, and no others."""
    if names := conformance.names_of(request.node):
        request.getfixturevalue("impl").speak_of(names)


# -- what reproduction tests use -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--scale")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """record(kind, **plain values): an entry of the writeup."""

    def add(kind: str, **values: Any) -> None:
        entry = {"kind": kind, "test": request.node.nodeid, **values}
        rehearse = request.config.getoption("--rehearse")
        request.node.stash.setdefault(ENTRIES, []).append(full_scale.rehearsed(entry) if rehearse else entry)

    return add


@pytest.fixture
def find(request: pytest.FixtureRequest, scale: str) -> Callable[[str], Any]:
    """find(run name): the Run as this session performs it (--limit, --rehearse)."""
    return lambda name: full_scale.as_performed(name, scale, request.config.option)


@pytest.fixture
def obtained() -> list[Any]:
    """The Results that a test has asked for so far."""
    return []


@pytest.fixture
def results(request: pytest.FixtureRequest, find: Callable[[str], Any], obtained: list[Any]) -> Callable[..., list[Any]]:
    """results(run name, at_least=1): one Result a seed, from the store or trained now. What this machine lacks is NOT RUN.

    at_least: how many seeds the comparison needs, whatever `--seeds` says.
    """
    from vp.experiments.store import obtain
    from vp.machine.errors import NotAvailable

    options = request.config.option
    newer_than = request.config.stash[STARTED] if options.fresh else None

    def get(name: str, at_least: int = 1) -> list[Any]:
        run = find(name)
        seeds = range(max(options.seeds, at_least) if run.method.learns else 1)
        try:
            found = [obtain(run, seed, device=options.device, newer_than=newer_than) for seed in seeds]
        except NotAvailable as missing:
            pytest.skip(f"NOT RUN: {missing}")
        obtained.extend(found)
        return found

    return get


@pytest.fixture
def judge(
    request: pytest.FixtureRequest, scale: str, record: Callable[..., None], find: Callable[[str], Any], obtained: list[Any]
) -> Any:
    """Judges cells and orderings, and records them for the writeup (tests/support/asserts.py)."""
    from tests.support.asserts import Judge

    options = request.config.option
    judge = Judge(
        scale,
        options.accept,
        record,
        claims_of(request.node),
        find=find,
        device=options.device,
        expectations=request.config.rootpath / "expectations",
    )
    judge.explains = not options.rehearse
    judge.obtained = obtained
    if options.limit:
        judge.limit = options.limit
        judge.expectations = full_scale.on_some_images(judge.expectations, options.limit)
        judge.unjudged = {"*": f"what was trained on {options.limit} images has nothing to be held to"}
    return judge


@pytest.fixture(autouse=True)
def _claims_are_in_the_ledger(request: pytest.FixtureRequest) -> None:
    """A test that decides a claim which the ledger does not know, or cannot read, fails and says so."""
    if ids := claims_of(request.node):
        from vp.machine.errors import VpError
        from vp.report.claims import find_claim

        try:
            for name in ids:
                find_claim(name, ledger(request.config.rootpath / "expectations"))
        except VpError as error:
            pytest.fail(str(error), pytrace=False)


@pytest.fixture(autouse=True)
def _no_gpu_is_not_run(request: pytest.FixtureRequest) -> None:
    """A full-scale test on a machine without CUDA is NOT RUN, with the reason and the cure."""
    laws = request.node.get_closest_marker("reproduces") is None  # of a GPU, which no other device can stand in for
    if request.node.get_closest_marker("gpu") and (laws or full_scale.needs_a_gpu(request.config.option)):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("NOT RUN: full scale needs a CUDA device and this machine has none; `--scale mini` runs here")


@pytest.fixture(scope="session")
def _ray_if_asked(request: pytest.FixtureRequest) -> None:
    """What starts Ray runs where `-m` names it: it takes longer than all other tests of the machinery together."""
    if "cluster" not in request.config.option.markexpr:
        pytest.skip("NOT RUN: starts a cluster of Ray on this machine, for two or three minutes: give -m cluster")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    rehearses = item.config.getoption("--rehearse") and item.get_closest_marker("reproduces")
    with full_scale.without_verdicts(lambda: item.stash.get(ENTRIES, [])) if rehearses else nullcontext():
        return (yield)
