"""The pytest side of `--impl`: the tests marked `specifies`, asked of each solution, in worker processes of their own."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import tempfile
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.conformance import isolation, notebooks, table
from tests.conformance.course.files import course_folder
from tests.conformance.course.files import unusable as unusable_folder
from tests.conformance.folders import has_code
from tests.conformance.options import SPECIFIES, names_of, split_label, write_results
from tests.conformance.scores import ScoresError, award, read_scores

ROW = "vp_row"
FAILING_EXAMPLES = "_hypothesis_failing_examples"  # of hypothesis's pytest plugin, which would make a patch of our tests from them
EXAMPLES = 15  # of each statement: on two cores, a complete solution is to take less than a minute
UNSHRUNK = "unshrunk"  # --hypothesis-profile: half as many examples, and counterexamples as they are found, which is quicker
TOLD = "told"  # the mark of a solution that does not import, once a row says so
MOST_DECLINED = 40  # examples in a row that a solution may decline before a statement is not claimed
MAX_WORDS = 600  # of a counterexample
TAMPERED = "the judge was tampered with"
NO_VERDICTS = (  # with which code could end a test, or all of them
    pytest.skip.Exception,
    pytest.exit.Exception,
    pytest.xfail.Exception,
    unittest.SkipTest,
    KeyboardInterrupt,
    SystemExit,
    hypothesis.errors.UnsatisfiedAssumption,
    hypothesis.errors.StopTest,
)
INSPECT_EVERY = 4  # statements: the whole judge is looked at, which takes some milliseconds, and at the last one
MAX_PRINTED = 2000  # characters of what a solution printed


class Conformance:
    """Registered by conftest.py when --impl is given, on the controller and on its workers."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.solutions: list[str] = list(dict.fromkeys(config.getoption("--impl")))
        self.is_worker = hasattr(config, "workerinput")
        self.rows: dict[str, table.Row] = {}
        self._asked: dict[str, Any] = {}
        self._guard: Any = None
        self._asked_since = 0
        self.isolated, self._worker_spec, self._workers_user = "", "", 0
        if config.getoption("--time-limit") <= 0:
            raise pytest.UsageError(f"--time-limit {config.getoption('--time-limit')}: give seconds above 0")
        if not self.is_worker:
            for label in self.solutions:
                if complaint := _unusable(label):
                    raise pytest.UsageError(f"--impl {label}: {complaint}")
            try:
                self.scores = read_scores(file) if (file := config.getoption("--scores")) else None
            except ScoresError as error:
                raise pytest.UsageError(f"--scores {error}") from None
            self._scratch = tempfile.TemporaryDirectory(prefix="vp-conformance-")
            self.marks = Path(self._scratch.name)
            if config.getoption("--isolated"):
                self._isolate()
            config.option.tbstyle, config.option.reportchars = "no", ""  # the table says all of it, in words
        else:
            self.marks = Path(config.workerinput["vp_marks"])
        hypothesis.settings.register_profile(
            "conformance",
            parent=hypothesis.settings.get_profile("ci"),
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            print_blob=False,
            phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain],
            suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
        )
        hypothesis.settings.register_profile(
            UNSHRUNK,
            parent=hypothesis.settings.get_profile("conformance"),
            max_examples=EXAMPLES // 2,
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        )
        hypothesis.settings.load_profile(UNSHRUNK if config.getoption("--hypothesis-profile") == UNSHRUNK else "conformance")

    def _isolate(self) -> None:
        """Find out what workers can be kept from, before any of them starts."""
        if not getattr(self.config.option, "numprocesses", None):
            raise pytest.UsageError("--isolated needs workers, which are processes of their own: give -n 1 or more, and no --pdb")
        files = [Path(place).resolve() for place, _ in map(split_label, self.solutions) if place.endswith(".py")]
        reads = isolation.needed(files)
        found = isolation.not_isolated(self.config.rootpath, reads)
        self.isolated = isolation.in_words(found)
        if all(found.values()):
            raise pytest.UsageError(f"--isolated: nothing can be isolated here: {self.isolated}")
        self._worker_spec = isolation.worker_spec(self.config.rootpath, reads)
        if not found["user"]:  # what that user writes
            self.config.option.basetemp = str(self.marks / "tmp")
            self.marks.chmod(0o711)
            os.chown(self.marks, isolation.NOBODY, isolation.NOBODY)
            self._workers_user = isolation.NOBODY

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: list[Any]) -> None:
        if self._worker_spec:
            import execnet

            specs[:] = [execnet.XSpec(self._worker_spec) for _ in specs]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["vp_marks"] = str(self.marks)
        if self._workers_user:
            os.chown(node.config._tmp_path_factory.getbasetemp(), self._workers_user, self._workers_user)

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Files that specify no public name need not be read."""
        is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
        return True if is_test and SPECIFIES not in collection_path.read_text(encoding="utf-8") else None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "impl" in metafunc.fixturenames and metafunc.definition.get_closest_marker("specifies"):
            metafunc.parametrize("impl", self.solutions, indirect=True, scope="session")

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        others = [item for item in items if not names_of(item)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if names_of(item)]

    def solution(self, label: str) -> Any:
        """A solution to be asked, which is imported when the first test asks it, in a worker."""
        from tests.conformance.foreign import Foreign, Marks

        if label not in self._asked:
            self._asked[label] = Foreign(label, Marks(self.marks, label), self.config.getoption("--time-limit"))
        return self._asked[label]

    def guarded(self, item: pytest.Item) -> Any:
        """The solution of a test, and the judge under guard from before it is imported."""
        from tests.conformance.conduct import Leftovers, adopt_orphans
        from tests.conformance.judge import Guard

        solution = self.solution(item.callspec.params["impl"])  # type: ignore[attr-defined]
        if solution.conduct.trusted or solution.guard is not None:
            return solution
        if self._guard is None:
            if self.is_worker:
                adopt_orphans()
            self._guard, self._leftovers = Guard(self.config.pluginmanager, item.session.items), Leftovers()
        solution.guard = self._guard
        return solution

    def _inspect(self, solution: Any, *, is_last: bool) -> None:
        """After a statement was asked. Raises GivenUp where the judge is not what it was; ends a worker in which it stays so."""
        if solution.guard is None:
            return
        self._leftovers.look(solution.conduct)
        self._asked_since += 1
        if not is_last and self._asked_since % INSPECT_EVERY:
            return  # what a verdict takes first was looked at after each call; all of it is looked at in a while
        words = solution.guard.inspect(of_statements=is_last)
        if words and solution.guard.is_beyond_repair and self.is_worker:
            solution.marks.leave("tampered", words)
            os._exit(1)
        solution.accuse(words)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """What a solution that is imported does not claim costs a report, and no fixture."""
        self._next = nextitem
        row = self._row(item)
        solution = self.solution(row["solution"])
        if (broken := solution.marks.left("import")) and solution.marks.left(TOLD):
            why = row["words"] = broken
        elif solution.is_imported and (missing := {*row["names"]} - {*solution.names}):
            why = f"not claimed: {', '.join(sorted(missing))}"
        else:
            return None
        row["verdict"] = table.NOT_CLAIMED
        reason = (str(item.path), 0, why)
        report = pytest.TestReport(item.nodeid, item.location, {}, "skipped", reason, "setup")
        setattr(report, ROW, row)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        item.session._setupstate.teardown_exact(nextitem)  # what the test before has left standing for this one
        return True

    def _row(self, item: pytest.Item) -> dict[str, Any]:
        """What a test asks, of whom; not tried so far."""
        names, parameters = names_of(item), item.callspec.params  # type: ignore[attr-defined]
        case = [f"{key} {value}" for key, value in parameters.items() if key != "impl" and value not in names and _is_plain(value)]
        sentence = str(getattr(item, "function", item).__doc__ or "").strip().split("\n", 1)[0]
        return {
            "solution": parameters["impl"],
            "names": names,
            "test": item.nodeid,
            "statement": f"{sentence} ({', '.join(case)})" if case else sentence,
            "verdict": "not tried",
            "words": "",
            "printed": False,
            "narrowed": "",
            "impure": (),
            "conduct": (),
            "claims": solution.names if (solution := self.solution(parameters["impl"])).is_imported else (),
            "misnamed": solution.misnamed if solution.is_imported else (),
            "printed_at_import": solution.printed,
        }

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Iterator[None]:
        """Names that a solution does not have are not claimed: nothing of ours stands in. What it declines is not asked."""
        from tests.conformance.foreign import GivenUp, NotClaimed

        solution = self.guarded(pyfuncitem)
        solution.calls.begin()
        solution.impure.clear()
        if solution.tampered:
            raise GivenUp(solution.tampered)
        if {*names_of(pyfuncitem)} - {*solution.names}:
            raise NotClaimed
        with _narrowing(pyfuncitem.obj, solution):
            try:
                return (yield)
            except NO_VERDICTS as error:
                _complain(solution, error)
                raise
            except hypothesis.errors.Unsatisfiable:  # what was drawn is declined; explicit examples may have been judged
                if not solution.calls.declined or not solution.calls.judged:
                    raise
            finally:
                self._inspect(solution, is_last=self._is_last(pyfuncitem))
                if solution.calls.declined and not solution.calls.judged:
                    raise NotClaimed(solution.calls.declined[0][1], is_declined=True)

    def _is_last(self, item: pytest.Item) -> bool:
        """Is this the last statement that a solution is asked in this process?"""
        following = self._next
        return following is None or following.callspec.params["impl"] != item.callspec.params["impl"]  # type: ignore[attr-defined]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
        report = yield
        row = self._row(item)
        row["printed"] = call.when == "call" and bool(report.capstdout or report.capstderr)
        if call.when == "call" or report.outcome != "passed":
            row["verdict"], row["words"] = _judged(call, set(item.funcargs))  # type: ignore[attr-defined]
            solution = self.solution(row["solution"])
            if call.when == "call" and row["verdict"] != table.NOT_CLAIMED:
                row["narrowed"] = solution.calls.narrowed()
            row["impure"] = tuple(solution.impure.values()) if call.when == "call" else ()
            row["conduct"] = solution.conduct.take() if call.when == "call" else ()
            if row["impure"] and row["verdict"] == table.PASS and item.get_closest_marker("purity"):
                row["verdict"], row["words"], report.outcome = table.FAIL, row["impure"][0], "failed"
            marks = solution.marks
            if row["verdict"] == table.FAIL and row["words"] == marks.left("import"):
                row["verdict"] = table.FAIL if marks.is_first(TOLD) else table.NOT_CLAIMED
            if row["verdict"] == table.NOT_CLAIMED:
                report.outcome, report.longrepr = "skipped", (str(item.path), 0, "not claimed")
            elif row["verdict"] == table.FAIL:
                report.longrepr = row["words"]
        report.__dict__.pop(FAILING_EXAMPLES, None)
        # What it prints in thousands of examples: a little of it where a statement fails.
        report.sections = [(title, text[:MAX_PRINTED]) for title, text in report.sections] if report.outcome == "failed" else []
        setattr(report, ROW, row)
        return report

    def pytest_runtest_logreport(self, report: Any) -> None:
        if self.is_worker:
            return
        if given := getattr(report, ROW, None):
            told = {key: tuple(given[key]) for key in ("names", "claims", "misnamed", "impure")}
            row = table.Row(**{**given, **told, "conduct": tuple((rule, words) for rule, words in given["conduct"])})
            if report.when == "teardown" and report.outcome == "passed":
                return
            self.rows[report.nodeid] = row
        elif report.outcome == "failed" and (row := self.rows.get(report.nodeid)):  # its worker ended, after the setup told of it
            from tests.conformance.foreign import Marks

            marks = Marks(self.marks, row.solution)
            words = "ended the process it ran in, or hung where it could not be interrupted"
            importing = marks.left("importing")
            told = bool(importing) and not marks.is_first(TOLD)
            self.rows[report.nodeid] = row.but(verdict=table.NOT_CLAIMED if told else table.FAIL, words=importing or words)
            for name in () if importing else row.names:
                marks.leave(f"name-{name}", f"{words}, in {row.function}; not tried again")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.is_worker:
            return
        self.content = table.content(self.solutions, self._honest())
        self._scratch.cleanup()
        for one in self.content:
            place, _ = split_label(one["solution"])
            one["left out"] = notebooks.left_out(Path(place)) if place.endswith(".ipynb") else []
        self.notes = award(self.content, self.scores) if self.scores else []
        self.complaint = write_results(self.config.getoption("--results"), self.content)
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            good = all(one["holds"] for one in self.content) and not self.complaint
            session.exitstatus = pytest.ExitCode.OK if good else pytest.ExitCode.TESTS_FAILED

    def _honest(self) -> list[table.Row]:
        """The rows, where those of a solution that changed the judge say so, whatever it was found to be before."""
        found = []
        for label in self.solutions:
            rows = [row for row in self.rows.values() if row.solution == label]
            told = [row.words for row in rows if row.words.startswith(TAMPERED)]
            words = next(iter(told), "") or self.solution(label).tampered
            found += table.tampered(rows, words) if words else rows
        return found

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.is_worker:
            if self.isolated:
                terminalreporter.write_line(self.isolated, yellow="NOT isolated" in self.isolated)
            for line, colour in table.lines(getattr(self, "content", [])):
                terminalreporter.write_line(line, **({colour: True} if colour else {}))
            for note in getattr(self, "notes", []):
                terminalreporter.write_line(f"--scores: {note}", yellow=True)
            if complaint := getattr(self, "complaint", ""):
                terminalreporter.write_line(complaint, red=True)

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_row(self, report: Any, cells: list[Any]) -> None:
        """What is not claimed is said once, in the table above."""
        if report.outcome == "skipped":
            cells.clear()

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        prefix.append(table.page(self.content))


@contextmanager
def _narrowing(test: Any, solution: Any) -> Iterator[None]:
    """Examples that a solution declines are no examples: Hypothesis draws others."""
    from tests.conformance.foreign import NotClaimed

    calls = solution.calls
    handle = getattr(test, "hypothesis", None)
    if handle is None:
        yield
        return
    inner = handle.inner_test

    @functools.wraps(inner)
    def narrowed(*args: Any, **kwargs: Any) -> None:
        calls.example = []
        try:
            inner(*args, **kwargs)
        except NotClaimed as error:
            if not error.is_declined:
                raise
            calls.declines(str(error))
            if not calls.judged and len(calls.declined) >= MOST_DECLINED:
                raise  # nothing seems to be left, and all that is drawn takes time
            hypothesis.reject()
        except (hypothesis.errors.UnsatisfiedAssumption, hypothesis.errors.StopTest) as error:
            _complain(solution, error)
            raise
        except BaseException:
            calls.end()
            raise
        calls.end()

    handle.inner_test = narrowed
    try:
        yield
    finally:
        handle.inner_test = inner


def _complain(solution: Any, error: BaseException) -> None:
    """A solution's code that the tests run beside its calls, such as its `parameters`, ends no test and rejects no example."""
    from tests.conformance.foreign import Complaint

    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is not None and solution.conduct.owns(last.tb_frame.f_code):
        raise Complaint(f"raised {type(error).__name__}, which is not for a solution to raise") from None


def _unusable(label: str) -> str:
    """Why a label cannot be a solution, known before a worker starts; "" where it may be one."""
    if course_folder(label) is not None:
        return unusable_folder(label)
    place, _ = split_label(label)
    if not place:
        return "it names nothing: give a .py file, a module, or either:object"
    if Path(place).is_dir():
        return "" if has_code(Path(place)) else "there is no Python file in it"
    if place.endswith((".py", ".ipynb")):
        return "" if Path(place).is_file() else "there is no such file"
    if Path(place).exists():
        return "it is no Python file: give a .py file, a module, or either:object"
    if not all(part.isidentifier() for part in place.split(".")) or importlib.util.find_spec(place.partition(".")[0]) is None:
        return f"there is no module {place!r}, and a file's name ends in .py"
    return ""


def _judged(call: pytest.CallInfo[None], not_drawn: set[str]) -> tuple[str, str]:
    """The verdict on a call, and its words; arguments that pytest gave are no part of an example."""
    from tests.conformance.foreign import GivenUp, NotClaimed

    if call.excinfo is None:
        return table.PASS, ""
    error = call.excinfo.value
    if isinstance(error, NotClaimed):
        return table.NOT_CLAIMED, str(error)
    if isinstance(error, GivenUp):
        return table.FAIL, str(error)
    message = _message(error)
    example = _example(error, not_drawn)
    words = f"{message}; smallest example: {example}" if example else message
    return table.FAIL, words if len(words) <= MAX_WORDS else f"{words[:MAX_WORDS].rpartition(' ')[0]} …"


def _message(error: BaseException) -> str:
    """An assertion in words: its first line, without Python's own prefix."""
    if "Flaky" in type(error).__name__:
        inner = getattr(error, "exceptions", ())
        first = next((one for one in inner if isinstance(one, AssertionError)), None)
        return f"gives different results for the same input{f', such as: {_message(first)}' if first else ''}"
    text = str(error).strip() or type(error).__name__
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    told = " ".join(lines[:4]) if lines and lines[0].startswith("assert ") else lines[0]
    return told if isinstance(error, AssertionError) else f"{type(error).__name__}: {told}"


def _example(error: BaseException, not_drawn: set[str]) -> str:
    """Hypothesis's smallest failing arguments, on a line."""
    notes = getattr(error, "__notes__", [])
    for note in notes:
        if found := re.fullmatch(r"[A-Z][a-z ]+: \w+\(\n(.*)\n\)", note, re.DOTALL):
            arguments = re.split(r",\n(?=    \w+=)", found[1].rstrip(","))
            told = [one for one in arguments if one.strip().partition("=")[0] not in not_drawn | {"data"}]
            drawn = [
                re.sub(r"^Draw \d+( \((.*?)\))?: ", lambda f: f"{f[2]} = " if f[2] else "", one) for one in notes if "Draw " in one
            ]
            return ", ".join(re.sub(r"\s+", " ", one).strip() for one in [*told, *drawn])
    return ""


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool)
