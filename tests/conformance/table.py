"""What came of asking solutions: content, and how it is told on the terminal and in the HTML report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.conformance.conduct import RULES
from tests.conformance.names import NAMES

PASS, FAIL, NOT_CLAIMED = "pass", "fail", "not claimed"
NO_TEST = "tests/conformance/foreign.py::Watched.watch"  # in place of a test, for what any call must keep to
PURITY = "What is given to a solution stays as it was."
Content = list[dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One statement of the specification, asked of one solution."""

    solution: str
    names: tuple[str, ...]
    test: str
    statement: str
    verdict: str
    words: str = ""
    printed: bool = False
    claims: tuple[str, ...] = ()  # all names of the solution, as far as they were known then
    printed_at_import: bool = False
    narrowed: str = ""  # of which settings alone it was asked
    impure: tuple[str, ...] = ()  # what was changed in place while it was asked
    conduct: tuple[tuple[str, str], ...] = ()  # rules that it broke meanwhile (conduct.RULES), each with what it did
    misnamed: tuple[str, ...] = ()  # what the solution has nearly by a name that it lacks

    @property
    def function(self) -> str:
        return self.id.partition("[")[0]

    @property
    def place(self) -> str:
        """The test, without whom it asks: `tests/test_2_2_visual_prompts.py::test_x[FixedPatch]`."""
        place, _, case = self.test.partition("[")
        label = self.solution.encode("unicode_escape").decode()  # as pytest writes it
        case = case.removeprefix(label).removeprefix("-")
        return f"{place}[{case}" if case not in ("", "]") else place

    @property
    def id(self) -> str:
        """The statement for a scores file and a course's table: its function, and its case where it has several."""
        return self.place.partition("::")[2]

    def but(self, **changes: Any) -> Row:
        return replace(self, **changes)


def content(solutions: list[str], rows: list[Row]) -> Content:
    """For each solution what it comes to, section by section; a solution that does not import has one sentence instead."""
    found = []
    for label in solutions:
        own = [row for row in rows if row.solution == label]
        asked_of_all = [*own]
        own += _purity(own)
        failed = {row.words for row in own if row.verdict == FAIL}
        problem = next(iter(failed)) if len(failed) == 1 and next(iter(failed)).startswith("does not import") else ""
        own += _conduct(own) if not problem else []
        asked = [row for row in own if row.verdict != NOT_CLAIMED] if not problem else []
        claimed = {name for row in own for name in row.claims} | {name for row in asked for name in row.names}
        if not problem and not asked and any(row.words and not row.words.startswith("not claimed") for row in own):
            problem = f"declines all that it is asked, such as {next(row.words for row in own if row.words)}"
        if not problem and not claimed:
            problem = f"claims nothing: expected any of {', '.join(NAMES)}"
        misnamed = sorted({one for row in own for one in row.misnamed})
        declined = [_declined(row, claimed) for row in own if row.verdict == NOT_CLAIMED and (row.words or claimed & {*row.names})]
        shown = [*asked, *declined] if not problem else []
        sections = []
        for section in sorted({name.section for name in NAMES.values()}):
            names = [name for name, known in NAMES.items() if known.section == section]
            here = [row for row in shown if NAMES[row.names[0]].section == section]
            sections.append(
                {
                    "section": section,
                    "rows": [
                        {
                            "names": list(row.names),
                            "statement": row.statement,
                            "verdict": row.verdict,
                            "words": row.words,
                            "narrowed": row.narrowed,
                            "test": row.place,
                            "printed": row.printed,
                        }
                        for row in sorted(here, key=_place)
                    ],
                    "not claimed": [name for name in names if name not in claimed],
                    "not asked": [name for name in names if name in claimed and not any(name in row.names for row in here)],
                }
            )
        found.append(
            {
                "solution": label,
                "holds": not problem and all(row.verdict == PASS for row in asked),
                "problem": problem,
                "passed": sum(row.verdict == PASS for row in asked),
                "failed": sum(row.verdict != PASS for row in asked),  # one that was begun and not ended is no pass
                "mistakes": len({_mistake({"words": row.words}) for row in asked if row.verdict != PASS}),
                "misnamed": misnamed,
                "prints": sorted({name for row in asked if row.printed for name in row.names}),
                "prints at import": any(row.printed_at_import for row in own),
                "sections": sections,
                "statements": [_statement_of(row, bool(problem)) for row in sorted(asked_of_all, key=_place)],
            }
        )
    return found


def _place(row: Row) -> tuple[list[int], str]:
    """Where a row stands, whoever is asked and in whatever order: by its names, as NAMES has them, and its test."""
    return [[*NAMES].index(name) for name in row.names], row.place


def _statement_of(row: Row, has_problem: bool) -> dict[str, Any]:
    """A statement that was asked, or would have been, had the solution its names: what scores are given for."""
    return {
        "id": row.id,
        "section": NAMES[row.names[0]].section,
        "names": list(row.names),
        "statement": row.statement,
        "verdict": NOT_CLAIMED if has_problem else row.verdict,
        "words": "" if has_problem else row.words,
        "narrowed": row.narrowed,
    }


def _purity(rows: list[Row]) -> list[Row]:
    """For each name that changed what it was given one row, which fails; all other statements are judged on copies.

    None for a name whose own statement of purity has failed.
    """
    told = {name for row in rows if row.verdict == FAIL and row.words in row.impure for name in row.names}
    changed: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row.test):
        for words in row.impure:
            name = next((one for one in row.names if re.match(rf"{one}\b", words)), row.names[0])
            changed.setdefault(name, row.but(names=(name,), words=words))
    return [
        row.but(test=NO_TEST, statement=PURITY, verdict=FAIL, printed=False, narrowed="", impure=())
        for name, row in changed.items()
        if name not in told
    ]


def _conduct(rows: list[Row]) -> list[Row]:
    """For each rule that a solution broke one row, which fails; all other statements are judged as if it had not."""
    seen = {rule: (row, words) for row in sorted(rows, key=lambda row: row.test, reverse=True) for rule, words in row.conduct}
    changes = {"verdict": FAIL, "printed": False, "narrowed": "", "impure": (), "conduct": ()}
    return [
        row.but(test=f"tests/conformance/conduct.py::{rule}", statement=RULES[rule], words=words, **changes)
        for rule, (row, words) in seen.items()
    ]


def tampered(rows: Iterable[Row], words: str) -> list[Row]:
    """The rows of a solution that changed the judge: nothing that was found out about it counts."""
    known = [*rows]
    claimed = {name for row in known for name in row.claims}
    its_own = [not claimed or claimed >= {*row.names} for row in known]
    told = [row.but(verdict=FAIL, words=words, narrowed="", impure=(), conduct=()) for row in known]
    return [new if own else old for new, old, own in zip(told, known, its_own, strict=True)]


def _declined(row: Row, claimed: set[str]) -> Row:
    """A statement that a solution is not held to, with the reason: its own, or the names that it lacks beside those it has."""
    return row.but(words=row.words or f"not asked: it needs {', '.join(name for name in row.names if name not in claimed)}, too")


def headline(one: dict[str, Any]) -> str:
    """A solution in a sentence."""
    if one["problem"]:
        return f"{one['solution']} {one['problem']}"
    unclaimed = sum(len(section["not claimed"]) for section in one["sections"])
    reasons = f" for {one['mistakes']} reason{'s' * (one['mistakes'] != 1)}" if one["failed"] else ""
    where = [
        *(["it is imported"] if one["prints at import"] else []),
        *([f"it is asked about {', '.join(one['prints'])}"] if one["prints"] else []),
    ]
    prints = f"; prints while {' and while '.join(where)}" if where else ""
    points = f"{round(one['points'], 2):g} of {round(one['of'], 2):g} points; " if "points" in one else ""
    held = f"{one['passed']} statements hold, {one['failed']} fail{reasons}"
    return f"{one['solution']}: {points}{held}; {unclaimed} names not claimed{prints}"


def lines(content: Content) -> Iterator[tuple[str, str]]:
    """The table for a terminal: lines and their colours. A mistake is said once, and all that fails for it below its first row."""
    for one in content:
        yield "", ""
        yield headline(one), "green" if one["holds"] else "red"
        for note in notes(one):
            yield f"  {note}", "yellow"
        if one["problem"]:
            continue
        found = mistakes(one)
        for section in one["sections"]:
            if not section["rows"] and not section["not asked"]:
                continue
            yield f"  section {section['section']}", "bold"
            for names, group in groupby(section["rows"], key=lambda row: ", ".join(row["names"])):
                yield f"    {names}", ""
                yield from _rows(list(group), found)
            if section["not asked"]:
                yield f"    not asked here: {', '.join(section['not asked'])}", ""
            if section["not claimed"]:
                yield f"    not claimed: {', '.join(section['not claimed'])}", ""
        if empty := [section for section in one["sections"] if not section["rows"] and not section["not asked"]]:
            yield "  not claimed at all: " + "; ".join(f"{s['section']} ({', '.join(s['not claimed'])})" for s in empty), ""


def notes(one: dict[str, Any]) -> list[str]:
    """What helps the author of a solution before any statement does: names that are nearly right, cells that were left out."""
    return [*one["misnamed"], *one.get("left out", ())]


@dataclass
class Mistake:
    """One reason for which statements fail: the rows, in the order of the table, the first of which tells it."""

    words: str
    rows: list[dict[str, Any]]

    def is_told_at(self, row: dict[str, Any]) -> bool:
        return self.rows[0] is row


def mistakes(one: dict[str, Any]) -> dict[str, Mistake]:
    """The reasons for which statements of a solution fail, in whatever section, by what tells them apart."""
    found: dict[str, Mistake] = {}
    for section in one["sections"]:
        for row in section["rows"]:
            if row["verdict"] not in (PASS, NOT_CLAIMED):
                found.setdefault(_mistake(row), Mistake(row["words"], [])).rows.append(row)
    return found


def _rows(rows: list[dict[str, Any]], found: dict[str, Mistake]) -> Iterator[tuple[str, str]]:
    """The rows of a name; what fails for a reason that was told above is counted there, and listed where it was told."""
    above = 0
    for row in rows:
        mistake = None if row["verdict"] in (PASS, NOT_CLAIMED) else found[_mistake(row)]
        if mistake and not mistake.is_told_at(row):
            above += row["names"] != mistake.rows[0]["names"]
            continue
        narrowed = f" ({row['narrowed']})" if row["narrowed"] else ""
        yield (
            f"      {'----' if row['verdict'] == NOT_CLAIMED else row['verdict']:4}  {row['statement']}{narrowed}",
            "red" if row["verdict"] == FAIL else "",
        )
        if row["words"]:
            yield f"            {row['words']}", ""
            yield f"            ({row['test'].partition('[')[0]})", ""
        for other in mistake.rows[1:] if mistake else ():
            who = "" if other["names"] == row["names"] else f" ({', '.join(other['names'])})"
            yield f"            {other['verdict']} for the same reason: {other['statement']}{who}", "red"
    if above:
        yield f"      fail  {above} statement{'s' * (above != 1)} more, for a reason told above", "red"


# A call of a solution, its arguments, and what it did: `Padding(1, 5) raised KeyError: 3 (a.py, line 4)`.
_RAISED = re.compile(r"raised (\w+)\b.* (\([^()]+, line \d+\))")
_GAVE = re.compile(r"^(\w+(?: module)?)\(.*\) (gave .*: expected .*|changed .*)$")


def _mistake(row: dict[str, Any]) -> str:
    """What tells one reason for failures from another: no example, no arguments of a call, no sizes.

    The same line that raises the same kind of error is one reason, whatever is called and with what.
    """
    words = str(row["words"]).partition("; smallest example")[0].removesuffix("; not tried again")
    if raised := _RAISED.search(words):
        return f"{raised[1]} {raised[2]}"
    if gave := _GAVE.match(words):
        return f"{gave[1]} {re.sub(r'[0-9]+', '#', gave[2])}"
    return words


STYLE = Path(__file__).parents[2] / "vp" / "report" / "writeup" / "style.css"
MARKS = {PASS: "reproduced", FAIL: "contradicted", NOT_CLAIMED: "not-run"}  # as the writeup marks its verdicts


def page(content: Content) -> str:
    """The same as HTML, at the top of pytest's report: each solution in a line, its verdicts as signs, then section by section."""
    parts = [solution_part(one, nth) for nth, one in enumerate(content)]
    last = "<details id='pytest-table'><summary>pytest's own table</summary></details>"
    return framed([link for links, _ in parts for link in links], "".join(body for _, body in parts) + last)


def framed(links: Sequence[str], body: str) -> str:
    """Style, contents and text of a page."""
    navigation = (
        f"<nav class='beside' aria-label='Contents'>{''.join(links)}</nav>"
        f"<details class='above'><summary>Contents</summary><nav aria-label='Contents, folded'>{''.join(links)}</nav></details>"
    )
    style = f"<style>{STYLE.read_text(encoding='utf-8')}</style>"
    return f'{style}<div class="vp">{navigation}<main>{body}</main></div>'


def solution_part(one: dict[str, Any], nth: int = 0, opening: str = "") -> tuple[list[str], str]:
    """The links to a solution's part of a page, and that part, with an opening of its own below its headline."""
    links = [f"<a class='depth-0' href='#solution-{nth}'>{escape(one['solution'])}</a>"]
    body = [f"<h2 id='solution-{nth}'>{escape(one['solution'])}</h2><p class='lead'>{escape(headline(one))}</p>"]
    body += [f"<p>{escape(note)}</p>" for note in notes(one)]
    body.append(opening)
    if one["problem"]:
        return links, "".join(body)
    asked = {f"section-{nth}-{section['section']}": section for section in one["sections"] if section["rows"]}
    links += [f"<a class='depth-1' href='#{name}'>{escape(section['section'])}</a>" for name, section in asked.items()]
    signs = [
        f"<span class='signs'><a href='#{name}'>{escape(section['section'])}</a>"
        + "".join(_sign(f"{name}-{i}", row) for i, row in enumerate(section["rows"]))
        + "</span>"
        for name, section in asked.items()
    ]
    body.append(f"<div class='strip'><div>{''.join(signs)}</div></div>")
    found = mistakes(one)
    places = {id(row): f"{name}-{i}" for name, section in asked.items() for i, row in enumerate(section["rows"])}
    for name, section in asked.items():
        rows = "".join(_statement(places, row, found) for row in section["rows"])
        title = f"<h3 id='{name}'>Section {escape(section['section'])}</h3>"
        body.append(f"<section>{title}<div class='shown'><div class='claims'>{rows}</div></div></section>")
    if lacking := [name for section in one["sections"] for name in section["not claimed"]]:
        body.append(f"<h3>Not claimed</h3><p>{', '.join(f'<code>{escape(name)}</code>' for name in lacking)}</p>")
    return links, "".join(body)


def _sign(name: str, row: dict[str, Any]) -> str:
    told = escape(f"{row['verdict']}: {row['statement']}")
    return f"<a class='sign {MARKS.get(row['verdict'], 'not-run')}' href='#{name}' aria-label='{told}' title='{told}'></a>"


def _statement(places: dict[int, str], row: dict[str, Any], found: dict[str, Mistake]) -> str:
    """A statement with its verdict and what refutes it, once a reason; names, test and what else fails for it are folded behind."""
    verdict = f"<span class='verdict {MARKS.get(row['verdict'], 'not-run')}'>{escape(row['verdict'])}</span>"
    named = ", ".join(f"<code>{escape(one)}</code>" for one in row["names"])
    words, items = escape(row["words"]), [named, f"<code>{escape(row['test'])}</code>"]
    if mistake := None if row["verdict"] in (PASS, NOT_CLAIMED) else found[_mistake(row)]:
        if mistake.is_told_at(row):
            items += [f"fails for the same reason: {_link(places, other)}" for other in mistake.rows[1:]]
        else:
            words = f"as above: {_link(places, mistake.rows[0])}"
    told = "".join(f"<span class='truth'>{one}</span>" for one in (words, escape(row["narrowed"])) if one)
    return (
        f"<details class='claim' id='{places[id(row)]}'><summary>{verdict}<span>{escape(row['statement'])}{told}</span></summary>"
        f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul></details>"
    )


def _link(places: dict[int, str], row: dict[str, Any]) -> str:
    return f"<a href='#{places[id(row)]}'>{escape(row['statement'])}</a>"
