"""Small parts of the page: marks of verdicts, links, tables. Everything that comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from vp.report.expectations import Verdict
from vp.report.writeup.content import Content

IN_MINIATURE = {Verdict.REPRODUCED: "as expected here", Verdict.CONTRADICTED: "not as expected here"}


def mark(verdict: str, words: str = "") -> str:
    """A verdict's sign and the verdict, or other words for it."""
    return f"<span class='verdict {style_of(verdict)}'>{escape(str(words or verdict))}</span>"


def sign(verdict: str, words: str = "") -> str:
    """A verdict's sign alone; the words are a tooltip, and what a screen reader says."""
    told = escape(str(words or verdict))
    return f"<span class='sign {style_of(verdict)}' role='img' aria-label='{told}' title='{told}'></span>"


def sign_to(name: str, verdict: str, words: str = "") -> str:
    """A verdict's sign as a link to what it was given to."""
    told = escape(f"{verdict}: {words or name}")
    return f"<a class='sign {style_of(verdict)}' href='#{escape(name)}' aria-label='{told}' title='{told}'></a>"


def style_of(verdict: str) -> str:
    """The CSS class of a verdict: its words joined by hyphens."""
    return escape(str(verdict).lower().replace(" ", "-"))


def in_words(verdict: str, miniature: bool) -> str:
    """The verdict on a number. A miniature's is held to the miniature's own, which says nothing of the report's beside it."""
    return IN_MINIATURE.get(Verdict(verdict), verdict) if miniature else verdict


def link(thing: Content, folder: Path | None) -> str:
    """The name of a test or of code, a link to its file where there is a way from the page to the project."""
    name = f"<code>{escape(thing['name'])}</code>"
    if folder is None or "file" not in thing:
        return name
    place = thing.get("title") or f"{thing['file']}:{thing['line']}"
    return f"<a href='{escape(quote((folder / thing['file']).as_posix()))}' title='{escape(place)}'>{name}</a>"


def html_table(caption: str, titles: Sequence[str], rows: Sequence[str], name: str = "", style: str = "wide") -> str:
    """A table that scrolls by itself on a narrow screen; rows are HTML, caption and titles are text."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    anchor = f" id='{escape(name)}'" if name else ""
    return f"<div class='{style}'{anchor}><table>{title}<tr>{head}</tr>{''.join(rows)}</table></div>"


def folded(summary: str, *inside: str, name: str = "") -> str:
    """Something behind a line of text, opened without any script."""
    anchor = f" id='{escape(name)}'" if name else ""
    return f"<details class='more'{anchor}><summary>{escape(summary)}</summary>{''.join(inside)}</details>"
