"""The first screen of the page: what this is, what was found, all accuracies at a glance, every verdict as a sign."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from vp.report.claims import Kind
from vp.report.expectations import Verdict
from vp.report.writeup.content import Content
from vp.report.writeup.parts import IN_MINIATURE, folded, html_table, mark, sign_to
from vp.report.writeup.plots import full_against_here, legend, overview
from vp.report.writeup.statements import truth

MEANING = {
    Verdict.REPRODUCED: "proved, or within the stated tolerance, or significantly so",
    Verdict.WITHIN_NOISE: "too few images, networks or repeats to tell",
    Verdict.CONTRADICTED: "refuted, or significantly different from what is claimed",
    Verdict.CORRECTED: "not as the report says it, but true in the corrected form given",
    Verdict.NOT_RUN: "not decided in this run, for the reason given",
    Verdict.REHEARSAL: "run with random weights and generated images: that it runs, not what comes out",
}
GROUPS = {
    "table_1": "Zero-shot CLIP",
    "table_2": "Visual prompts",
    "table_1_2": "Fine-tuned network",
    "table_3": "Deep prompts",
    "table_6": "On the 110 classes of both sets",
    "table_5": "Under noise",
}
# Shown ahead of other corrections: what readers of the report are likeliest to take away from it.
FIRST = (
    "position-does-not-matter",
    "padding-loses-more-to-noise",
    "powers-count-walks",
    "attention-is-equivariant",
    "same-graph-same-prediction",
)
SHOWN = 5  # corrections, contradictions and reasons named in the opening


def opening(content: Content, miniature: bool) -> str:
    """All of the first screen."""
    claims = claims_of(content)
    numbers = [number for chapter in content["chapters"] for part in chapter["sections"] for number in numbers_of(part)]
    drawn = overview(numbers, GROUPS)
    figure = (
        f"<figure id='overview'><figcaption>All accuracies, top-1 in %: this run's and the report's"
        f"{', which are on CIFAR' if miniature else ''}.</figcaption>{legend()}{drawn}</figure>"
        if drawn
        else ""
    )
    lacking = "This writeup is not whole" if sum(content["statements"].values()) else "No statement can be judged"
    return "".join(
        [
            "<section id='opening'>",
            _lead(content),
            f"<p class='problem'>{lacking}: {escape(content['problem'])}</p>" if content["problem"] else "",
            _strip(content, claims),
            f"<div class='sides'><div>{_findings(content['findings'])}</div><div>{_wrong(claims)}</div></div>",
            figure,
            f"<div class='sides'><div>{_contradicted(claims)}{_not_run(claims)}</div>{_fidelity(content['fidelity'])}</div>",
            _how_to_read(content),
            "</section>",
        ]
    )


def claims_of(content: Content) -> list[Content]:
    """All statements of the page, in its order."""
    return [claim for chapter in content["chapters"] for part in chapter["sections"] for claim in part["claims"]]


def numbers_of(section: Content) -> list[Content]:
    """All numbers in the tables of a section."""
    return [number for table in section["tables"] for number in table.get("numbers", ())]


def _lead(content: Content) -> str:
    statements = content["statements"]
    total, rehearsed = sum(statements.values()), statements[Verdict.REHEARSAL]
    ran = total - statements[Verdict.NOT_RUN] - rehearsed
    return (
        "<p class='lead'>A course report on visual prompting of CLIP, transfer learning and graph networks, tested sentence by "
        "sentence: every verdict and number on this page was computed by this run. "
        f"Of {total} statements that can be tested, {ran} were decided in this run"
        f"{f', {rehearsed} only rehearsed' if rehearsed else ''}; {content['argued']} more can only be argued.</p>"
        f"<p class='scale'>{escape(content['about'].get('scale', ''))}</p>"
    )


def _strip(content: Content, claims: Sequence[Content]) -> str:
    """A sign for every statement, by section; and the key to the signs."""
    parts = []
    for chapter in content["chapters"]:
        for section in chapter["sections"]:
            if section["claims"]:
                signs = "".join(sign_to(claim["id"], claim["verdict"], claim["sentence"]) for claim in section["claims"])
                number = escape(section["number"])
                parts.append(f"<span class='signs'><a href='#section-{number}'>{number}</a>{signs}</span>")
    statements, numbers = content["statements"], content["numbers"]
    key = [
        f"<span title='{escape(MEANING[verdict])}'>{mark(verdict)} {statements[verdict]}</span>"
        for verdict in Verdict
        if verdict is not Verdict.REHEARSAL or statements[verdict] + numbers[verdict]
    ]
    key.append(f"<span title='no test can decide it'>{mark(Kind.ARGUED)} {content['argued']}</span>")
    if not claims:
        return ""
    words = "<b>Verdicts</b>, a sign a statement, each a link to it:"
    return f"<div class='strip' id='verdicts'><p class='key'>{words} {''.join(key)}</p><div>{''.join(parts)}</div></div>"


def _findings(found: Sequence[Content]) -> str:
    if not found:
        return "<h2 id='findings'>Findings</h2><p>No difference between runs was measured in this run.</p>"
    return f"<h2 id='findings'>Findings</h2><ul class='findings'>{''.join(finding(one) for one in found)}</ul>"


def finding(one: Content) -> str:
    """A finding with the signs of the statements that decide it."""
    signs = "".join(sign_to(claim["id"], claim["verdict"]) for claim in one["claims"])
    report = f" <span class='quiet'>{escape(one['report'])}.</span>" if one["report"] else ""
    return f"<li>{escape(one['text'])}{report} <span class='value'>{signs}</span></li>"


def _wrong(claims: Sequence[Content]) -> str:
    """What the report got wrong, as far as this run confirmed the correction."""
    wrong = [claim for claim in claims if claim["verdict"] == Verdict.CORRECTED]
    if not wrong:
        return ""
    chosen = sorted(wrong, key=lambda claim: FIRST.index(claim["id"]) if claim["id"] in FIRST else len(FIRST))
    items = [f"<li>{sign_to(claim['id'], claim['verdict'])} “{escape(claim['sentence'])}”{truth(claim)}</li>" for claim in chosen]
    others = folded(f"{len(items) - SHOWN} more", f"<ul>{''.join(items[SHOWN:])}</ul>") if len(items) > SHOWN else ""
    return f"<h2 id='corrected'>What the report got wrong: {len(wrong)} statements</h2><ul>{''.join(items[:SHOWN])}</ul>{others}"


def _contradicted(claims: Sequence[Content]) -> str:
    wrong = [claim for claim in claims if claim["verdict"] == Verdict.CONTRADICTED]
    items = [
        f"<li>{sign_to(claim['id'], claim['verdict'])} {escape(claim['corrected'] or claim['sentence'])} "
        f"<span class='brief'>{escape(claim['brief'])}</span></li>"
        for claim in wrong
    ]
    if not items:
        return ""
    others = folded(f"{len(items) - SHOWN} more", f"<ul>{''.join(items[SHOWN:])}</ul>") if len(items) > SHOWN else ""
    return f"<h2 id='contradicted'>Contradicted by this run: {len(items)} statements</h2><ul>{''.join(items[:SHOWN])}</ul>{others}"


def _not_run(claims: Sequence[Content]) -> str:
    """What was not verified, by its reason."""
    missing = [claim for claim in claims if claim["verdict"] == Verdict.NOT_RUN]
    reasons = Counter(claim["reason"] for claim in missing).most_common()
    items = []
    for reason, count in reasons:
        signs = "".join(sign_to(claim["id"], claim["verdict"], claim["sentence"]) for claim in missing if claim["reason"] == reason)
        items.append(f"<li><b>{count}</b>: {escape(reason)} {signs}</li>")
    if not items:
        return ""
    others = folded(f"{len(items) - SHOWN} more reasons", f"<ul>{''.join(items[SHOWN:])}</ul>") if len(items) > SHOWN else ""
    return f"<h2 id='not-run'>Not verified in this run: {len(missing)} statements</h2><ul>{''.join(items[:SHOWN])}</ul>{others}"


def _fidelity(table: Content) -> str:
    """What carries over: the line that counts which differences are those of full scale, a figure, and the table folded below."""
    if not table["rows"]:
        return ""
    body = ["<tr>" + "".join(f"<td>{escape(str(text))}</td>" for text in row) + "</tr>" for row in table["rows"]]
    drawn = full_against_here(table["points"])
    words = "Each mark is a difference between two runs, in points: hollow squares have the other sign here."
    key = f"<p class='quiet'>{words}</p>" if drawn else ""
    return (
        f"<div id='what-carries-over'><h2>What carries over from full scale</h2><p>{escape(table['line'])}.</p>"
        f"<div class='sides'>{drawn}{key}</div>"
        f"{folded('All differences', html_table(table['caption'], table['head'], body, table['id']))}</div>"
    )


def _how_to_read(content: Content) -> str:
    statements, numbers = content["statements"], content["numbers"]
    of_numbers = {verdict: f"; of a number: {words}" for verdict, words in IN_MINIATURE.items()}
    miniature = content["about"].get("numbers held to") == "the miniature"
    rows = [
        f"<tr><td>{mark(verdict)}</td><td class='number'>{statements[verdict]}</td><td class='number'>{numbers[verdict]}</td>"
        f"<td>{MEANING[verdict]}{of_numbers.get(verdict, '') if miniature else ''}</td></tr>"
        for verdict in Verdict
        if verdict is not Verdict.REHEARSAL or statements[verdict] + numbers[verdict]
    ]
    words = (
        "<p>A statement is a sentence of the report, shortened, or one added to judge it by; a number is one "
        "accuracy, held to what is expected at this scale. Names of tests and functions link to their files; where a link leads "
        "nowhere, as in a copy of this page, <code>rg NAME</code> in the project finds them. Intervals are of 95%. Orderings are "
        "paired tests on the same images, their p-values corrected (by Holm) for all comparisons of a table or figure.</p>"
    )
    table = html_table("Verdicts of this run", ("Verdict", "Statements", "Numbers", "Meaning"), rows)
    where = f"<p class='quiet'>{escape(content['about'].get('provenance', ''))}</p>"
    return folded("How to read this page; what it was computed with", table, words, where)
