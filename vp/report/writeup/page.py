"""The writeup as HTML, at the top of the pytest-html report. Everything that comes from outside is escaped.

It needs no script: folded parts open by themselves, and pytest's own table, which is made by a script, comes last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vp.report.claims import NOT_PART, Kind
from vp.report.expectations import Verdict
from vp.report.writeup.content import Content, title_of

STYLE = f"<style>\n{(Path(__file__).parent / 'style.css').read_text(encoding='utf-8')}</style>"

FEW = 4  # numbers of a claim that are named one by one
MEANING = {
    Verdict.REPRODUCED: "proved, or within the stated tolerance, or significantly so",
    Verdict.WITHIN_NOISE: "too few images, networks or repeats to tell",
    Verdict.CONTRADICTED: "refuted, or significantly different from what is claimed",
    Verdict.CORRECTED: "not as the report says it, but true in the corrected form given",
    Verdict.NOT_RUN: "not decided in this run, for the reason given",
    Verdict.REHEARSAL: "run with random weights and generated images: that it runs, not what comes out",
}

IN_MINIATURE = {Verdict.REPRODUCED: "as expected here", Verdict.CONTRADICTED: "not as expected here"}


def render(content: Content, folder: Path | None = None) -> str:
    """The whole writeup. `folder`: from the page's own folder to the project's, for links to tests and code."""
    miniature = content["about"].get("numbers held to") == "the miniature"
    parts = [STYLE, '<div class="vp">', _opening(content, miniature)]
    for chapter in content["chapters"]:
        parts.append(f"<h2>{escape(chapter['title'])}</h2>")
        for section in chapter["sections"]:
            parts.append(
                f"<h3 id='section-{escape(section['number'])}'>{escape(section['number'])} {escape(section['title'])}</h3>"
            )
            parts.append(f"<p>{escape(section['introduction'])}</p>" if section["introduction"] else "")
            body = [
                _claims(section["claims"], folder),
                *(_table(table, folder, miniature) for table in section["tables"]),
                *map(_figure, section["figures"]),
            ]
            if untouched := _untouched(section):
                words = f"{untouched} statement{'s' if untouched > 1 else ''} to be tested, not part of this run"
                body = [f"<details><summary class='quiet'>{words}</summary>", *body, "</details>"]
            parts += body
    gpus = ["<h2>Measured on GPUs</h2>", _table(content["gpus"], folder, miniature)]
    return "\n".join([*parts, *gpus, _tests(content["tests"]), "</div>"])


def _untouched(section: Content) -> int:
    """How many statements of a section could be tested, if no test of it was part of this run; else 0."""
    testable = [claim for claim in section["claims"] if claim["verdict"] != Kind.ARGUED]
    missed = all(claim["verdict"] == Verdict.NOT_RUN and NOT_PART in claim["reason"] for claim in testable)
    return len(testable) if missed and not any(figure["svg"] for figure in section["figures"]) else 0


def folder_between(page: Path, project: Path) -> Path | None:
    """The way from a page's folder to the project's; None where there is none, as between drives."""
    try:
        return Path(os.path.relpath(project.resolve(), page.resolve().parent))
    except ValueError:
        return None


def _opening(content: Content, miniature: bool) -> str:
    statements, numbers = content["statements"], content["numbers"]
    total, rehearsed = sum(statements.values()), statements[Verdict.REHEARSAL]
    ran = total - statements[Verdict.NOT_RUN] - rehearsed
    of_numbers = {verdict: f"; of a number: {words}" for verdict, words in IN_MINIATURE.items()} if miniature else {}
    rows = [
        f"<tr><td>{_mark(verdict)}<br><span class='quiet'>{MEANING[verdict]}{of_numbers.get(verdict, '')}</span></td>"
        f"<td class='number'>{statements[verdict]}</td><td class='number'>{numbers[verdict]}</td></tr>"
        for verdict in Verdict
        if verdict is not Verdict.REHEARSAL or statements[verdict] + numbers[verdict]
    ]
    lacking = "This writeup is not whole" if total else "No statement can be judged"
    problem = f"<p class='problem'>{lacking}: {escape(content['problem'])}</p>" if content["problem"] else ""
    return (
        f"<p class='lead'>Of {total} statements that can be tested, {ran} were decided in this run: "
        f"{statements[Verdict.REPRODUCED]} reproduced, {statements[Verdict.WITHIN_NOISE]} within noise, "
        f"{statements[Verdict.CONTRADICTED]} contradicted, {statements[Verdict.CORRECTED]} corrected; "
        f"{statements[Verdict.NOT_RUN]} not run{f', {rehearsed} only rehearsed' if rehearsed else ''}. "
        f"{content['argued']} more can only be argued.</p>"
        + problem
        + f"<p>{escape(content['about'].get('scale', ''))}</p>"
        + _html_table("Verdicts of this run", ("Verdict", "Statements", "Numbers"), rows)
        + _fidelity(content["fidelity"])
        + "<p class='quiet'>A statement is a sentence of the report, shortened, or one added to judge it by; a number is one "
        "accuracy, held to what is expected at this scale. Names of tests and functions link to their files; where a link leads "
        "nowhere, as in a copy of this page, <code>rg NAME</code> in the project finds them. Intervals are of 95%. Orderings are "
        "paired tests on the same images, their p-values corrected (by Holm) for all comparisons of a table or figure.</p>"
        f"<p class='quiet'>{escape(content['about'].get('provenance', ''))}</p>"
    )


def _fidelity(table: Content) -> str:
    """The line that counts which differences between runs are those of full scale; the table folded below it."""
    if not table["rows"]:
        return ""
    line = f"What carries over: {escape(table['line'])}"
    return f"<details><summary>{line}</summary>{_table(table, None, False)}</details>"


# -- claims ----------------------------------------------------------------------------------------------------------------


def _claims(claims: Sequence[Content], folder: Path | None) -> str:
    if not claims:
        return ""
    head = "<thead><tr><th>Statement</th><th>Report</th><th>This run</th><th>Verdict</th></tr></thead>"
    rows = []
    for claim in claims:
        evidence = "<br>".join(_unbroken(escape(line)) for line in claim["evidence"])
        reason = f"<span class='quiet'>{escape(claim['reason'])}</span>" if claim["reason"] else ""
        rows.append(
            f"<tr id='{escape(claim['id'])}'><td>{_sentence(claim)}{_where(claim, folder)}</td>"
            f"<td data-title='Report'>{escape(claim['printed'])}</td><td data-title='This run'>{evidence}"
            f"{'<br>' if evidence and reason else ''}{reason}</td><td>{_mark(claim['verdict'])}</td></tr>"
        )
    return f"<table class='claims'>{head}<tbody>{''.join(rows)}</tbody></table>"


def _unbroken(text: str) -> str:
    """A text whose numbers such as 3e-07 stay on one line."""
    return re.sub(r"\d[\d.]*e-\d+", r"<span class='value'>\g<0></span>", text)


CORRECTION = {str(Verdict.CORRECTED): "In truth", str(Kind.ARGUED): "Rather"}  # no other verdict says that the correction is true


def _sentence(claim: Content) -> str:
    """The report's words and, where they are wrong, the statement that is tested in their place; or one added to them."""
    if claim["added"]:
        return f"{escape(claim['sentence'])} <span class='quiet'>(added)</span>"
    words = CORRECTION.get(claim["verdict"], "Tested instead")
    truth = f"<span class='truth'><b>{words}:</b> {escape(claim['corrected'])}</span>" if claim["corrected"] else ""
    return f"{escape(claim['sentence'])}{truth}"


def _where(claim: Content, folder: Path | None) -> str:
    """Where to find the tests and the code, and the table or figure."""
    parts = []
    for word, things in (("Test", claim["tests"]), ("Code", claim["code"])):
        if things:
            parts.append(f"{word} " + ", ".join(_link(thing, folder) for thing in things))
    if claim["shown_in"]:
        parts.append("See " + ", ".join(f"<a href='#{escape(name)}'>{escape(title_of(name))}</a>" for name in claim["shown_in"]))
    if 0 < len(claim["runs"]) <= FEW:
        parts.append("Numbers " + ", ".join(f"<a href='#{escape(run)}'><code>{escape(run)}</code></a>" for run in claim["runs"]))
    return f"<span class='where'>{' · '.join(parts)}</span>" if parts else ""


def _link(thing: Content, folder: Path | None) -> str:
    name = f"<code>{escape(thing['name'])}</code>"
    if folder is None or "file" not in thing:
        return name
    place = thing.get("title") or f"{thing['file']}:{thing['line']}"
    return f"<a href='{escape(quote((folder / thing['file']).as_posix()))}' title='{escape(place)}'>{name}</a>"


# -- tables and figures ----------------------------------------------------------------------------------------------------


def _table(table: Content, folder: Path | None, miniature: bool) -> str:
    name = table["id"]
    if "numbers" in table:
        draw = _table_3 if name == "table_3" else _table_of_numbers
        return draw(name, table["caption"], table["numbers"], folder, miniature)
    if not table["rows"]:
        return f"<p class='quiet' id='{escape(name)}'>{escape(table['caption'])}</p>"
    body = ["<tr>" + "".join(f"<td>{escape(str(text))}</td>" for text in row) + "</tr>" for row in table["rows"]]
    return _html_table(table["caption"], table["head"], body, name)


def _table_of_numbers(name: str, caption: str, numbers: Sequence[Content], folder: Path | None, miniature: bool) -> str:
    elsewhere = any(number["published"] for number in numbers)
    of_cifar = ("Report (on CIFAR)", "Published (on CIFAR)") if miniature else ("Report", "Published elsewhere")
    titles = ["Dataset", "What", of_cifar[0], "This run", "Expected here", *([of_cifar[1]] if elsewhere else []), "Verdict"]
    rows = []
    for number in numbers:
        expected = "–" if number["expected"] is None else f"{number['expected']:.2f} ± {number['tolerance']:.2f}"
        why = f" <span class='quiet why'>{escape(number['reason'])}</span>" if number["reason"] else ""
        what = f"{escape(number['what'])} {_run(number, folder)}"
        texts = [escape(number["dataset"]), what, _printed(number), _value(number) or "–", expected]
        if elsewhere:
            texts.append(
                "<br>".join(f"{one['value']:g} <span class='quiet'>{escape(one['what'])}</span>" for one in number["published"])
            )
        texts.append(_mark(number["verdict"], _in_words(number["verdict"], miniature)) + why)
        cells = "".join(f"<td>{text}</td>" for text in texts)
        rows.append(f"<tr id='{escape(number['run'])}'>{cells}</tr>")
    return _html_table(caption, titles, rows, name)


def _run(number: Content, folder: Path | None) -> str:
    """The name of a run, which leads to the test that judged it."""
    file, _, function = number["test"].partition("::")
    place = {"file": file, "title": function} if file else {}
    return f"<span class='where'>{_link({'name': number['run'], **place}, folder)}</span>"


def _in_words(verdict: str, miniature: bool) -> str:
    """The verdict on a number. A miniature's is held to the miniature's own, which says nothing of the report's beside it."""
    return IN_MINIATURE.get(Verdict(verdict), verdict) if miniature else verdict


def _printed(number: Content) -> str:
    return "–" if number["report"] is None else f"{number['report']:g}"


def _value(number: Content) -> str:
    """A number with its interval and, over several seeds, the standard deviation of one."""
    if number["value"] is None:
        return ""
    low, high = number["interval"]
    spread = f", seeds ± {number['std']:.2f}" if number["std"] is not None else ""
    return f"<span class='value'>{number['value']:.2f} <span class='quiet'>({low:.1f} to {high:.1f}{spread})</span></span>"


def _table_3(name: str, caption: str, numbers: Sequence[Content], folder: Path | None, miniature: bool) -> str:
    """Rows (dataset, block, n) by columns (report's front and back, then this run's readouts and the scrambled control)."""
    rows: dict[tuple[str, int, int], dict[str, Content]] = {}
    for number in numbers:
        row = (number["dataset"], number["block"], number["n"])
        rows.setdefault(row, {})[number["run"].rsplit("-", 1)[1]] = number
    titles = [
        "Dataset",
        "Block",
        "n",
        f"Report{' (on CIFAR)' if miniature else ''}: front",
        f"Report{' (on CIFAR)' if miniature else ''}: back",
        "First token read (prompts in front)",
        "Class token read (any position)",
        "Scrambled control",
    ]
    body = []
    for (dataset, block, n), columns in rows.items():
        texts = [escape(dataset), str(block), str(n), *(_printed(columns[c]) for c in ("front", "scrambled"))]
        texts += [_value_and_verdict(columns[c], miniature) + _run(columns[c], folder) for c in ("front", "back", "scrambled")]
        body.append("<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    return _html_table(caption, titles, body, name)


def _value_and_verdict(number: Content, miniature: bool) -> str:
    """A number in one table field, with its verdict's mark; the verdict in words as a tooltip, or the reason in full."""
    words = f" <span class='quiet why'>{escape(number['reason'])}</span>" if number["reason"] else ""
    if number["value"] is None:
        return f"<span id='{escape(number['run'])}'>{_mark(number['verdict'])}</span>{words}"
    mark = f"<span class='verdict {_style_of(number['verdict'])}' title='{escape(_in_words(number['verdict'], miniature))}'></span>"
    return f"<span id='{escape(number['run'])}'>{mark}{_value(number)}</span>{words}"


def _html_table(caption: str, titles: Sequence[str], rows: Sequence[str], name: str = "") -> str:
    """A table that scrolls by itself on a narrow screen; rows are HTML, caption and titles are text."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    anchor = f" id='{escape(name)}'" if name else ""
    return f"<div class='wide'{anchor}><table>{title}<tr>{head}</tr>{''.join(rows)}</table></div>"


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
        "<h2>The tests behind this writeup</h2>"
        f"<details class='tests'><summary>{len(tests)} tests: {_outcomes(tests)}</summary>{''.join(parts)}</details>"
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


def _mark(verdict: str, words: str = "") -> str:
    return f"<span class='verdict {_style_of(verdict)}'>{escape(str(words or verdict))}</span>"


def _style_of(verdict: str) -> str:
    """The CSS class of a verdict: its words joined by hyphens."""
    return escape(str(verdict).lower().replace(" ", "-"))
