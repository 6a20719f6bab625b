"""The tables of the page. A table of numbers is as narrow as it can be read; runs, expectations and reasons are folded behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from vp.report.expectations import Verdict
from vp.report.writeup.content import Content
from vp.report.writeup.parts import folded, html_table, in_words, link, mark, sign

COLUMNS = {
    "front": "First token read (prompts in front)",
    "back": "Class token read (any position)",
    "scrambled": "Scrambled control",
}
BROAD = 6  # a table of more columns takes the whole width
TIGHT = 30  # characters: cells that are no longer are not broken


def table(content: Content, folder: Path | None, miniature: bool, fold: bool = False) -> str:
    """A table of runs or one that tests recorded, folded behind its caption or not; one not measured is a line that says so."""
    name = content["id"]
    if "numbers" in content:
        draw = _by_readout if name == "table_3" else _one_a_row
        told = folded("Runs, expectations, tests", _behind(content["numbers"], folder, miniature))
        return f"<div class='numbers'>{_seen(content, draw(content, miniature), fold)}{_not_run(content['numbers'])}{told}</div>"
    if not content["rows"]:
        return f"<p class='quiet' id='{escape(name)}'>{escape(content['caption'])}</p>"
    body = ["<tr>" + "".join(f"<td>{escape(str(text))}</td>" for text in row) + "</tr>" for row in content["rows"]]
    broad = " broad" if len(content["head"]) > BROAD else ""
    tight = " tight" if max(len(str(text)) for row in content["rows"] for text in row) <= TIGHT else ""
    return _seen(content, html_table(content["caption"], content["head"], body, name, f"wide{broad}{tight}"), fold)


def _seen(content: Content, drawn: str, fold: bool) -> str:
    return folded(content["caption"], drawn) if fold else drawn


def _one_a_row(content: Content, miniature: bool) -> str:
    sets = {number["dataset"] for number in content["numbers"]}
    rows = []
    for number in content["numbers"]:
        value = _value(number) if number["value"] is not None else "–"
        own = f"<span class='value'>{_sign(number, miniature)} {value}</span>"
        dataset = [escape(number["dataset"])] if len(sets) > 1 else []
        texts = [*dataset, escape(number["label"]), _printed(number), own]
        rows.append(f"<tr id='{escape(number['run'])}'>{''.join(f'<td>{text}</td>' for text in texts)}</tr>")
    titles = [*(["Dataset"] if len(sets) > 1 else []), "What", _report(miniature), "This run"]
    return html_table(content["caption"], titles, rows, content["id"])


def _by_readout(content: Content, miniature: bool) -> str:
    """Rows (dataset, block, n) by columns (report's front and back, then this run's readouts and the scrambled control)."""
    rows: dict[tuple[str, int, int], dict[str, Content]] = {}
    for number in content["numbers"]:
        row = (number["dataset"], number["block"], number["n"])
        rows.setdefault(row, {})[number["run"].rsplit("-", 1)[1]] = number
    titles = ["Dataset", "Block", "n", f"{_report(miniature)}: front", f"{_report(miniature)}: back", *COLUMNS.values()]
    body = []
    for (dataset, block, n), columns in rows.items():
        texts = [escape(dataset), str(block), str(n), *(_printed(columns[c]) for c in ("front", "scrambled"))]
        for c in COLUMNS:
            value = f"{columns[c]['value']:.2f}" if columns[c]["value"] is not None else "–"
            texts.append(f"<span id='{escape(columns[c]['run'])}' class='value'>{_sign(columns[c], miniature)} {value}</span>")
        body.append("<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    return html_table(content["caption"], titles, body, content["id"])


def _behind(numbers: Sequence[Content], folder: Path | None, miniature: bool) -> str:
    """Each run by its name, which leads to the test that judged it, with its expectation, its seeds and the verdict in words."""
    elsewhere = any(number["published"] for number in numbers)
    titles = ["Run", "This run", "Expected here", *(["Published elsewhere"] if elsewhere else []), "Verdict"]
    rows = []
    for number in numbers:
        expected = "–" if number["expected"] is None else f"{number['expected']:.2f} ± {number['tolerance']:.2f}"
        spread = f", seeds ± {number['std']:.2f}" if number["std"] is not None else ""
        value = "–" if number["value"] is None else f"{_value(number)}{spread}"
        texts = [f"{_run(number, folder)}<br>{escape(number['what'])}", value, expected]
        if elsewhere:
            words = [f"{one['value']:g} <span class='quiet'>{escape(one['what'])}</span>" for one in number["published"]]
            texts.append("<br>".join(words))
        reason = f" <span class='quiet'>{escape(number['reason'])}</span>" if number["reason"] else ""
        texts.append(mark(number["verdict"], in_words(number["verdict"], miniature)) + reason)
        rows.append("<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    return html_table("", titles, rows)


def _not_run(numbers: Sequence[Content]) -> str:
    """Why numbers of a table are missing or not judged, each reason once."""
    reasons: dict[str, int] = {}
    for number in numbers:
        if number["verdict"] in (Verdict.NOT_RUN, Verdict.REHEARSAL) and number["reason"]:
            reasons[number["reason"]] = reasons.get(number["reason"], 0) + 1
    told = [f"<li>{escape(reason)} ({count} of {len(numbers)} numbers)</li>" for reason, count in reasons.items()]
    return f"<ul class='quiet'>{''.join(told)}</ul>" if told else ""


def _run(number: Mapping[str, str], folder: Path | None) -> str:
    """The name of a run, which leads to the test that judged it."""
    file, _, function = number["test"].partition("::")
    place = {"file": file, "title": function} if file else {}
    return link({"name": number["run"], **place}, folder)


def _sign(number: Content, miniature: bool) -> str:
    return sign(number["verdict"], in_words(number["verdict"], miniature))


def _report(miniature: bool) -> str:
    return "Report (on CIFAR)" if miniature else "Report"


def _printed(number: Content) -> str:
    return "–" if number["report"] is None else f"{number['report']:g}"


def _value(number: Content) -> str:
    """A number with its interval."""
    low, high = number["interval"]
    return f"<span class='value'>{number['value']:.2f} <span class='quiet'>({low:.1f} to {high:.1f})</span></span>"
