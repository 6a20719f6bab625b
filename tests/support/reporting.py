"""From tests to the writeup: what tests record is gathered, judged and shown, at the top of the HTML report and as JSON.

conftest.py registers this module as a plugin. It is imported before a worker has its device, so that torch is imported inside of
functions only.
"""

from __future__ import annotations

import importlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import options as conformance
from tests.support import ending, full_scale

ROOT = Path(__file__).parent.parent.parent
EXPECTATIONS = ROOT / "expectations"
SECTION_FILE = re.compile(r"test_\d_\d")  # tests/test_2_3_deep_prompts.py decides claims of section 2.3
SHORT = 400  # characters kept of a failure's message
Entry = dict[str, Any]
ENTRIES: pytest.StashKey[list[Entry]] = pytest.StashKey()  # of a test on a worker, of the whole run on the controller
TESTS: pytest.StashKey[dict[str, Entry]] = pytest.StashKey()
CASES: pytest.StashKey[dict[str, list[str]]] = pytest.StashKey()
WRITEUP: pytest.StashKey[Any] = pytest.StashKey()
BEGAN: pytest.StashKey[float] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ENTRIES], config.stash[TESTS], config.stash[CASES] = [], {}, {}
    config.stash[BEGAN] = time.time()


def claims_of(item: pytest.Item) -> list[str]:
    """The ids of the claims that a test decides, with its parameters in place of {name}: none where others' code is asked."""
    if item.config.getoption("--impl"):
        return []
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    ids = [str(one) for marker in item.iter_markers("claim") for one in marker.args]
    if not ids:
        return []
    from vp.report.claims import fill_in

    return [fill_in(one, parameters) for one in ids]


@cache
def ledger(expectations: Path) -> Any:
    from vp.report.claims import load_claims

    return load_claims(expectations)


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
            threading.Thread(target=importlib.import_module, args=("vp.report.writeup",), daemon=True).start()


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
    from vp.experiments import runs
    from vp.machine.provenance import provenance
    from vp.report.expectations import accept

    scale = config.getoption("--scale")
    cells = {e["run"]: e for e in config.stash[ENTRIES] if e["kind"] == "cell"}
    where = next(iter(cells.values()))["provenance"] if cells else provenance()
    source = f"measured: torch {where['torch']}, {where['device']}, commit {where['commit'] or 'unknown'}"
    here = {name: run for name, run in runs(scale).items() if name in cells}
    measured, kinds = {name: cells[name]["seeds"] for name in here}, {name: run.kind for name, run in here.items()}
    for table in dict.fromkeys(run.table for run in here.values()):
        names = [name for name, run in here.items() if run.table == table]
        accept(config.rootpath / "expectations" / scale / f"{table}.toml", names, measured, kinds, source)


def _writeup(config: pytest.Config) -> tuple[Any, list[str]]:
    """The content of the writeup, and why the run must not pass although no test failed. Files that cannot be read are told of."""
    from vp.experiments import runs
    from vp.machine.errors import VpError
    from vp.report.claims import find_links, judge_claims
    from vp.report.expectations import load_expectations, load_published
    from vp.report.fidelity import load_fidelity
    from vp.report.measured import load_measured
    from vp.report.writeup import Sources, build

    expectations = config.rootpath / "expectations"
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

    claims, links = read(lambda: ledger(expectations)), read(lambda: find_links(config.rootpath / "tests"))
    judgements = judge_claims(claims, entries, links, runs(scale), NUMBERS_ELSEWHERE if scale == "mini" else "") if links else []
    report, published = read(lambda: load_expectations(expectations, "full")), read(lambda: load_published(expectations))
    complaints = [judgement.complaint for judgement in judgements if judgement.complaint]
    gpus, contrasts = read(lambda: load_measured(expectations)) or (), read(lambda: load_fidelity(expectations)) or ()
    sources = Sources(runs(scale), report, published, gpus, contrasts, about)
    return build(entries, judgements, tests, sources, "; ".join(problems)), complaints


SCALE_IN_WORDS = {
    "mini": "Scale: mini. Every model was really trained and tested, on drawn images (mini10 and mini100 in place of CIFAR-10 and "
    "CIFAR-100) with a miniature CLIP. Numbers are held to this scale's own expectations; only the full scale can tell whether "
    "the report's, beside them, are reproduced. What should carry over is how the methods compare.",
    "full": "Scale: full. CIFAR-10 and CIFAR-100 with OpenAI's CLIP ViT-B/32; numbers are held to the report's, within "
    "tolerances taken from independent replications.",
}
NUMBERS_ELSEWHERE = "only the full scale can tell, with CIFAR and ViT-B/32; shown is the miniature's counterpart"


def _computed_with(provenances: list[dict[str, str]]) -> str:
    """Versions, devices and commits of the results shown; of this session where it shows none."""
    from vp.machine.provenance import provenance

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
    content, complaints, _ = config.stash[WRITEUP]
    terminalreporter.section("findings and claims of the report")
    page = str(getattr(config.option, "htmlpath", None) or "")
    for line in ending.lines(content, page, time.time() - config.stash[BEGAN]):
        terminalreporter.write_line(line)
    for line in [*([content["problem"]] if content["problem"] else []), *complaints]:
        terminalreporter.write_line(f"FAILED {line}", red=True)


@pytest.hookimpl(optionalhook=True)
def pytest_html_report_title(report: Any) -> None:
    report.title = "vp: an executable report on visual prompting"


@pytest.hookimpl(optionalhook=True)
def pytest_html_results_summary(prefix: list[str], session: pytest.Session) -> None:
    if WRITEUP not in session.config.stash:
        return
    from vp.report.writeup import folder_between, render

    started = time.perf_counter()
    content, complaints, seconds = session.config.stash[WRITEUP]
    prefix.append(render(content, folder_between(Path(session.config.option.htmlpath), session.config.rootpath)))
    session.config.stash[WRITEUP] = content, complaints, seconds + time.perf_counter() - started
