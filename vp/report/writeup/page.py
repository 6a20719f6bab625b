"""The writeup as HTML, at the top of the pytest-html report. Everything that comes from outside is escaped.

It needs no script: folded parts open by themselves, and pytest's own table, which is made by a script, comes last.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from vp.report.claims import NOT_PART, Kind
from vp.report.expectations import Verdict
from vp.report.writeup.content import Content
from vp.report.writeup.opening import finding, opening
from vp.report.writeup.parts import folded, style_of
from vp.report.writeup.plots import by_tokens, legend
from vp.report.writeup.statements import statements
from vp.report.writeup.tables import table

STYLE = f"<style>\n{(Path(__file__).parent / 'style.css').read_text(encoding='utf-8')}</style>"

FOLDED = ("table_3", "noise_curve", "why", "table-6-parts")  # seen as figures, or asked by few
SHORT = 8  # statements of a section that takes half the width


def render(content: Content, folder: Path | None = None) -> str:
    """The whole writeup. `folder`: from the page's own folder to the project's, for links to tests and code."""
    miniature = content["about"].get("numbers held to") == "the miniature"
    chapters = [_chapter(nth, content, folder, miniature) for nth in range(len(content["chapters"]))]
    gpus = folded("Measured on GPUs", table(content["gpus"], folder, miniature), name="gpus")
    behind = f"<h2 id='behind'>Behind this page</h2>{gpus}{_tests(content['tests'])}"
    body = [opening(content, miniature), *chapters, behind]
    return "\n".join([STYLE, '<div class="vp">', contents(_places(content)), "<main>", *body, "</main></div>"])


def folder_between(page: Path, project: Path) -> Path | None:
    """The way from a page's folder to the project's; None where there is none, as between drives."""
    try:
        return Path(os.path.relpath(project.resolve(), page.resolve().parent))
    except ValueError:
        return None


# -- contents --------------------------------------------------------------------------------------------------------------


def contents(places: Sequence[tuple[str, str, int]]) -> str:
    """The table of contents: anchors with their titles and depths. Beside the page where it is wide, else folded above it."""
    links = "".join(f"<a class='depth-{depth}' href='#{escape(name)}'>{escape(title)}</a>" for name, title, depth in places)
    return (
        f"<nav class='beside' aria-label='Contents'>{links}</nav>"
        f"<details class='above'><summary>Contents</summary><nav aria-label='Contents, folded'>{links}</nav></details>"
    )


def _places(content: Content) -> list[tuple[str, str, int]]:
    places = [("opening", "Findings", 0)]
    for nth, chapter in enumerate(content["chapters"]):
        places.append((f"chapter-{nth}", chapter["title"], 0))
        places += [(f"section-{one['number']}", f"{one['number']} {one['title']}", 1) for one in chapter["sections"]]
    return [*places, ("behind", "Behind this page", 0), ("gpus", "Measured on GPUs", 1), ("tests", "The tests", 1)]


# -- sections --------------------------------------------------------------------------------------------------------------


def _chapter(nth: int, content: Content, folder: Path | None, miniature: bool) -> str:
    chapter = content["chapters"][nth]
    parts = []
    for short, group in groupby(chapter["sections"], _is_short):
        sections = "".join(_section(section, content["findings"], folder, miniature) for section in group)
        parts.append(f"<div class='short'>{sections}</div>" if short else sections)
    return f"<h2 id='chapter-{nth}'>{escape(chapter['title'])}</h2>{''.join(parts)}"


def _section(section: Content, findings: Sequence[Content], folder: Path | None, miniature: bool) -> str:
    """A section: what was done and found, figures and tables, then the statements."""
    figures, seen = section["figures"], [one for one in section["tables"] if one["id"] not in FOLDED]
    own = [finding(one) for one in findings if one["section"] == section["number"]]
    shown = [
        f"<p>{escape(section['introduction'])}</p>" if section["introduction"] else "",
        f"<ul class='findings'>{''.join(own)}</ul>" if own else "",
        *(_plot_of(one) for one in section["tables"]),
        *_rows(figures, [table(one, folder, miniature) for one in seen]),
        *(table(one, folder, miniature, fold=True) for one in section["tables"] if one not in seen),
    ]
    body = f"<div class='shown'>{''.join(shown)}{statements(section['claims'], folder)}</div>"
    if untouched := _untouched(section):
        words = f"{untouched} statement{'s' if untouched > 1 else ''} to be tested, not part of this run"
        body = f"<details><summary class='quiet'>{words}</summary>{body}</details>"
    title = f"{escape(section['number'])} {escape(section['title'])} {_counts(section)}"
    return f"<section><h3 id='section-{escape(section['number'])}'>{title}</h3>{body}</section>"


def _is_short(section: Content) -> bool:
    """Short sections fill two columns where there is room."""
    return not section["tables"] and len(section["figures"]) < 2 and len(section["claims"]) <= SHORT


def _untouched(section: Content) -> int:
    """How many statements of a section could be tested, if no test of it was part of this run; else 0."""
    testable = [claim for claim in section["claims"] if claim["verdict"] != Kind.ARGUED]
    missed = all(claim["verdict"] == Verdict.NOT_RUN and NOT_PART in claim["reason"] for claim in testable)
    return len(testable) if missed and not any(figure["svg"] for figure in section["figures"]) else 0


def _counts(section: Content) -> str:
    """How the statements of a section came out: a sign and a number for each verdict."""
    counts = Counter(claim["verdict"] for claim in section["claims"])
    told = [
        f"<abbr class='sign {style_of(verdict)}' title='{verdict}' aria-label='{verdict}'></abbr> {counts[verdict]}"
        for verdict in (*Verdict, Kind.ARGUED)
        if counts[verdict]
    ]
    return f"<span class='counts'>{' '.join(told)}</span>" if told else ""


def _plot_of(table: Content) -> str:
    """Table 3 as a figure; no other table is one."""
    drawn = by_tokens(table.get("numbers", ())) if table["id"] == "table_3" else ""
    words = "Table 3 as a figure: top-1 (%) over the number of tokens n."
    return f"<figure id='table-3-figure'><figcaption>{words}</figcaption>{legend()}{drawn}</figure>" if drawn else ""


def _rows(figures: Sequence[Content], tables: Sequence[str]) -> list[str]:
    """Several figures stand side by side, as wide as the page; so does one with its table."""
    drawn = [_figure(one) for one in figures]
    row, below = ([*drawn, *tables], []) if len(drawn) == len(tables) == 1 else (drawn, tables)
    return [f"<div class='figures'>{''.join(row)}</div>" if len(row) > 1 else "".join(row), *below]


def _figure(figure: Content) -> str:
    title = escape(figure["title"])
    if not figure["svg"]:
        return f"<p class='quiet' id='{escape(figure['id'])}'>{title}: not drawn in this run.</p>"
    caption = f"{title}. {escape(figure['caption'])}"
    return f"<figure id='{escape(figure['id'])}'>{figure['svg']}<figcaption>{caption}</figcaption></figure>"


# -- tests -----------------------------------------------------------------------------------------------------------------


def _tests(tests: Sequence[Content]) -> str:
    """All tests of the run, folded by file: what each states, how it ended and how long it took."""
    files: dict[str, list[Content]] = {}
    for test in tests:
        files.setdefault(test["test"].split("::")[0], []).append(test)
    parts = [
        f"<details><summary><code>{escape(file)}</code> <span class='quiet'>{_outcomes(own)}</span></summary>"
        f"<table>{''.join(_test(test) for test in own)}</table></details>"
        for file, own in sorted(files.items())
    ]
    return (
        f"<details class='tests' id='tests'><summary>{len(tests)} tests: {_outcomes(tests)}</summary>{''.join(parts)}</details>"
        "<details id='pytest-table'><summary>pytest's own table, with logs and filters (made by a script)</summary></details>"
    )


def _outcomes(tests: Sequence[Content]) -> str:
    counts = {outcome: sum(test["outcome"] == outcome for test in tests) for outcome in ("passed", "failed", "skipped")}
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "none finished"


def _test(test: Mapping[str, Any]) -> str:
    name = escape(test["test"].split("::", 1)[-1])
    reason = f"<br><span class='quiet'>{escape(test['reason'])}</span>" if test["reason"] else ""
    return (
        f"<tr><td>{escape(test['outcome'])}</td><td>{escape(test['sentence'])}<br><code class='quiet'>{name}</code>{reason}</td>"
        f"<td class='number'>{test['seconds']:.2f} s</td></tr>"
    )
