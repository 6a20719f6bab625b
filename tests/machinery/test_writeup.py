"""vp.report.writeup, tests/support/reporting.py: every verdict counted and shown, all from outside escaped, one HTML file."""

from __future__ import annotations

import json
import re
import shutil
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from tests.support.sessions import Session
from tests.support.strategies import tensor
from vp.experiments import SCALES, Run, runs
from vp.report.claims import NOT_PART, Claim, Judgement, Kind, Link
from vp.report.expectations import Expectation, Published, Verdict
from vp.report.writeup import Sources, build, folder_between, learnt_prompt, prediction_bars, render, to_svg
from vp.report.writeup.chapters import CHAPTERS
from vp.report.writeup.figures import BAR, BAR_TOP, INK

ROOT = Path(__file__).parents[2]
RUNS = runs("mini")
ABOUT = {"scale": "Scale: mini.", "provenance": "Computed with care."}
SECTIONS = [section.number for sections in CHAPTERS.values() for section in sections]
HOSTILE = "<script>alert('&amp;')</script> \" ' & {} </td></table>"


def cell(name: str, verdict: Verdict = Verdict.REPRODUCED, **others: Any) -> dict[str, Any]:
    values = {"value": 90.125, "interval": (88.75, 91.5), "seeds": [90.125], "expected": 90.0, "tolerance": 0.5, "reason": None}
    return {"kind": "cell", "run": name, "verdict": str(verdict), **values, **others}


def judgement(name: str, verdict: Verdict | None = Verdict.REPRODUCED, section: str = "2.2", **others: Any) -> Judgement:
    said = {key: others.pop(key) for key in ("evidence", "reason", "tests", "runs") if key in others}
    kind = others.pop("kind", Kind.THEOREM if verdict else Kind.ARGUED)
    return Judgement(Claim(name, section, kind, f"sentence of {name}", **others), verdict, **said)


def content(
    *entries: Mapping[str, Any], judgements: Any = (), tests: Any = (), problem: str = "", **sources: Any
) -> dict[str, Any]:
    return build(entries, judgements, tests, Sources(**{"runs": RUNS, "about": ABOUT, **sources}), problem)


def page(*entries: Mapping[str, Any], folder: Path | None = None, **others: Any) -> str:
    return render(content(*entries, **others), folder)


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub("<[^>]*>", " ", html)).split())


def row_of(html: str, run: str) -> str:
    """The text of the one table row of a run."""
    (row,) = re.findall(rf"<tr id='{run}'>(.*?)</tr>", html, re.DOTALL)
    return text_of(row)


def behind(html: str, run: str) -> str:
    """The text of a run's row in the folded table behind that one: what it is, its value, what is expected, the verdict."""
    (row,) = re.findall(rf"<tr><td>((?:<a [^>]*>)?<code>{run}</code>.*?)</tr>", html, re.DOTALL)
    return text_of(row)


def statement(html: str, claim: str) -> str:
    """The text of a statement, the folded part included."""
    (found,) = re.findall(rf"<details class='claim' id='{claim}'>(.*?)</details>", html, re.DOTALL)
    return text_of(found)


def seen(html: str, claim: str) -> str:
    """The text of a statement that is seen without unfolding."""
    (found,) = re.findall(rf"<details class='claim' id='{claim}'><summary>(.*?)</summary>", html, re.DOTALL)
    return text_of(found)


def counted(html: str, column: int = 0) -> dict[str, int]:
    """The table at the top: how often each verdict was given to statements (column 0) or numbers (1)."""
    (table,) = re.findall(r"<caption>Verdicts of this run</caption>(.*?)</table>", html)
    rows = re.findall(
        r"class='verdict ([\w-]+)'>[^<]*</span></td><td class='number'>(\d+)</td><td class='number'>(\d+)</td>", table
    )
    return {name: int(counts[column]) for name, *counts in rows}


def shown(html: str) -> Counter[str]:
    """How often each verdict's sign stands beside a statement or a number."""
    return Counter(re.findall(r"<span class='sign ([\w-]+)'", html))


# -- verdicts --------------------------------------------------------------------------------------------------------------


def test_without_entries_everything_is_not_run() -> None:
    """With no entries at all the page says of every number that it was not run, and why."""
    html = page()
    assert counted(html, 1) == {"reproduced": 0, "within-noise": 0, "contradicted": 0, "corrected": 0, "not-run": len(RUNS)}
    assert html.count("<span class='quiet'>its test was not part of this run, or did not finish</span>") == len(RUNS)
    assert "its test was not part of this run, or did not finish (4 of 4 numbers)" in text_of(html)
    assert "Of 0 statements that can be tested, 0 were decided in this run" in html


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("table", ["table_1", "table_2"])
def test_tables_1_and_2_list_every_run(scale: str, table: str) -> None:
    """Tables 1 and 2 have a row for every run, in the order of the report, with dataset, report's value and verdict."""
    listed = [run for run in runs(scale).values() if run.table == table]
    report = {run.name: Expectation(10.0 + i, 0.5, "report, a table", "") for i, run in enumerate(listed)}
    html = page(*(cell(run.name) for run in listed), runs=runs(scale), report=report)
    rows = [row_of(html, run.name) for run in listed]
    ids = re.findall(r"<tr id='([^']*)'>", html)
    assert [name for name in ids if runs(scale)[name].table == table] == [run.name for run in listed]
    for i, (run, row) in enumerate(zip(listed, rows, strict=True)):
        assert row.startswith(f"{run.dataset} ")
        assert row.endswith(f" {10 + i} 90.12 (88.8 to 91.5)")
        assert behind(html, run.name).endswith("90.12 (88.8 to 91.5) 90.00 ± 0.50 reproduced")


verdicts = st.sampled_from(list(Verdict))


@given(
    cells=st.dictionaries(st.sampled_from(list(RUNS)), verdicts),
    claims=st.lists(st.tuples(st.none() | verdicts, st.sampled_from([*SECTIONS, "9.9"])), max_size=30),
)
def test_every_verdict_is_counted_and_shown(cells: dict[str, Verdict], claims: list[tuple[Verdict | None, str]]) -> None:
    """The table at the top counts every claim and number once, those not run included, and each stands somewhere below it."""
    judgements = [judgement(f"claim-{i}", verdict, section) for i, (verdict, section) in enumerate(claims)]
    html = page(*(cell(name, verdict) for name, verdict in cells.items()), judgements=judgements)
    statements = Counter(verdict for verdict, _ in claims if verdict)
    numbers = Counter(cells.values())
    numbers[Verdict.NOT_RUN] += len(RUNS) - len(cells)
    for column, counts in enumerate((statements, numbers)):
        given_ = {str(verdict).lower().replace(" ", "-"): counts[verdict] for verdict in Verdict}
        assert {"rehearsal": 0, **counted(html, column)} == given_
    argued = sum(verdict is None for verdict, _ in claims)
    assert shown(html) == +(Counter(counted(html, 0)) + Counter(counted(html, 1)) + Counter({"argued": argued}))
    decided = statements.total() - statements[Verdict.NOT_RUN] - statements[Verdict.REHEARSAL]
    assert f"Of {statements.total()} statements that can be tested, {decided} were decided in this run" in html
    assert f"{argued} more can only be argued" in html
    assert all(f"sentence of claim-{i}" in html for i in range(len(claims)))


def test_a_missing_cell_says_why() -> None:
    """A run without a number is NOT RUN with the reason that its test gave; a number that was measured goes before any reason."""
    excuse = {"kind": "not run", "runs": ["padding-10", "padding-100"], "reason": "no GPU here"}
    for entries in ([excuse, cell("padding-100")], [cell("padding-100"), excuse]):
        html = page(*entries)
        assert row_of(html, "padding-10").endswith(" – –")
        assert behind(html, "padding-10").endswith(" – – NOT RUN no GPU here")
        assert "no GPU here (1 of 4 numbers)" in text_of(html)
        assert behind(html, "padding-100").endswith("90.12 (88.8 to 91.5) 90.00 ± 0.50 reproduced")
        assert counted(html, 1)["not-run"] == len(RUNS) - 1


def test_a_number_without_expectation_is_shown() -> None:
    """A number that was measured but cannot be judged is shown, with the reason, and counts as NOT RUN."""
    html = page(cell("padding-10", Verdict.NOT_RUN, expected=None, tolerance=None, reason="no expectation is committed"))
    assert row_of(html, "padding-10").endswith("90.12 (88.8 to 91.5)")
    assert behind(html, "padding-10").endswith("90.12 (88.8 to 91.5) – NOT RUN no expectation is committed")
    assert counted(html, 1)["not-run"] == len(RUNS)


def test_seeds_are_shown_by_their_spread() -> None:
    """Over several seeds a number has the standard deviation of one beside its interval."""
    html = page(cell("padding-10", value=91.0, seeds=[90.0, 91.0, 92.0]))
    assert "91.00 (88.8 to 91.5) , seeds ± 1.00" in behind(html, "padding-10")


def test_figures_published_elsewhere_have_a_column() -> None:
    """Figures published elsewhere stand beside their run, in a column that only such tables have."""
    html = page(published={"padding-10": [Published(95.2, "AutoVP"), Published(95.0, "linear probe")]})
    assert "95.2 AutoVP 95 linear probe" in behind(html, "padding-10")
    assert html.count("<th>Published elsewhere</th>") == 1


def test_a_claim_says_what_where_and_why() -> None:
    """A statement has the report's words, the truth and a line of evidence; behind it all evidence, tests, code, tables."""
    link = Link("tests/test_2_2_visual_prompts.py::test_a", 7, ("a",), False)
    one = judgement(
        "a",
        Verdict.CORRECTED,
        corrected="Not so.",
        printed="1 > 2",
        evidence=("measured 3", "and 4"),
        tests=(link,),
        code=("vp.prompts.Padding",),
        shown_in=("figure-5", "table_2"),
    )
    html = page(judgements=[one], folder=Path("../project"))
    assert seen(html, "a") == "sentence of a In truth: Not so. report 1 > 2; measured 3"
    assert statement(html, "a").removeprefix(seen(html, "a")) == (
        " corrected Report: 1 > 2 measured 3 and 4 Test test_a Code vp.prompts.Padding See Figure 5 , Table 2 "
        "Link to this statement"
    )
    assert "<a href='../project/tests/test_2_2_visual_prompts.py' title='tests/test_2_2_visual_prompts.py:7'>" in html
    assert re.search(r"<a href='\.\./project/vp/prompts/visual\.py' title='vp/prompts/visual\.py:\d+'>", html)
    for anchor in ("figure-5", "table_2"):
        assert f"<a href='#{anchor}'>" in html
        assert f"id='{anchor}'" in html


def test_a_section_that_was_no_part_of_the_run_is_folded_away() -> None:
    """Where no test of a section was part of the run, one line says so; one that was, or a number from elsewhere, unfolds it."""
    missed, argued = judgement("a", Verdict.NOT_RUN, reason=f"its test was {NOT_PART}"), judgement("b", None)
    folded = "<summary class='quiet'>1 statement to be tested, not part of this run</summary>"
    assert folded in page(judgements=[missed, argued])
    assert "<summary class='quiet'>" not in page(judgements=[argued])
    for other in (judgement("c"), judgement("c", Verdict.NOT_RUN, reason="no CUDA device")):
        assert "<summary class='quiet'>" not in page(judgements=[missed, argued, other])


def test_neighbours_say_once_what_they_share() -> None:
    """What the sentences of neighbours have in common before a colon is said once above them; each keeps its own end."""
    claims = [
        replace(judgement(name).claim, sentence=f"{stem}: {name}") for stem, name in (("All", "a"), ("All", "b"), ("One", "c"))
    ]
    html = page(judgements=[Judgement(claim, Verdict.REPRODUCED) for claim in claims])
    below = html[html.index("<div class='claims'>") :]
    assert text_of(below).count("All:") == 1
    assert [seen(html, name) for name in "abc"] == ["a", "b", "One: c"]


def test_only_what_was_confirmed_is_called_the_truth() -> None:
    """A correction is “in truth” only when this run confirmed it; otherwise it is what was tested in the report's place."""
    verdicts_of = {"a": Verdict.CORRECTED, "b": Verdict.CONTRADICTED, "c": Verdict.NOT_RUN, "d": None}
    html = page(judgements=[judgement(name, verdict, corrected="Not so.") for name, verdict in verdicts_of.items()])
    words = {name: seen(html, name).removeprefix(f"sentence of {name} ").split(": Not so.")[0] for name in verdicts_of}
    assert words == {"a": "In truth", "b": "Tested instead", "c": "Tested instead", "d": "Rather"}


def test_a_miniature_number_does_not_reproduce_the_reports() -> None:
    """At mini scale a number is “as expected here”, beside a report's value headed as one of CIFAR; claims keep their verdicts."""
    report = {"padding-10": Expectation(92.74, 0.5, "report, table 2", "")}
    entries = (cell("padding-10"), cell("padding-100", Verdict.CONTRADICTED))
    html = page(*entries, report=report, judgements=[judgement("a")], about={**ABOUT, "numbers held to": "the miniature"})
    assert row_of(html, "padding-10").endswith("92.74 90.12 (88.8 to 91.5)")
    assert behind(html, "padding-10").endswith("90.12 (88.8 to 91.5) 90.00 ± 0.50 as expected here")
    assert behind(html, "padding-100").endswith("90.00 ± 0.50 not as expected here")
    assert " reproduced " in statement(html, "a")
    assert "<th>Report (on CIFAR)</th>" in html
    full = page(*entries, report=report)
    assert behind(full, "padding-10").endswith("reproduced")
    assert "(on CIFAR)" not in full


def test_a_number_leads_to_its_test() -> None:
    """Each number of a table has the name of its run, a link to the test that judged it; a claim's numbers link to their rows."""
    place = "tests/test_2_2_visual_prompts.py::test_table_2[padding-10]"
    excuse = {"kind": "not run", "test": place, "runs": ["padding-100"], "reason": "no GPU here"}
    deep = {**cell("deep-10-block0-n1-back"), "test": place}
    claims = [judgement("a", kind=Kind.ACCURACY, runs=("padding-10",))]
    html = page({**cell("padding-10"), "test": place}, excuse, deep, folder=Path(".."), judgements=claims)
    for run in ("padding-10", "padding-100", "deep-10-block0-n1-back"):
        link = f"<a href='../tests/test_2_2_visual_prompts.py' title='test_table_2[padding-10]'><code>{run}</code></a>"
        assert html.count(link) == 1
    assert "<a href='#padding-10'><code>padding-10</code></a>" in html
    assert all(f"<code>{name}</code>" in html for name in RUNS)


def test_an_added_claim_is_no_quotation() -> None:
    """What the report does not say is not put into its mouth; an argued claim has its reason."""
    html = page(judgements=[judgement("a", added=True), judgement("b", None), judgement("c", Verdict.NOT_RUN, reason="no GPU")])
    assert seen(html, "a") == "sentence of a (added)"
    assert seen(html, "b") == "sentence of b"
    assert " argued " in statement(html, "b")
    assert seen(html, "c") == "sentence of c no GPU"
    assert " NOT RUN no GPU " in statement(html, "c")


def test_an_accuracy_claim_shows_its_numbers() -> None:
    """An accuracy claim shows the report's values and this run's, a few with their intervals and many in short."""
    report = {name: Expectation(80.0 + i, 0.5, "report, table 2", "") for i, name in enumerate(RUNS)}
    few, many = ("padding-10", "padding-100"), tuple(name for name in RUNS if name.startswith("deep-10-block0"))
    claims = [judgement("few", kind=Kind.ACCURACY, runs=few), judgement("many", kind=Kind.ACCURACY, runs=many)]
    html = page(*(cell(name) for name in (*few, *many)), judgements=claims, report=report)
    assert "padding-10 90.12 (88.8 to 91.5) padding-100 90.12 (88.8 to 91.5)" in statement(html, "few")
    assert f"{len(many)} numbers, 90.12 to 90.12; {len(many)} within their tolerance" in statement(html, "many")
    printed = ", ".join(f"{report[name].value:g}" for name in few)
    assert seen(html, "few").endswith(f"here 90.12, 90.12, report {printed}")


def test_what_no_section_lists_is_shown_at_the_end() -> None:
    """Figures and tables that tests recorded under names unknown to the page are shown all the same."""
    table = {"kind": "table", "id": "surprise", "caption": "A surprise.", "head": ["a"], "rows": [["b"]]}
    html = page(table, {"kind": "figure", "id": "also", "svg": "<svg></svg>", "caption": "Drawn."})
    assert text_of(html).index("Also recorded") < text_of(html).index("A surprise. a b")
    assert "Also. Drawn." in text_of(html)


def test_a_ledger_that_cannot_be_read_is_told_of() -> None:
    """Where no claim can be judged, the page says why, in front, and still shows the numbers."""
    html = page(cell("padding-10"), problem="claims.toml:3: [a] <kind> is missing")
    assert "No statement can be judged: claims.toml:3: [a] <kind> is missing" in text_of(html)
    assert counted(html, 1)["reproduced"] == 1


def test_the_tests_are_listed_folded() -> None:
    """All tests are listed by file without any script, each with its sentence, outcome and time; how many is seen unfolded."""
    tests = [
        {"test": "tests/test_a.py::test_x", "outcome": "passed", "seconds": 1.5, "sentence": "It is so.", "reason": ""},
        {"test": "tests/test_a.py::test_y[<i>]", "outcome": "failed", "seconds": 0.25, "sentence": "It is not.", "reason": "5 < 6"},
    ]
    html = page(tests=tests)
    assert "<summary>2 tests: 1 passed, 1 failed</summary>" in html
    assert "passed It is so. test_x 1.50 s failed It is not. test_y[<i>] 5 < 6 0.25 s" in text_of(html)


def test_links_lead_from_the_page_to_the_project(tmp_path: Path) -> None:
    """Links to tests and code are relative, wherever the page is written."""
    assert folder_between(ROOT / "report.html", ROOT) == Path(".")
    assert folder_between(ROOT / "out" / "report.html", ROOT) == Path("..")


# -- the same for machines -------------------------------------------------------------------------------------------------


def test_the_content_is_plain() -> None:
    """The content of the page is plain values, which JSON gives back as they were."""
    entries = [cell("padding-10"), {"kind": "figure", "id": "figure-5", "svg": "<svg></svg>", "caption": "Eight images."}]
    plain = content(*entries, judgements=[judgement("a"), judgement("b", None)])
    assert json.loads(json.dumps(plain)) == plain
    assert render(json.loads(json.dumps(plain))) == page(*entries, judgements=[judgement("a"), judgement("b", None)])


# -- escaping --------------------------------------------------------------------------------------------------------------


class Structure(HTMLParser):
    """The elements of a page and their attributes' names: what text from outside must not change."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[Any] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, [name for name, _ in attrs]))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def written_with(words: str) -> str:
    """A page on which all that comes from outside is `words`."""
    hostile_runs: dict[str, Run] = {name: replace(run, dataset=words) for name, run in RUNS.items()}
    measured, excused, unjudged, *_ = RUNS
    link = Link(f"tests/{words}.py::{words}", 7, ("a",), False)
    one = Claim("a", "2.2", Kind.THEOREM, words, words, reason=words, printed=words, shown_in=(words,), code=(words,))
    return page(
        {**cell(measured), "test": f"{words}::{words}"},
        {"kind": "not run", "runs": [excused], "reason": words},
        cell(unjudged, Verdict.NOT_RUN, expected=None, reason=words),
        {"kind": "figure", "id": "figure-5", "svg": "<svg></svg>", "caption": words, "title": words},
        {"kind": "table", "id": "costs", "caption": words, "head": [words], "rows": [[words]]},
        judgements=[Judgement(one, Verdict.CORRECTED, (words,), words, (link,)), Judgement(replace(one, added=True), None)],
        tests=[{"test": f"{words}::{words}", "outcome": words, "seconds": 1.0, "sentence": words, "reason": words}],
        problem=words,
        about={"scale": words, "provenance": words},
        runs=hostile_runs,
        published={measured: [Published(1.0, words)]},
        folder=Path("..") / "a",
    )


def assert_is_text(words: str) -> None:
    harmless, hostile = Structure(written_with("harmless")), Structure(written_with(words))
    assert hostile.elements == harmless.elements
    assert hostile.text.count(words) >= harmless.text.count("harmless") > 20


def test_a_script_from_outside_is_text() -> None:
    """A script in a dataset's name, a reason, a sentence, a caption or the provenance is text, not a script."""
    assert "<script" not in written_with(HOSTILE)
    assert_is_text(HOSTILE)


@given(words=st.text(st.characters(codec="utf-8", exclude_categories=("Cc",), exclude_characters=":_-"), min_size=1, max_size=12))
def test_whatever_comes_from_outside_is_text(words: str) -> None:
    """Whatever text comes from outside, the elements of the page stay the same and the text is there to be read."""
    assert_is_text(words)


def test_names_are_escaped() -> None:
    """A run's or a claim's name cannot leave the attribute that it stands in."""
    name = "x' onclick='alert(1)"
    html = page(cell(name), runs={name: replace(RUNS["padding-10"], name=name)}, judgements=[judgement(name)])
    assert ("tr", ["id"]) in Structure(html).elements
    assert not any("onclick" in names for tag, names in (e for e in Structure(html).elements if isinstance(e, tuple)))


# -- figures ---------------------------------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"
PROBABILITIES = torch.tensor([[0.2, 0.7, 0.1], [0.25, 0.25, 0.5]])


def bars(labels: tuple[str, ...] = ("red", "green", "blue"), titles: tuple[str, ...] = ("one", "two")) -> Figure:
    return prediction_bars([tensor(i, 3, 6, 6).sigmoid() for i in range(2)], PROBABILITIES, labels, titles)


def prompt() -> Figure:
    pictures = [tensor(i, 3, 6, 6).sigmoid() for i in range(3)]
    return learnt_prompt(pictures[0], pictures[1:], pictures[1:], "learnt prompt")


@pytest.mark.slow
@pytest.mark.parametrize("draw", [bars, prompt])
def test_the_ids_of_two_figures_do_not_collide(draw: Callable[[], Figure]) -> None:
    """A figure's ids are distinct and start with its name, and every reference goes to one of them: two fit one page."""
    for name in ("figure-5", "figure-6"):
        svg = to_svg(draw(), name)
        ids = re.findall(r'\bid="([^"]*)"', svg)
        references = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)
        assert len(ids) == len(set(ids))
        assert all(one.startswith(f"{name}-") for one in ids)
        assert references
        assert {a or b for a, b in references} <= {*ids}


@pytest.mark.parametrize("draw", [bars, prompt])
def test_a_figure_takes_the_colour_of_the_page(draw: Callable[[], Figure]) -> None:
    """Letters and lines take the page's text colour, and there is no background: a figure can be read on a dark page."""
    svg = to_svg(draw(), "figure-5")
    assert "currentColor" in svg
    assert INK not in svg
    assert not re.search(r"fill: (#ffffff|white)", svg)


@pytest.mark.parametrize("draw", [bars, prompt])
def test_a_figure_is_the_same_text_each_time(draw: Callable[[], Figure]) -> None:
    """The same figure is the same text at every drawing, without a date, and nothing but one well-formed <svg> element."""
    svg = to_svg(draw(), "figure-5")
    assert svg == to_svg(draw(), "figure-5")
    assert "dc:date" not in svg
    assert ElementTree.fromstring(svg).tag == f"{SVG}svg"


@pytest.mark.parametrize("words", [HOSTILE, "$5 and $6", r"$\frac$", "a_b^c", "größer"])
def test_labels_are_drawn_as_they_are(words: str) -> None:
    """A label, or a picture's name, is drawn letter by letter: markup and formulas in it are text."""
    svg = to_svg(bars(labels=(words, "green", "blue"), titles=("one", words)), "figure-5")
    written = [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert written.count(words) == 3  # under each of the pictures, and above one
    assert "<script" not in svg


def test_a_bar_is_as_long_as_its_probability() -> None:
    """Each bar is as long as its label's probability, which is written beside it, and the longest is orange."""
    _, _, *charts = bars().axes
    for chart, row in zip(charts, PROBABILITIES, strict=True):
        assert [bar.get_width() for bar in chart.patches] == pytest.approx(row.tolist())
        colours = ["#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in bar.get_facecolor()[:3])) for bar in chart.patches]
        assert colours == [BAR_TOP if value == row.max() else BAR for value in row]
        assert [text.get_text() for text in chart.texts] == [f"{value:.0%}" for value in row.tolist()]
        assert [label.get_text() for label in chart.get_yticklabels()] == ["red", "green", "blue"]


def test_figures_stand_in_their_place() -> None:
    """A figure stands on the page as it was drawn, with its caption; one that was not drawn is said to be missing."""
    svg = to_svg(bars(), "figure-5")
    html = page({"kind": "figure", "id": "figure-5", "svg": svg, "caption": "Eight images."})
    assert svg in html
    assert "Figure 5. Eight images." in html
    assert "Figure 5: not drawn" not in html
    assert "Figure 6: not drawn in this run." in html


# -- the whole report, in a project of its own -----------------------------------------------------------------------------

LEDGER = """
[proved]
section = "2.2"
kind = "theorem"
sentence = "A theorem with <script>markup</script>."
code = ["vp.prompts"]

[right]
section = "2.1.a"
kind = "theorem"
sentence = "The report's <b>words</b>."
corrected = "What is right."
code = ["vp.prompts"]

[wrong]
section = "2.2"
kind = "theorem"
sentence = "What is wrong."
code = ["vp.prompts"]

[first-ordering]
section = "2.3"
kind = "ordering"
family = "table_3"
sentence = "One is better."
code = ["vp.prompts"]

[second-ordering]
section = "2.3"
kind = "ordering"
family = "table_3"
sentence = "Another is better."
code = ["vp.prompts"]

[cases]
section = "2.4"
kind = "theorem"
sentence = "So it is in both cases."
code = ["vp.prompts"]

[elsewhere]
section = "3.4"
kind = "theorem"
sentence = "Decided by another file."
code = ["vp.prompts"]

[perhaps]
section = "2.2"
kind = "argued"
sentence = "Perhaps."
reason = "a cause"
"""

PLANTED = '''
import pytest

@pytest.mark.claim("proved")
def test_proved():
    """A test's sentence with <i>markup</i>."""

@pytest.mark.claim("right")
def test_corrected():
    """What is right."""

@pytest.mark.claim("wrong")
def test_refuted():
    """What is wrong."""
    assert 1 == 2, "planted <refutation>"

def paired(p_value, sign):
    return {"first_better": 20 + 10 * sign, "second_better": 20 - 10 * sign, "mean_difference": 0.02 * sign, "p_value": p_value}

@pytest.mark.claim("{which}-ordering")
@pytest.mark.parametrize(("which", "p_value"), [("first", 0.001), ("second", 0.04)])
def test_orderings(which, p_value, record):
    record("judged", claim=which + "-ordering", evidence="measured", verdict="within noise", known_failure="",
           paired=paired(p_value, -1), contrast=None, or_equal=False)

@pytest.mark.claim("cases")
@pytest.mark.parametrize("case", ["one", "two"])
def test_cases(case):
    """So it is in each case."""

@pytest.mark.claim("unknown")
def test_of_an_unknown_claim():
    """Nobody knows."""

@pytest.mark.reproduces("padding-10")
def test_breaks_off():
    raise RuntimeError("planted <failure>")

@pytest.mark.reproduces("padding-100")
def test_cannot_run():
    pytest.skip("NOT RUN: planted reason")

@pytest.mark.reproduces("zero-shot-10-test")
def test_measures(record):
    record("cell", run="zero-shot-10-test", value=90.125, interval=(88.75, 91.5), seeds=[90.0, 90.25], expected=90.0,
           tolerance=0.5, verdict="reproduced", reason=None, provenance={"torch": "2", "device": "planted", "commit": ""})
'''

ELSEWHERE = '''
import pytest

@pytest.mark.claim("elsewhere")
def test_elsewhere():
    """Decided elsewhere."""
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with this one's hooks and settings, a ledger of its own and planted tests."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "expectations").mkdir()
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "expectations" / "claims.toml").write_text(LEDGER)
    (tmp_path / "tests" / "test_2_9_planted.py").write_text(PLANTED)
    (tmp_path / "tests" / "test_3_9_planted.py").write_text(ELSEWHERE)
    return tmp_path


WRITING = ("--html=report.html", "--self-contained-html", "--results=results.json")


def session(project: Path, *words: str) -> Session:
    """pytest in a planted project."""
    return Session(project, "-p", "no:hypothesispytest", "--scale", "mini", *words)


def verdicts_in(results: Mapping[str, Any]) -> dict[str, str]:
    """The verdict of every claim."""
    return {one["id"]: one["verdict"] for chapter in results["chapters"] for part in chapter["sections"] for one in part["claims"]}


def results_of(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "results.json").read_text("utf-8"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_report_opens_with_the_writeup(workers: str, project: Path) -> None:
    """The HTML of a whole run opens with the writeup, then lists the tests; what tests record arrives from workers, too."""
    accepting = ("--accept", "--seeds", "3") if workers == "2" else ()
    deselecting = ("-k", "not test_cases or one") if workers == "2" else ()
    done = session(project, "-n", workers, *WRITING, *accepting, *deselecting).done()
    assert done.returncode == 1, done.said
    passed = 7 if deselecting else 8
    assert re.search(rf"2 failed, {passed} passed, 1 skipped,( 1 deselected,)? 1 error in ", done.said), done.said

    html = (project / "report.html").read_text("utf-8")
    before, rest = html.split('<div class="vp">')
    writeup, tests = rest.split('<p class="run-count">')
    assert "results-table-row" not in re.sub("<template.*?</template>", "", before, flags=re.DOTALL)
    assert tests.index('<table id="results-table">') < tests.index("test_2_9_planted.py::test_proved")
    assert "<script" not in writeup
    assert "planted <refutation>" in text_of(writeup)
    assert verdicts_in(results_of(project)) == {
        "proved": "reproduced",
        "right": "corrected",
        "wrong": "contradicted",
        "first-ordering": "contradicted",  # 0.002 by Holm
        "second-ordering": "contradicted",  # 0.04 by Holm, which the test, by Bonferroni's 0.08, could not see
        "cases": "NOT RUN" if deselecting else "reproduced",
        "elsewhere": "reproduced",
        "perhaps": "argued",
    }
    missing = len(deselecting) // 2
    assert counted(writeup) == {"reproduced": 3 - missing, "within-noise": 0, "contradicted": 3, "corrected": 1, "not-run": missing}
    assert counted(writeup, 1)["reproduced"] == 1
    assert behind(writeup, "zero-shot-10-test").endswith("90.12 (88.8 to 91.5) , seeds ± 0.18 90.00 ± 0.50 as expected here")
    assert behind(writeup, "padding-10").endswith("NOT RUN RuntimeError: planted <failure>")
    assert behind(writeup, "padding-100").endswith("NOT RUN planted reason")
    assert seen(writeup, "proved") == "A theorem with <script>markup</script>. proved"
    assert seen(writeup, "right").startswith("The report's <b>words</b>. In truth: What is right.")
    assert seen(writeup, "wrong").endswith("refuted: AssertionError: planted <refutation> assert 1 == 2")
    assert "passed A test's sentence with <i>markup</i>. test_proved" in text_of(writeup)
    assert "href='tests/test_2_9_planted.py'" in writeup
    assert "claim 'unknown' is not in claims.toml" in text_of(writeup)
    assert "second-ordering is contradicted: measured (corrected for 2 comparisons: 0.04)" in done.said

    accepted = project / "expectations" / "mini" / "table_1.toml"
    assert accepted.exists() == bool(accepting)
    if accepting:
        (name, entry), *others = tomllib.loads(accepted.read_text("utf-8")).items()
        assert (name, entry["value"], entry["seeds"], others) == ("zero-shot-10-test", 90.12, [90.0, 90.25], [])
        assert entry["source"].startswith("measured: torch ")


@pytest.mark.slow
def test_a_partial_run_says_so(project: Path) -> None:
    """A run of one case and one test claims no more than it tested; what only Holm finds fails it, though no test failed."""
    file = "tests/test_2_9_planted.py"
    done = session(project, *WRITING, f"{file}::test_cases[one]", f"{file}::test_orderings").done()
    assert "3 passed in " in done.said
    assert done.returncode == 1
    decided = verdicts_in(results_of(project))
    assert {name for name, verdict in decided.items() if verdict not in ("NOT RUN", "argued")} == {
        "first-ordering",
        "second-ordering",
    }


@pytest.mark.slow
def test_the_last_failures_alone_are_a_partial_run(project: Path) -> None:
    """With --lf a claim whose other cases passed before is NOT RUN: what collection leaves out counts as deselected."""
    file = "tests/test_2_9_planted.py"
    path = project / file
    path.write_text(PLANTED.replace('"""So it is in each case."""', 'assert case != "two"'))
    session(project, f"{file}::test_cases").done()
    path.write_text(PLANTED)
    done = session(project, *WRITING, "--lf").done()
    assert " 1 passed" in done.said, done.said
    assert verdicts_in(results_of(project))["cases"] == "NOT RUN"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["a worker that dies", "an interrupt"])
def test_what_breaks_a_run_off_leaves_an_honest_writeup(how: str, project: Path) -> None:
    """After a worker's death or Ctrl-C there is a writeup, in which what did not finish is NOT RUN and what did has its verdict."""
    dies = "import os; os._exit(3)" if how == "a worker that dies" else "import time; time.sleep(120)"
    # A process that a script has put into the background is started deaf to Ctrl-C, and so is what it starts.
    text = '''import signal
import pytest
signal.signal(signal.SIGINT, signal.default_int_handler)
@pytest.mark.claim("cases")
@pytest.mark.parametrize("case", ["one", "two"])
def test_cases(case):
    """So it is in each case."""

@pytest.mark.claim("wrong")
def test_dies():
    """It ends here."""
    open("reached", "w").close()
    '''
    (project / "tests" / "test_2_9_planted.py").write_text(text + dies + "\n")
    workers = ("-n", "1", "--max-worker-restart=0") if how == "a worker that dies" else ()
    running = session(project, *WRITING, *workers)
    if how == "an interrupt":
        until = time.monotonic() + 100
        while not (project / "reached").exists() and time.monotonic() < until:
            time.sleep(0.1)
        running.interrupt()
    done = running.done()
    assert done.returncode != 0, done.said
    decided = verdicts_in(results_of(project))
    assert (decided["cases"], decided["wrong"], decided["proved"]) == ("reproduced", "NOT RUN", "NOT RUN"), done.said
    assert counted((project / "report.html").read_text("utf-8"))["not-run"] == 6


@pytest.mark.slow
def test_a_malformed_ledger_fails_with_its_line(project: Path) -> None:
    """A malformed ledger fails every test that decides a claim, with file, line and field; so do results that cannot be written."""
    path = project / "expectations" / "claims.toml"
    path.write_text(LEDGER.replace('kind = "theorem"', 'kind = "lemma"', 1))
    (project / "results.json").symlink_to(project / "missing" / "results.json")
    (project / "tests" / "machinery").mkdir()
    shutil.copy(ROOT / "tests" / "machinery" / "test_claims.py", project / "tests" / "machinery")
    ledgers_own = "tests/machinery/test_claims.py::test_every_claim_that_can_be_tested_is"
    done = session(project, *WRITING, "tests/test_3_9_planted.py", ledgers_own).done()
    assert " 1 failed, 1 error in " in done.said, done.said
    complaint = f"{path}:4: [proved] kind is 'lemma', expected one of theorem, accuracy, ordering, cost, argued"
    assert done.returncode == 1
    assert "INTERNALERROR" not in done.said
    assert complaint in done.said
    assert complaint in text_of((project / "report.html").read_text("utf-8"))
    assert "FAILED no results: results.json cannot be written" in done.said


@pytest.mark.slow
def test_a_malformed_file_of_numbers_is_named_beside_the_judgements(project: Path) -> None:
    """Where the report's or published numbers cannot be read, that is said, the run fails, and claims are judged all the same."""
    (project / "expectations" / "full").mkdir()
    (project / "expectations" / "full" / "table_2.toml").write_text("[padding-10]\nvalue = 'much'\n")
    (project / "expectations" / "published.toml").write_text("[[padding-10]]\nvalue = 1\n")
    done = session(project, *WRITING, "tests/test_3_9_planted.py").done()
    assert done.returncode == 1
    assert verdicts_in(results_of(project))["elsewhere"] == "reproduced"
    for file in ("full/table_2.toml:2: [padding-10] value", "published.toml:1: [padding-10] what is missing"):
        assert file in results_of(project)["problem"]
    assert "This writeup is not whole: " in text_of((project / "report.html").read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--seeds", "0"], "ERROR: --seeds 0: give at least 1"),
        (["--results", "no/such/results.json"], "ERROR: --results no/such/results.json: there is no folder"),
        (["--results", "tests"], "ERROR: --results tests: that is a folder, give a file"),
        (["--accept", "--seeds", "3", "--scale", "full"], "ERROR: --accept belongs to --scale mini"),
        (["--accept"], "ERROR: --accept with 1 seed(s): the spread of a number needs --seeds 3 or more"),
        (["--accept", "--seeds", "2"], "ERROR: --accept with 2 seed(s): the spread of a number needs --seeds 3 or more"),
    ],
    ids=lambda given_: "" if isinstance(given_, str) else " ".join(given_),
)
def test_options_that_make_no_sense_are_refused(words: list[str], complaint: str, project: Path) -> None:
    """Options that cannot be meant are a usage error of one line before any test runs."""
    done = session(project, *words).done()
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.said.strip().startswith(complaint)
    assert "\n" not in done.said.strip()
    assert "passed" not in done.said
