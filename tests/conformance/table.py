"""What came of asking solutions: content, and how it is told on the terminal and in the HTML report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.conformance.conduct import RULES
from tests.conformance.names import NAMES

PASS, FAIL, NOT_CLAIMED = "pass", "fail", "not claimed"
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
        return self.test.rpartition("::")[2].partition("[")[0]

    def but(self, **changes: Any) -> Row:
        return replace(self, **changes)


def content(solutions: list[str], rows: list[Row]) -> Content:
    """For each solution what it comes to, section by section; a solution that does not import has one sentence instead."""
    found = []
    for label in solutions:
        own = [row for row in rows if row.solution == label]
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
                            "test": row.test,
                            "printed": row.printed,
                        }
                        for row in sorted(here, key=lambda row: ([*map([*NAMES].index, row.names)], row.test))
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
            }
        )
    return found


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
    test = "tests/conformance/foreign.py::Watched.watch"
    return [
        row.but(test=test, statement=PURITY, verdict=FAIL, printed=False, narrowed="", impure=())
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
    mistakes = f" for {one['mistakes']} reason{'s' * (one['mistakes'] != 1)}" if one["failed"] else ""
    where = [
        *(["it is imported"] if one["prints at import"] else []),
        *([f"it is asked about {', '.join(one['prints'])}"] if one["prints"] else []),
    ]
    prints = f"; prints while {' and while '.join(where)}" if where else ""
    return (
        f"{one['solution']}: {one['passed']} statements hold, {one['failed']} fail{mistakes}; {unclaimed} names not claimed{prints}"
    )


def lines(content: Content) -> Iterator[tuple[str, str]]:
    """The table for a terminal: lines and their colours."""
    for one in content:
        yield "", ""
        yield headline(one), "green" if one["holds"] else "red"
        for misnamed in one["misnamed"]:
            yield f"  {misnamed}", "yellow"
        if one["problem"]:
            continue
        for section in one["sections"]:
            if not section["rows"] and not section["not asked"]:
                continue
            yield f"  section {section['section']}", "bold"
            for names, group in groupby(section["rows"], key=lambda row: ", ".join(row["names"])):
                yield f"    {names}", ""
                yield from _rows(list(group))
            if section["not asked"]:
                yield f"    not asked here: {', '.join(section['not asked'])}", ""
            if section["not claimed"]:
                yield f"    not claimed: {', '.join(section['not claimed'])}", ""
        if empty := [section for section in one["sections"] if not section["rows"] and not section["not asked"]]:
            yield "  not claimed at all: " + "; ".join(f"{s['section']} ({', '.join(s['not claimed'])})" for s in empty), ""


def _rows(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The rows of a name; what makes all of them fail, such as its signature, is said once."""
    mistakes = {_mistake(row) for row in rows}
    if len(rows) > 1 and len(mistakes) == 1 and rows[0]["verdict"] == FAIL:
        yield f"      {FAIL:4}  all {len(rows)} statements", "red"
        yield f"            {rows[0]['words']}", ""
        return
    for row, words in _told_once(rows):
        narrowed = f" ({row['narrowed']})" if row["narrowed"] else ""
        yield (
            f"      {'----' if row['verdict'] == NOT_CLAIMED else row['verdict']:4}  {row['statement']}{narrowed}",
            "red" if row["verdict"] == FAIL else "",
        )
        if words:
            yield f"            {words}", ""
            yield f"            ({row['test'].partition('[')[0]})", ""


def _told_once(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows with their words, or "as above" where the mistake is that of the last row that had any."""
    told = ""
    for row in rows:
        if not row["words"]:
            yield row, ""
            continue
        yield row, "as above" if _mistake(row) == told else row["words"]
        told = _mistake(row)


def _mistake(row: dict[str, Any]) -> str:
    """The words of a failure, without its example."""
    return str(row["words"]).partition("; smallest example")[0].removesuffix("; not tried again")


STYLE = Path(__file__).parents[2] / "vp" / "report" / "writeup" / "style.css"
MARKS = {PASS: "reproduced", FAIL: "contradicted", NOT_CLAIMED: "not-run"}  # as the writeup marks its verdicts


def page(content: Content) -> str:
    """The same as HTML, at the top of pytest's report: each solution in a line, its verdicts as signs, then section by section."""
    links, body = [], []
    for nth, one in enumerate(content):
        links.append(f"<a class='depth-0' href='#solution-{nth}'>{escape(one['solution'])}</a>")
        body += [f"<h2 id='solution-{nth}'>{escape(one['solution'])}</h2><p class='lead'>{escape(headline(one))}</p>"]
        body += [f"<p>{escape(misnamed)}</p>" for misnamed in one["misnamed"]]
        if one["problem"]:
            continue
        asked = {f"section-{nth}-{section['section']}": section for section in one["sections"] if section["rows"]}
        links += [f"<a class='depth-1' href='#{name}'>{escape(section['section'])}</a>" for name, section in asked.items()]
        signs = [
            f"<span class='signs'><a href='#{name}'>{escape(section['section'])}</a>"
            + "".join(_sign(f"{name}-{i}", row) for i, row in enumerate(section["rows"]))
            + "</span>"
            for name, section in asked.items()
        ]
        body.append(f"<div class='strip'><div>{''.join(signs)}</div></div>")
        for name, section in asked.items():
            rows = "".join(_statement(f"{name}-{i}", *told) for i, told in enumerate(_told_once(section["rows"])))
            title = f"<h3 id='{name}'>Section {escape(section['section'])}</h3>"
            body.append(f"<section>{title}<div class='shown'><div class='claims'>{rows}</div></div></section>")
        if lacking := [name for section in one["sections"] for name in section["not claimed"]]:
            body.append(f"<h3>Not claimed</h3><p>{', '.join(f'<code>{escape(name)}</code>' for name in lacking)}</p>")
    navigation = (
        f"<nav class='beside' aria-label='Contents'>{''.join(links)}</nav>"
        f"<details class='above'><summary>Contents</summary><nav aria-label='Contents, folded'>{''.join(links)}</nav></details>"
    )
    style = f"<style>{STYLE.read_text(encoding='utf-8')}</style>"
    last = "<details id='pytest-table'><summary>pytest's own table</summary></details>"
    return f'{style}<div class="vp">{navigation}<main>{"".join(body)}{last}</main></div>'


def _sign(name: str, row: dict[str, Any]) -> str:
    told = escape(f"{row['verdict']}: {row['statement']}")
    return f"<a class='sign {MARKS.get(row['verdict'], 'not-run')}' href='#{name}' aria-label='{told}' title='{told}'></a>"


def _statement(name: str, row: dict[str, Any], words: str) -> str:
    """A statement with its verdict and what refutes it; names and test are folded behind."""
    verdict = f"<span class='verdict {MARKS.get(row['verdict'], 'not-run')}'>{escape(row['verdict'])}</span>"
    named = ", ".join(f"<code>{escape(one)}</code>" for one in row["names"])
    told = "".join(f"<span class='truth'>{escape(one)}</span>" for one in (words, row["narrowed"]) if one)
    return (
        f"<details class='claim' id='{name}'><summary>{verdict}<span>{escape(row['statement'])}{told}</span></summary>"
        f"<ul><li>{named}</li><li><code>{escape(row['test'])}</code></li></ul></details>"
    )
