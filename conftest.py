"""pytest options, and the hooks that turn what tests record into the writeup: at the top of the HTML report, and as JSON."""

from __future__ import annotations

import importlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import full_scale
from tests.conformance import options as conformance
from vp.devices import give_worker_its_device, usable_cores

ROOT = Path(__file__).parent
EXPECTATIONS = ROOT / "expectations"
SECTION_FILE = re.compile(r"test_\d_\d")  # tests/test_2_3_deep_prompts.py decides claims of section 2.3
SHORT = 400  # characters kept of a failure's message
Entry = dict[str, Any]
ENTRIES: pytest.StashKey[list[Entry]] = pytest.StashKey()  # of a test on a worker, of the whole run on the controller
TESTS: pytest.StashKey[dict[str, Entry]] = pytest.StashKey()
CASES: pytest.StashKey[dict[str, list[str]]] = pytest.StashKey()
WRITEUP: pytest.StashKey[Any] = pytest.StashKey()
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
    group.addoption("--results", type=Path, metavar="FILE", help="write the content of the writeup as JSON")
    conformance.add_options(group)
    group.addoption("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: trains or measures at full scale; needs a CUDA device, weights and data")
    config.addinivalue_line("markers", "reproduces(*runs): these runs of vp.experiments are trained and judged by this test")
    config.addinivalue_line(
        "markers",
        "claim(*ids): this test decides these claims of expectations/claims.toml; {name} in an id is a parameter of the test",
    )
    config.addinivalue_line(
        "markers", "specifies(*names): states what these public names must do; with --impl, those of someone else's solution"
    )
    config.addinivalue_line("markers", "alone: measures time or memory; no other test of this machine runs at the same time")
    seeds = config.getoption("--seeds")
    if seeds < 1:
        raise pytest.UsageError(f"--seeds {seeds}: give at least 1")
    if config.getoption("--accept") and seeds < 3:
        raise pytest.UsageError(f"--accept with {seeds} seed(s): the spread of a number needs --seeds 3 or more")
    if config.getoption("--accept") and config.getoption("--scale") == "full":
        raise pytest.UsageError("--accept belongs to --scale mini: what full scale is held to are the report's own numbers")
    full_scale.configure(config)
    if results := config.getoption("--results"):
        if not results.absolute().parent.is_dir():
            raise pytest.UsageError(f"--results {results}: there is no folder {results.absolute().parent}")
        if results.is_dir():
            raise pytest.UsageError(f"--results {results}: that is a folder, give a file")
    config.stash[ENTRIES], config.stash[TESTS], config.stash[CASES] = [], {}, {}
    hypothesis.settings.register_profile("vp", deadline=None, max_examples=int(os.environ.get("VP_EXAMPLES", "25")))
    hypothesis.settings.load_profile("vp")
    if config.getoption("--impl"):
        from tests.conformance.plugin import Conformance

        config.pluginmanager.register(Conformance(config), "vp-conformance")
    # --fresh means "newer than the start of the whole session", so that workers still share what one of them trains.
    config.stash[STARTED] = getattr(config, "workerinput", {}).get("vp_started", time.time())


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
        others = [item for item in items if not SECTION_FILE.match(item.path.name)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if SECTION_FILE.match(item.path.name)]


@pytest.hookimpl(wrapper=True, trylast=True)  # innermost: --lf and a case asked for by name come later
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[pytest.CollectReport]:
    """All tests that decide a claim, by claim: what is left out later is missed by name."""
    report = yield
    cases = collector.config.stash[CASES]
    for item in report.result or ():
        if isinstance(item, pytest.Item):
            for claim in claims_of(item):
                cases[claim] = [*dict.fromkeys([*cases.get(claim, ()), item.nodeid])]
    return report


def claims_of(item: pytest.Item) -> list[str]:
    """The ids of the claims that a test decides, with its parameters in place of {name}: none where others' code is asked."""
    if item.config.getoption("--impl"):
        return []
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    ids = [str(one) for marker in item.iter_markers("claim") for one in marker.args]
    if not ids:
        return []
    from vp.claims import fill_in

    return [fill_in(one, parameters) for one in ids]


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
    if item.config.getoption("--impl"):
        return (yield)  # nothing is measured

    from vp.runtime import VpError
    from vp.sharing import this_device

    with ExitStack() as turn:
        try:
            turn.enter_context(this_device().alone() if item.get_closest_marker("alone") else this_device().share())
        except VpError as error:
            item.add_marker(pytest.mark.skip(reason=f"NOT RUN: {error}"))
        return (yield)


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
    from vp.runtime import NotAvailable
    from vp.store import obtain

    options = request.config.option
    newer_than = request.config.stash[STARTED] if options.fresh else None

    def get(name: str, at_least: int = 1) -> list[Any]:
        run = find(name)
        seeds = range(max(options.seeds, at_least) if run.adaptation else 1)
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
    """Judges cells and orderings, and records them for the writeup (tests/asserts.py)."""
    from tests.asserts import Judge

    options = request.config.option
    judge = Judge(scale, options.accept, record, claims_of(request.node), find=find, device=options.device)
    judge.explains = not options.rehearse
    judge.obtained = obtained
    if options.limit:
        judge.limit = options.limit
        judge.expectations = full_scale.on_some_images(judge.expectations, options.limit)
        judge.unjudged = {"*": f"what was trained on {options.limit} images has nothing to be held to"}
    return judge


@cache
def _ledger() -> Any:
    from vp.claims import load_claims

    return load_claims(EXPECTATIONS)


@pytest.fixture(autouse=True)
def _claims_are_in_the_ledger(request: pytest.FixtureRequest) -> None:
    """A test that decides a claim which the ledger does not know, or cannot read, fails and says so."""
    if ids := claims_of(request.node):
        from vp.claims import find_claim
        from vp.runtime import VpError

        try:
            for name in ids:
                find_claim(name, _ledger())
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    rehearses = item.config.getoption("--rehearse") and item.get_closest_marker("reproduces")
    with full_scale.without_verdicts(lambda: item.stash.get(ENTRIES, [])) if rehearses else nullcontext():
        return (yield)


# -- from tests to the writeup ---------------------------------------------------------------------------------------------


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = (yield).get_result()
    if item.config.getoption("--rehearse") and item.get_closest_marker("reproduces"):
        full_scale.refuse_skip(report)
    report.vp_sentence = str(getattr(item, "function", item).__doc__ or "").strip().split("\n", 1)[0]
    entries = [*item.stash.get(ENTRIES, [])] if call.when == "call" else []
    marker = item.get_closest_marker("reproduces")
    ended = call.when == "call" or report.outcome != "passed"
    if marker and marker.args and report.outcome != "passed" and not any(entry["kind"] == "cell" for entry in entries):
        entries.append({"kind": "not run", "test": item.nodeid, "runs": [*marker.args], "reason": _why(report)})
    for claim in claims_of(item) if ended else ():
        rehearsed = report.outcome == "passed" and marker and item.config.getoption("--rehearse")
        entries.append(
            {
                "kind": "test",
                "claim": claim,
                "test": item.nodeid,
                "outcome": "rehearsed" if rehearsed else report.outcome,
                "refuted": call.when == "call" and call.excinfo is not None and _refutes(call.excinfo.value),
                "reason": _why(report),
                "cases": item.config.stash[CASES].get(claim, []),
            }
        )
    report.vp_entries = entries


def _refutes(error: BaseException) -> bool:
    """An assertion that fails refutes what a test states; any other error is an accident on the way."""
    if isinstance(error, BaseExceptionGroup):
        return all(_refutes(one) for one in error.exceptions)
    return isinstance(error, AssertionError | pytest.fail.Exception)


def _why(report: Any) -> str:
    """Why a test did not pass, in a line or two: the reason of a skip, the message of a failure."""
    if report.outcome == "passed":
        return ""
    if report.outcome == "skipped":
        told = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
        return str(told).removeprefix("Skipped: ").removeprefix("NOT RUN: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    told = str(crash.message if crash else report.longrepr or "no message").removeprefix("Failed: ").strip()
    prefix = "" if report.when == "call" else f"{report.when}: " if report.when in ("setup", "teardown") else ""
    return prefix + (told if len(told) <= SHORT else f"{told[:SHORT]}…")


def pytest_runtest_logreport(report: Any) -> None:
    if _CONTROLLER is None:
        return
    _CONTROLLER.stash[ENTRIES].extend(getattr(report, "vp_entries", []))
    tests = _CONTROLLER.stash[TESTS]
    if report.when == "call" or report.outcome != "passed":
        seconds = tests.get(report.nodeid, {}).get("seconds", 0.0) + report.duration
        tests[report.nodeid] = {
            "test": report.nodeid,
            "outcome": report.outcome,
            "seconds": round(seconds, 3),
            "sentence": getattr(report, "vp_sentence", ""),
            "reason": _why(report),
        }


_CONTROLLER: pytest.Config | None = None


def pytest_sessionstart(session: pytest.Session) -> None:
    global _CONTROLLER
    if not hasattr(session.config, "workerinput"):
        _CONTROLLER = session.config
        if session.config.pluginmanager.hasplugin("dsession") and _wants_writeup(session.config):
            # What the writeup imports takes seconds, which the controller has while its workers are busy.
            threading.Thread(target=importlib.import_module, args=("vp.writeup",), daemon=True).start()


def _wants_writeup(config: pytest.Config) -> bool:
    if config.getoption("--impl"):
        return False  # someone else's solution is asked: nothing of the report is judged
    return bool(config.getoption("--results") or getattr(config.option, "htmlpath", None))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """On the controller, once: accept numbers, judge the claims, write the results; fail what no single test could."""
    config = session.config
    if config is not _CONTROLLER:
        return
    if config.getoption("--accept"):
        _accept(config)
    if not _wants_writeup(config) and not any(entry["kind"] == "judged" for entry in config.stash[ENTRIES]):
        return
    started = time.perf_counter()
    content, complaints = _writeup(config)
    if complaint := conformance.write_results(config.getoption("--results"), content):
        complaints.append(complaint)
    config.stash[WRITEUP] = content, complaints, time.perf_counter() - started
    if (complaints or content["problem"]) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _accept(config: pytest.Config) -> None:
    """Write the measured numbers as expectations."""
    from vp.expectations import accept
    from vp.experiments import runs
    from vp.runtime import provenance

    scale = config.getoption("--scale")
    cells = {e["run"]: e for e in config.stash[ENTRIES] if e["kind"] == "cell"}
    where = next(iter(cells.values()))["provenance"] if cells else provenance()
    source = f"measured: torch {where['torch']}, {where['device']}, commit {where['commit'] or 'unknown'}"
    here = {name: run for name, run in runs(scale).items() if name in cells}
    measured, kinds = {name: cells[name]["seeds"] for name in here}, {name: run.kind for name, run in here.items()}
    for table in dict.fromkeys(run.table for run in here.values()):
        names = [name for name, run in here.items() if run.table == table]
        accept(EXPECTATIONS / scale / f"{table}.toml", names, measured, kinds, source)


def _writeup(config: pytest.Config) -> tuple[Any, list[str]]:
    """The content of the writeup, and why the run must not pass although no test failed. Files that cannot be read are told of."""
    from vp.claims import find_links, judge_claims
    from vp.expectations import load_expectations, load_published
    from vp.experiments import runs
    from vp.runtime import VpError
    from vp.writeup import Sources, build

    scale, seeds, entries = config.getoption("--scale"), config.getoption("--seeds"), config.stash[ENTRIES]
    provenances = [entry["provenance"] for entry in entries if entry["kind"] == "cell"]
    about = {
        "scale": f"{SCALE_IN_WORDS[scale]} Seeds: {seeds}.{full_scale.in_words(config.option)}",
        "provenance": _computed_with(provenances),
        "numbers held to": "the miniature" if scale == "mini" else "the report",
    }
    tests = [config.stash[TESTS][name] for name in sorted(config.stash[TESTS])]
    problems: list[str] = []

    def read(load: Callable[[], Any]) -> Any:
        try:
            return load()
        except VpError as error:
            problems.append(str(error))
            return {}

    claims, links = read(_ledger), read(lambda: find_links(ROOT / "tests"))
    judgements = judge_claims(claims, entries, links, runs(scale), NUMBERS_ELSEWHERE if scale == "mini" else "") if links else []
    report, published = read(lambda: load_expectations(EXPECTATIONS, "full")), read(lambda: load_published(EXPECTATIONS))
    complaints = [judgement.complaint for judgement in judgements if judgement.complaint]
    return build(entries, judgements, tests, Sources(runs(scale), report, published, about), "; ".join(problems)), complaints


SCALE_IN_WORDS = {
    "mini": "Scale: mini. Every model here was really trained and tested, on an embedded world of drawn images (mini10 and "
    "mini100 in place of CIFAR-10 and CIFAR-100) with a miniature CLIP. Its numbers are held to this scale's own expectations; "
    "the report's numbers stand beside them, and only the full scale can tell whether those are reproduced. What should carry "
    "over is how the methods compare.",
    "full": "Scale: full. CIFAR-10 and CIFAR-100 with OpenAI's CLIP ViT-B/32; numbers are held to the report's, within "
    "tolerances taken from independent replications.",
}
NUMBERS_ELSEWHERE = "only the full scale can tell, with CIFAR and ViT-B/32; shown is the miniature's counterpart"


def _computed_with(provenances: list[dict[str, str]]) -> str:
    """Versions, devices and commits of the results shown; of this session where it shows none."""
    from vp.runtime import provenance

    known = provenances or [provenance()]
    values = {key: sorted({one[key] for one in known if one.get(key)}) for key in known[0]}
    return "Computed with " + ", ".join(f"{key} {' and '.join(some)}" for key, some in values.items() if some) + "."


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Why tests were not run, and what the ledger says beyond the tests' own outcomes."""
    if reasons := full_scale.reasons_not_run(terminalreporter.stats.get("skipped", [])):
        terminalreporter.section("NOT RUN")
        for reason, count in reasons.items():
            terminalreporter.write_line(f"{count} x {reason}")
    if WRITEUP not in config.stash:
        return
    content, complaints, seconds = config.stash[WRITEUP]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in content["statements"].items() if count)
    terminalreporter.section("claims of the report")
    terminalreporter.write_line(f"{counts}; {content['argued']} argued (judged in {seconds:.2f} s)")
    for line in [*([content["problem"]] if content["problem"] else []), *complaints]:
        terminalreporter.write_line(f"FAILED {line}", red=True)


@pytest.hookimpl(optionalhook=True)
def pytest_html_report_title(report: Any) -> None:
    report.title = "vp: an executable report on visual prompting"


@pytest.hookimpl(optionalhook=True)
def pytest_html_results_summary(prefix: list[str], session: pytest.Session) -> None:
    if WRITEUP not in session.config.stash:
        return
    from vp.writeup import folder_between, render

    started = time.perf_counter()
    content, complaints, seconds = session.config.stash[WRITEUP]
    prefix.append(render(content, folder_between(Path(session.config.option.htmlpath), ROOT)))
    session.config.stash[WRITEUP] = content, complaints, seconds + time.perf_counter() - started
