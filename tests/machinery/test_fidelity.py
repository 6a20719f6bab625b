"""vp.report.fidelity: what the miniature shares with full scale; `python -m vp fidelity`; and the table of the writeup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vp.commands.fidelity
import vp.experiments.store
from tests.controls import fidelity as controls
from tests.support import reporting
from tests.support.reporting import EXPECTATIONS
from vp.__main__ import main
from vp.experiments import SCALES, Result, runs
from vp.experiments.store import result_path, run_key, save_result
from vp.machine.errors import VpError
from vp.report.expectations import Verdict, load_expectations
from vp.report.fidelity import (
    FILE,
    Committed,
    Contrast,
    Judged,
    in_words,
    judge,
    load_committed,
    load_fidelity,
    rows_of,
)
from vp.report.writeup import Sources, build, render

Judging = Callable[[Sequence[Contrast], Mapping[str, float]], list[Judged]]
A, B, C = "padding-10", "fixed-patch-10", "padding-100"
CONTRASTS = load_fidelity(EXPECTATIONS)


def agreement(judging: Judging, real: float, first: float, second: float, at_most: bool = False) -> tuple[bool, bool]:
    """Do sign and size agree, where full scale's difference is `real` and the runs have these accuracies?"""
    (one,) = judging([Contrast(A, B, real, "a source", at_most)], {A: first, B: second})
    return one.sign, one.size


# -- rules -----------------------------------------------------------------------------------------------------------------


def assert_difference(judging: Judging) -> None:
    for real, first, second, sign in [(2.0, 60.0, 61.0, False), (-2.0, 60.0, 61.0, True), (2.0, 61.0, 60.0, True)]:
        assert agreement(judging, real, first, second)[0] is sign
    assert agreement(judging, -2.0, 61.0, 60.0)[0] is agreement(judging, 2.0, 60.0, 60.0)[0] is False


def test_the_sign_is_that_of_the_difference() -> None:
    """The sign agrees when first minus second is above 0 at both scales, or below; no difference agrees with none."""
    assert_difference(judge)


def assert_size_needs_sign(judging: Judging) -> None:
    assert agreement(judging, 4.0, 64.0, 60.0) == (True, True)
    assert agreement(judging, 4.0, 60.0, 64.0) == agreement(judging, -4.0, 64.0, 60.0) == (False, False)


def test_a_size_agrees_only_where_the_sign_does() -> None:
    """A difference of the right size and the wrong sign agrees in nothing."""
    assert_size_needs_sign(judge)


def assert_missing(judging: Judging) -> None:
    known = {A: 64.0, B: 60.0, C: 50.0}
    for real in (4.0, 0.1):
        for missing in (A, B):
            (one,) = judging([Contrast(A, B, real, "")], {name: value for name, value in known.items() if name != missing})
            assert one.own is None
            assert (one.sign, one.size) == (False, False)


def test_a_missing_run_agrees_in_nothing() -> None:
    """A contrast whose first or second run was not measured has no difference, and does not count as agreement."""
    assert_missing(judge)


def assert_both_directions(judging: Judging) -> None:
    for real in (4.0, -4.0):
        for factor, size in [(0.25, False), (0.5, True), (1.0, True), (2.0, True), (2.25, False), (8.0, False)]:
            assert agreement(judging, real, 50.0 + factor * real, 50.0) == (True, size), (real, factor)


def test_a_factor_of_two_holds_in_both_directions() -> None:
    """The size agrees from half to twice full scale's difference, not below and not above."""
    assert_both_directions(judge)


def assert_nothing_has_no_sign(judging: Judging) -> None:
    for real, at_most in [(0.1, False), (-0.49, False), (0.0, False), (2.0, True)]:
        for own, both in [(2.75, True), (-2.75, True), (0.0, True), (3.0, False), (-3.0, False)]:
            assert agreement(judging, real, 50.0 + own, 50.0, at_most) == (both, both), (real, own)
    assert agreement(judging, 0.5, 49.75, 50.0) == (False, False)


def test_next_to_nothing_has_no_sign() -> None:
    """Below 0.5 points at full scale, or with `at_most`, the own difference must stay below 3 points in size, of either sign."""
    assert_nothing_has_no_sign(judge)


@pytest.mark.parametrize(
    ("wrong", "rule", "test"),
    [
        (controls.sign_of_the_first_value, assert_difference, test_the_sign_is_that_of_the_difference),
        (controls.anything_is_nearly_nothing, assert_difference, test_the_sign_is_that_of_the_difference),
        (controls.size_without_sign, assert_size_needs_sign, test_a_size_agrees_only_where_the_sign_does),
        (controls.missing_agrees, assert_missing, test_a_missing_run_agrees_in_nothing),
        (controls.missing_is_nothing, assert_missing, test_a_missing_run_agrees_in_nothing),
        (controls.at_most_twice, assert_both_directions, test_a_factor_of_two_holds_in_both_directions),
        (controls.at_least_half, assert_both_directions, test_a_factor_of_two_holds_in_both_directions),
        (controls.sign_of_nearly_nothing, assert_nothing_has_no_sign, test_next_to_nothing_has_no_sign),
    ],
    ids=lambda value: value.__name__,
)
def test_wrong_judges_are_rejected(wrong: Judging, rule: Callable[[Judging], None], test: Callable[[], None]) -> None:
    """Each wrong way to judge fails the rule that its docstring names."""
    assert str(wrong.__doc__).endswith(f": {test.__name__}.")
    with pytest.raises(AssertionError):
        rule(wrong)


points = st.floats(-50, 50).filter(lambda points: abs(points) >= 0.5)


@given(real=points, factor=st.floats(0.51, 1.99))
def test_both_directions_of_a_contrast_are_judged_alike(real: float, factor: float) -> None:
    """Exchanging first and second changes nothing; from half to twice the difference, sign and size agree."""
    values = {A: 50 + real * factor / 2, B: 50 - real * factor / 2}
    forth, back = judge([Contrast(A, B, real, ""), Contrast(B, A, -real, "")], values)
    assert (forth.sign, forth.size) == (back.sign, back.size) == (True, True)
    assert forth.own == -(back.own or 0.0)


def test_one_line_counts() -> None:
    """The line counts signs, sizes, and what was not measured; nothing is said of the latter when all was."""
    contrasts = [Contrast(A, B, 4.0, ""), Contrast(B, A, -1.0, ""), Contrast(A, C, 1.0, "")]
    judged = judge(contrasts, {A: 64.0, B: 60.0})
    assert in_words(judged) == "2 of 3 differences have full scale's sign, 1 within a factor of two; 1 not measured"
    assert in_words(judged[:2]) == "2 of 2 differences have full scale's sign, 1 within a factor of two"
    assert [row[:6] for row in rows_of(judged)] == [
        [A, B, "+4.00", "+4.00", "yes", "yes"],
        [B, A, "-1.00", "-4.00", "yes", "no"],
        [A, C, "+1.00", "not measured", "–", "–"],
    ]


# -- the file --------------------------------------------------------------------------------------------------------------

ENTRY = {"first": f'"{A}"', "second": f'"{B}"', "real": "3.17", "source": '"report, table 2"'}


def written(folder: Path, *entries: Mapping[str, str], committed: str = "") -> Path:
    tables = ["\n".join(["[[contrast]]", *(f"{key} = {value}" for key, value in entry.items())]) for entry in entries]
    (folder / FILE).write_text("\n".join([committed, *tables]) + "\n")
    return folder


def test_contrasts_are_read_in_order(tmp_path: Path) -> None:
    """All contrasts are read as they stand, `at_most` with them; without the file there are none."""
    assert load_fidelity(tmp_path) == []
    written(tmp_path, ENTRY, ENTRY | {"second": f'"{C}"', "real": "1", "at_most": "true"})
    assert load_fidelity(tmp_path) == [Contrast(A, B, 3.17, "report, table 2"), Contrast(A, C, 1.0, "report, table 2", True)]


@pytest.mark.parametrize(
    ("changes", "line", "complaint"),
    [
        ({"first": '"padding-11"'}, 8, "first is 'padding-11', which is no run of both scales"),
        ({"second": f'"{A}"'}, 9, f"second is '{A}', as first is: expected another run"),
        ({"real": '"much"'}, 10, "real is 'much', expected a number"),
        ({"real": "nan"}, 10, "real is nan, expected -100 to 100"),
        ({"source": "5"}, 11, "source is 5, expected text"),
        ({"source": None}, 7, "source is missing, expected text"),
        ({"at_most": "1"}, 12, "at_most is 1, expected true or false"),
        ({"at_least": "1"}, 12, "at_least is unknown, expected first, second, real, source, at_most"),
        ({"second": f'"{A}"', "first": f'"{B}"'}, 7, f"the runs {B} and {A} have a second contrast: keep one"),
    ],
)
def test_a_malformed_contrast_is_named(changes: Mapping[str, str | None], line: int, complaint: str, tmp_path: Path) -> None:
    """File, line and field are named, of the second of two tables."""
    second = {key: value for key, value in {**ENTRY, "second": f'"{C}"', **changes}.items() if value is not None}
    path = written(tmp_path, ENTRY, second) / FILE
    assert path.read_text().splitlines()[6] == "[[contrast]]"
    with pytest.raises(VpError, match=f"^{re.escape(f'{path}:{line}: ')}.*{re.escape(complaint)}"):
        load_fidelity(tmp_path)


@pytest.mark.parametrize("text", ["contrast = 5", "[contrast]\nfirst = 'a'", "[[contrast"])
def test_a_file_of_another_form_is_named(text: str, tmp_path: Path) -> None:
    """What is no list of contrasts, or no TOML, is an error that names the file."""
    (tmp_path / FILE).write_text(text)
    with pytest.raises(VpError, match=re.escape(str(tmp_path / FILE))):
        load_fidelity(tmp_path)


@pytest.mark.parametrize(
    ("committed", "complaint"),
    [
        ("", ": expected a table [committed]"),
        ("[committed]\nmini_signs = []", ":1: [committed] mini_sizes has None"),
        ("[committed]\nmini_signs = ['x']\nmini_sizes = []", ":2: [committed] mini_signs has 'x', which is no contrast"),
        (
            f"[committed]\nmini_signs = []\nmini_sizes = ['{A} - {B}', '{A} - {B}']",
            ":3: [committed] mini_sizes names a contrast twice",
        ),
    ],
)
def test_a_malformed_commitment_is_named(committed: str, complaint: str, tmp_path: Path) -> None:
    """File, line and field of what the miniature commits to are named."""
    with pytest.raises(VpError, match=re.escape(f"{written(tmp_path, ENTRY, committed=committed) / FILE}{complaint}")):
        load_committed(tmp_path)


# -- what is committed -----------------------------------------------------------------------------------------------------


def complaints(judged: Sequence[Judged], committed: Committed) -> list[str]:
    """What of full scale the miniature has lost: for sign and size the counts, and the contrasts that turned; what is missing."""
    now = {
        "sign": ([one.contrast.name for one in judged if one.sign], committed.mini_signs),
        "size": ([one.contrast.name for one in judged if one.size], committed.mini_sizes),
    }
    missing = [one.contrast.name for one in judged if one.own is None]
    return [
        f"{len(names)} differences have full scale's {what}, {len(before)} are committed. Turned: "
        f"{', '.join(name for name in before if name not in names)}. Not measured: {', '.join(missing) or 'none'}."
        for what, (names, before) in now.items()
        if len(names) < len(before)
    ]


def values_of(scale: str) -> dict[str, float]:
    return {name: one.value for name, one in load_expectations(EXPECTATIONS, scale).items()}


def test_the_miniature_is_as_faithful_as_committed() -> None:
    """By its committed expectations, the miniature shares as many signs and sizes of full scale as fidelity.toml says, or more."""
    judged = judge(CONTRASTS, values_of("mini"))
    assert not complaints(judged, load_committed(EXPECTATIONS)), "\n".join(complaints(judged, load_committed(EXPECTATIONS)))


def test_what_turned_is_named() -> None:
    """A sign that turned, or a run that went missing, is named; another one gained in its place makes up for it."""
    committed = Committed((f"{A} - {B}",), (f"{A} - {B}",))
    contrasts = [Contrast(A, B, 4.0, ""), Contrast(A, C, 4.0, "")]
    assert complaints(judge(contrasts, {A: 64.0, B: 60.0}), committed) == []
    assert complaints(judge(contrasts, {A: 64.0, B: 70.0, C: 60.0}), committed) == []
    turned, too_large = (complaints(judge(contrasts[:1], {A: first, B: 60.0}), committed) for first in (58.0, 90.0))
    assert [line.partition(".")[0] for line in turned] == [
        "0 differences have full scale's sign, 1 are committed",
        "0 differences have full scale's size, 1 are committed",
    ]
    assert [f"Turned: {A} - {B}. Not measured: none." in line for line in (*turned, *too_large)] == [True] * 3
    assert f"Not measured: {A} - {B}, {A} - {C}." in complaints(judge(contrasts, {}), committed)[0]


def test_the_reports_own_numbers_agree_with_the_contrasts() -> None:
    """The numbers that full scale is held to have the sign and size of every contrast whose runs they name: no slip of the pen."""
    judged = [one for one in judge(CONTRASTS, values_of("full")) if one.own is not None]
    assert [one.contrast.name for one in judged if not one.size] == []
    assert len(judged) > 0.9 * len(CONTRASTS) >= 36


# -- the command -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def perform(*_: Any) -> Result:
        raise AssertionError("fidelity must not train")

    monkeypatch.setattr(vp.experiments.store, "perform", perform)


@pytest.mark.usefixtures("_nothing_trains")
@pytest.mark.parametrize("scale", SCALES)
def test_the_command_prints_the_table_and_the_line(scale: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With an empty store all values are the committed expectations, and that is said; one row a contrast, one line that counts."""
    assert main(["fidelity", "--scale", scale]) == 0
    head, *rows, blank, where, line = capsys.readouterr().out.splitlines()
    judged = judge(CONTRASTS, values_of(scale))
    assert head.split("  ")[0] == "First run"
    assert [re.split(r" {2,}", row) for row in rows] == [row[:-1] for row in rows_of(judged)]
    assert blank == ""
    assert re.fullmatch(rf"values at scale {scale}: 0 of \d+ runs from the store, \d+ from expectations/{scale}", where)
    assert line == in_words(judged)


@pytest.mark.usefixtures("_nothing_trains")
def test_what_the_store_has_goes_before_expectations(capsys: pytest.CaptureFixture[str]) -> None:
    """A result of the store goes before the run's expectation; one of other code or data, and one that is damaged, do not."""
    run = runs("mini")["zero-shot-10-test"]
    key = run_key(run, 0)
    result = Result(run.name, "mini", run.dataset, run.backbone, 0, torch.tensor([True, False]), {}, [], None, 0, 1.0, {})
    path = result_path(run, key)
    path.parent.mkdir(parents=True)
    save_result(result_path(run, "0" * 64), result, "0" * 64)
    assert told(capsys)["stored"] == []
    path.write_bytes(b"damaged")
    assert told(capsys)["stored"] == []
    save_result(path, result, key)
    said = told(capsys)
    assert said["stored"] == [run.name]
    values = values_of("mini") | {run.name: 50.0}
    assert said["line"] == in_words(judge(CONTRASTS, values))
    assert said["contrasts"][0]["own"] == pytest.approx(50 - values["zero-shot-100-test"])


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["fidelity", "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert len(said["contrasts"]) == len(CONTRASTS)
    return said


def test_without_the_folder_of_expectations_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installed package has no expectations: one line says which file is missing and what to do."""
    monkeypatch.setattr(vp.commands.fidelity, "EXPECTATIONS", tmp_path)
    assert main(["fidelity"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {tmp_path / FILE} is missing: the package is installed without")
    assert said.err.count("\n") == 1


# -- the writeup -----------------------------------------------------------------------------------------------------------

HOSTILE = "<script>alert('&amp;')</script> \" ' </td></table></details>"


def written_up(contrasts: Sequence[Contrast], *cells: tuple[str, float, Verdict], scale: str = "mini") -> dict[str, Any]:
    others = {"kind": "cell", "interval": (0.0, 100.0), "expected": 1.0, "tolerance": 0.5}
    entries = [{**others, "run": name, "value": value, "verdict": str(verdict)} for name, value, verdict in cells]
    return build(entries, (), (), Sources(runs(scale), contrasts=contrasts))


@pytest.mark.parametrize("scale", SCALES)
def test_the_writeup_judges_the_runs_own_numbers(scale: str) -> None:
    """At either scale the opening counts by what this run measured; the line is seen, the table is folded below the verdicts."""
    contrasts = [Contrast(A, B, 4.0, "one source"), Contrast(C, A, 4.0, "another")]
    cells = [(A, 64.0, Verdict.REPRODUCED), (B, 60.0, Verdict.CONTRADICTED)]
    html = render(written_up(contrasts, *cells, scale=scale))
    line = "1 of 2 differences have full scale&#x27;s sign, 1 within a factor of two; 1 not measured"
    assert html.count(f"<p>{line}.</p>") == 1
    (folded,) = re.findall(r"<details class='more'><summary>All differences</summary>(.*?)</details>", html)
    cells_of_row = re.findall(r"<td>(.*?)</td>", folded)
    assert cells_of_row[:7] == [A, B, "+4.00", "+4.00", "yes", "yes", "one source"]
    assert html.count(f"<title>{A} - {B}: +4.0 at full scale, +4.0 here</title>") == 1
    assert html.index("id='opening'") < html.index("What carries over") < html.index("id='chapter-0'")


def test_what_was_only_rehearsed_carries_nothing_over() -> None:
    """Numbers of random weights are no measurement; without contrasts the page says nothing of them."""
    contrast = Contrast(A, B, 4.0, "")
    rehearsed = written_up([contrast], (A, 64.0, Verdict.REHEARSAL), (B, 60.0, Verdict.REHEARSAL))
    assert rehearsed["fidelity"]["line"].endswith("1 not measured")
    assert "What carries over" not in render(written_up([], (A, 64.0, Verdict.REPRODUCED)))


def test_a_source_is_text() -> None:
    """Markup in a contrast's source or names is text; the content is plain values, the same as JSON."""
    content = written_up([Contrast(HOSTILE, B, 4.0, HOSTILE)])
    html = render(content)
    assert "<script" not in html
    assert html.count("</details>") == html.count("<details") == render(written_up([Contrast(A, B, 4.0, "")])).count("<details")
    assert json.loads(json.dumps(content)) == content


def test_a_session_passes_the_committed_contrasts_on(request: pytest.FixtureRequest) -> None:
    """The writeup of a session has a row for each contrast of fidelity.toml."""
    content, _ = reporting._writeup(request.config)
    assert [row[:2] for row in content["fidelity"]["rows"]] == [[one.first, one.second] for one in CONTRASTS]
