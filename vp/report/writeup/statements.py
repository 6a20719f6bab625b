"""The statements of a section as a compact list: sign, sentence, correction and a line of evidence; the rest folded behind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from vp.report.claims import Kind
from vp.report.expectations import Verdict
from vp.report.writeup.content import Content, title_of
from vp.report.writeup.parts import folded, link, mark, sign

FEW = 4  # numbers of a claim that are named one by one
CORRECTION = {str(Verdict.CORRECTED): "In truth", str(Kind.ARGUED): "Rather"}  # no other verdict says that the correction is true


def statements(claims: Sequence[Content], folder: Path | None) -> str:
    """All statements of a section, each folded by itself. What neighbours say before a colon, word for word, is said once.

    Those that no test can decide come last, behind a line.
    """
    argued = [claim for claim in claims if claim["verdict"] == Kind.ARGUED and not claim["corrected"]]
    tested = [claim for claim in claims if claim not in argued]
    parts = []
    for stem, group in groupby(tested, key=lambda claim: str(claim["sentence"]).rpartition(": ")[0]):
        own = list(group)
        if stem and len(own) > 1:
            items = "".join(_statement(claim, folder, str(claim["sentence"]).rpartition(": ")[2]) for claim in own)
            parts.append(f"<div class='together'><p>{escape(stem)}:</p>{items}</div>")
        else:
            parts += [_statement(claim, folder, claim["sentence"]) for claim in own]
    if argued:
        words = f"{len(argued)} more statement{'s' if len(argued) > 1 else ''} that no test can decide"
        parts.append(folded(words, *(_statement(claim, folder, claim["sentence"]) for claim in argued)))
    return f"<div class='claims'>{''.join(parts)}</div>" if parts else ""


def truth(claim: Content, brief: str = "") -> str:
    """The statement that is tested in place of the report's, called the truth only where this run confirmed it; then the brief."""
    words = CORRECTION.get(claim["verdict"], "Tested instead")
    return f"<span class='truth'><b>{words}:</b> {escape(claim['corrected'])}{brief}</span>" if claim["corrected"] else brief


def _statement(claim: Content, folder: Path | None, sentence: str) -> str:
    added = " <span class='quiet'>(added)</span>" if claim["added"] else ""
    brief = f" <span class='brief'>{_unbroken(escape(claim['brief']))}</span>" if claim["brief"] else ""
    return (
        f"<details class='claim' id='{escape(claim['id'])}'><summary>{sign(claim['verdict'])}"
        f"<span>{escape(sentence)}{added}{truth(claim, brief)}</span></summary>{_behind(claim, folder)}</details>"
    )


def _behind(claim: Content, folder: Path | None) -> str:
    """What was hidden: the verdict in words with all its evidence; tests, code, tables and runs."""
    lines = [mark(claim["verdict"])]
    if claim["printed"]:
        lines.append(f"Report: {escape(claim['printed'])}")
    lines += [_unbroken(escape(line)) for line in (*claim["evidence"], *([claim["reason"]] if claim["reason"] else []))]
    for word, things in (("Test", claim["tests"]), ("Code", claim["code"])):
        if things:
            lines.append(f"{word} " + ", ".join(link(thing, folder) for thing in things))
    if claim["shown_in"]:
        lines.append("See " + ", ".join(f"<a href='#{escape(name)}'>{escape(title_of(name))}</a>" for name in claim["shown_in"]))
    if 0 < len(claim["runs"]) <= FEW:
        lines.append("Numbers " + ", ".join(f"<a href='#{escape(run)}'><code>{escape(run)}</code></a>" for run in claim["runs"]))
    lines.append(f"<a href='#{escape(claim['id'])}'>Link to this statement</a>")
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"


def _unbroken(text: str) -> str:
    """A text whose numbers such as 3e-07 stay on one line."""
    return re.sub(r"\d[\d.]*e-\d+", r"<span class='value'>\g<0></span>", text)
