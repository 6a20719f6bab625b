"""`python -m vp check`: points, formats, what is a solution, and sessions that run unattended."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.conformance import check, formats, notebooks, table
from tests.conformance.foreign import Complaint, Foreign, GivenUp, Marks
from tests.conformance.scores import Scores, ScoresError, award, known_statements, read_scores
from tests.conformance.submissions import Submission, SubmissionError, key, submissions
from tests.controls import scores as controls
from tests.support.reporting import ROOT
from vp.commands.check import command
from vp.machine.errors import VpError

ODD = "said <b>&\x00\x1b[31m\ud800 \u2028 ]]> \"'\nsecond line"
SHAPE = "test_a_prompt_keeps_the_shape_of_its_images"
PURE = "test_a_prompt_never_modifies_the_batch_it_is_given"


def row(names: str, verdict: str = "pass", words: str = "", function: str = SHAPE, **changes: Any) -> table.Row:
    """A row of alice.py: names, its function and a case of the names' own."""
    test = f"tests/test_2_2_visual_prompts.py::{function}[alice.py-{names}]"
    told = {"solution": "alice.py", "test": test, "statement": f"{function} of {names}.", "verdict": verdict, "words": words}
    return table.Row(names=tuple(names.split()), **{"claims": ("FixedPatch", "Padding", "max_aggregate"), **told, **changes})


def planted() -> table.Content:
    """FixedPatch right, Padding half wrong, max_aggregate for the same reason and another, RandomPatch not claimed."""
    reason = "raised KeyError: {} (alice.py, line 7)"
    return table.content(
        ["alice.py"],
        [
            row("FixedPatch"),
            row("FixedPatch", function=PURE),
            row("Padding", "fail", f"Padding(1, 5) {reason.format(5)}; smallest example: size=1"),
            row("Padding", function=PURE, narrowed="asked of size 1 only"),
            row("RandomPatch", "not claimed"),
            row("max_aggregate", "fail", f"max_aggregate(a tensor (1, 1)) {reason.format(3)}", function="test_max"),
            row("max_aggregate", "fail", ODD, function="test_odd"),
        ],
    )


def scored(**given: Any) -> dict[str, Any]:
    content = planted()
    award(content, Scores(**given))
    return content[0]


# -- one mistake, told once ---------------------------------------------------------------------------------------------------


def test_statements_of_all_sections_are_grouped_under_the_first_that_fails_for_a_reason() -> None:
    """The same line that raises the same error is one reason, whatever is called: told at its first statement, the others below."""
    (one,) = planted()
    assert (one["failed"], one["mistakes"]) == (3, 2)
    (raised, odd) = table.mistakes(one).values()
    assert [failed["names"] for failed in raised.rows] == [["Padding"], ["max_aggregate"]]
    assert odd.words == ODD
    told = "\n".join(line for line, _ in table.lines([one]))
    assert told.count("line 7") == 1
    assert "fail for the same reason: test_max of max_aggregate. (max_aggregate)" in told
    assert "fail  1 statement more, for a reason told above" in told
    page = table.page([one])
    (link,) = re.findall(r"as above: <a href='#([\w.-]+)'>", page)
    assert f"id='{link}'" in page


def test_statements_have_one_order_whoever_is_asked() -> None:
    """Numbers and columns are those of the table, not of the order in which workers were done."""
    rows = [row("Padding"), row("FixedPatch", function=PURE), row("FixedPatch"), row("max_aggregate", function="test_max")]
    orders = [[one["id"] for one in table.content(["alice.py"], some)[0]["statements"]] for some in (rows, rows[::-1])]
    assert orders[0] == orders[1] == [rows[2].id, rows[1].id, rows[0].id, rows[3].id]


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ("f(1) raised E: 3 (a.py, line 2)", "g(2, (3,)) raised E: 4 (a.py, line 2)", True),
        ("f(1) raised E: 3 (a.py, line 2)", "f(1) raised E: 3 (a.py, line 3)", False),
        ("f(1) raised E: 3 (a.py, line 2)", "f(1) raised F: 3 (a.py, line 2)", False),
        ("f(a (1,)) gave a tensor (2,): expected shape (1,)", "f(a (7,)) gave a tensor (8,): expected shape (7,)", True),
        ("f(1) gave 7: expected a module", "g(1) gave 7: expected a module", False),
        ("is off; smallest example: 1", "is off; smallest example: 2", True),
        ("sums to 2: expected 1", "sums to 3: expected 1", False),
    ],
)
def test_reasons_are_told_apart(first: str, second: str, are_one: bool) -> None:
    """Equal errors of a line, equal complaints about a call but for sizes, equal words but for the example are one reason."""
    (one,) = table.content(["alice.py"], [row("Padding", "fail", first), row("FixedPatch", "fail", second)])
    assert one["mistakes"] == (1 if are_one else 2)


# -- points ---------------------------------------------------------------------------------------------------------------------


Award = Callable[[table.Content, Scores], list[str]]


def assert_most_particular(award: Award) -> None:
    (one,) = content = planted()
    award(content, Scores(sections={"2.2": 6}, names={"Padding": 10}, statements={SHAPE: 8}))
    points = {statement["id"]: (statement["points"], statement["of"]) for statement in one["statements"]}
    assert points == {
        f"{SHAPE}[FixedPatch]": (2.6667, 2.6667),
        f"{SHAPE}[Padding]": (0, 2.6667),
        f"{SHAPE}[RandomPatch]": (0, 2.6667),
        f"{PURE}[Padding]": (10, 10),
        f"{PURE}[FixedPatch]": (6, 6),
        "test_max[max_aggregate]": (0, 0),
        "test_odd[max_aggregate]": (0, 0),
    }
    assert (one["points"], one["of"]) == (18.6667, 24)
    assert one["points by section"] == {"2.2": [18.6667, 24], "3.3": [0, 0]}
    assert table.headline(one).startswith("alice.py: 18.67 of 24 points; 3 statements hold, 3 fail for 2 reasons; ")


def test_a_statement_takes_its_points_from_the_most_particular_entry() -> None:
    """Its test before its name before its section, in equal shares; what fails or is not claimed earns 0, what is narrowed all."""
    assert_most_particular(award)


def test_without_a_file_sections_share_a_hundred_points() -> None:
    """Equal shares for the sections, and within them for the statements."""
    one = scored()
    assert (one["points"], one["of"]) == (30, 100)
    assert {statement["of"] for statement in one["statements"]} == {10, 25}


def assert_adds_up(award: Award) -> None:
    content = table.content(["alice.py"], [row("FixedPatch", function=f"test_{nth}") for nth in range(3)])
    assert award(content, Scores(names={"FixedPatch": 10, "union": 1})) == [
        "no statement that was asked is left for the points of names.union: they count nowhere"
    ]
    assert (content[0]["points"], content[0]["of"]) == (10, 10)


def test_shares_add_up_to_what_was_given() -> None:
    """Three thirds of ten points are ten points."""
    assert_adds_up(award)


def assert_broken_earns_nothing(award: Award) -> None:
    rows = [row("FixedPatch", "fail", "does not import: raised E"), row("Padding", "not claimed")]
    content = table.content(["alice.py"], rows)
    award(content, Scores())
    assert (content[0]["points"], content[0]["of"]) == (0, 100)


def test_a_solution_that_cannot_be_asked_has_no_points() -> None:
    """One that does not import earns 0 of all."""
    assert_broken_earns_nothing(award)


@pytest.mark.parametrize(
    ("wrong", "rejects"),
    [
        (controls.sections_alone, assert_most_particular),
        (controls.every_entry_pays, assert_most_particular),
        (controls.only_failures_cost, assert_most_particular),
        (controls.shares_of_what_is_claimed, assert_most_particular),
        (controls.narrowed_fails, assert_most_particular),
        (controls.rounded_before_they_are_added, assert_adds_up),
        (controls.broken_solutions_keep_what_they_have, assert_broken_earns_nothing),
    ],
)
def test_wrong_ways_to_give_points_are_rejected(wrong: Award, rejects: Callable[[Award], None]) -> None:
    """Each wrong way of tests/controls/scores.py fails the test that it names."""
    with pytest.raises(AssertionError):
        rejects(wrong)


def test_a_file_of_scores_is_read(tmp_path: Path) -> None:
    """Sections in quotation marks, names and tests, whole numbers or not."""
    path = tmp_path / "scores.toml"
    path.write_text(f'[sections]\n"2.2" = 20\n[names]\nunion = 0.1\n[statements]\n{SHAPE} = 3\n', encoding="utf-8")
    read = read_scores(path)
    assert {kind: float(points) for kind, points in read.points.items()} == {
        ("sections", "2.2"): 20,
        ("names", "union"): 0.1,
        ("statements", SHAPE): 3,
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[names]\nunion = 1\nPading = 1\n", "line 3: there is no name 'Pading': did you mean 'Padding'?"),
        ("[section]\n'2.2' = 1\n", "line 1: 'section' means nothing: give tables .*: did you mean 'sections'?"),
        ("[sections]\n2.2 = 1\n", 'line 2: a section is written in quotation marks: "2.2" = ...'),
        ("[sections]\n'4.1' = 1\n", "line 2: there is no section '4.1'.* there are 1.2, "),
        ("# points\n\n[names]\n\nunion = -1\n", "line 5: union = -1: points are 0 or more"),
        ("[names]\nunion = 'many'\n", "line 2: union = 'many': expected a number of points"),
        ("[names]\nunion = true\n", "line 2: union = True: expected a number"),
        ("[names]\nunion = nan\n", "line 2: union = nan: expected a number"),
        ("[names]\n[sections]\n'2.2' = 1\n", "line 1: .names. is empty: give points, or leave it out"),
        ("names = 3\n", "line 1: names = 3: expected a table .names. of points"),
        ("[names]\nunion = \n", "no TOML: .*line 2"),
        (f"[statements]\n{SHAPE[:-1]} = 1\n", f"line 2: there is no statement '{SHAPE[:-1]}': did you mean '{SHAPE}'"),
        ("[names]\nunion = 0\n", "gives no points"),
        ("", "gives no points: expected tables .sections., .names., .statements."),
    ],
)
def test_a_file_of_scores_that_means_nothing_is_refused_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    """Unknown tables, sections, names and tests, points below 0 and empty tables: what, where, and what was meant."""
    path = tmp_path / "scores.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScoresError, match=f"scores.toml.*{complaint}"):
        read_scores(path)
    with pytest.raises(ScoresError, match=r"nothing\.toml: cannot be read"):
        read_scores(tmp_path / "nothing.toml")


def test_every_statement_is_known_to_scores() -> None:
    """The functions that are marked `specifies` are found without collecting them, each name once."""
    assert {SHAPE, PURE, "test_the_rate_is_warm_up_then_cosine"} <= {*known_statements()}
    assert len(known_statements()) > 100


# -- formats ------------------------------------------------------------------------------------------------------------------


def test_gradescope_gets_every_statement_with_its_points() -> None:
    """Score, time and a test for each statement: what fails and what is not claimed has 0 points and says why."""
    found = json.loads(formats.gradescope({**scored(), "seconds": 12.5}))
    assert (found["score"], found["execution_time"]) == (30, 12.5)
    tests = {test["name"]: test for test in found["tests"]}
    good = tests[f"{SHAPE} of FixedPatch. (FixedPatch)"]
    assert {key: good[key] for key in ("score", "max_score", "status", "output", "output_format", "visibility", "tags")} == {
        "score": 10,
        "max_score": 10,
        "status": "passed",
        "output": "",
        "output_format": "text",
        "visibility": "visible",
        "tags": ["2.2", "FixedPatch"],
    }
    assert re.fullmatch(r"2\.2\.\d", good["number"])
    assert len({test["number"] for test in found["tests"]}) == len(found["tests"]) == 7
    bad = tests[f"{SHAPE} of Padding. (Padding)"]
    assert (bad["score"], bad["status"]) == (0, "failed")
    assert "KeyError" in bad["output"]
    assert tests[f"{SHAPE} of RandomPatch. (RandomPatch)"]["output"] == "not claimed"
    assert tests[f"{PURE} of Padding. (Padding)"]["output"] == "asked of size 1 only"
    assert sum(test["score"] for test in found["tests"]) == found["score"]


def test_the_classroom_reporter_gets_what_it_sums_up() -> None:
    """Version, status, the most points, and tests with the points that each has."""
    found = json.loads(formats.classroom(scored()))
    assert (found["version"], found["status"], found["max_score"]) == (1, "fail", 100)
    assert sum(test["score"] for test in found["tests"]) == 30
    assert {test["status"] for test in found["tests"]} == {"pass", "fail"}
    assert {"name", "status", "message", "test_code", "filename", "line_no", "execution_time", "score"} == {*found["tests"][0]}


def test_junit_is_well_formed_whatever_a_solution_says() -> None:
    """Suites by section, readable names, control characters and lone surrogates replaced; skipped is what is not claimed."""
    root = ElementTree.fromstring(formats.junit(scored()).encode("utf-8"))
    suites = {suite.get("name"): suite for suite in root}
    assert {(name, suite.get("tests"), suite.get("failures"), suite.get("skipped")) for name, suite in suites.items()} == {
        ("section 2.2", "5", "1", "1"),
        ("section 3.3", "2", "2", "0"),
    }
    (failure,) = [case[0] for case in suites["section 3.3"] if case.get("name") == "test_odd of max_aggregate."]
    assert failure.text == ODD.replace("\x00", "�").replace("\x1b", "�").replace("\ud800", "�")
    broken = table.content(["alice.py"], [row("FixedPatch", "fail", "does not import: raised E")])
    award(broken, Scores())
    assert "does not import" in ElementTree.fromstring(formats.junit(broken[0])).find(".//error").get("message", "")


def test_a_course_is_one_table() -> None:
    """A row a student, points in all and of each section, a column a statement; no cell is a formula."""
    other = {**scored(), "solution": "=cmd()", "problem": "does not\nimport"}
    header, alice, bob = csv.reader(io.StringIO(formats.course([scored(), other])))
    by_name = dict(zip(header, alice, strict=True))
    assert (by_name["student"], by_name["points"], by_name["points of 2.2"]) == ("alice.py", "30.0", "30.0")
    assert (by_name["hold"], by_name["fail"], by_name["reasons"]) == ("3", "3", "2")
    assert by_name[f"{SHAPE}[RandomPatch]"] == "not claimed"
    assert by_name[f"{SHAPE}[FixedPatch]"] == "pass"
    assert bob[0] == "'=cmd()"
    assert "does not import" in bob


def test_a_students_page_has_hints_first_and_nothing_of_others() -> None:
    """What to mend first, the costliest reason ahead; no folder of the machine; text of a solution is text."""
    one = scored()
    one["misnamed"] = ["padding: did you mean Padding?"]
    page = formats.page(formats.named(one, "alice", ["/home/ta/course"]))
    assert page.index("did you mean Padding?") < page.index("To mend first") < page.index("Section 2.2")
    mend = page[page.index("To mend first") : page.index("</ol>")]
    assert mend.index("KeyError") < mend.index("&lt;b&gt;")
    assert "30 of 100 points" in page
    assert "(costs 35 of 100 points)" in mend
    assert "alice.py-" not in page
    assert "<b>" not in page


def test_folders_of_the_machine_are_no_feedback() -> None:
    """A folder that a message names is left out, in every word of the content."""
    one = scored()
    one["problem"] = "does not import: no file '/home/ta/course/alice/data.csv' (/home/ta/course/alice.py)"
    found = formats.named(one, "alice", ["/home/ta/course/alice/", "/home/ta/course"])
    assert found["problem"] == "does not import: no file 'data.csv' (alice.py)"
    assert found["solution"] == "alice"


def test_a_change_in_place_that_no_statement_tells_of_is_in_every_format() -> None:
    """Its row has a number of its own and no points."""
    rows = [row("max_aggregate", impure=("max_aggregate changed A",), function="test_max")]
    content = table.content(["alice.py"], rows)
    award(content, Scores())
    told = json.loads(formats.gradescope(content[0]))["tests"]
    assert [(test["number"], test["score"], test["max_score"], test["status"]) for test in told] == [
        ("3.3.1", 100, 100, "passed"),
        ("3.3.2", 0, 0, "failed"),
    ]


# -- notebooks and folders ----------------------------------------------------------------------------------------------------

PATCH = "class FixedPatch(nn.Module):\n    def __init__(self, size, image_size): super().__init__()\n"
SPLIT = "def split(count, share, seed): return [count], [helper()]"


def notebook(path: Path, *sources: str | list[str]) -> str:
    """A notebook of a text and these cells of code."""
    code = [{"cell_type": "code", "source": source, "outputs": [], "metadata": {}} for source in sources]
    text = {"cell_type": "markdown", "source": "# Solution", "metadata": {}}
    path.write_text(json.dumps({"cells": [text, *code], "nbformat": 4, "metadata": {}}), encoding="utf-8")
    return str(path)


def foreign(label: Path | str, marks: Path) -> Foreign:
    return Foreign(str(label), Marks(marks, str(label)), 9)


def test_a_notebook_is_what_its_cells_define(tmp_path: Path) -> None:
    """Definitions are kept in whatever cell, magics are removed, and what computes, draws or loads is left out and said."""
    path = notebook(
        tmp_path / "alice.ipynb",
        "%matplotlib inline\n!pip install \\\n    wonder\nimport torch\nfrom torch import nn",
        ["%%time\n", "SHARE = 1 / 5\n", "device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')\n", PATCH],
        "%%bash\nrm -rf data",
        "def helper(): return SHARE\nmodel = download()\nwith open('nowhere') as file: pass\nnn.Module?\nhelper()",
        "from google.colab import drive\nif True:\n    !ls\nfiles = !ls\ntrain(model",
        f"{SPLIT}\nif __name__ == '__main__':\n    raise SystemExit",
    )
    solution = foreign(path, tmp_path / "marks")
    assert solution.names == ("FixedPatch", "split")
    assert solution.split(3, 0.5, 0) == ([3], [0.2])
    assert notebooks.left_out(Path(path)) == [
        "cell 4: left out all of it: it is %%bash",
        "cell 5: left out line 2 (`model = download()`), line 3 (`with open('nowhere') as file:`), line 5 (`helper()`), which does "
        "more than define a name",
        "cell 6: left out all of it: it is no Python (line 5): '(' was never closed",
        "cell 7: left out line 2 (`if __name__ == '__main__':`), which does more than define a name",
    ]


def test_an_error_in_a_notebook_names_its_cell(tmp_path: Path) -> None:
    """The cell, as the notebook counts them, and the line in it."""
    path = notebook(tmp_path / "alice.ipynb", "import torch", "def split(count, share, seed):\n    return count / 0")
    with pytest.raises(Complaint, match=r"raised ZeroDivisionError: division by zero \(alice.ipynb cell 3, line 2\)"):
        foreign(path, tmp_path / "marks").split(3, 0.5, 0)
    broken = tmp_path / "broken.ipynb"
    broken.write_text("{}", encoding="utf-8")
    with pytest.raises(GivenUp, match=r"does not import: raised NotebookError: broken.ipynb is no notebook"):
        _ = foreign(broken, tmp_path / "marks").names


@pytest.mark.parametrize(
    ("line", "is_kept"),
    [
        ("x = 3", True),
        ("x: int = -3 + 2 ** 2", True),
        ("a, b = (1, [2, {'c': None}])", True),
        ("mean = torch.tensor([0.5, *values[1:]])", True),
        ("names = 'cat dog'.split()", True),
        ("squares = [n * n for n in range(9) if n]", True),
        ("act = nn.ReLU(inplace=True)", True),
        ("later = lambda: load('weights')", True),
        ("Padding.forward = forward", True),
        ("try:\n    import wandb\nexcept ImportError:\n    wandb = None", True),
        ("'a text'", True),
        ("x = load('weights')", False),
        ("x = [load(n) for n in range(9)]", False),
        ("act = nn.ReLU(inplace=load())", False),
        ("clip, preprocess = clip.load('ViT-B/32')", False),
        ("model.eval()", False),
        ("x += 1", False),
        ("settings['size'] = 3", False),
        ("for n in range(3): print(n)", False),
        ("del x", False),
        ("assert FixedPatch(1, 5)", False),
    ],
)
def test_what_only_defines_is_told_from_what_computes(line: str, is_kept: bool) -> None:
    """Constants of literals, other names and cheap calls are definitions; anything else is left out."""
    cell = notebooks._cell(1, line)
    assert bool(cell.kept.body) == is_kept
    assert bool(cell.left_out) != is_kept


def test_a_folder_is_a_package_with_its_relative_imports(tmp_path: Path) -> None:
    """With `__init__.py` or without, imports relative or of neighbours, in a folder of a folder; scripts are not run."""
    for name, files in {
        "package": {"__init__.py": "from .parts.one import split\n", "parts/one.py": "from ..two import helper\n" + SPLIT},
        "loose": {"one.py": "from .two import helper\n" + SPLIT, "train.py": "raise SystemExit('trains')"},
        "beside": {"code/one.py": "from two import helper\n" + SPLIT, "report.pdf": ""},
    }.items():
        for place, text in {**files, "two.py": "def helper(): return 'two of ' + __file__"}.items():
            path = tmp_path / name / "unpacked" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        solution = foreign(tmp_path / name, tmp_path / "marks")
        assert solution.names == ("split",)
        assert solution.split(3, 0.5, 0) == ([3], [f"two of {tmp_path}/{name}/unpacked/two.py"])
        assert solution.misnamed == ()
        assert not {"two", "package", "one"} & {*sys.modules}


def test_a_folder_says_what_it_takes_and_what_it_cannot(tmp_path: Path) -> None:
    """A name of two files, a file that does not import, a notebook beside them, a name that is nearly right."""
    (tmp_path / "a.py").write_text("def helper(): return 1\n" + SPLIT, encoding="utf-8")
    (tmp_path / "b.py").write_text(f"def splits(): pass\n{SPLIT}\ndef mean_aggregat(A, H): pass", encoding="utf-8")
    (tmp_path / "c.py").write_text("import no_such_module\ndef union(first, second): pass", encoding="utf-8")
    notebook(tmp_path / "d.ipynb", "from torch import nn", PATCH)
    solution = foreign(tmp_path, tmp_path / "marks")
    assert {*solution.names} == {"split", "FixedPatch"}
    assert solution.split(3, 0.5, 0) == ([3], [1])
    assert {*solution.misnamed} == {
        "split is in a.py and in b.py: the former is asked",
        "c.py does not import (ModuleNotFoundError: No module named 'no_such_module'): what it defines is not asked",
        "mean_aggregat: did you mean mean_aggregate?",
    }
    for path in tmp_path.glob("[abd].*"):
        path.unlink()
    with pytest.raises(GivenUp, match="does not import: raised ModuleNotFoundError"):
        _ = Foreign(str(tmp_path), Marks(tmp_path / "others", "x"), 9).names


# -- what is checked ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user stands: with a course of two files, a notebook, a folder of one's own, and a PDF."""
    for place in ("course/alice.py", "course/bob/solution.py", "course/carol.ipynb", "course/notes.pdf", "other/bob/solution.py"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(SPLIT, encoding="utf-8")
    (tmp_path / "course/.hidden").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_course_is_what_lies_in_its_folder(folder: Path) -> None:
    """Folders, Python files and notebooks, under their short names; the rest is said; --impl's own kinds go through."""
    found, notes = submissions([], ["course"])
    assert {one.name: one.label for one in found} == {
        "alice": f"{folder}/course/alice.py",
        "bob": f"{folder}/course/bob",
        "carol": f"{folder}/course/carol.ipynb",
    }
    assert notes == ["course: left out notes.pdf, neither folder nor Python file nor notebook"]
    assert submissions(["course/*"], [])[0] == found
    assert submissions(["course/*.py", "course/alice.py"], [])[0] == found[:1]
    for asked in (submissions([], ["kind:other"]), submissions(["kind:other/*"], [])):
        assert [(one.name, one.label) for one in asked[0]] == [("bob", f"kind:{folder}/other/bob")]
    assert [one.label for one in submissions(["a.module", "a.module:thing", "course/alice.py:Best"], [])[0]] == [
        "a.module",
        "a.module:thing",
        f"{folder}/course/alice.py:Best",
    ]


def test_solutions_of_one_name_are_told_apart(folder: Path) -> None:
    """As much of the path as it takes; every solution has a folder of its own for its results."""
    found, _ = submissions(["course/bob/solution.py", "other/bob/solution.py", "course/alice.py", "other/../course/alice.py"], [])
    assert len({one.name for one in found}) == 4
    assert len({one.slug.lower() for one in found}) == 4
    found, _ = submissions(["course/bob", "other/bob"], [])
    assert [one.name for one in found] == ["course-bob", "other-bob"]
    for name in ("b ob", "b+ob", "B_OB"):
        (folder / "course" / name).mkdir()
    (folder / "course/checked/.kept").mkdir(parents=True)
    found, _ = submissions([], ["course"])
    assert {"b ob", "b+ob", "B_OB"} & {one.name for one in found} == set()
    assert len({one.slug.lower() for one in found}) == len(found) == 6


@pytest.mark.parametrize(
    ("given", "courses", "complaint"),
    [
        (["nothing/*.py"], [], r"nothing/\*.py: nothing is called so"),
        ([], ["nowhere"], "--course nowhere: there is no such folder"),
        ([], ["course/.hidden"], "no folder, Python file or notebook is in it"),
    ],
)
def test_nothing_to_check_is_an_error(folder: Path, given: list[str], courses: list[str], complaint: str) -> None:
    """Patterns and folders without a solution say so."""
    with pytest.raises(SubmissionError, match=complaint):
        submissions(given, courses)


def test_what_a_verdict_depends_on_is_in_its_key(folder: Path) -> None:
    """A solution's file, what it imports beside it, all of a folder, the time limit and the specification; nothing else."""
    write = Path.write_text
    write(folder / "course/alice.py", "from helper import x\nimport os, parts.one\n" + SPLIT)
    write(folder / "course/helper.py", "import deeper")
    write(folder / "course/deeper.py", "x = 1")
    (folder / "course/parts").mkdir()
    write(folder / "course/parts/one.py", "")
    alice, bob = Submission("alice", str(folder / "course/alice.py")), Submission("bob", str(folder / "course/bob"))

    def keys(limit: float = 10, spec: str = "spec") -> tuple[str, str]:
        return key(alice, limit, spec), key(bob, limit, spec)

    first = keys()
    write(folder / "course/notes.pdf", "another")
    (folder / "course/bob/__pycache__").mkdir()
    write(folder / "course/bob/__pycache__/x.pyc", "")
    assert keys() == first
    assert not {*keys(limit=9)} & {*first}
    assert not {*keys(spec="another")} & {*first}
    for place, changed in [("deeper.py", 0), ("parts/one.py", 0), ("alice.py", 0), ("bob/solution.py", 1), ("bob/data.csv", 1)]:
        before = keys()
        write(folder / "course" / place, f"x = {place!r}" if place != "alice.py" else SPLIT)
        after = keys()
        assert [after[nth] == before[nth] for nth in range(2)] == [nth != changed for nth in range(2)], place
    assert key(Submission("m", "a.module"), 10, "spec") == ""


# -- sessions -----------------------------------------------------------------------------------------------------------------


def test_one_bad_submission_ends_none_of_the_others(
    folder: Path, sessions: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without code, one that links to itself, and a session that cannot be started are rows of the table."""
    (folder / "course/dave").mkdir()
    (folder / "course/erin").mkdir()
    (folder / "course/erin/again").symlink_to("..")
    ask = check._Running.ask

    def sometimes(self: Any, one: Submission, *given: Any) -> dict[str, Any]:
        if one.name == "bob":
            raise OSError("no more processes")
        return ask(self, one, *given)

    monkeypatch.setattr(check._Running, "ask", sometimes)
    assert check.main(asked(course=["course"])) == check.FAIL
    said = capsys.readouterr().out
    assert "alice: 100 of 100 points" in said
    assert "bob could not be asked: OSError: no more processes" in said
    assert said.count("could not be asked: there is no Python file in it") == 2
    assert sessions == ["alice", "carol"]


def asked(*solutions: str, **changes: Any) -> list[str]:
    """The words for check.main."""
    usual = {"course": [], "scores": None, "out": "checked", "format": ["html", "csv"], "time_limit": 10.0, "jobs": 1}
    return [json.dumps({"solutions": solutions, **usual, **changes})]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sessions are not run but noted, by the solution's name; alice holds, bob fails, carol cannot be asked."""
    ran: list[str] = []

    def ask(self: Any, one: Submission, workers: int, at_once: int, time_limit: float) -> dict[str, Any]:
        ran.append(one.name)
        if one.name == "carol":
            return check._unended(one, "it was not done after 900 s in all")
        verdict = {"words": "is off", "verdict": "fail"} if one.name == "bob" else {}
        test = f"tests/test_2_2_visual_prompts.py::{SHAPE}[{one.label}]"
        (found,) = table.content([one.label], [row("FixedPatch", solution=one.label, test=test, **verdict)])
        return {**found, "seconds": 1.0}

    monkeypatch.setattr(check._Running, "ask", ask)
    return ran


def test_what_is_finished_is_not_asked_again(folder: Path, sessions: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Verdicts are kept by content: a second call asks what has changed, or came to no end, and gives points anew."""
    assert check.main(asked(course=["course"])) == check.FAIL
    said = capsys.readouterr().out
    assert sorted(sessions) == ["alice", "bob", "carol"]
    assert "alice: 100 of 100 points; 1 statements hold, 0 fail" in said
    assert "bob: 0 of 100 points; 0 statements hold, 1 fail for 1 reason" in said
    assert "carol could not be asked: it was not done after 900 s in all" in said
    assert all(f"[{nth}/3] " in said for nth in (1, 2, 3))
    sessions.clear()
    (folder / "points.toml").write_text("[names]\nFixedPatch = 7\n[sections]\n'3.1' = 1", encoding="utf-8")
    assert check.main(asked(course=["course"], scores="points.toml", format=["json", "csv"])) == check.FAIL
    said = capsys.readouterr().out
    assert sessions == ["carol"]
    assert "alice: 7 of 7 points" in said
    assert "points.toml: no statement that was asked is left for the points of sections.3.1" in said
    assert said.count("(kept)") == 2
    rows = [*csv.DictReader(io.StringIO((folder / "checked/course.csv").read_text("utf-8")))]
    assert [(one["student"], one["points"], one["of"]) for one in rows] == [
        ("alice", "7.0", "7.0"),
        ("bob", "0.0", "7.0"),
        ("carol", "0.0", "7.0"),
    ]
    assert json.loads((folder / "checked/bob/content.json").read_text("utf-8"))["solution"] == "bob"
    assert "bob" not in (folder / "checked/alice/feedback.html").read_text("utf-8")
    sessions.clear()
    (folder / "course/bob/solution.py").write_text("changed = 1", encoding="utf-8")
    assert check.main(asked("course/alice.py", "course/bob")) == check.FAIL
    assert check.main(asked("course/alice.py")) == check.HOLD
    assert check.main(asked("course/alice.py", fresh=True)) == check.HOLD
    assert sessions == ["bob", "alice"]


def test_ctrl_c_keeps_what_is_finished(
    folder: Path, sessions: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was finished has its files and is not asked again."""
    ask = check._Running.ask

    def interrupted(self: Any, one: Submission, *given: Any) -> dict[str, Any]:
        if one.name == "bob":
            raise KeyboardInterrupt
        return ask(self, one, *given)

    with monkeypatch.context() as patch:
        patch.setattr(check._Running, "ask", interrupted)
        assert check.main(asked(course=["course"])) == check.INTERRUPTED
    assert "interrupted: 1 of 3 are kept" in capsys.readouterr().err
    assert (folder / "checked/alice/feedback.html").is_file()
    assert len((folder / "checked/course.csv").read_text("utf-8").splitlines()) == 2
    sessions.clear()
    check.main(asked(course=["course"]))
    assert sorted(sessions) == ["bob", "carol"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (asked(), "nothing to check: give solutions"),
        (asked("nowhere.py"), "nowhere.py: there is no such file"),
        (asked("other/empty", "course/alice.py"), "other/empty: there is no"),
        (asked("course/notes.pdf", "course/alice.py"), "course/notes.pdf: it is no Python file"),
        (asked("course/alice.py", format=["html", "excel"]), "--format excel: give any of html, gradescope, "),
        (asked("course/alice.py", time_limit=0.0), "--time-limit 0: give seconds above 0"),
        (asked("course/alice.py", jobs=0), "--jobs 0: give at least 1"),
        (asked("course/alice.py", scores="none.toml"), "none.toml: cannot be read"),
        (asked("course/alice.py", out="course/notes.pdf"), "--out course/notes.pdf: cannot be made"),
    ],
)
def test_what_a_user_can_mend_is_an_error_before_anything_is_asked(
    folder: Path, sessions: list[str], capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    """One line, exit code 2, and no session."""
    assert check.main(words) == check.ERROR
    assert complaint in capsys.readouterr().err
    assert sessions == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="NOT RUN: this system has no process groups")
def test_a_session_ends_with_all_that_it_started(tmp_path: Path) -> None:
    """Beyond its limit, a session and what a solution left running in it are ended, and it is said."""
    child_of_it = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])"
    code = f"import subprocess, sys, time\nprint({child_of_it}.pid, flush=True)"
    running = check._Running(isolated=False)
    for last, told in (("time.sleep(99)", "it was not done after 3 s in all"), ("", "")):
        said = tmp_path / "said.txt"
        assert running._run([sys.executable, "-c", f"{code}\n{last}"], said, dict(os.environ), 3) == told
        child = int(said.read_text("utf-8"))
        for _ in range(100):
            if not _is_alive(child):
                break
            time.sleep(0.05)
        assert not _is_alive(child)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat")
        return not state.exists() or state.read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False


def test_vp_without_the_tests_says_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package has no specification beside it: an error that says what to do."""
    monkeypatch.setattr("vp.commands.check.PROJECT", tmp_path)
    with pytest.raises(VpError, match=r"vp is installed without them .* get the project's folder"):
        command(Namespace())


@pytest.mark.slow
def test_a_course_is_checked_from_any_folder(tmp_path: Path) -> None:
    """`python -m vp check` beside a folder `tests` of the user's own: a right notebook, a package that ends its process."""
    (tmp_path / "course/package").mkdir(parents=True)
    notebook(tmp_path / "course/jürgen müller.ipynb", "def sum_aggregate(A, H): return A @ H")
    (tmp_path / "course/package/__init__.py").write_text("from .one import sum_aggregate", encoding="utf-8")
    (tmp_path / "course/package/one.py").write_text("import os\ndef sum_aggregate(A, H): os._exit(3)", encoding="utf-8")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/__init__.py").write_text("raise SystemExit('not these')", encoding="utf-8")
    (tmp_path / "points.toml").write_text("[names]\nsum_aggregate = 5", encoding="utf-8")
    words = ["check", "--course", "course", "--scores", "points.toml", "--format", *formats.FORMATS]
    done = subprocess.run(
        [sys.executable, "-m", "vp", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"jürgen müller: 5 of 5 points; \d+ statements hold, 0 fail; ", done.stdout)
    assert "package: 0 of 5 points; 0 statements hold" in done.stdout
    for name, score in (("jürgen_müller", 5), ("package", 0)):
        results = json.loads((tmp_path / "checked" / name / "results.json").read_text("utf-8"))
        assert results["score"] == score
        assert len(results["tests"]) > 150
        assert results["execution_time"] > 0
    assert "ended the process it ran in" in (tmp_path / "checked/package/feedback.html").read_text("utf-8")
    assert {path.name for path in (tmp_path / "checked/jürgen_müller").iterdir()} == {file for file, _ in formats.STUDENT.values()}
