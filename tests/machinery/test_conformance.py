"""Conformance mode: what foreign code does, and what becomes of it, is told in words and takes nothing down."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from tests.conformance import table
from tests.conformance.agree import agree
from tests.conformance.foreign import Calls, Complaint, Foreign, GivenUp, Marks, NotClaimed, load
from tests.conformance.names import NAMES
from tests.conformance.options import split_label
from tests.conformance.plugin import _example, _message
from tests.conformance.subject import Ours, Subject
from tests.support.reporting import ROOT
from tests.support.sessions import Session, conform
from tests.support.strategies import sparse

LIMIT_S = 0.5


def write(path: Path, code: str) -> str:
    path.write_text(code, encoding="utf-8")
    return str(path)


@pytest.fixture
def solution(tmp_path: Path) -> Callable[..., Foreign]:
    """solution(code): a file of that code, as conformance mode has it."""

    def build(code: str, name: str = "solution.py") -> Foreign:
        return Foreign(write(tmp_path / name, code), Marks(tmp_path / "marks", name), LIMIT_S)

    return build


# -- importing ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "import no_such_module",
            r"does not import: raised ModuleNotFoundError: No module named 'no_such_module' \(solution.py, line 1\)",
        ),
        ("def f(:", r"does not import: raised SyntaxError: [^()]* \(solution.py, line 1\)$"),
        ("x = 1\nraise ValueError('no data')", r"does not import: raised ValueError: no data \(solution.py, line 2\)"),
        ("while True: pass", r"does not import: it ran for more than 3 s \(--time-limit\)"),
        ("import sys\nsys.exit(0)", r"does not import: raised SystemExit: 0 \(solution.py, line 2\)"),
        (
            "import argparse\nargparse.ArgumentParser().parse_args(['--no'])",
            "raised SystemExit: 2 .*; it said: .*unrecognized arguments",
        ),
        ("input()", "does not import: asks for input"),
        ("def __getattr__(name): raise RuntimeError(name)", "does not import: raised RuntimeError: new_head"),
    ],
    ids=["missing module", "syntax", "raises", "hangs", "exits", "command line", "input", "names"],
)
def test_a_solution_that_does_not_import_says_why(solution, code: str, words: str) -> None:
    """A solution that does not import, or not in time, gives a sentence, and is not tried a second time."""
    foreign = solution(code)
    with pytest.raises(GivenUp, match=words):
        _ = foreign.names
    write(Path(foreign.label), "def Padding(size, image_size): ...")
    with pytest.raises(GivenUp, match=words):
        _ = foreign.names


def test_an_import_that_ended_its_process_is_not_tried_again(solution) -> None:
    """What a worker was importing when it died is not imported by the next one."""
    foreign = solution("")
    foreign.marks.leave("importing", "does not import: it ended the process, or ran too long")
    with pytest.raises(GivenUp, match="it ended the process, or ran too long"):
        _ = foreign.names


def test_names_may_be_in_a_file_a_module_or_an_object_of_either(tmp_path: Path) -> None:
    """A label is a file, a module, or either with a colon and what holds the names: a class, a namespace or a dict."""
    path = write(tmp_path / "own.py", "from neighbour import f\nclass Best:\n    split = f\nnames = {'split': f}")
    write(tmp_path / "neighbour.py", "def f(count, share, seed): return [count], []")
    for holder in ("Best", "names"):
        foreign = Foreign(f"{path}:{holder}", Marks(tmp_path / "marks", holder), 9)
        assert foreign.names == ("split",)
        assert foreign.split(3, 0.5, 0) == ([3], [])
    assert load("tests.conformance.ours:split") is load("tests.conformance.ours").split
    with pytest.raises(Complaint, match="has no 'worst'"):
        load("tests.conformance.ours:worst")
    with pytest.raises(Complaint, match="there is no file"):
        load(str(tmp_path / "nothing.py"))


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("a/b.py", ("a/b.py", "")),
        ("b.py:Best", ("b.py", "Best")),
        (r"C:\a\b.py", (r"C:\a\b.py", "")),
        (r"C:\a\b.py:Best", (r"C:\a\b.py", "Best")),
        ("package.module", ("package.module", "")),
        ("package.module:Best", ("package.module", "Best")),
        ("module:two.parts", ("module", "two.parts")),
    ],
)
def test_a_label_is_split_at_the_colon_of_its_object(label: str, parts: tuple[str, str]) -> None:
    """What holds the names stands behind a file or module; the colon of a drive is no such colon."""
    assert split_label(label) == parts


def test_nothing_of_ours_stands_in_for_a_missing_name(solution) -> None:
    """A name that a solution does not have is not claimed."""
    foreign = solution("def split(count, share, seed): ...")
    assert foreign.names == ("split",)
    with pytest.raises(NotClaimed):
        _ = foreign.union


# -- calling -----------------------------------------------------------------------------------------------------------------

IMAGES = "import torch\nfrom torch import nn\n"
PROMPT = IMAGES + (
    "class Padding(nn.Module):\n    def __init__(self, size, image_size):\n        super().__init__()\n    def forward(self, x):\n"
)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("Padding = 3", r"Padding is 3: expected something to call as Padding\(size, image_size\)"),
        ("def Padding(args): ...", r"Padding takes \(args\) .*: it is called as Padding\(size, image_size\); an adapter"),
        ("def Padding(size, image_size): return 7", r"Padding\(1, 5\) gave 7: expected a torch.nn.Module"),
        (
            "def Padding(size, image_size): return 1 / 0",
            r"Padding\(1, 5\) raised ZeroDivisionError: division by zero \(solution.py, line",
        ),
        ("def Padding(size, image_size): raise SystemExit(2)", r"Padding\(1, 5\) raised SystemExit: 2"),
        (PROMPT + "        return x[..., 1:]", r"gave a tensor \(2, 3, 5, 4\) of float32: expected shape \(2, 3, 5, 5\)"),
        (PROMPT + "        return x / 0", r"with NaN or infinite entries: expected finite numbers"),
        (PROMPT + "        return x > 0", r"of bool: expected real numbers"),
        (PROMPT + "        return x.tolist()", r"gave list .*: expected a tensor"),
        (
            PROMPT + "        raise RuntimeError('Found no NVIDIA driver')",
            r"it needs CUDA: give back what works where its input is",
        ),
        (
            IMAGES + "class Padding(nn.Module): pass",
            r"raised TypeError: .*positional argument.*: it is called as Padding\(size, image_size\); an adapter",
        ),
        (
            IMAGES + "def helper(a, b): pass\ndef Padding(size, image_size): helper(1)",
            r"raised TypeError: helper\(\) missing 1 required positional argument: 'b' \(solution.py, line \d\)$",
        ),
        (PROMPT + "        raise KeyError", r"Padding module\(a tensor \(2, 3, 5, 5\) of float32\) raised KeyError"),
    ],
    ids=[
        "no callable",
        "signature",
        "kind",
        "raises",
        "exits",
        "shape",
        "nan",
        "dtype",
        "list",
        "cuda",
        "class without arguments",
        "calls its own wrongly",
        "raises inside",
    ],
)
def test_what_a_call_does_wrong_is_said_in_words(solution, code: str, words: str) -> None:
    """Another signature, kind, shape or type, NaN, exceptions, changed inputs, CUDA: each is a sentence for the author."""
    with pytest.raises(Complaint, match=words):
        solution(code).Padding(1, 5)(torch.ones(2, 3, 5, 5))


def test_a_call_that_never_ends_is_ended_and_not_tried_again(solution) -> None:
    """What runs longer than the limit is interrupted; the other tests of the name do not wait for it again."""
    foreign = solution("import time\ndef split(count, share, seed):\n    while True: time.sleep(0.01)")
    with pytest.raises(GivenUp, match=r"split\(5, 0.2, 0\) did not come to an end in 0.5 s \(--time-limit\)$"):
        foreign.split(5, 0.2, 0)
    with pytest.raises(GivenUp, match=r"did not come to an end in 0\.5 s \(--time-limit\); not tried again"):
        foreign.split(6, 0.2, 0)


def test_solutions_do_not_reach_each_other(tmp_path: Path) -> None:
    """Equal names of modules, settings of torch and the folder are each solution's own, when it is called, too."""
    found = {}
    for name in ("alice", "bob"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "utils.py", f"who = '{name}'")
        write(tmp_path / name / "late.py", f"who = 'late {name}'")
        code = "import torch, utils\ntorch.set_grad_enabled(False)\ntorch.set_default_dtype(torch.float64)\n"
        code += "def split(count, share, seed):\n    import late\n"
        code += "    return [utils.who, late.who], [torch.is_grad_enabled(), torch.zeros(1).dtype]"
        found[name] = Foreign(write(tmp_path / name / "sol.py", code), Marks(tmp_path / "marks", name), 9)
    for _ in range(2):
        for name, foreign in found.items():
            assert foreign.split(1, 0.5, 0) == ([name, f"late {name}"], [False, torch.float64])
            assert torch.is_grad_enabled()
            assert torch.get_default_dtype() == torch.float32
    assert "utils" not in sys.modules


def test_what_is_installed_beside_solutions_is_imported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment in the folder of two solutions holds nobody's own modules: some cannot be imported twice."""
    installed = tmp_path / ".venv/lib/python3.11/site-packages"
    installed.mkdir(parents=True)
    write(installed / "only_once_for_a_test.py", "")
    monkeypatch.syspath_prepend(installed)
    found = []
    for name in ("first", "second"):
        code = "import only_once_for_a_test\ndef split(count, share, seed): return [id(only_once_for_a_test)], []"
        foreign = Foreign(write(tmp_path / f"{name}.py", code), Marks(tmp_path / "marks", name), 9)
        found.append(foreign.split(1, 0.5, 0))
    assert found == [([id(sys.modules.pop("only_once_for_a_test"))], [])] * 2


def test_folders_of_like_names_and_packages_without_init_are_told_apart(tmp_path: Path) -> None:
    """`team1` is not above `team10`, and a package without `__init__.py` is as much a solution's own as any module."""
    found = {}
    for name in ("team1", "team10"):
        (tmp_path / name / "parts").mkdir(parents=True)
        write(tmp_path / name / "parts/which.py", f"name = '{name}'")
        code = "import parts.which\ndef split(count, share, seed): return [parts.which.name], []"
        found[name] = Foreign(write(tmp_path / name / "sol.py", code), Marks(tmp_path / "marks", name), 9)
    for name, foreign in found.items():
        assert foreign.split(1, 0.5, 0) == ([name], [])
        assert "parts" not in sys.modules


def test_a_change_in_place_is_one_mistake(solution) -> None:
    """What is changed in place is a copy: the caller's tensor stays, the call's result counts, and one row of its own fails."""
    foreign, images = solution(PROMPT + "        x[..., :1, :1] += 1\n        return x"), torch.zeros(2, 3, 5, 5)
    assert foreign.Padding(1, 5)(images).sum() == 6
    assert images.sum() == 0
    assert re.search(r"changed a tensor \(2, 3, 5, 5\) of float32", foreign.impure["Padding"])
    words = tuple(foreign.impure.values())
    rows = [row(names=("Padding",), test=f"t.py::{name}", impure=words, claims=("Padding",)) for name in ("x", "y")]
    (asked,) = table.content(["a.py"], rows)
    assert (asked["passed"], asked["failed"], asked["mistakes"]) == (2, 1, 1)
    (failed,) = [one for part in asked["sections"] for one in part["rows"] if one["verdict"] == "fail"]
    assert failed["statement"] == table.PURITY


def test_a_statement_of_purity_stands_for_the_row_of_its_own() -> None:
    """Where the statement that says so fails for the change, no further row does."""
    rows = [row(test="t.py::x", verdict="fail", words="changed", impure=("changed",)), row(test="t.py::y", impure=("changed",))]
    (asked,) = table.content(["a.py"], rows)
    assert (asked["passed"], asked["failed"]) == (1, 1)


@pytest.mark.parametrize(
    ("body", "is_declined"),
    [
        ("raise ValueError('position must be back')", True),
        ("raise ValueError(f'unknown position {position}')", True),
        ("raise ValueError('only one block is supported')", True),
        ("raise ValueError('shapes differ')", False),
        ("raise NotImplementedError", True),
        ("return torch.nn.Module()(torch.ones(1))", False),
        ("raise NotImplementedError(\"Could not run 'aten::mm' with arguments from the 'SparseCPU' backend\")", False),
    ],
)
def test_what_declines_an_option_is_told_from_a_mistake(solution, body: str, is_declined: bool) -> None:
    """An error that names an option it was given, or says what is supported, declines; any other is a mistake, as torch's own."""
    code = f"import torch\ndef DeepPromptedCLIP(model, tokenizer, names, n, block, position, readout):\n    {body}"
    with pytest.raises(NotClaimed if is_declined else Complaint):
        solution(code).DeepPromptedCLIP(None, None, ["a"], 1, 0, "front", "class")


def test_gradients_flow_through_what_is_lent(solution) -> None:
    """A caller's tensor gets its gradient, though the solution sees a copy."""
    images = torch.zeros(1, 3, 5, 5, requires_grad=True)
    solution(PROMPT + "        return 2 * x").Padding(1, 5)(images).sum().backward()
    assert images.grad is not None
    assert images.grad.unique().tolist() == [2.0]


def test_statements_that_fail_for_one_reason_are_one_mistake() -> None:
    """The table counts reasons beside statements: equal words but for their examples are one."""
    failing = [row(test=f"t.py::{i}", verdict="fail", words=f"leaks; smallest example: {i}") for i in range(3)]
    (asked,) = table.content(["a.py"], [*failing, row(test="t.py::z", verdict="fail", words="is not rounded")])
    assert (asked["failed"], asked["mistakes"]) == (4, 2)
    assert "4 fail for 2 reasons;" in table.headline(asked)


@pytest.mark.parametrize(
    ("answered", "declined", "words"),
    [
        ([{"position": "back"}], [{"position": "front"}], "asked of position back only"),
        ([{"p": "back", "n": 2}], [{"p": "front", "n": 1}], "asked of p back only"),
        ([{"n": 1}, {"n": 2}], [{"n": 0}], "asked of n other than 0 only"),
        ([{"n": 1, "block": 0}, {"n": 2, "block": 0}], [{"n": 5, "block": 1}, {"n": 1, "block": 2}], "asked of block 0 only"),
        (
            [{"p": "back", "r": "class"}],
            [{"p": "front", "r": "class"}, {"p": "back", "r": "first"}],
            "asked of p back, r class only",
        ),
        ([{"mask": None}], [{"share": 0.5}], "asked of what is supported only: no"),
        ([{"n": 1}], [{"n": 1}], "asked of what is supported only: no"),
        ([{"n": 1}], [], ""),
    ],
)
def test_the_settings_that_were_asked_are_named(answered: list[Any], declined: list[Any], words: str) -> None:
    """Options whose every call is declined narrow a statement, and it says to what."""
    calls = Calls()
    for settings in answered:
        calls.example = [settings]
        calls.end()
    for settings in declined:
        calls.example = [settings]
        calls.declines("no")
    assert calls.narrowed() == words


def test_a_value_error_that_declines_an_option_is_no_failure(solution) -> None:
    """`ValueError: only ... is supported` narrows what is asked; any other ValueError is a failure."""
    code = "def split(count, share, seed): raise ValueError('{}')"
    with pytest.raises(NotClaimed, match="is declined: a share of 0 is not supported"):
        solution(code.format("a share of 0 is not supported"), "a.py").split(5, 0.0, 0)
    with pytest.raises(Complaint, match="raised ValueError: too few"):
        solution(code.format("too few"), "b.py").split(5, 0.0, 0)


def test_what_is_not_implemented_is_not_claimed(solution) -> None:
    """An argument that a solution declines, by NotImplementedError, is not claimed: no failure, and told."""
    with pytest.raises(NotClaimed, match=r"split\(5, 0.2, 0\) is not implemented: seeds"):
        solution("def split(count, share, seed): raise NotImplementedError('seeds')").split(5, 0.2, 0)
    (asked,) = table.content(["a.py"], [row(claims=("split",)), row(test="t.py::y", verdict="not claimed", words="no seeds")])
    assert asked["holds"]
    assert ("      ----  S.", "") in list(table.lines([asked]))


def test_a_right_solution_is_itself(solution) -> None:
    """Watching changes nothing: parameters, gradients and results are those of the solution."""
    prompt = solution(
        IMAGES + "class Padding(nn.Linear):\n    def __init__(self, size, image_size): super().__init__(image_size, image_size)"
    ).Padding(1, 5)
    images = torch.ones(2, 3, 5, 5)
    prompt(images).sum().backward()
    assert {name for name, p in prompt.named_parameters() if p.grad is not None} == {"weight", "bias"}
    assert prompt.train(False) is prompt._module


@pytest.mark.parametrize(
    "change",
    [
        lambda given: given[0].add_(1),
        lambda given: given[1].fill(1),
        lambda given: given[2].add_edge(0, 1),
        lambda given: given[3].append(1),
        lambda given: given[3][0].zero_(),
        lambda given: given[4][0][1].update(weight=9),
        lambda given: given[5].__setitem__(0, "sea lion"),
    ],
    ids=["tensor", "array", "graph", "list", "tensor in a list", "weight of an edge", "name in a list"],
)
def test_changes_to_any_input_are_seen(change: Callable[[Any], Any]) -> None:
    """Tensors, arrays, graphs and lists that a solution was given are compared with what they were."""
    from tests.conformance.foreign import _changed, _snapshot

    names = ["sea_lion", math.nan]
    given = [torch.zeros(2), np.zeros(2), nx.empty_graph(3), [torch.ones(2)], nx.path_graph(2), names]
    before = _snapshot(given)
    assert not _changed(given, before)
    change(given)
    assert _changed(given, before)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_result_is_refused_for_every_name(name: str) -> None:
    """Nothing of another kind passes for a result, whatever the name."""
    given = tuple(torch.ones(2, 2) for _ in NAMES[name].call.split(","))
    assert "expected" in NAMES[name].check(object(), *given)


def test_the_guides_own_solution_runs(tmp_path: Path) -> None:
    """What the guide shows can be followed: its solution has its names, its adapters run, and it fails where the guide says so."""
    text = (ROOT / "tests" / "conformance" / "README.md").read_text(encoding="utf-8")
    first, second = (dedent(block) for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    foreign = Foreign(write(tmp_path / "my_solution.py", first), Marks(tmp_path / "marks", "first"), 9)
    assert foreign.names == ("FixedPatch", "max_aggregate")
    images = torch.ones(2, 3, 5, 5)
    added = foreign.FixedPatch(1, 5)(images) - images
    assert added[:, :, 0, 0].abs().min() > 0
    assert added[:, :, 1:].abs().max() == 0
    with pytest.raises(Complaint, match=r"max_aggregate\(.*\) raised IndexError"):
        foreign.max_aggregate(torch.zeros(1, 1), torch.ones(1, 1))
    write(
        tmp_path / "theirs.py",
        "import torch\nclass PadPrompter(torch.nn.Linear):\n"
        "    def __init__(self, args): super().__init__(args.image_size, args.prompt_size)\n"
        "def AddGaussianNoise(mean, std): return lambda images: images + torch.randn_like(images)\n"
        "def attend(H, W_q, W_k, W_v, mask): return H @ W_v.T\n",
    )
    adapter = Foreign(write(tmp_path / "adapter.py", second), Marks(tmp_path / "marks", "second"), 9)
    assert set(adapter.names) == {"Padding", "gaussian_noise", "self_attention"}
    assert adapter.Padding(2, 5).weight.shape == (2, 5)
    assert adapter.gaussian_noise(images, 0.1, 0).shape == images.shape
    assert adapter.self_attention(torch.ones(4, 3), *torch.ones(3, 2, 3), None).shape == (4, 2)


# -- words ---------------------------------------------------------------------------------------------------------------------


def test_numbers_are_compared_in_any_precision_and_kind() -> None:
    """float32, integers, arrays and lists are all numbers; the entry that differs most is named."""
    agree(np.array([1, 2], dtype=object), torch.tensor([1.0, 2.0]), "x")
    agree(sparse(torch.eye(2)), [[1, 0], [0, 1]], "x")
    agree(torch.zeros(0), [], "x")
    with pytest.raises(AssertionError, match=r"^x at \[1, 0\]: got 3, expected 0 \(2 of 4 entries differ\)$"):
        agree(torch.tensor([[1, 0], [3, 2]]), torch.eye(2), "x")
    with pytest.raises(AssertionError, match=r"^x: got nan, expected 1$"):
        agree(float("nan"), 1, "x")
    with pytest.raises(AssertionError, match=r"^x: got shape \(2,\), expected \(1,\)$"):
        agree([1, 1], [1], "x")


def test_a_counterexample_is_the_smallest_one_in_words() -> None:
    """Hypothesis's arguments become a line, without what is not an example; an assertion is its own first line."""
    error = AssertionError("sums to 2: expected 1\nsecond line")
    error.add_note("Failing test case: test_x(\n    impl=vp,\n    sizes=Sizes(size=1,\n        image_size=5),\n    seed=0,\n)")
    error.add_note("Draw 1 (order): [0, 2]")
    assert _example(error, {"impl"}) == "sizes=Sizes(size=1, image_size=5), seed=0, order = [0, 2]"
    assert _message(error) == "sums to 2: expected 1"
    assert _message(ValueError("no")) == "ValueError: no"
    assert _example(AssertionError(), set()) == ""


def row(**changes: Any) -> table.Row:
    return table.Row(
        **{"solution": "a.py", "names": ("split",), "test": "t.py::test_x[a.py]", "statement": "S.", "verdict": "pass"} | changes
    )


def test_a_solution_holds_when_all_that_it_claims_holds() -> None:
    """A failure, an import that fails or no name at all: the solution does not hold; names not claimed are no failure."""
    (good,) = table.content(["a.py"], [row(), row(test="t.py::y", names=("union",), verdict="not claimed")])
    assert good["holds"]
    assert (good["passed"], good["failed"]) == (1, 0)
    (elsewhere,) = table.content(["a.py"], [row(verdict="not claimed", claims=("union",))])
    assert elsewhere["holds"]
    assert [section["not asked"] for section in elsewhere["sections"] if section["not asked"]] == [["union"]]
    told = [line for line, _ in table.lines([elsewhere])]
    assert "    not asked here: union" in told
    assert "2.5" not in told[-1]  # of the sections that are not claimed at all
    (bad,) = table.content(["a.py"], [row(), row(test="t.py::y", verdict="fail", words="split leaks")])
    assert not bad["holds"]
    broken = [row(verdict="fail", words="does not import: raised E", test=f"t.py::test_{i}") for i in range(3)]
    (silent, empty) = table.content(["a.py", "b.py"], [*broken, row(solution="b.py", verdict="not claimed")])
    assert silent["problem"] == "does not import: raised E"
    assert empty["problem"].startswith("claims nothing: expected any of ")
    assert not silent["holds"]
    assert not empty["holds"]


def test_a_statement_about_two_names_says_which_one_is_missing() -> None:
    """A statement about two names that is asked of nobody, as one of them is missing, is shown and says so."""
    two = row(names=("split", "union"), test="a.py::two", verdict="not claimed", claims=("split",))
    (one,) = table.content(["a.py"], [row(claims=("split",)), two])
    assert one["holds"]
    assert (one["passed"], one["failed"]) == (1, 0)
    (alone, shown) = [shown for section in one["sections"] for shown in section["rows"]]
    assert alone["names"] == ["split"]
    assert (shown["verdict"], shown["words"]) == ("not claimed", "not asked: it needs union, too")


def test_the_page_escapes_what_comes_from_a_solution() -> None:
    """A message of `<script>` shows as text."""
    rows = [row(verdict="fail", words="<script>alert(1)</script>", solution="<b>.py")]
    page = table.page(table.content(["<b>.py"], rows))
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page


def test_the_page_marks_verdicts_and_says_a_mistake_once() -> None:
    """A mistake that several statements of a section meet is written at the first, as on a terminal; verdicts bear their marks."""
    failing = [row(test=f"a.py::{name}", verdict="fail", words=f"is off; smallest example: {name}") for name in ("one", "two")]
    page = table.page(table.content(["a.py"], [row(test="a.py::good"), *failing]))
    assert page.count("<span class='verdict contradicted'>fail</span>") == 2
    assert page.count("<span class='verdict reproduced'>pass</span>") == 1
    assert page.count("is off") == 1
    assert page.count("<span class='truth'>as above: <a href='#section-0-2.2-") == 1


def test_a_name_that_is_nearly_right_is_told(solution) -> None:
    """What a solution has by nearly the name of one that it lacks is said with that name; other names are its own business."""
    code = "def sum_aggregat(A, H): pass\ndef meanAggregate(A, H): pass\nclass padding: pass\ndef helper(): pass\n"
    misnamed = solution(f"{code}def split(count, share, seed): return [0], []\ndef splits(): pass\n").misnamed
    assert {one.partition(":")[0]: one.rpartition(" ")[2] for one in misnamed} == {
        "sum_aggregat": "sum_aggregate?",
        "meanAggregate": "mean_aggregate?",
        "padding": "Padding?",
    }
    (told,) = table.content(["a.py"], [row(misnamed=misnamed)])
    assert ("  padding: did you mean Padding?", "yellow") in list(table.lines([told]))
    assert "<p>padding: did you mean Padding?</p>" in table.page([told])


def test_numbers_that_differ_are_shown_to_differ() -> None:
    """Five digits, or as many as it takes."""
    for found, told in ((1.5, "got 1.5, expected 1"), (1 + 1e-7, "got 1.0000001, expected 1")):
        with pytest.raises(AssertionError, match=f"^a number: {told}$"):
            agree(np.array(found), 1.0, "a number", atol=1e-9, rtol=0)


def test_a_test_uses_the_names_of_its_marker_only() -> None:
    """A test that reaches for a name it does not declare fails: it would be asked of a solution that lacks the name."""
    impl = Subject(Ours())
    impl.speak_of(("split",))
    assert callable(impl.split)
    with pytest.raises(LookupError, match=r"uses impl.union, but is marked specifies\('split',\)"):
        _ = impl.union
    with pytest.raises(LookupError, match=r"names.py has no such name"):
        impl.speak_of(("spilt",))
    assert repr(impl) == "vp"


# -- whole sessions ------------------------------------------------------------------------------------------------------------

RIGHT = "def sum_aggregate(A, H):{}\n    return A @ H"
SESSIONS = {
    "ends_the_process": ("import os\ndef sum_aggregate(A, H): os._exit(3)", "ended the process it ran in, or hung"),
    "ends_at_import": ("import os\nos._exit(3)", "does not import: it ended the process"),
    "hangs_in_c": ("def sum_aggregate(A, H): return sum(iter(int, 1))", "ended the process it ran in, or hung"),
    "prints": (RIGHT.format("\n    print('hello' * 10_000)"), ""),
    "is_right": (RIGHT.format(""), ""),
}


@pytest.mark.slow
def test_foreign_code_cannot_take_the_suite_down(tmp_path: Path) -> None:
    """Code that ends its process, hangs or prints costs its own rows; every other solution is asked all the same."""
    labels = [write(tmp_path / f"{name}.py", code) for name, (code, _) in SESSIONS.items()]
    statement = "tests/test_3_3_matrix_form.py::test_the_sum_is_taken_over_the_neighbours"
    page = tmp_path / "report.html"
    options = ["-n", "1", "--time-limit=1", f"--html={page}", *(f"--impl={label}" for label in labels), statement]
    found = {Path(one["solution"]).stem: one for one in conform(tmp_path / "results.json", *options)}
    for name, (_, words) in SESSIONS.items():
        rows = [row for part in found[name]["sections"] for row in part["rows"]]
        told = found[name]["problem"] or rows[0]["words"]
        assert words in told, (name, told)
        assert found[name]["holds"] == (not words), (name, told)
    assert found["prints"]["prints"] == ["sum_aggregate"]
    assert page.stat().st_size < 200_000, "what a solution prints belongs into no report"
    assert found["is_right"]["prints"] == []


PARTIAL = """
import sys
sys.path.insert(0, {examples!r})
import course_adapter


def DeepPromptedCLIP(model, tokenizer, class_names, n, block, position, readout):
    if position != "back" or readout != "class":
        raise NotImplementedError("back and class only")
    return course_adapter.DeepPromptedCLIP(model, tokenizer, class_names, n, block{shift}, position, readout)
"""


@pytest.mark.slow
def test_a_solution_of_one_position_is_asked_of_that_position(tmp_path: Path) -> None:
    """A solution that supports one position is asked of it, passes or fails there, and the table says which it was."""
    examples = str(ROOT / "tests" / "conformance" / "examples")
    right = write(tmp_path / "right.py", PARTIAL.format(examples=examples, shift=""))
    wrong = write(tmp_path / "wrong.py", PARTIAL.format(examples=examples, shift=" // 2"))
    statement = "tests/test_2_3_deep_prompts.py::test_the_tokens_run_through_open_clips_own_blocks"
    theorem = "tests/test_2_3_deep_prompts.py::test_the_position_of_the_prompt_does_not_matter"
    options = [f"--impl={right}", f"--impl={wrong}", statement, theorem]
    for one in conform(tmp_path / "results.json", *options):
        rows = {row["test"].partition("::")[2].partition("[")[0]: row for part in one["sections"] for row in part["rows"]}
        defined = rows.pop(statement.partition("::")[2])
        assert defined["verdict"] == ("pass" if one["solution"] == right else "fail")
        assert defined["narrowed"] == "asked of position back, readout class only"
        assert {row["verdict"] for row in rows.values()} == {"not claimed"}


@pytest.mark.slow
@pytest.mark.parametrize("code", ["import no_such_module", "import os\nos._exit(3)"], ids=["raises", "ends its process"])
def test_a_solution_that_cannot_be_imported_is_one_row(tmp_path: Path, code: str) -> None:
    """One failure says that a solution does not import; no other statement repeats it."""
    results = tmp_path / "results.json"
    arguments = [
        "-n",
        "2",
        f"--impl={write(tmp_path / 'broken.py', code)}",
        f"--results={results}",
        "tests/test_3_3_matrix_form.py",
    ]
    done = Session(ROOT, "-q", "-p", "no:cacheprovider", *arguments).done()
    assert "does not import" in results.read_text(encoding="utf-8")
    assert re.search(r"\b1 failed", done.said), done.said
    assert done.said.count("does not import") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--impl=nowhere.py"], "--impl nowhere.py: there is no such file"),
        (["--impl=no_such_module_at_all"], "there is no module 'no_such_module_at_all', and a file's name ends in .py"),
        (["--impl=README.md"], "it is no Python file"),
        (["--impl="], "it names nothing: give a .py file"),
        (["--impl=os", "--time-limit=0"], "give seconds above 0"),
        (["--impl=course:nowhere"], "--impl course:nowhere: there is no folder nowhere"),
        (["--impl=mine.ipynb"], "there is no such file"),
        (["--impl=expectations"], "there is no Python file in it"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(arguments: list[str], complaint: str) -> None:
    """A file that is not there, or no time at all, is a usage error."""
    done = Session(ROOT, *arguments, "-p", "no:cacheprovider").done()
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert complaint in done.said
