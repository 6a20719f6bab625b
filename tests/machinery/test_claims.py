"""vp.report.claims: the ledger and what is wrong with a malformed one, its links to tests in both directions, and the verdicts."""

from __future__ import annotations

import importlib
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tests.controls import claims as controls
from tests.support.asserts import Judge
from vp.evaluation import ContrastTest, PairedTest
from vp.experiments import SCALES, runs
from vp.machine.errors import VpError
from vp.report.claims import WORST_FIRST, Claim, Judgement, Kind, Link, fill_in, find_claim, find_links, judge_claims, load_claims
from vp.report.expectations import Verdict, load_expectations, load_known_failures, load_published, load_unjudged
from vp.report.writeup import find_code
from vp.report.writeup.chapters import CHAPTERS

TESTS = Path(__file__).parents[1]
EXPECTATIONS = TESTS.parent / "expectations"


@cache
def project_claims() -> dict[str, Claim]:
    """The project's ledger: read by the tests, not on import, so that a malformed one fails them and stops no collection."""
    return load_claims(EXPECTATIONS)


@cache
def project_links() -> list[Link]:
    return find_links(TESTS)


# -- the project's ledger --------------------------------------------------------------------------------------------------


def reproduced_runs() -> Counter[str]:
    """How many tests judge the number of each run, by the markers of the tests' parameters."""
    found: Counter[str] = Counter()
    for link in project_links():
        if link.judges_runs:
            file, function = link.test.split("::")
            module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
            for mark in getattr(module, function).pytestmark:
                for case in mark.args[1] if mark.name == "parametrize" else ():
                    found.update(run for inner in getattr(case, "marks", ()) if inner.name == "reproduces" for run in inner.args)
    return found


def test_every_claim_that_can_be_tested_is() -> None:
    """Every claim of the ledger that is not only argued is decided by at least one test."""
    unlinked = {
        claim.id
        for claim in project_claims().values()
        if claim.kind is not Kind.ARGUED and not any(one.decides(claim) for one in project_links())
    }
    assert unlinked == set(), "give each of these claims a test, or list it as argued with the reason"


def test_every_test_decides_claims_of_the_ledger() -> None:
    """Every id that a test is marked with, for all of its parameters, is a claim of the ledger and not one that is only argued."""
    for link in project_links():
        for one in link.claims:
            assert one in project_claims(), f"{link.test} is marked with claim {one!r}, which claims.toml does not have"
            assert project_claims()[one].kind is not Kind.ARGUED, f"{link.test} decides {one!r}, which is listed as argued"


def test_a_claim_is_decided_in_the_file_of_its_section() -> None:
    """A claim of section X.Y is decided by tests in test_X_Y_*.py, where a reader looks for them."""
    for claim in project_claims().values():
        for link in project_links():
            if link.decides(claim):
                assert link.test.startswith(f"tests/test_{claim.section[:3].replace('.', '_')}_"), (claim.id, link.test)


def test_the_ledger_is_the_whole_report() -> None:
    """The ledger has claims of every section of the writeup, in the report's order, at least 60 of them decided by tests."""
    sections = [section.number for chapter in CHAPTERS.values() for section in chapter]
    order = [sections.index(claim.section) for claim in project_claims().values()]
    assert order == sorted(order)
    assert all(any(claim.section.startswith(number) for claim in project_claims().values()) for number in sections)
    assert sum(claim.kind is not Kind.ARGUED and not claim.added for claim in project_claims().values()) >= 60


def test_every_number_that_the_report_prints_is_a_claim() -> None:
    """Every run whose number the report prints belongs to an accuracy claim, and every pattern of a claim is of runs that exist."""
    for scale in SCALES:
        for name in [name for name, one in load_expectations(EXPECTATIONS, "full").items() if one.source.startswith("report")]:
            assert any(fnmatchcase(name, pattern) for claim in project_claims().values() for pattern in claim.runs), name
        for claim in project_claims().values():
            for pattern in claim.runs:
                assert any(fnmatchcase(name, pattern) for name in runs(scale)), (claim.id, pattern)


def test_every_accuracy_can_be_decided_somewhere() -> None:
    """Every claim of numbers can come to a verdict: the report's at full scale, an added one at some scale, by expectations."""
    expected = {scale: load_expectations(EXPECTATIONS, scale) for scale in SCALES}
    for claim in project_claims().values():
        if claim.runs:
            found = [
                verdict_of(
                    *[cell(name) for name in expected[scale]],
                    of=claim,
                    links=[],
                    runs=runs(scale),
                    numbers_elsewhere="only the full scale can tell" if scale == "mini" else "",
                )
                for scale in SCALES
            ]
            assert any(one.verdict is not Verdict.NOT_RUN for one in found), f"{claim.id}: {found[0].reason}"


def test_every_run_has_an_expectation_or_a_reason() -> None:
    """Every run of a scale has an expectation, or stands in unjudged.toml with the reason; every pattern there is needed."""
    for scale in SCALES:
        expected, patterns = load_expectations(EXPECTATIONS, scale), load_unjudged(EXPECTATIONS, scale)
        missing = {name for name in runs(scale) if name not in expected}
        excused = {name for name in runs(scale) if any(fnmatchcase(name, pattern) for pattern in patterns)}
        assert missing - excused == set(), f"{scale}: give these runs an expectation, or a reason in unjudged.toml"
        assert excused <= missing, f"{scale}: these runs have an expectation, so that unjudged.toml must not name them"
        for pattern in patterns:
            assert any(fnmatchcase(name, pattern) for name in runs(scale)), f"{scale}: no run is called {pattern}"
        assert {*expected} <= {*runs(scale)}, f"{scale}: expectations of no run"


def test_every_run_is_judged_by_one_test() -> None:
    """Every run is reproduced and judged by exactly one test, and no test judges a run that does not exist."""
    assert reproduced_runs() == Counter(runs("mini").keys())


def assert_known_failures_apply(names: Iterable[str], claims: Mapping[str, Claim]) -> None:
    for name in names:
        kind = find_claim(name, claims).kind
        assert kind is Kind.ORDERING, (
            f"{name} is of kind {kind}: only an ordering can be a known failure, others fail by their tests"
        )


def test_known_failures_and_published_figures_are_of_what_exists() -> None:
    """Every known failure is of an ordering, which alone is judged by that file; every figure published elsewhere is of a run."""
    for scale in SCALES:
        assert_known_failures_apply(load_known_failures(EXPECTATIONS, scale), project_claims())
    with pytest.raises(AssertionError, match="a is of kind theorem: only an ordering can be a known failure"):
        assert_known_failures_apply(["a"], {"a": claim()})
    assert {*load_published(EXPECTATIONS)} <= {*runs("full")} & {*runs("mini")}


def test_the_code_that_claims_name_exists() -> None:
    """Every module, class and function named as a claim's code can be found, so that a reader can."""
    root = TESTS.parent
    for claim in project_claims().values():
        for name in claim.code:
            place = find_code(name)
            line = (root / place["file"]).read_text("utf-8").splitlines()[place["line"] - 1]
            assert name.split(".")[-1] in line or place["line"] == 1 or line.startswith("@"), (name, line)


@pytest.mark.parametrize(
    "name", ["vp.no_such_module", "vp.prompts.NoSuchPrompt", "vp.prompts.Padding.nothing", "torch.nn", "", ".vp"]
)
def test_code_that_does_not_exist_is_refused(name: str) -> None:
    """Code that is not in the package is an error that names it."""
    with pytest.raises(VpError, match=f"names '{name}' as code"):
        find_code(name)


# -- the file --------------------------------------------------------------------------------------------------------------

THEOREM = {"section": "2.2", "kind": "theorem", "sentence": "It is so.", "code": ["vp.prompts"]}
ORDERING = {**THEOREM, "kind": "ordering", "family": "table_2"}
ACCURACY = {**THEOREM, "kind": "accuracy", "runs": ["padding-*"]}
ARGUED = {"section": "2.2", "kind": "argued", "sentence": "Perhaps.", "reason": "a cause"}


def ledger(folder: Path, **entries: Any) -> Path:
    path = folder / "claims.toml"
    path.write_text(tomli_w.dumps(entries), encoding="utf-8")
    return path


def test_claims_are_read_in_order(tmp_path: Path) -> None:
    """Claims are read with all that is said of them, in the order of the file."""
    ledger(tmp_path, b=THEOREM, a={**ORDERING, "corrected": "Not so.", "added": True, "printed": "1 > 2"}, c=ACCURACY, d=ARGUED)
    known = load_claims(tmp_path)
    assert list(known) == ["b", "a", "c", "d"]
    assert known["b"] == Claim("b", "2.2", Kind.THEOREM, "It is so.", code=("vp.prompts",))
    assert (known["a"].family, known["a"].corrected, known["a"].added, known["a"].printed) == ("table_2", "Not so.", True, "1 > 2")
    assert known["c"].runs == ("padding-*",)
    assert known["d"].reason == "a cause"


MALFORMED = {
    "section missing": ({k: v for k, v in THEOREM.items() if k != "section"}, "section is missing"),
    "sentence missing": ({k: v for k, v in THEOREM.items() if k != "sentence"}, "sentence is missing"),
    "kind missing": ({k: v for k, v in THEOREM.items() if k != "kind"}, "kind is missing"),
    "section of words": ({**THEOREM, "section": "two"}, "section is 'two', expected one such as 2.3 or 3.1.a"),
    "kind unknown": ({**THEOREM, "kind": "lemma"}, "kind is 'lemma', expected one of theorem, accuracy, ordering, cost, argued"),
    "sentence a number": ({**THEOREM, "sentence": 5}, "sentence is 5, expected text"),
    "sentence empty": ({**THEOREM, "sentence": ""}, "sentence is empty"),
    "added as text": ({**THEOREM, "added": "yes"}, "added is 'yes', expected true or false"),
    "runs as text": ({**ACCURACY, "runs": "padding-10"}, "runs is 'padding-10', expected a list of texts"),
    "runs of numbers": ({**ACCURACY, "runs": [10]}, r"runs is \[10\], expected a list of texts"),
    "field unknown": ({**THEOREM, "sentance": "x"}, "sentance is no field of a claim: did you mean sentence?"),
    "argued without reason": (
        {k: v for k, v in ARGUED.items() if k != "reason"},
        "reason is missing, but the claim is of kind argued",
    ),
    "reason for a theorem": ({**THEOREM, "reason": "x"}, "reason is given, but the claim is of kind theorem"),
    "ordering without family": ({**THEOREM, "kind": "ordering"}, "family is missing, but the claim is of kind ordering"),
    "family of a theorem": ({**THEOREM, "family": "x"}, "family is given, but the claim is of kind theorem"),
    "runs of a theorem": ({**THEOREM, "runs": ["x"]}, "runs is given, but the claim is of kind theorem, not accuracy"),
    "no code": ({k: v for k, v in THEOREM.items() if k != "code"}, "code is missing, but the claim is of kind theorem"),
    "code of an argument": ({**ARGUED, "code": ["vp"]}, "code is given, but the claim is of kind argued"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_claim_is_named(case: str, tmp_path: Path) -> None:
    """A malformed claim is an error of one line that names file, line, claim and field."""
    entry, complaint = MALFORMED[case]
    path = ledger(tmp_path, good=THEOREM, wrong=entry)
    with pytest.raises(VpError, match=complaint) as error:
        load_claims(tmp_path)
    field = complaint.split(" ", 1)[0]
    lines = path.read_text("utf-8").splitlines()
    head = lines.index("[wrong]")
    line = next((i for i in range(head, len(lines)) if lines[i].startswith(f"{field} =")), head) + 1
    assert str(error.value).startswith(f"{path}:{line}: [wrong] {field} ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a]\n[a]", r"line 2.*"),
        ("[a\nsection = 1", r"line 1.*"),
        ("a = 1", "'a' is 1, expected a table"),
        ("[[a]]\nb = 1", "expected a table"),
    ],
)
def test_a_file_that_is_no_ledger_is_named(text: str, complaint: str, tmp_path: Path) -> None:
    """A file that is not TOML, or has a claim twice, is an error that names it and, where there is one, the line."""
    (tmp_path / "claims.toml").write_text(text, encoding="utf-8")
    with pytest.raises(VpError, match=complaint) as error:
        load_claims(tmp_path)
    assert str(tmp_path / "claims.toml") in str(error.value)


def test_a_missing_ledger_is_told_of(tmp_path: Path) -> None:
    """Without a ledger there is an error that says what it is for."""
    with pytest.raises(VpError, match=r"claims\.toml is missing: it lists what the tests"):
        load_claims(tmp_path)


@given(text=st.text(max_size=60) | st.from_regex(r'\[a\]\n(section|kind|runs) = ("[a-z0-9.]{0,8}"|\[1\])\n', fullmatch=True))
def test_no_text_makes_loading_fail_otherwise(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the file says, it is read or refused as an error that the user can mend."""
    folder = tmp_path_factory.getbasetemp() / "any-ledger"
    folder.mkdir(exist_ok=True)
    (folder / "claims.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        known = load_claims(folder)
    except VpError:
        return
    assert known.keys() == tomllib.loads(text).keys()


def test_an_unknown_claim_is_refused_with_the_nearest() -> None:
    """An unknown id is an error that names the nearest ones; one that is only argued says so."""
    with pytest.raises(VpError, match=r"'padding-beats-patch' is not in claims\.toml: did you mean padding-beats-patch-10"):
        find_claim("padding-beats-patch", project_claims())
    with pytest.raises(VpError, match=r"'zzz' is not in claims\.toml: add it there"):
        find_claim("zzz", project_claims())
    with pytest.raises(VpError, match="is listed as argued"):
        find_claim("early-layers-learn-low-level", project_claims())


# -- links -----------------------------------------------------------------------------------------------------------------


def test_links_are_read_from_the_source(tmp_path: Path) -> None:
    """Markers on functions and on parameters are found with their lines, whatever else decorates a test; others are not."""
    (tmp_path / "test_2_2_x.py").write_text(
        "import pytest\n"
        '@pytest.mark.claim("a", "b")\n@pytest.mark.gpu\ndef test_two(): ...\n'
        '@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.claim("c")), 2])\ndef test_parameter(x): ...\n'
        '@pytest.mark.claim("d-{x}")\n@pytest.mark.parametrize("x", [1, pytest.param("y z")])\ndef test_template(x): ...\n'
        '@pytest.mark.claim("{b}-e")\n@pytest.mark.parametrize(("a", "b"), [(1, "f"), (2, "g")])\ndef test_pairs(a, b): ...\n'
        '@pytest.mark.claim("{c}-e")\n@pytest.mark.parametrize("c", some())\ndef test_computed(c): ...\n'
        '@pytest.mark.parametrize("n", [pytest.param(n, marks=pytest.mark.reproduces(n)) for n in some()])\n'
        "def test_numbers(n, judge): judge_it(n)\n"
        "@pytest.mark.reproduces\ndef test_compares(table): table.cell(1)\n"
        "def test_nothing(): ...\n"
        '@pytest.mark.claim("e")\ndef no_test(): ...\n'
    )
    (tmp_path / "test_other.py").write_text('import pytest\n@pytest.mark.claim("f")\ndef test_f(): ...\n')
    found = {link.test.split("::")[1]: (link.line, link.claims, link.judges_runs) for link in find_links(tmp_path)}
    assert found == {
        "test_two": (4, ("a", "b"), False),
        "test_parameter": (6, ("c",), False),
        "test_template": (9, ("d-1", "d-y z"), False),
        "test_pairs": (12, ("f-e", "g-e"), False),
        "test_computed": (15, ("{c}-e",), False),
        "test_numbers": (17, (), True),
    }


def test_a_test_file_that_is_not_python_is_named(tmp_path: Path) -> None:
    """A test file that cannot be parsed is an error that names it with its line, and no syntax error of the writeup."""
    path = tmp_path / "test_2_2_x.py"
    for text, line in (("x = 1\ndef (:\n", 2), ("x = '\0'\n", 1)):
        path.write_text(text)
        with pytest.raises(VpError, match=rf"test_2_2_x\.py:{line}: is not Python: "):
            find_links(tmp_path)


def test_braces_stand_for_a_parameter() -> None:
    """A name in braces stands for that parameter; what is no parameter stays as it is, and is then no known claim."""
    assert fill_in("a-{x}-{y}", {"x": 10, "z": 1}) == "a-10-{y}"
    assert fill_in("plain", {"plain": 1}) == "plain"


# -- verdicts --------------------------------------------------------------------------------------------------------------

FILE = "tests/test_2_2_x.py"
Judging = Callable[..., list[Judgement]]


def claim(kind: Kind = Kind.THEOREM, name: str = "a", **others: Any) -> Claim:
    return Claim(name, "2.2", kind, "It is so.", **others)


def link(*names: str, test: str = "test_a", judges: bool = False) -> Link:
    return Link(f"{FILE}::{test}", 1, names, judges)


def ended(
    outcome: str = "passed", test: str = "test_a", name: str = "a", cases: Sequence[str] = (), **others: Any
) -> dict[str, Any]:
    values = {"refuted": outcome == "failed", "reason": "" if outcome == "passed" else f"why {outcome}"}
    cases = [f"{FILE}::{one}" for one in (cases or [test])]
    return {"kind": "test", "claim": name, "test": f"{FILE}::{test}", "outcome": outcome, "cases": cases, **values, **others}


def judged(
    test: PairedTest | ContrastTest | None, name: str = "a", verdict: Verdict = Verdict.REPRODUCED, **others: Any
) -> dict[str, Any]:
    values = {"paired": asdict(test) if isinstance(test, PairedTest) else None}
    values |= {"contrast": asdict(test) if isinstance(test, ContrastTest) else None, "or_equal": False, "known_failure": ""}
    evidence = {"claim": name, "test": f"{FILE}::test_{name}", "evidence": "measured", "verdict": str(verdict)}
    return {"kind": "judged", **evidence, **values, **others}


def cell(run: str, verdict: Verdict = Verdict.REPRODUCED) -> dict[str, Any]:
    return {"kind": "cell", "run": run, "verdict": str(verdict), "reason": None}


def verdict_of(*entries: dict[str, Any], of: Claim | None = None, judging: Judging = judge_claims, **others: Any) -> Judgement:
    one = of or claim()
    (judgement,) = judging({one.id: one}, entries, others.pop("links", [link(one.id)]), others.pop("runs", ()), **others)
    return judgement


def test_a_passing_test_proves_and_a_failing_one_refutes() -> None:
    """A theorem is reproduced by its passing test, contradicted by a failing assertion, and the failure is the evidence."""
    assert verdict_of(ended()).verdict is Verdict.REPRODUCED
    assert verdict_of(ended()).evidence == ("proved by its test",)
    refuted = verdict_of(ended("failed"))
    assert (refuted.verdict, refuted.evidence) == (Verdict.CONTRADICTED, ("refuted: why failed",))


def test_an_argued_claim_has_no_verdict() -> None:
    """A claim that can only be argued has no verdict, whatever is recorded."""
    assert verdict_of(ended(), of=claim(Kind.ARGUED)).verdict is None


def assert_accident(judging: Judging) -> None:
    judgement = verdict_of(ended("failed", refuted=False), judging=judging)
    assert judgement.verdict is Verdict.NOT_RUN
    assert judgement.reason == "the test broke off: why failed"


def test_an_accident_refutes_nothing() -> None:
    """A test that breaks off, by an error that is no failed assertion, leaves its claim NOT RUN with the error's message."""
    assert_accident(judge_claims)


def assert_corrected(judging: Judging) -> None:
    one = claim(corrected="It is otherwise.")
    assert verdict_of(ended(), of=one, judging=judging).verdict is Verdict.CORRECTED
    assert verdict_of(ended("failed"), of=one, judging=judging).verdict is Verdict.CONTRADICTED
    assert verdict_of(ended("skipped"), of=one, judging=judging).verdict is Verdict.NOT_RUN


def test_a_claim_true_in_its_corrected_form_is_corrected() -> None:
    """Where the ledger corrects the report, what the tests confirm is the correction."""
    assert_corrected(judge_claims)


def assert_not_run(judging: Judging) -> None:
    cases = ["test_a[1]", "test_a[2]"]
    skipped = [ended(test=cases[0], cases=cases), ended("skipped", cases[1], cases=cases)]
    assert verdict_of(*skipped, judging=judging).verdict is Verdict.NOT_RUN
    assert verdict_of(*skipped, judging=judging).reason == "why skipped"
    deselected = verdict_of(skipped[0], judging=judging)
    assert deselected.verdict is Verdict.NOT_RUN
    assert deselected.reason == "1 of its 2 tests were not part of this run, or did not finish"
    elsewhere = verdict_of(ended(), links=[link("a"), link("a", test="test_b")], judging=judging)
    assert (elsewhere.verdict, elsewhere.reason) == (
        Verdict.NOT_RUN,
        "1 of its 2 tests were not part of this run, or did not finish",
    )
    assert verdict_of(judging=judging).reason == "its test was not part of this run, or did not finish"
    assert verdict_of(links=[], judging=judging).reason == "no test decides it"


def test_a_skipped_or_deselected_test_leaves_its_claim_not_run() -> None:
    """A claim with a test that was skipped, deselected, not collected, or lost with its worker is NOT RUN, with the reason."""
    assert_not_run(judge_claims)


def assert_worst(judging: Judging) -> None:
    cases = ["test_a[1]", "test_a[2]", "test_a[3]"]
    outcomes = {"passed": Verdict.REPRODUCED, "failed": Verdict.CONTRADICTED, "skipped": Verdict.NOT_RUN}
    for second in outcomes:
        for third in outcomes:
            entries = [ended(outcome, case, cases=cases) for outcome, case in zip(("passed", second, third), cases, strict=True)]
            expected = min((outcomes[second], outcomes[third], Verdict.REPRODUCED), key=WORST_FIRST.index)
            assert verdict_of(*entries, judging=judging).verdict is expected


def test_a_claim_is_as_good_as_its_worst_test() -> None:
    """One test that refutes a claim contradicts it, whatever others say; otherwise one that did not run leaves it NOT RUN."""
    assert_worst(judge_claims)


def test_numbers_decide_an_accuracy_claim() -> None:
    """An accuracy claim is reproduced when all its numbers are, contradicted by one, NOT RUN where one is missing."""
    one, names = claim(Kind.ACCURACY, runs=("padding-*",)), ["padding-10", "padding-100", "other"]
    both = [cell("padding-10"), cell("padding-100")]
    assert verdict_of(*both, of=one, runs=names, links=[]).verdict is Verdict.REPRODUCED
    assert verdict_of(*both, of=one, runs=names, links=[]).runs == ("padding-10", "padding-100")
    wrong = [both[0], cell("padding-100", Verdict.CONTRADICTED)]
    assert verdict_of(*wrong, of=one, runs=names, links=[]).verdict is Verdict.CONTRADICTED
    missing = verdict_of(both[0], {"kind": "not run", "runs": ["padding-100"], "reason": "no GPU"}, of=one, runs=names, links=[])
    assert (missing.verdict, missing.reason) == (Verdict.NOT_RUN, "no GPU")
    assert "no run is called padding-*" in verdict_of(*both, of=one, runs=["other"], links=[]).reason
    small = verdict_of(*both, of=one, runs=names, links=[], numbers_elsewhere="only the full scale can tell")
    assert (small.verdict, small.reason) == (Verdict.NOT_RUN, "only the full scale can tell")
    added = claim(Kind.ACCURACY, runs=("padding-*",), added=True)
    assert verdict_of(*both, of=added, runs=names, links=[], numbers_elsewhere="x").verdict is Verdict.REPRODUCED


# -- orderings -------------------------------------------------------------------------------------------------------------


def better(p_value: float) -> PairedTest:
    return PairedTest(30, 10, 0.02, p_value)


def worse(p_value: float) -> PairedTest:
    return PairedTest(10, 30, -0.02, p_value)


def family(*tests: PairedTest | ContrastTest | None, judging: Judging = judge_claims, **others: Any) -> list[Judgement]:
    """Judgements on the orderings a, b, ... of one family; None did not run."""
    names = [chr(ord("a") + i) for i in range(len(tests))]
    claims = {name: claim(Kind.ORDERING, name, family="table_2") for name in names}
    entries = []
    for name, test in zip(names, tests, strict=True):
        if test is not None:
            entries += [judged(test, name, **others), ended(test=f"test_{name}", name=name)]
    return judging(claims, entries, [link(name, test=f"test_{name}") for name in names], ())


def assert_together(judging: Judging) -> None:
    verdicts = [one.verdict for one in family(better(0.01), better(0.04), better(0.03), better(0.005), judging=judging)]
    assert verdicts == [Verdict.REPRODUCED, Verdict.WITHIN_NOISE, Verdict.WITHIN_NOISE, Verdict.REPRODUCED]


def test_orderings_of_a_family_are_judged_together() -> None:
    """Of four orderings of a table those with p = 0.01 and 0.005 hold, those with 0.04 and 0.03 do not: a published example."""
    assert_together(judge_claims)


def assert_missing_count(judging: Judging) -> None:
    first, *_ = family(better(0.02), None, None, judging=judging)
    assert first.verdict is Verdict.WITHIN_NOISE
    assert "corrected for 3 comparisons: 0.06" in first.evidence[0]


def test_orderings_that_did_not_run_count() -> None:
    """The correction is over all orderings that the ledger lists: a partial run is no more significant than a whole one."""
    assert_missing_count(judge_claims)


def test_an_ordering_alone_needs_no_correction() -> None:
    """The only ordering of its family is judged by its own p-value, a contrast as well as a paired test."""
    assert family(better(0.04))[0].verdict is Verdict.REPRODUCED
    assert family(ContrastTest(0.02, 0.04))[0].verdict is Verdict.REPRODUCED
    assert family(ContrastTest(-0.02, 0.04))[0].verdict is Verdict.CONTRADICTED


def test_what_only_holm_contradicts_fails_the_run() -> None:
    """A contradiction that no test could see by itself is a complaint, which fails the run; so is a known failure that holds."""
    assert [one.complaint for one in family(better(0.001), better(0.001))] == ["", ""]
    _, contradicted = family(worse(0.001), worse(0.04))
    assert contradicted.verdict is Verdict.CONTRADICTED
    assert contradicted.complaint.startswith("b is contradicted: measured")
    known = family(worse(0.001), worse(0.04), known_failure="drawn images")
    assert [(one.verdict, one.complaint) for one in known] == 2 * [(Verdict.CONTRADICTED, "")]
    assert all("Known: drawn images" in one.evidence[0] for one in known)
    holds = family(better(0.001), better(0.04), known_failure="drawn images")
    assert all("listed as a known failure, but holds" in one.complaint for one in holds)


def test_a_test_that_fails_after_its_verdict_is_no_confirmation() -> None:
    """What was recorded does not stand when the test then fails: refuted by an assertion, broken off by anything else."""
    one = claim(Kind.ORDERING, family="table_2")
    for refuted, expected in ((True, Verdict.CONTRADICTED), (False, Verdict.NOT_RUN)):
        judgement = verdict_of(judged(better(0.001)), ended("failed", refuted=refuted), of=one)
        assert judgement.verdict is expected
        assert "but the test failed: why failed" in judgement.evidence[0]


def test_a_failure_at_one_claim_says_nothing_of_the_next() -> None:
    """A test of two claims that fails at the first leaves the second NOT RUN."""
    claims = {name: claim(Kind.ACCURACY, name) for name in "ab"}
    entries = [judged(None, "a", Verdict.CONTRADICTED), ended("failed", name="a"), ended("failed", name="b")]
    first, second = judge_claims(claims, entries, [link("a", "b")], ())
    assert first.verdict is Verdict.CONTRADICTED
    assert (second.verdict, second.reason) == (Verdict.NOT_RUN, "its test failed at another claim before it came to this one")


def assert_earlier_record_stands(judging: Judging) -> None:
    claims = {name: claim(Kind.ACCURACY, name) for name in "abc"}
    entries = [judged(None, "a"), {**judged(None, "b", Verdict.CONTRADICTED), "test": f"{FILE}::test_a"}]
    entries += [ended("failed", name=name) for name in claims]
    verdicts = [one.verdict for one in judging(claims, entries, [link(*claims)], ())]
    assert verdicts == [Verdict.REPRODUCED, Verdict.CONTRADICTED, Verdict.NOT_RUN]


def test_a_failure_at_one_claim_says_nothing_of_the_one_before() -> None:
    """What a test recorded of one claim stands when it then fails at another; a bare assertion of several claims refutes none."""
    assert_earlier_record_stands(judge_claims)
    claims = {name: claim(Kind.ACCURACY, name) for name in "ab"}
    bare = [judged(None, "a"), *(ended("failed", name=name) for name in claims)]
    assert [one.verdict for one in judge_claims(claims, bare, [link(*claims)], ())] == 2 * [Verdict.NOT_RUN]


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (controls.best_of_its_tests, assert_worst),
        (controls.skips_count_as_passes, assert_not_run),
        (controls.forgets_what_was_deselected, assert_not_run),
        (controls.accidents_refute, assert_accident),
        (controls.never_corrected, assert_corrected),
        (controls.judges_orderings_alone, assert_together),
        (controls.corrects_for_those_that_ran, assert_missing_count),
        (controls.failures_refute_what_was_recorded, assert_earlier_record_stands),
    ],
    ids=lambda value: value.__name__,
)
def test_wrong_judges_are_rejected(wrong: Judging, rule: Callable[[Judging], None]) -> None:
    """Each wrong way to judge fails the property named for it."""
    with pytest.raises(AssertionError):
        rule(wrong)


outcomes = st.sampled_from(["passed", "failed", "skipped"])


@given(st.lists(st.tuples(outcomes, st.booleans()), max_size=5), st.integers(0, 3), st.booleans())
def test_what_did_not_run_is_never_verified(ends: list[tuple[str, bool]], deselected: int, corrected: bool) -> None:
    """Whatever happens, a claim is verified only when every one of its tests was selected, finished and passed."""
    cases = [f"test_a[{i}]" for i in range(len(ends) + deselected)]
    entries = [ended(how, case, cases=cases, refuted=refuted) for (how, refuted), case in zip(ends, cases, strict=False)]
    verdict = verdict_of(*entries, of=claim(corrected="Not so." if corrected else "")).verdict
    whole = bool(ends) and not deselected and all(how == "passed" for how, _ in ends)
    assert (verdict in (Verdict.REPRODUCED, Verdict.CORRECTED)) == whole


# -- what a test records ---------------------------------------------------------------------------------------------------


@pytest.fixture
def recorded() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def judge(recorded: list[dict[str, Any]], tmp_path: Path) -> Judge:
    """A judge of a test marked with a and b, orderings of one family of two, of a number c and of a known failure d."""
    one = {**ORDERING, "family": "table_2"}
    ledger(tmp_path, a=one, b=one, c={**ACCURACY, "runs": ["padding-10"]}, d={**ORDERING, "family": "alone"})
    (tmp_path / "known_failures.toml").write_text('[d.mini]\nreason = "drawn images"\n')
    (tmp_path / "mini").mkdir()
    return Judge(
        "mini", False, lambda kind, **values: recorded.append({"kind": kind, **values}), ["a", "b", "c", "d"], expectations=tmp_path
    )


def test_a_test_fails_by_bonferronis_bound(judge: Judge, recorded: list[dict[str, Any]]) -> None:
    """A test fails when its ordering is contradicted at m times its p-value, which no other ordering can change."""
    judge.decide(worse(0.03), "measured", claim="a")
    with pytest.raises(pytest.fail.Exception, match=r"^b: It is so\. measured"):
        judge.decide(worse(0.02), "measured", claim="b")
    assert [entry["verdict"] for entry in recorded] == ["within noise", "contradicted"]
    assert [entry["paired"]["p_value"] for entry in recorded] == [0.03, 0.02]


@pytest.mark.parametrize(
    ("tests", "verdict"),
    [
        ([better(0.001), better(0.002)], "reproduced"),
        ([better(0.001), better(0.2)], "within noise"),
        ([better(0.001), better(0.001), worse(0.02)], "within noise"),  # three chances of 2%, in a family of two
        ([better(0.001), worse(0.9)], "within noise"),
    ],
)
def test_what_holds_everywhere_is_decided_by_the_least_of_it(
    tests: list[PairedTest], verdict: str, judge: Judge, recorded: list[dict[str, Any]]
) -> None:
    """A claim on several cells is one entry: it holds if all of them say so, and a chance of one in several refutes nothing."""
    judge.every([(test, f"p = {test.p_value}") for test in tests], claim="a")
    assert [entry["verdict"] for entry in recorded] == [verdict]


def test_one_cell_that_is_reversed_refutes_them_all(judge: Judge, recorded: list[dict[str, Any]]) -> None:
    """However many hold, one that is reversed beyond chance contradicts a claim on each of them, and is the evidence."""
    with pytest.raises(pytest.fail.Exception, match=r"^a: It is so\. 2 of 3 as claimed; the one that is so least: third$"):
        judge.every([(better(0.0001), "first"), (better(0.0001), "second"), (worse(0.001), "third")], claim="a")
    assert [entry["verdict"] for entry in recorded] == ["contradicted"]


def test_known_failures_are_strict(judge: Judge, recorded: list[dict[str, Any]]) -> None:
    """A known failure does not fail its test; one that comes to hold does."""
    judge.decide(worse(0.001), "measured", claim="d")
    with pytest.raises(pytest.fail.Exception, match="d is listed as a known failure at scale mini, but is reproduced"):
        judge.decide(better(0.001), "measured", claim="d")
    assert {entry["known_failure"] for entry in recorded} == {"drawn images"}


def test_a_verdict_that_cannot_be_given_is_an_error(judge: Judge) -> None:
    """A claim that the test is not marked with, none of several named, or an ordering of another kind is an error that says so."""
    with pytest.raises(ValueError, match="asked for 'z': name one of them"):
        judge.conclude("measured", Verdict.REPRODUCED, claim="z")
    with pytest.raises(ValueError, match="asked for '': name one of them"):
        judge.decide(better(0.01), "measured")
    with pytest.raises(ValueError, match="claim 'c' is of kind accuracy, but is decided as an ordering"):
        judge.decide(better(0.01), "measured", claim="c")
