"""What came of asking a solution, as others read it: Gradescope, GitHub Classroom, JUnit, a course's CSV, a page for its author.

Each function takes the content of one solution (tests/conformance/table.py), with points (scores.py); `course` takes all of them.
What is written names no other solution, and no folder of the machine.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any
from xml.etree import ElementTree

from tests.conformance import table

Solution = dict[str, Any]
COURSE = "course.csv"
_OUTSIDE_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def named(one: Solution, name: str, places: Sequence[str] = ()) -> Solution:
    """The same under another name, without the folders `places` in any of its words: for its author."""
    prefixes = sorted({place.rstrip("/\\") for place in places if len(place) > 1}, key=len, reverse=True)
    whole = re.compile("|".join(rf"{re.escape(prefix)}(?:[/\\]|(?![\w.-]))" for prefix in prefixes)) if prefixes else None

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return whole.sub("", value) if whole else value
        if isinstance(value, dict):
            return {key: clean(part) for key, part in value.items()}
        return [clean(part) for part in value] if isinstance(value, list) else value

    return {**clean({key: value for key, value in one.items() if key != "solution"}), "solution": name}


def statements(one: Solution) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every statement that was asked or would have been, with its number: the section and its place in it. Names changed in place
    that no statement of the suite tells of come last, without points."""
    seen: dict[str, int] = {}
    extra = [{**row, "id": f"purity[{row['names'][0]}]"} for row in _rows(one) if row["test"] == table.NO_TEST]
    for statement in [*one["statements"], *extra]:
        section = statement.get("section") or next(s["section"] for s in one["sections"] if _has(s, statement))
        seen[section] = seen.get(section, 0) + 1
        yield f"{section}.{seen[section]}", {"points": 0.0, "of": 0.0, **statement, "section": section}


def _rows(one: Solution) -> list[dict[str, Any]]:
    return [row for section in one["sections"] for row in section["rows"]]


def _has(section: Mapping[str, Any], statement: Mapping[str, Any]) -> bool:
    return any(row["test"] == table.NO_TEST and row["names"] == statement["names"] for row in section["rows"])


def _output(statement: Mapping[str, Any]) -> str:
    """What the author reads below a statement."""
    if statement["verdict"] == table.PASS:
        return str(statement["narrowed"])
    words = statement["words"] or statement["verdict"]
    told = f"not claimed: {words}" if statement["verdict"] == table.NOT_CLAIMED and statement["words"] else words
    return "\n".join(one for one in (told, statement["narrowed"]) if one)


def _summary(one: Solution) -> str:
    return "\n".join([table.headline(one), *table.notes(one)])


def gradescope(one: Solution) -> str:
    """Gradescope's results.json: a test for every statement, which passes or fails; what is not claimed fails with 0 points."""
    tests = [
        {
            "name": f"{statement['statement']} ({', '.join(statement['names'])})",
            "name_format": "text",
            "number": number,
            "score": statement["points"],
            "max_score": statement["of"],
            "status": "passed" if statement["verdict"] == table.PASS else "failed",
            "output": _output(statement),
            "output_format": "text",
            "visibility": "visible",
            "tags": [statement["section"], *statement["names"]],
        }
        for number, statement in statements(one)
    ]
    whole = {
        "score": one["points"],
        "execution_time": one.get("seconds", 0),
        "output": _summary(one),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False)


def classroom(one: Solution) -> str:
    """A runner's result for GitHub Classroom's autograding reporter, which takes it in base64 as <RUNNER>_RESULTS."""
    tests = [
        {
            "name": f"{number} {statement['statement']} ({', '.join(statement['names'])})",
            "status": "pass" if statement["verdict"] == table.PASS else "fail",
            "message": None if statement["verdict"] == table.PASS else _output(statement),
            "test_code": statement["id"],
            "filename": "",
            "line_no": 0,
            "execution_time": 0,
            "score": statement["points"],
        }
        for number, statement in statements(one)
    ]
    status = "error" if one["problem"] else "pass" if one["holds"] else "fail"
    whole = {"version": 1, "status": status, "max_score": one["of"], "execution_time": one.get("seconds", 0), "tests": tests}
    return json.dumps(whole, indent=1, ensure_ascii=False)


def junit(one: Solution) -> str:
    """JUnit XML: a suite for each section, a case for each statement; what is not claimed is skipped."""
    found = list(statements(one))
    root = ElementTree.Element("testsuites", name=_xml(one["solution"]), time=str(one.get("seconds", 0)))
    for section in dict.fromkeys(statement["section"] for _, statement in found):
        here = [statement for _, statement in found if statement["section"] == section]
        count = {verdict: sum(statement["verdict"] == verdict for statement in here) for verdict in (table.PASS, table.NOT_CLAIMED)}
        failures = len(here) - sum(count.values())
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"section {section}",
            tests=str(len(here)),
            failures=str(failures),
            errors="0",
            skipped=str(count[table.NOT_CLAIMED]),
        )
        for statement in here:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=_xml(f"{section} {', '.join(statement['names'])}"),
                name=_xml(statement["statement"]),
                time="0",
            )
            words = _xml(_output(statement))
            if statement["verdict"] == table.NOT_CLAIMED:
                ElementTree.SubElement(case, "skipped", message=words)
            elif statement["verdict"] != table.PASS:
                ElementTree.SubElement(case, "failure", message=words.split("\n", 1)[0]).text = words
    if one["problem"]:
        suite = ElementTree.SubElement(root, "testsuite", name="import", tests="1", failures="0", errors="1", skipped="0")
        case = ElementTree.SubElement(suite, "testcase", classname="import", name="The solution can be asked.", time="0")
        ElementTree.SubElement(case, "error", message=_xml(one["problem"]))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    """What XML 1.0 has no character for becomes U+FFFD."""
    return _OUTSIDE_XML.sub("�", str(text))


def page(one: Solution) -> str:
    """What its author reads: points, what to mend first with the first counterexample, then every statement."""
    lost: dict[str, float] = {statement["id"]: statement["of"] - statement["points"] for _, statement in statements(one)}

    def weight(mistake: table.Mistake) -> float:
        return sum((lost.get(str(row["test"]).partition("::")[2], 0.0) for row in mistake.rows), 0.0)

    items = []
    for mistake in sorted(table.mistakes(one).values(), key=weight, reverse=True):
        told = "".join(
            f"<li>{escape(row['statement'])} (<code>{escape(', '.join(row['names']))}</code>)</li>" for row in mistake.rows
        )
        points = f" (costs {round(weight(mistake), 2):g} of {one['of']:g} points)" if weight(mistake) else ""
        items.append(f"<li>{escape(mistake.words or 'not tried to its end')}{points}<ul>{told}</ul></li>")
    hints = f"<h3 id='mend'>To mend first</h3><ol>{''.join(items)}</ol>" if items else ""
    rows = "".join(
        f"<tr><td>{section}</td><td>{round(got, 2):g} of {round(of, 2):g}</td></tr>"
        for section, (got, of) in one["points by section"].items()
        if of
    )
    points = f"<table><thead><tr><th>Section</th><th>Points</th></tr></thead><tbody>{rows}</tbody></table>" if rows else ""
    links, body = table.solution_part(one, opening=f"{hints}{points}")
    title = escape(f"{one['solution']}: feedback")
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'><title>{title}</title>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{table.framed(links, body)}</body></html>\n"


def course(solutions: Sequence[Solution]) -> str:
    """CSV: a row for each solution, points in all and of each section, then a column for each statement with its verdict."""
    columns = list(dict.fromkeys(statement["id"] for one in solutions for statement in one["statements"]))
    sections = sorted({statement["section"] for one in solutions for statement in one["statements"]})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    counts = ("hold", "fail", "reasons", "seconds")
    writer.writerow(["student", "points", "of", *(f"points of {one}" for one in sections), *counts, "problem", *columns])
    for one in solutions:
        of_section = [one["points by section"].get(section, [0.0])[0] for section in sections]
        verdicts = {statement["id"]: statement["verdict"] for statement in one["statements"]}
        numbers = [one["passed"], one["failed"], one["mistakes"], one.get("seconds", 0)]
        cells = [_cell(one["solution"]), one["points"], one["of"], *of_section, *numbers]
        writer.writerow([*cells, _cell(one["problem"]), *(verdicts.get(column, "") for column in columns)])
    return out.getvalue()


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula, on one line."""
    line = " ".join(str(text).split())
    return f"'{line}" if line[:1] in ("=", "+", "-", "@") else line


def as_json(one: Solution) -> str:
    """The content itself, as --results writes it."""
    return json.dumps(one, indent=1, ensure_ascii=False)


STUDENT: dict[str, tuple[str, Callable[[Solution], str]]] = {  # of each solution: the file's name, and what writes its text
    "html": ("feedback.html", page),
    "gradescope": ("results.json", gradescope),
    "classroom": ("classroom.json", classroom),
    "junit": ("junit.xml", junit),
    "json": ("content.json", as_json),
}
FORMATS = (*STUDENT, "csv")
