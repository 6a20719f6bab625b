"""The claims ledger: what the report states (expectations/claims.toml), the tests that decide it, and the verdicts.

A test names the claims that it decides by `@pytest.mark.claim("id")`. While tests run they record plain dictionaries
("entries"); `judge_claims` turns those into one verdict a claim. Nothing here is typed in, and what did not run never counts.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vp.evaluation import ContrastTest, PairedTest, holm_adjusted
from vp.machine.errors import VpError
from vp.report.expectations import TYPES, Verdict, ordering_verdict, place, read_toml

Entry = Mapping[str, Any]
NOT_PART = "not part of this run, or did not finish"


class Kind(StrEnum):
    """The evidence for a claim: a proof, numbers against expectations, paired tests, measured costs; or nothing (argued)."""

    THEOREM = "theorem"
    ACCURACY = "accuracy"
    ORDERING = "ordering"
    COST = "cost"
    ARGUED = "argued"


@dataclass(frozen=True)
class Claim:
    """A statement of the report, or one added here to judge it by; the fields are explained in expectations/claims.toml."""

    id: str
    section: str
    kind: Kind
    sentence: str
    corrected: str = ""
    added: bool = False
    reason: str = ""
    printed: str = ""
    runs: tuple[str, ...] = ()
    family: str = ""
    shown_in: tuple[str, ...] = ()
    code: tuple[str, ...] = ()


_FIELDS = {
    "section": "text",
    "kind": "text",
    "sentence": "text",
    "corrected": "text",
    "added": "true or false",
    "reason": "text",
    "printed": "text",
    "runs": "a list of texts",
    "family": "text",
    "shown_in": "a list of texts",
    "code": "a list of texts",
}


def load_claims(root: Path) -> dict[str, Claim]:
    """The claims of root/claims.toml by id, in their order.

    Raises VpError that names file, line, claim and field when one is malformed; a claim that stands twice is one.
    """
    path = root / "claims.toml"
    if not path.exists():
        raise VpError(f"{path} is missing: it lists what the tests of the report's sections decide")
    return {name: _parse(path, name, entry) for name, entry in read_toml(path).items()}


def _parse(path: Path, name: str, entry: Any) -> Claim:
    if not isinstance(entry, dict):
        raise VpError(f"{path}: {name!r} is {entry!r}, expected a table [{name}] with section, kind and sentence")

    def refuse(key: str, complaint: str) -> VpError:
        return VpError(f"{place(path, name, key)}: [{name}] {key} {complaint}")

    for key, given in entry.items():
        if key not in _FIELDS:
            near = difflib.get_close_matches(key, _FIELDS, n=1) or list(_FIELDS)
            raise refuse(key, f"is no field of a claim: did you mean {', '.join(near)}?")
        words = _FIELDS[key]
        if type(given) not in TYPES[words] or (isinstance(given, list) and not all(isinstance(part, str) for part in given)):
            raise refuse(key, f"is {given!r}, expected {words}")
        if given in ("", []):
            raise refuse(key, "is empty: say something or leave it out")
    for key in ("section", "kind", "sentence"):
        if key not in entry:
            raise refuse(key, "is missing")
    if not re.fullmatch(r"\d\.\d(\.[a-z])?", entry["section"]):
        raise refuse("section", f"is {entry['section']!r}, expected one such as 2.3 or 3.1.a")
    if entry["kind"] not in [*Kind]:
        raise refuse("kind", f"is {entry['kind']!r}, expected one of {', '.join(Kind)}")
    kind = Kind(entry["kind"])
    for key, needed in {"reason": kind is Kind.ARGUED, "family": kind is Kind.ORDERING, "code": kind is not Kind.ARGUED}.items():
        if (key in entry) != needed:
            raise refuse(key, f"is {'missing' if needed else 'given'}, but the claim is of kind {kind}")
    if "runs" in entry and kind is not Kind.ACCURACY:
        raise refuse("runs", f"is given, but the claim is of kind {kind}, not accuracy")
    lists = {key: tuple(given) for key, given in entry.items() if isinstance(given, list)}
    return Claim(id=name, **{**entry, **lists, "kind": kind})


def find_claim(name: str, claims: Mapping[str, Claim]) -> Claim:
    """The claim called `name`. Raises VpError with the nearest ids when there is none, or when it is one that is only argued."""
    if name not in claims:
        near = difflib.get_close_matches(name, claims, n=3)
        advice = f"did you mean {', '.join(near)}?" if near else "add it there"
        raise VpError(f"claim {name!r} is not in claims.toml: {advice}")
    if claims[name].kind is Kind.ARGUED:
        raise VpError(f"claim {name!r} is listed as argued, so that no test can decide it: change its kind in claims.toml")
    return claims[name]


# -- links -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """A test function and the claims that its markers name, for all values of its parameters."""

    test: str  # FILE::FUNCTION, the file from the project's folder on
    line: int
    claims: tuple[str, ...]
    judges_runs: bool  # it holds the numbers of runs to their expectations

    def decides(self, claim: Claim) -> bool:
        """Does a marker name this claim, or may the numbers judged be those of this claim's section?"""
        chapter = "test_" + claim.section[:3].replace(".", "_")
        return claim.id in self.claims or (self.judges_runs and bool(claim.runs) and chapter in self.test)


def fill_in(claim: str, parameters: Mapping[str, object]) -> str:
    """The id that a marker names, {name} replaced by that parameter of the test; other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda found: str(parameters.get(found[1], found[0])), claim)


def find_links(tests: Path) -> list[Link]:
    """The test functions of test_[0-9]*.py that decide claims, read from their source: what is not collected is found, too.

    Raises VpError that names file and line when one is not Python.
    """
    links = []
    for path in sorted(tests.glob("test_[0-9]*.py")):
        for node in _parsed(path).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = _marks(node)
                named = [str(arg.value) for mark in marks.get("claim", ()) for arg in mark.args if isinstance(arg, ast.Constant)]
                rows = [row for mark in marks.get("parametrize", ()) for row in _parameters(mark)] or [{}]
                claims = tuple(dict.fromkeys(fill_in(claim, row) for claim in named for row in rows))
                judges = any(mark.args for mark in marks.get("reproduces", ()))
                if claims or judges:
                    links.append(Link(f"{tests.name}/{path.name}::{node.name}", node.lineno, claims, judges))
    return links


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise VpError(f"{path}:{getattr(error, 'lineno', None) or 1}: is not Python: {error}") from error


def _marks(node: ast.FunctionDef) -> dict[str, list[ast.Call]]:
    """The calls in a test's decorators by the last part of their names, those inside of parameters included."""
    found: dict[str, list[ast.Call]] = {}
    for decorator in node.decorator_list:
        for call in ast.walk(decorator):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                found.setdefault(call.func.attr, []).append(call)
    return found


def _parameters(mark: ast.Call) -> list[dict[str, object]]:
    """The values that are written out in a parametrize decorator, a dictionary for each case."""
    if len(mark.args) < 2 or not isinstance(mark.args[1], ast.List | ast.Tuple):
        return []
    try:
        given = ast.literal_eval(mark.args[0])
    except ValueError:
        return []
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else [str(name) for name in given]
    rows: list[dict[str, object]] = []
    for case in mark.args[1].elts:
        values = case.args if isinstance(case, ast.Call) else [case] if len(names) == 1 else getattr(case, "elts", [])
        rows.append({name: value.value for name, value in zip(names, values, strict=False) if isinstance(value, ast.Constant)})
    return rows


# -- verdicts --------------------------------------------------------------------------------------------------------------

WORST_FIRST = (
    Verdict.REHEARSAL,
    Verdict.CONTRADICTED,
    Verdict.NOT_RUN,
    Verdict.WITHIN_NOISE,
    Verdict.CORRECTED,
    Verdict.REPRODUCED,
)


@dataclass(frozen=True)
class Judgement:
    """The verdict on a claim (None: it can only be argued), what it rests on, and why it is not another."""

    claim: Claim
    verdict: Verdict | None
    evidence: tuple[str, ...] = ()
    reason: str = ""  # of NOT RUN
    tests: tuple[Link, ...] = ()
    runs: tuple[str, ...] = field(default=())
    complaint: str = ""  # why the run as a whole must not pass, though no test failed


def judge_claims(
    claims: Mapping[str, Claim],
    entries: Iterable[Entry],
    links: Sequence[Link],
    run_names: Iterable[str],
    numbers_elsewhere: str = "",
) -> list[Judgement]:
    """One Judgement a claim, from the entries that tests recorded.

    A claim is as good as the worst that decides it: contradicted by one test that refutes it; otherwise NOT RUN when one of its
    tests was skipped, deselected, broke off or did not finish. Orderings of one family are judged together, by Holm's
    correction over as many orderings as the ledger lists for the family: here, where all that ran have arrived from their
    workers, and those that did not count as p = 1. No single test can know the others' p-values, so tests themselves fail by
    Bonferroni's bound m p, which is never below Holm's: what fails there is contradicted here. What only Holm finds is a
    `complaint`, which fails the run. `numbers_elsewhere`: why this scale cannot decide the report's own numbers, if so; what was
    added to the report is held to this scale's.
    """
    known = list(entries)
    tests = [entry for entry in known if entry["kind"] == "test"]
    judged = [entry for entry in known if entry["kind"] == "judged"]
    adjusted = _adjust(judged, claims)
    last = {entry["test"]: entry for entry in judged}  # a verdict that fails its test is the last that it records
    told = {test for test, entry in last.items() if fails_its_test(Verdict(entry["verdict"]), entry["known_failure"])}
    cells = {entry["run"]: entry for entry in known if entry["kind"] == "cell"}
    excused = {name: entry["reason"] for entry in known if entry["kind"] == "not run" for name in entry["runs"]}
    names = list(run_names)
    judgements = []
    for claim in claims.values():
        own = tuple(link for link in links if link.decides(claim))
        runs = tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in claim.runs))
        if claim.kind is Kind.ARGUED:
            judgements.append(Judgement(claim, None))
            continue
        named = [link for link in own if link.claims]
        found = _by_tests(claim, named, tests, adjusted, told)
        found += _by_numbers(claim, runs, cells, excused, numbers_elsewhere)
        if not found:
            found = [_Finding(Verdict.NOT_RUN, "", "no test decides it")]
        judgements.append(_sum_up(claim, found, own, runs))
    return judgements


@dataclass(frozen=True)
class _Finding:
    """What one test or number says of a claim."""

    verdict: Verdict
    evidence: str = ""
    reason: str = ""
    known_failure: str = ""
    test_passed: bool = False


def _sum_up(claim: Claim, found: Sequence[_Finding], links: tuple[Link, ...], runs: tuple[str, ...]) -> Judgement:
    verdict = min((finding.verdict for finding in found), key=WORST_FIRST.index)
    if verdict is Verdict.REPRODUCED and claim.corrected:
        verdict = Verdict.CORRECTED
    reasons = dict.fromkeys(finding.reason for finding in found if finding.verdict is Verdict.NOT_RUN and finding.reason)
    complaint = ""
    for finding in found:
        holds = finding.verdict in (Verdict.REPRODUCED, Verdict.CORRECTED)
        if finding.test_passed and finding.verdict is Verdict.CONTRADICTED and not finding.known_failure:
            complaint = f"{claim.id} is contradicted: {finding.evidence}"
        elif finding.test_passed and holds and finding.known_failure:
            complaint = f"{claim.id} is listed as a known failure, but holds: {finding.evidence}"
    evidence = dict.fromkeys(finding.evidence for finding in found if finding.evidence)
    if passed := sum(finding.test_passed and not finding.evidence for finding in found):
        word = "proved" if claim.kind is Kind.THEOREM else "confirmed"
        evidence[f"{word} by {passed} tests" if passed > 1 else f"{word} by its test"] = None
    return Judgement(
        claim,
        verdict,
        tuple(evidence),
        "; ".join(reasons) if verdict is Verdict.NOT_RUN else "",
        links,
        runs,
        complaint,
    )


def fails_its_test(verdict: Verdict, known_failure: str) -> bool:
    """Known failures are strict: a contradicted claim must be listed, and a listed claim must not hold."""
    return verdict in (Verdict.REPRODUCED, Verdict.CORRECTED) if known_failure else verdict is Verdict.CONTRADICTED


def _by_tests(
    claim: Claim, links: Sequence[Link], tests: Sequence[Entry], judged: Sequence[Entry], told: Iterable[str]
) -> list[_Finding]:
    """What the tests that name a claim say of it; `cases` of an entry are all that collection found, deselected ones included.

    `told`: the tests whose failure is that of a verdict they recorded, and so of no other claim.
    """
    own = {entry["test"]: entry for entry in tests if entry["claim"] == claim.id}
    others = [one for one in judged if one["claim"] != claim.id]
    expected = {case for entry in own.values() for case in entry["cases"]}
    expected |= {link.test for link in links if not any(_function(case) == link.test for case in expected)}
    found = []
    for test, entry in own.items():
        recorded = [one for one in judged if one["test"] == test and one["claim"] == claim.id]
        if not recorded and any(one["test"] == test for one in others):
            failed = entry["outcome"] == "failed"
            words = "its test failed at another claim before it came to this one" if failed else "its test could not decide it here"
            found.append(_Finding(Verdict.NOT_RUN, "", words))
            continue
        alone = not any(one["test"] == test and one["claim"] != claim.id for one in tests)
        found += [_by_record(one, entry, test in told, alone) for one in recorded] or [_by_outcome(entry)]
    if missing := expected - own.keys():
        which = f"{len(missing)} of its {len(expected)} tests were" if len(expected) > 1 else "its test was"
        found.append(_Finding(Verdict.NOT_RUN, "", f"{which} {NOT_PART}"))
    return found


def _function(test: str) -> str:
    return test.split("[", 1)[0]


def _by_record(record: Entry, entry: Entry, told: bool, alone: bool) -> _Finding:
    """What a test recorded stands when its failure is told by a verdict.

    By another failure it refutes the claim that it has `alone`; of several it refutes none, for it does not say which.
    """
    verdict, evidence = Verdict(record["verdict"]), record["evidence"]
    by_holm = entry["outcome"] == "passed" and (record["paired"] is not None or record["contrast"] is not None)
    if entry["outcome"] == "failed" and not told and verdict is not Verdict.CONTRADICTED and not record["known_failure"]:
        verdict = Verdict.CONTRADICTED if entry["refuted"] and alone else Verdict.NOT_RUN
        evidence += f"; but the test failed: {entry['reason']}"
        return _Finding(verdict, evidence, "the test broke off")
    if record["known_failure"] and verdict is Verdict.CONTRADICTED:
        evidence += f". Known: {record['known_failure']}"
    return _Finding(verdict, evidence, record.get("reason", ""), record["known_failure"], test_passed=by_holm)


def _by_outcome(entry: Entry) -> _Finding:
    """A test that recorded nothing: it proves its claim by passing and refutes it by failing; an accident does neither."""
    if entry["outcome"] == "passed":
        return _Finding(Verdict.REPRODUCED, test_passed=True)
    if entry["outcome"] == "rehearsed":
        return _Finding(Verdict.REHEARSAL)
    if entry["outcome"] == "failed" and entry["refuted"]:
        return _Finding(Verdict.CONTRADICTED, f"refuted: {entry['reason']}")
    words = f"the test broke off: {entry['reason']}" if entry["outcome"] == "failed" else entry["reason"]
    return _Finding(Verdict.NOT_RUN, "", words)


def _by_numbers(
    claim: Claim, runs: Sequence[str], cells: Mapping[str, Entry], excused: Mapping[str, str], elsewhere: str
) -> list[_Finding]:
    """What the numbers of a claim's runs say of it."""
    if not claim.runs:
        return []
    if not runs:
        return [_Finding(Verdict.NOT_RUN, "", f"no run is called {' or '.join(claim.runs)} yet")]
    found = []
    for name in runs:
        if name not in cells:
            found.append(_Finding(Verdict.NOT_RUN, "", excused.get(name, f"the tests of its numbers were {NOT_PART}")))
        elif elsewhere and not claim.added:
            found.append(_Finding(Verdict.NOT_RUN, "", elsewhere))
        else:
            cell = cells[name]
            found.append(_Finding(Verdict(cell["verdict"]), "", str(cell["reason"] or "")))
    return found


def _adjust(judged: Sequence[Entry], claims: Mapping[str, Claim]) -> list[Entry]:
    """The records of tests, those of orderings with the verdict that Holm's correction over their family gives."""
    others = [e for e in judged if e["verdict"] == Verdict.REHEARSAL or (e["paired"] is None and e["contrast"] is None)]
    families: dict[str, list[Entry]] = {}
    for entry in judged:
        if entry not in others:
            families.setdefault(claims[entry["claim"]].family, []).append(entry)
    for family, members in families.items():
        size = max(family_size(family, claims), len(members))
        tests = [PairedTest(**m["paired"]) if m["paired"] else ContrastTest(**m["contrast"]) for m in members]
        p_values = holm_adjusted([test.p_value for test in tests] + [1.0] * (size - len(members)))
        for member, test, p_value in zip(members, tests, p_values, strict=False):
            verdict = ordering_verdict(replace(test, p_value=p_value), member["or_equal"])
            words = f"{p_value:.2g}" if p_value > 1e-99 else "below 1e-99"
            corrected = f" (corrected for {size} comparisons: {words})" if size > 1 else ""
            others.append({**member, "verdict": str(verdict), "evidence": member["evidence"] + corrected, "p_value": p_value})
    return others


def family_size(family: str, claims: Mapping[str, Claim]) -> int:
    """How many orderings the ledger lists for a family: the size of Holm's correction."""
    return sum(claim.family == family for claim in claims.values())
