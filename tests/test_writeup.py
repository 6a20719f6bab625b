"""vp.writeup and the hooks of conftest.py: every verdict counted and shown, everything from outside escaped, one HTML file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
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

from tests.strategies import tensor
from vp.expectations import Expectation, Verdict
from vp.experiments import SCALES, Run, runs
from vp.writeup import learnt_prompt, prediction_bars, render, to_svg
from vp.writeup.figures import BAR, BAR_TOP, INK
from vp.writeup.page import CHAPTERS

ROOT = Path(__file__).parent.parent
RUNS = runs("mini")
ABOUT = {"scale": "Scale: mini.", "provenance": "Computed with care."}
SECTIONS = [section.number for sections in CHAPTERS.values() for section in sections]
HOSTILE = "<script>alert('&amp;')</script> \" ' & {} </td></table>"


def cell(name: str, verdict: Verdict = Verdict.REPRODUCED, **others: Any) -> dict[str, Any]:
    values = {"value": 90.125, "interval": (88.75, 91.5), "seeds": [90.125], "expected": 90.0, "tolerance": 0.5, "reason": None}
    return {"kind": "cell", "run": name, "verdict": str(verdict), **values, **others}


def statement(sentence: str, verdict: Verdict = Verdict.REPRODUCED, section: str = "2.2", **others: Any) -> dict[str, Any]:
    values = {"evidence": f"measured {sentence}", "corrects": None}
    return {"kind": "statement", "section": section, "sentence": sentence, "verdict": str(verdict), **values, **others}


def page(*entries: Mapping[str, Any], about: Mapping[str, str] = ABOUT, **others: Any) -> str:
    return render(entries, others.get("runs", RUNS), others.get("report", {}), about)


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub("<[^>]*>", " ", html)).split())


def row_of(html: str, name: str) -> str:
    """The text of the one table row of a run."""
    (row,) = re.findall(rf"<tr id='{name}'>(.*?)</tr>", html)
    return text_of(row)


def counted(html: str) -> dict[str, int]:
    """The table at the top: how often each verdict was given."""
    (table,) = re.findall(r"<caption>Verdicts of this run</caption>(.*?)</table>", html)
    return {name: int(count) for name, count in re.findall(r"class='verdict ([\w-]+)'>[^<]*</span></td><td>(\d+)</td>", table)}


def shown(html: str) -> Counter[str]:
    """How often each verdict stands below the table at the top."""
    return Counter(re.findall(r"class='verdict ([\w-]+)'", html.split("</table>", 1)[1]))


# -- verdicts --------------------------------------------------------------------------------------------------------------


def test_without_entries_everything_is_not_run() -> None:
    """With no entries at all the page says of every number that it was not run, and why."""
    html = page()
    assert counted(html) == {"reproduced": 0, "within-noise": 0, "contradicted": 0, "corrected": 0, "not-run": len(RUNS)}
    assert f"Of {len(RUNS)} numbers and statements of the report, 0 were put to the test" in html
    assert text_of(html).count("no test of this run was selected, or it did not finish") == len(RUNS)


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
        assert row.endswith(f" {10 + i} 90.12 (88.8 to 91.5) 90.00 ± 0.50 reproduced")


verdicts = st.sampled_from(list(Verdict))


@given(
    cells=st.dictionaries(st.sampled_from(list(RUNS)), verdicts),
    statements=st.lists(st.tuples(verdicts, st.sampled_from(SECTIONS)), max_size=30),
)
def test_every_verdict_is_counted_and_shown(cells: dict[str, Verdict], statements: list[tuple[Verdict, str]]) -> None:
    """The table at the top counts every cell and statement once, those not run included, and each stands somewhere below it."""
    entries = [cell(name, verdict) for name, verdict in cells.items()]
    entries += [statement(f"sentence {i}", verdict, section) for i, (verdict, section) in enumerate(statements)]
    html = page(*entries)
    expected = Counter([*cells.values(), *(verdict for verdict, _ in statements)])
    expected[Verdict.NOT_RUN] += len(RUNS) - len(cells)
    total = len(RUNS) + len(statements)
    told = [verdict for verdict in Verdict if verdict is not Verdict.REHEARSAL or expected[verdict]]
    assert counted(html) == {str(verdict).lower().replace(" ", "-"): expected[verdict] for verdict in told}
    assert shown(html) == +Counter(counted(html))
    ran = total - expected[Verdict.NOT_RUN] - expected[Verdict.REHEARSAL]
    assert f"Of {total} numbers and statements of the report, {ran} were put to the test" in html


def test_every_section_that_tests_speak_of_is_on_the_page() -> None:
    """Every section that a test names has its place on the page, so that no statement is counted without being shown."""
    named = set()
    for path in (ROOT / "tests").glob("test_[0-9]*.py"):
        named |= set(
            re.findall(r'(?:states\(|section=|ordering\([^)]*?, |contrast\([^)]*?, )"(\d\.\d[\w.]*)"', path.read_text("utf-8"))
        )
    assert named - {*SECTIONS} == set()


def test_a_missing_cell_says_why() -> None:
    """A run without a number is NOT RUN with the reason that its test gave; a number that was measured goes before any reason."""
    excuse = {"kind": "not run", "runs": ["padding-10", "padding-100"], "reason": "no GPU here"}
    for entries in ([excuse, cell("padding-100")], [cell("padding-100"), excuse]):
        html = page(*entries)
        assert row_of(html, "padding-10").endswith("– – – NOT RUN no GPU here")
        assert row_of(html, "padding-100").endswith("90.12 (88.8 to 91.5) 90.00 ± 0.50 reproduced")
        assert counted(html)["not-run"] == len(RUNS) - 1


def test_a_number_without_expectation_is_shown() -> None:
    """A number that was measured but cannot be judged is shown, with the reason, and counts as NOT RUN."""
    html = page(cell("padding-10", Verdict.NOT_RUN, expected=None, tolerance=None, reason="no expectation is committed"))
    assert row_of(html, "padding-10").endswith("90.12 (88.8 to 91.5) – NOT RUN no expectation is committed")
    assert counted(html)["not-run"] == len(RUNS)


def test_a_correction_quotes_the_report() -> None:
    """A corrected statement stands with its evidence and the report's own words."""
    said = text_of(page(statement("it is so", Verdict.CORRECTED, corrects="it is otherwise")))
    assert "it is so The report says: it is otherwise measured it is so corrected" in said


@pytest.mark.parametrize(("verdict", "words"), [("contradicted", "refuted by"), ("NOT RUN", "skipped:")])
def test_a_proof_of_several_cases_counts_once(verdict: str, words: str) -> None:
    """The cases of one parametrised proof are one statement, with the worst of their verdicts; other proofs stay apart."""
    cases = [statement("one", evidence=f"proved by tests/a.py::test_a[{i}]") for i in range(3)]
    worst = statement("one", evidence=f"{words} tests/a.py::test_a[3]") | {"verdict": verdict}
    others = [
        statement("one", evidence="proved by tests/a.py::test_b"),
        statement("two", evidence="proved by tests/a.py::test_a[0]"),
    ]
    html = page(*cases, worst, *others)
    assert counted(html)["reproduced"] == 2
    assert sum(counted(html).values()) == len(RUNS) + 3
    assert f"one {words} tests/a.py::test_a[3] {verdict}" in text_of(html)


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
    return page(
        cell(measured),
        {"kind": "not run", "runs": [excused], "reason": words},
        cell(unjudged, Verdict.NOT_RUN, expected=None, reason=words),
        statement(words, evidence=words, corrects=words),
        {"kind": "figure", "id": "figure-5", "svg": "<svg></svg>", "caption": words},
        about={"scale": words, "provenance": words},
        runs=hostile_runs,
    )


def assert_is_text(words: str) -> None:
    harmless, hostile = Structure(written_with("harmless")), Structure(written_with(words))
    assert hostile.elements == harmless.elements
    assert hostile.text.count(words) >= harmless.text.count("harmless") > 10


def test_a_script_from_outside_is_text() -> None:
    """A script in a dataset's name, a reason, a sentence, a caption or the provenance is text, not a script."""
    assert "<script" not in written_with(HOSTILE)
    assert_is_text(HOSTILE)


@given(words=st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1, max_size=12))
def test_whatever_comes_from_outside_is_text(words: str) -> None:
    """Whatever text comes from outside, the elements of the page stay the same and the text is there to be read."""
    assert_is_text(words)


def test_a_runs_name_is_escaped() -> None:
    """A run's name cannot leave the attribute that it stands in."""
    name = "x' onclick='alert(1)"
    html = page(cell(name), runs={name: replace(RUNS["padding-10"], name=name)})
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

PLANTED = '''
import pytest

@pytest.mark.states("2.2")
def test_stated():
    """A theorem with <script>markup</script>.

    And more."""

@pytest.mark.states("2.1.a", corrects="the report's <b>words</b>")
def test_corrected():
    """What is right."""

@pytest.mark.states("2.2")
def test_refuted():
    """What is wrong."""
    assert False

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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with this one's hooks and settings, its tests of the order of rooms, and planted tests."""
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "pyproject.toml", "tests/test_rooms.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests" / "test_2_9_planted.py").write_text(PLANTED)
    return tmp_path


def pytest_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_report_opens_with_the_writeup(workers: str, project: Path) -> None:
    """The HTML of a whole run opens with the writeup, then lists the tests; what tests record arrives from workers, too."""
    words = ("--scale", "mini", "-m", "not gpu", "-n", workers, "--html=report.html", "--self-contained-html")
    accepting = ("--accept", "--seeds", "3") if workers == "2" else ()
    done = pytest_in(project, *words, *accepting)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"2 failed, \d+ passed, 1 skipped, \d+ deselected in |2 failed, \d+ passed, 1 skipped in ", done.stdout), (
        done.stdout
    )

    html = (project / "report.html").read_text("utf-8")
    before, rest = html.split('<div class="vp">')
    writeup, tests = rest.split('<p class="run-count">')
    assert "results-table-row" not in re.sub("<template.*?</template>", "", before, flags=re.DOTALL)
    assert tests.index('<table id="results-table">') < tests.index("test_2_9_planted.py::test_stated")
    assert "<script" not in writeup
    assert counted(writeup) == {
        "reproduced": 2,
        "within-noise": 0,
        "contradicted": 1,
        "corrected": 1,
        "not-run": len(RUNS) - 1,
    }
    assert row_of(writeup, "zero-shot-10-test").endswith("90.12 (88.8 to 91.5) 90.00 ± 0.50 reproduced")
    assert row_of(writeup, "padding-10").endswith("NOT RUN the test broke off: RuntimeError: planted <failure>")
    assert row_of(writeup, "padding-100").endswith("NOT RUN planted reason")
    said = text_of(writeup)
    assert "A theorem with <script>markup</script>. proved by tests/test_2_9_planted.py::test_stated reproduced" in said
    assert (
        "What is right. The report says: the report's <b>words</b> proved by tests/test_2_9_planted.py::test_corrected corrected"
        in said
    )
    assert "What is wrong. refuted by tests/test_2_9_planted.py::test_refuted contradicted" in said

    accepted = project / "expectations" / "mini" / "table_1.toml"
    assert accepted.exists() == bool(accepting)
    if accepting:
        (name, entry), *others = tomllib.loads(accepted.read_text("utf-8")).items()
        assert (name, entry["value"], entry["seeds"], others) == ("zero-shot-10-test", 90.12, [90.0, 90.25], [])
        assert entry["source"].startswith("measured: torch ")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--seeds", "0"], "ERROR: --seeds 0: give at least 1"),
        (["--accept"], "ERROR: --accept with 1 seed(s): the spread of a number needs --seeds 3 or more"),
        (["--accept", "--seeds", "2"], "ERROR: --accept with 2 seed(s): the spread of a number needs --seeds 3 or more"),
    ],
    ids=lambda given_: "" if isinstance(given_, str) else " ".join(given_),
)
def test_options_that_make_no_sense_are_refused(words: list[str], complaint: str, project: Path) -> None:
    """Options that cannot be meant are a usage error of one line before any test runs."""
    done = pytest_in(project, *words)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.stderr.strip() == complaint
    assert "passed" not in done.stdout
