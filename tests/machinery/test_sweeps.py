"""Sweeps: a TOML file expands to runs, errors say line and key, processes of this machine perform them, results are a table."""

from __future__ import annotations

import csv
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import pytest
import tomli_w
import torch
from hypothesis import given
from hypothesis import strategies as st

import vp
from tests.controls import sweeps as controls
from tests.machinery.test_folders import classes
from vp.__main__ import main
from vp.experiments import Result, runs, vary
from vp.experiments.own import own_run
from vp.experiments.perform import perform
from vp.experiments.store import ConflictingResults
from vp.machine.errors import VpError
from vp.models import load_clip
from vp.report.measured import load_measured
from vp.sweeps import Engine, Outcome, Task
from vp.sweeps import results as tables
from vp.sweeps.estimate import estimate, passes
from vp.sweeps.grid import expand, line_of, settings_of
from vp.sweeps.local import LocalEngine, Queue
from vp.sweeps.plots import FIGURES, save
from vp.sweeps.progress import Progress
from vp.sweeps.results import Table, aggregate, best_by_validation, missing_of, row_of, rows_of, write
from vp.sweeps.shapes import image_side, vision_shape
from vp.sweeps.stored import stored

Capture = pytest.CaptureFixture[str]


def written(folder: Path, text: str) -> Path:
    """The file of a sweep."""
    file = folder / "sweep.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a property writes its files."""
    return tmp_path_factory.mktemp("sweeps")


def keys(tasks: Sequence[Task]) -> list[tuple[str, int]]:
    """What tells Tasks apart."""
    return [(task.run.canonical(), task.seed) for task in tasks]


# -- a grid ---------------------------------------------------------------------------------------------------------------


VALUES: dict[str, list[Any]] = {  # of deep prompts: every combination is possible
    "dataset": ["mini10", "mini100"],
    "n": [1, 2, 5],
    "block": [0, 6, 11],
    "position": ["front", "after_class", "back"],
    "readout": ["class", "first"],
    "optimiser": ["sgd", "adam"],
    "learning_rate": [0.5, 1, 2.25],
    "momentum": [0, 0.5],
    "warmup_steps": [0, 7],
    "epochs": [1, 3],
    "batch_size": [8, 16],
    "shuffle": [True, False],
    "template": ["a {}", "this is {}"],
    "noise": [0, 0.1],
    "limit": [10, 50],
    "seeds": [3, 0, 8],
}


@st.composite
def grids(draw: st.DrawFn) -> dict[str, list[Any]]:
    """Some fields of a grid of deep prompts with some of their values, at most 200 combinations."""
    some = draw(st.lists(st.sampled_from([key for key in VALUES if key != "dataset"]), unique=True, max_size=5))
    found = {"dataset": draw(st.lists(st.sampled_from(VALUES["dataset"]), unique=True, min_size=1)), "method": ["deep"]}
    for key in some:
        found[key] = draw(st.lists(st.sampled_from(VALUES[key]), unique=True, min_size=1))
    return dict(draw(st.permutations([*found.items()])))


def check_counts_multiply(expanded: Callable[[Path], list[Task]], folder: Path, grid: Mapping[str, list[Any]]) -> None:
    tasks = expanded(written(folder, tomli_w.dumps({"grid": [dict(grid)]})))
    assert len(tasks) == math.prod(len(values) for values in grid.values()) == len({*keys(tasks)}) == len({t.name for t in tasks})
    for key, values in grid.items():
        assert {settings_of(task)[key] for task in tasks} == {*values}


@given(grid=grids())
def test_a_grid_is_every_combination_of_its_values_once(folder: Path, grid: dict[str, list[Any]]) -> None:
    """The runs of a grid are as many as the numbers of values multiplied, all different, also by name; every value occurs."""
    check_counts_multiply(expand, folder, grid)


@given(grid=grids())
def test_a_run_written_as_a_grid_is_that_run(folder: Path, grid: dict[str, list[Any]]) -> None:
    """The settings of any run of a sweep, written as a grid of one value each, expand to that run alone, with its name."""
    for task in expand(written(folder, tomli_w.dumps({"grid": [grid]})))[:3]:
        own = {key: value for key, value in settings_of(task).items() if value is not None} | {"seeds": [task.seed]}
        (again,) = expand(written(folder, tomli_w.dumps({"grid": [own]})))
        assert again == task


def check_exclusion(
    expanded: Callable[[Path], list[Task]], folder: Path, grid: Mapping[str, Any], excluded: Mapping[str, Any]
) -> None:
    before = expand(written(folder, tomli_w.dumps({"grid": [dict(grid)]})))
    out = [task for task in before if all(settings_of(task)[key] in values for key, values in excluded.items())]
    after = expanded(written(folder, tomli_w.dumps({"grid": [dict(grid)], "exclude": [dict(excluded)]})))
    assert after == [task for task in before if task not in out]


@st.composite
def grids_with_exclusions(draw: st.DrawFn) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """A grid, and some of its values of one or two of its fields that have several."""
    grid = draw(grids().filter(lambda grid: any(len(values) > 1 for values in grid.values())))
    several = [key for key, values in grid.items() if len(values) > 1]
    chosen = draw(st.lists(st.sampled_from(several), unique=True, min_size=1, max_size=2))
    return grid, {
        key: draw(st.lists(st.sampled_from(grid[key]), unique=True, min_size=1, max_size=len(grid[key]) - 1)) for key in chosen
    }


@given(given=grids_with_exclusions())
def test_an_exclusion_removes_exactly_what_it_says(folder: Path, given: tuple[dict[str, list[Any]], dict[str, list[Any]]]) -> None:
    """What has all values of an [[exclude]] is left out; all else stays, in its order."""
    check_exclusion(expand, folder, *given)


def check_order(expanded: Callable[[Path], list[Task]], folder: Path, grid: Mapping[str, Any], order: Sequence[str]) -> None:
    first = expanded(written(folder, tomli_w.dumps({"grid": [dict(grid)]})))
    assert expanded(written(folder, tomli_w.dumps({"grid": [{key: grid[key] for key in order}]}))) == first


@given(data=st.data(), grid=grids())
def test_the_order_of_keys_in_a_table_changes_nothing(folder: Path, data: st.DataObject, grid: dict[str, list[Any]]) -> None:
    """However the keys of a table are ordered, the runs are the same, in the same order."""
    check_order(expand, folder, grid, data.draw(st.permutations([*grid])))


@given(first=st.integers(1, 9), step=st.integers(1, 4), count=st.integers(1, 6))
def test_a_range_has_both_ends_and_no_rounding(folder: Path, first: int, step: int, count: int) -> None:
    """{from, to, step} is from, from + step, ... up to and with to, exact in whole numbers and in tenths."""
    text = '[[grid]]\ndataset = "mini10"\nmethod = "deep"\n'
    last = first + step * (count - 1)
    whole = expand(written(folder, f"{text}n = {{from = {first}, to = {last}, step = {step}}}"))
    assert [settings_of(task)["n"] for task in whole] == [*range(first, last + 1, step)]
    tenths = expand(written(folder, f"{text}learning_rate = {{from = {first / 10}, to = {last / 10}, step = {step / 10}}}"))
    assert [settings_of(task)["learning_rate"] for task in tenths] == [i / 10 for i in range(first, last + 1, step)]


@pytest.mark.parametrize(
    "wrong", [controls.without_the_last_value, controls.side_by_side, controls.without_the_end, controls.in_floating_point,
              controls.excluded_by_any_value, controls.excluded_but_once, controls.in_the_order_of_the_file],
    ids=lambda wrong: wrong.__name__,
)  # fmt: skip
def test_wrong_expansions_are_rejected(wrong: Callable[[Path], list[Task]], folder: Path) -> None:
    """A value, a combination or an end forgotten, too much or too little excluded, an order that keys decide: each is found."""
    grid = {"dataset": ["mini10"], "method": ["deep"], "n": [1, 2], "block": [0, 6, 11], "seeds": [0, 1]}
    with pytest.raises((AssertionError, VpError)):  # noqa: PT012
        check_counts_multiply(wrong, folder, grid)
        check_exclusion(wrong, folder, grid, {"n": [1], "block": [0, 6]})
        check_order(wrong, folder, grid, ["dataset", "seeds", "block", "n", "method"])
        ranges = '[[grid]]\ndataset = "mini10"\nmethod = "deep"\nlearning_rate = {from = 0.1, to = 0.7, step = 0.1}'
        rates = [settings_of(task)["learning_rate"] for task in wrong(written(folder, ranges))]
        assert rates == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_a_setting_varies_only_methods_that_have_it(tmp_path: Path) -> None:
    """Sizes vary padding, tokens deep prompts, recipes what trains, templates what reads text; what no seed changes has one."""
    text = """
    [common]
    dataset = "mini10"
    seeds = 3
    [[grid]]
    method = ["padding", "deep", "linear-probe", "zero-shot"]
    size = [1, 2]
    block = [0, 6, 11]
    epochs = [1, 2]
    template = ["a {}", "one {}"]
    """
    tasks = expand(written(tmp_path, text))
    counts = {
        method: sum(settings_of(task)["method"] == method for task in tasks) for method in ("padding", "deep", "linear-probe")
    }
    assert counts == {"padding": 2 * 2 * 2 * 3, "deep": 3 * 2 * 2 * 3, "linear-probe": 2 * 3}
    assert len(tasks) - sum(counts.values()) == 2  # zero-shot, by template
    assert [task.seed for task in tasks][-2:] == [0, 0]


def test_runs_are_those_of_the_command_line(tmp_path: Path) -> None:
    """A run of a grid has the name and key of the run that `python -m vp run --dataset` makes of the same settings."""
    mine = classes(tmp_path / "mine", each=10)
    (task,) = expand(written(tmp_path, '[[grid]]\ndataset = "mine"\nmethod = "padding"\nsize = 2\nepochs = 1\nlearning_rate = 2'))
    by_hand = own_run(str(mine), "padding", size=2, recipe="epochs=1,learning_rate=2.0")
    assert task.run.dataset == str(mine.resolve())
    assert task.run.recipe == replace(by_hand.recipe, warmup_steps=task.run.recipe.warmup_steps)  # type: ignore[type-var, union-attr]
    assert task.run.recipe.warmup_steps == 1  # type: ignore[union-attr]  # in proportion to 32 of 4,000 images


def test_the_reports_own_runs_stand_in_a_grid_by_table_name_or_pattern(tmp_path: Path) -> None:
    """`runs` gives the report's runs as they are: they share their results; a limit and seeds apply to them."""
    known = runs("mini")
    text = '[[grid]]\nruns = ["table-2", "zero-shot-10-test", "deep-10-*-n8-back"]\n'
    expected = [run for run in known.values() if run.table == "table_2"] + [known["zero-shot-10-test"]]
    expected += [run for name, run in known.items() if fnmatch(name, "deep-10-*-n8-back")]
    assert [task.run for task in expand(written(tmp_path, text))] == expected
    some = expand(written(tmp_path, '[common]\nseeds = [4, 5]\n[[grid]]\nruns = "padding-10"\nlimit = [20, 40]'))
    assert some == [Task(vary(known["padding-10"], limit), seed) for limit in (20, 40) for seed in (4, 5)]
    full = expand(written(tmp_path, '[[grid]]\nruns = "table_1"\nscale = "full"'))
    assert [task.run for task in full] == [run for run in runs("full").values() if run.table == "table_1"]


def test_templates_of_a_file_are_an_ensemble_beside_single_ones(tmp_path: Path) -> None:
    """`templates` adds ensembles, from open_clip's lists or a file beside the sweep, to the values of `template`."""
    (tmp_path / "mine.txt").write_text("a {}\nan image of {}\n")
    text = '[[grid]]\ndataset = "mini10"\nmethod = "zero-shot"\ntemplate = "a {}"\ntemplates = ["mine.txt", "simple"]'
    found = [task.run.template for task in expand(written(tmp_path, text))]
    assert found[:2] == ["a {}", ("a {}", "an image of {}")]
    assert len(found[2]) == 7


GOOD = '[common]\ndataset = "mini10"\n\n[[grid]]\nmethod = "padding"\n'
ERRORS = {  # by what stands in the file: line and key, and words of the error
    "[[grid]\n": ("not valid TOML", "at line 1"),
    f"{GOOD}size = 1\nsize = 2\n": ("not valid TOML", "at line 7"),
    "": (":1: grid: ", "no [[grid]]"),
    '[common]\ndataset = "mini10"\n': (":1: grid: ", "nothing to run"),
    f"{GOOD}\n[[gird]]\nsize = 1\n": (":7: gird: ", "did you mean grid?"),
    f'name = "mine"\n{GOOD}': (":1: name: ", "a sweep has [common], [[grid]] and [[exclude]]"),
    '[grid]\nmethod = "padding"\n': (":1: grid: ", "give tables [[grid]]"),
    f'{GOOD}[[common]]\ndataset = "mini10"\n': ("not valid TOML", "at line 6"),
    'grid = "padding"\n': (":1: grid: ", "give tables [[grid]]"),
    f"{GOOD}sise = 1\n": (":6: sise: ", "did you mean size?"),
    f"{GOOD}colour = 1\n": (":6: colour: ", "[[grid]] has no such field"),
    '[common]\ndatset = "mini10"\n[[grid]]\nmethod = "padding"\n': (":2: datset: ", "did you mean dataset?"),
    '[[grid]]\ndataset = "mini10"\n': (":1: [[grid]] has no method", "give one"),
    '[[grid]]\nmethod = "padding"\n': (":1: [[grid]] has no dataset", "give one"),
    '[common]\ndataset = "mini11"\n[[grid]]\nmethod = "padding"\n': (":2: dataset = 'mini11'", "did you mean 'mini10'?"),
    '[[grid]]\ndataset = "mini10"\nmethod = [\n  "deep",\n  "pading",\n]\n': (":3: method = 'pading'", "did you mean 'padding'?"),
    f'{GOOD}backbone = "ViT-B-33/openai"\n': (":6: backbone = 'ViT-B-33/openai'", "did you mean"),
    f"{GOOD}backbone = [[1]]\n": (":6: backbone = [1]", "give a text"),
    f"{GOOD}size = []\n": (":6: size = []", "empty"),
    f"{GOOD}size = [1, 2, 1]\n": (":6: size has 1 twice", "give it once"),
    f"{GOOD}size = 0\n": (":6: size = 0", "at least 1"),
    f"{GOOD}size = true\n": (":6: size = True", "whole number"),
    f"{GOOD}size = 1.5\n": (":6: size = 1.5", "whole number"),
    f"{GOOD}size = [2, 22]\n": (":6: size: ", "22 px does not fit an image of 42 px"),
    f"{GOOD}size = {{from = 3, to = 1}}\n": (":6: size = ", "the range is empty"),
    f"{GOOD}size = {{from = 1, to = 3, step = 0}}\n": (":6: size = ", "the range is empty"),
    f"{GOOD}size = {{from = 1, till = 3}}\n": (":6: size = ", "a range has numbers"),
    f"{GOOD}size = {{from = 1, to = 1000000}}\n": (":6: size = ", "more than 100,000 values"),
    f"{GOOD}[grid.size]\nfrom = 3\nto = 1\n": (":6: size = ", "the range is empty"),
    f"{GOOD}n = 1\n": (":6: n: ", "no method of this grid takes it (padding)"),
    f"{GOOD}learning_rate = 0\n": (":6: learning_rate = 0", "above 0"),
    f"{GOOD}learning_rate = inf\n": (":6: learning_rate = inf", "above 0"),
    f"{GOOD}learning_rate = [1, 1.0]\n": (":6: learning_rate has 1.0 twice", "give it once"),
    f"{GOOD}momentum = 1\n": (":6: momentum = 1", "below 1"),
    f'{GOOD}optimiser = "adams"\n': (":6: optimiser = 'adams'", "did you mean 'adam'?"),
    f'{GOOD}schedule = "cos"\n': (":6: schedule = 'cos'", "cosine, constant"),
    f"{GOOD}epochs = 0\n": (":6: epochs = 0", "at least 1"),
    f"{GOOD}shuffle = 1\n": (":6: shuffle = 1", "true or false"),
    f'{GOOD}template = "a photo"\n': (":6: template = 'a photo'", "must contain {}"),
    f'{GOOD}templates = "nowhere.txt"\n': (":6: templates = 'nowhere.txt'", "cannot read templates"),
    f"{GOOD}noise = -0.1\n": (":6: noise = -0.1", "of at least 0"),
    f"{GOOD}limit = 9\n": (":6: limit = 9", "at least 10"),
    f"{GOOD}seeds = 0\n": (":6: seeds = 0", "at least 1"),
    f"{GOOD}seeds = [-1]\n": (":6: seeds = -1", "at least 0"),
    f"{GOOD}seeds = [4294967296]\n": (":6: seeds = 4294967296", "below"),
    f"{GOOD}seeds = 70000\nsize = [1, 2]\n": (":4: [[grid]] has more than 100,000 runs", "divide it"),
    '[[grid]]\ndataset = "mini10"\nmethod = "deep"\nblock = 12\n': (":4: block: ", "which has 12: give 0 to 11"),
    '[[grid]]\ndataset = "mini10"\nmethod = "deep"\nn = 0\n': (":4: n = 0", "at least 1"),
    '[[grid]]\ndataset = "mini10"\nmethod = "deep"\nposition = "top"\n': (":4: position = 'top'", "front, after_class, back"),
    '[[grid]]\ndataset = "cifar10"\nmethod = "deep"\nbackbone = "RN50-quickgelu/openai"\nblock = 1\n': (":5: block: ", "no tran"),
    '[common]\nblock = 12\n[[grid]]\ndataset = "mini10"\nmethod = "deep"\n': (":2: block: ", "which has 12"),
    '[common]\nblock = 1\n[[grid]]\ndataset = "mini10"\nmethod = "padding"\n': (":2: block: ", "no grid has a method"),
    f'{GOOD}size = 6\n\n[[grid]]\nmethod = ["zero-shot", "padding"]\n': (":8: [[grid]] repeats mini10-padding-6px-", "in line 4"),
    f'{GOOD}[[grid]]\nruns = "padding-10"\n': (":6: [[grid]] repeats ", " (as padding-10-s0) of the [[grid]] in line 4"),
    '[[grid]]\nruns = "padding-1O"\n': (":2: runs = 'padding-1O'", "did you mean padding-10"),
    '[[grid]]\nruns = ["table_2", "padding-10"]\n': (":2: runs = 'padding-10'", "is there already"),
    '[[grid]]\nruns = "table_2"\nscale = "huge"\n': (":3: scale = 'huge'", "mini, full"),
    '[[grid]]\nruns = "table_2"\nsize = 3\n': (":3: size: ", "has no such field, but runs, scale, limit, seeds"),
    f"{GOOD}[[exclude]]\n": (":6: [[exclude]] is empty", "leave out everything"),
    f"{GOOD}[[exclude]]\nsize = 5\n": (":6: [[exclude]] leaves out nothing", "no combination"),
    f"{GOOD}[[exclude]]\nsise = 5\n": (":7: sise: ", "did you mean size?"),
    f'{GOOD}[[exclude]]\nmethod = "deeep"\n': (":7: method = 'deeep'", "did you mean 'deep'?"),
    f"{GOOD}[[exclude]]\nseeds = 3\n": (":7: seeds = 3", "give a list"),
    f'{GOOD}[[exclude]]\nmethod = "padding"\n': (":6: [[exclude]] leaves out everything", "nothing to run"),
}  # fmt: skip


@pytest.mark.parametrize("text", ERRORS, ids=lambda text: text.replace(GOOD, "GOOD ").replace("\n", " ")[-60:] or "empty")
def test_what_is_wrong_in_a_file_is_said_with_line_and_key(text: str, tmp_path: Path, capsys: Capture) -> None:
    """Unknown, empty, doubled and impossible: one line with FILE:LINE, the key and the cure, exit code 2, and nothing starts."""
    file = written(tmp_path, text)
    place, words = ERRORS[text]
    with mock.patch("vp.commands.sweep.engine_of", side_effect=AssertionError("something is performed")):
        assert main(["sweep", str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"error: {file}{place}" if place.startswith(":") else f"error: {file} is {place}")
    assert words in said.err


def test_a_folder_that_is_no_dataset_is_an_error_of_its_line(tmp_path: Path) -> None:
    """A folder of one class, and a file that is not there, are refused before anything starts."""
    (tmp_path / "mine" / "cat").mkdir(parents=True)
    with pytest.raises(VpError, match=r"sweep.toml:2: dataset = '.*mine'.*(one class|nothing|no )"):
        expand(written(tmp_path, '[[grid]]\ndataset = "mine"\nmethod = "padding"\n'))
    with pytest.raises(VpError, match=r"there is no file .*none.toml: give a TOML file"):
        expand(tmp_path / "none.toml")


def test_the_example_expands() -> None:
    """The example of the guide is a sweep of as many runs as its comments say."""
    tasks = expand(Path(str(vp.__file__)).parent / "sweeps" / "example.toml")
    assert len(tasks) == (12 - 2) + (4 + 2 + 1) + 3
    assert {settings_of(task)["size"] for task in tasks} == {None, 2, 6}


def test_lines_are_found_beside_subtables_quotes_and_comments() -> None:
    """The line of a key is that of its own table: not of a namesake, a comment, or text between three quotes."""
    text = "[common]\n# size = 1\nsize = 2\n[[grid]] # first\n[grid.size]\nfrom = 1\n"
    text += '[[ grid ]]\nnote = """\nsize = 3\n"""\n"size" = 4\n'
    assert [line_of(text, "common", 0, "size"), line_of(text, "grid", 0, "size"), line_of(text, "grid", 1, "size")] == [3, 5, 11]
    assert [line_of(text, "grid", 0), line_of(text, "grid", 1), line_of(text, "grid", 1, "nowhere")] == [4, 7, 7]


# -- who does what --------------------------------------------------------------------------------------------------------


def many(blocks: Sequence[int], epochs: Sequence[int] = (1,)) -> list[Task]:
    return [
        Task(own_run("mini10", "deep", block=block, recipe={"epochs": e}), seed)
        for seed in (0, 1)
        for block in blocks
        for e in epochs
    ]


def check_queue(kind: type[Queue], tasks: Sequence[Task], workers: int) -> None:
    """Processes that take turns: who has tasks left in its group stays, nobody is idle while some are left, each comes once."""
    queue, own = kind(tasks), [None] * workers
    taken: list[int] = []
    for turn in range(len(tasks)):
        worker = turn % workers
        number = queue.next(own[worker], [shares for i, shares in enumerate(own) if i != worker])
        assert number is not None
        left = {tasks[i].shares for i in range(len(tasks)) if i not in taken}
        assert own[worker] not in left or tasks[number].shares == own[worker]
        own[worker] = tasks[number].shares  # type: ignore[call-overload]
        taken.append(number)
    assert sorted(taken) == [*range(len(tasks))]
    assert queue.next(own[0], own) is None


@given(blocks=st.lists(st.integers(0, 11), min_size=1, max_size=5, unique=True), workers=st.integers(1, 4))
def test_processes_stay_with_what_they_keep_warm(blocks: list[int], workers: int) -> None:
    """Each run is handed out once; a process stays in its group while that has some; none is idle while any run is left."""
    check_queue(Queue, many(blocks, (1, 2)), workers)


@pytest.mark.parametrize("wrong", [controls.InTheOrderOfTheFile, controls.NeverJoins], ids=lambda wrong: wrong.__name__)
def test_wrong_queues_are_rejected(wrong: type[Queue]) -> None:
    """Runs handed out whatever they share, and processes that never help another, are found."""
    with pytest.raises(AssertionError):
        check_queue(wrong, many((0, 6), (1, 2)), 3)


def test_the_longest_comes_first_and_what_was_lost_comes_next() -> None:
    """The longest group comes first, in it the longest run; a run whose process died is the next of its group."""
    tasks = many((11, 0), (1, 5))
    queue = Queue(tasks)
    first = queue.next(None, [])
    assert first is not None
    assert (tasks[first].run.method.block, tasks[first].run.recipe.epochs) == (0, 5)  # type: ignore[attr-defined, union-attr]
    queue.put_back(first)
    assert queue.next(tasks[first].shares, []) == first
    second = queue.next(None, [tasks[first].shares])
    assert second is not None
    assert tasks[second].run.method.block == 11  # type: ignore[attr-defined]


# -- on this machine ------------------------------------------------------------------------------------------------------


SMALL = """
[common]
dataset = "mini10"
limit = 20
epochs = 1

[[grid]]
method = ["zero-shot", "linear-probe", "fixed-patch"]
seeds = 2

[[grid]]  # a rate at which the loss is no number
method = "fixed-patch"
learning_rate = 1e38
epochs = 2
"""


class Swept(NamedTuple):
    """A sweep that was performed twice in one home."""

    file: Path
    home: Path
    tasks: list[Task]
    first: dict[Task, Outcome]
    second: dict[Task, Outcome]
    alive: int  # processes after the first


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("swept")
    file, home = written(folder, SMALL), folder / "home"
    tasks = expand(file)
    told: list[dict[Task, Outcome]] = []
    with mock.patch.dict(os.environ, VP_HOME=str(home)):
        for again in range(2):
            outcomes: list[Outcome] = []
            LocalEngine(2, "cpu", folder / f"logs-{again}").perform(tasks, outcomes.append)
            assert len(outcomes) == len(tasks)  # each is told of once
            told.append({outcome.task: outcome for outcome in outcomes})
            alive = len(children())
    return Swept(file, home, tasks, told[0], told[1], alive)


def children() -> list[Any]:
    return [process for process in multiprocessing.active_children() if process.name.startswith("vp-sweep")]


@pytest.fixture
def at_home(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> Swept:
    """The sweep, in its home."""
    monkeypatch.setenv("VP_HOME", str(swept.home))
    return swept


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_rest(swept: Swept) -> None:
    """A loss that is no number fails its own run, with a line of words and the traceback in its log; all others are done."""
    failed = [outcome for outcome in swept.first.values() if outcome.kind == "failed"]
    assert [settings_of(outcome.task)["learning_rate"] for outcome in failed] == [1e38]
    assert re_words(failed[0].words)
    log = Path(failed[0].log).read_text()
    assert "Traceback" in log
    assert "TrainingDiverged" in log
    assert {outcome.kind for outcome in swept.first.values() if outcome not in failed} == {"done"}
    assert len(swept.tasks) == 6
    assert [*Path(failed[0].log).parent.iterdir()] == [Path(failed[0].log)]  # nobody else wrote anything
    assert swept.alive == 0


def re_words(words: str) -> bool:
    return words.startswith("loss ") and "\n" not in words


@pytest.mark.slow
def test_a_second_sweep_trains_nothing_new(swept: Swept) -> None:
    """What is in the store is reused, with its accuracy; only the run that failed is tried again."""
    for task, outcome in swept.first.items():
        again = swept.second[task]
        assert again.kind == ("failed" if outcome.kind == "failed" else "reused")
        assert again.top1 == outcome.top1
    assert len([*(swept.home / "results").glob("*.safetensors")]) == 5


@pytest.mark.slow
def test_a_process_computes_what_this_one_does(at_home: Swept) -> None:
    """A run of a sweep is, bit for bit, what `perform` gives here with as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, min(len(os.sched_getaffinity(0)) // 2, int(os.environ.get("OMP_NUM_THREADS", "64")))))
    try:
        for task in (task for task in at_home.tasks if at_home.first[task].kind == "done"):
            there, here = stored(task), perform(task.run, task.seed, "cpu", progress=False)
            assert there is not None
            assert torch.equal(there.correct_images, here.correct_images)
            assert {*there.weights} == {*here.weights}
            assert all(torch.equal(value, here.weights[name]) for name, value in there.weights.items())
    finally:
        torch.set_num_threads(threads)


LONGER = """
[common]
dataset = "mini10"

[[grid]]
limit = 20
method = "zero-shot"

[[grid]]
limit = 200
method = "padding"
epochs = 4
"""


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 2])
def test_a_process_that_dies_loses_only_its_run(kills: int, tmp_path: Path) -> None:
    """A killed process costs the run it was on, which is tried once more on a new process; killed again, it has failed, and says
    so. All else is done."""
    tasks = expand(written(tmp_path, LONGER))
    logs, outcomes, pids = tmp_path / "logs", list[Outcome](), set[int]()
    victim = next(number for number, task in enumerate(tasks) if task.run.recipe)

    def kill() -> None:
        ends = time.monotonic() + 60
        while len(pids) < kills and time.monotonic() < ends:
            if (logs / f"{victim:05d}-{tasks[victim].name}.log").exists() and (fresh := {p.pid for p in children()} - pids):
                time.sleep(0.1)  # into the run
                pid = fresh.pop()
                os.kill(pid, signal.SIGKILL)
                pids.add(pid)
                (logs / f"{victim:05d}-{tasks[victim].name}.log").unlink(missing_ok=True)
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    LocalEngine(1, "cpu", logs).perform(tasks, outcomes.append)
    killer.join()
    assert len(pids) == kills
    kinds = {outcome.task: outcome.kind for outcome in outcomes}
    assert [kinds[task] for task in tasks] == ["done", "done" if kills == 1 else "failed"]
    if kills == 2:
        (failed,) = (outcome for outcome in outcomes if outcome.kind == "failed")
        assert failed.words.startswith("its process died 2 times (signal 9)")


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_and_keeps_what_is_finished(tmp_path: Path) -> None:
    """SIGINT while a run is on raises KeyboardInterrupt after all processes have ended; what was finished is in the store."""
    longer, outcomes = expand(written(tmp_path, LONGER))[1], list[Outcome]()
    tasks = [replace(longer, seed=seed) for seed in range(3)]

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            LocalEngine(1, "cpu").perform(tasks, tell)
    finally:
        signal.signal(signal.SIGINT, before)
    assert children() == []
    assert len(outcomes) < len(tasks)
    assert all(stored(outcome.task) is not None for outcome in outcomes)
    assert not [*(Path(os.environ["VP_HOME"]) / "results").glob("*.part")]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: LocalEngine(0), "--workers 0: give at least 1"),
        (lambda path: LocalEngine(1, "gpu"), "no device 'gpu': give auto"),
        (lambda path: LocalEngine(1, "cpu", path / "file" / "logs").perform([], print), "cannot write to .*logs"),
        (lambda path: LocalEngine(1, "cpu").perform([Task(runs("full")["padding-10"], 0)], print), "cifar10"),
    ],
)
def test_what_cannot_start_is_an_error_before_anything_does(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    """No workers, no such device, logs that cannot be written, images that are not here: an error, and no process."""
    (tmp_path / "file").touch()
    with pytest.raises(VpError, match=message):
        make(tmp_path)
    assert children() == []


def test_processes_that_cannot_start_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every process dies before its first run the sweep is over, with a log, and does not start processes for ever."""
    monkeypatch.setattr("vp.sweeps.local._work", os._exit)
    monkeypatch.setattr("vp.sweeps.local._Session._start", start_one_that_dies)
    with pytest.raises(VpError, match=r"no process for the sweep can start \(exit code 3\): see .*process-0.log"):
        LocalEngine(1, "cpu", tmp_path / "logs").perform(many((0,)), print)


def start_one_that_dies(session: Any, place: int) -> None:
    from vp.sweeps.local import CONTEXT, _Worker

    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=os._exit, args=(3,), daemon=True)
    process.start()
    theirs.close()
    session.workers[place] = _Worker(place, process, ours)


def test_processes_share_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process sees one device of the caller's list and knows how many share it; without a list, all share the first."""
    from vp.machine.devices import SHARING, VISIBLE, give_device

    monkeypatch.setattr("vp.machine.devices.count_devices", lambda: 4)
    seen = []
    for place in range(3):
        environment = {VISIBLE: "2,3"}
        give_device(place, 3, environment)
        seen.append((environment[VISIBLE], environment[SHARING]))
    assert seen == [("2", "2"), ("3", "1"), ("2", "2")]
    monkeypatch.setattr("vp.machine.devices.count_devices", lambda: None)
    environment = {}
    give_device(1, 3, environment)
    assert environment == {SHARING: "3"}


# -- how far it is --------------------------------------------------------------------------------------------------------


class Terminal(StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_counts_and_says_when_it_will_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Done, reused and failed are counted; what is left takes as long for its work as what has ended; failures are told at once."""
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
    monkeypatch.setattr("vp.sweeps.progress.time", clock)
    tasks, to = many((0,), (1, 1, 2)), StringIO()
    progress = Progress(tasks, to)
    clock.now = 110.0  # processes started
    for seconds, task in zip((4.0, 8.0), tasks[:2], strict=True):
        clock.now += seconds
        progress(Outcome(task, "done", seconds, "here", top1=50.0))
    share = sum(passes(task.run) for task in tasks[:2]) / sum(passes(task.run) for task in tasks)
    assert progress.seconds_left() == pytest.approx(12 * (1 - share) / share)
    progress(Outcome(tasks[2], "failed", 1.0, "here", "loss nan", "here.log"))
    progress(Outcome(tasks[3], "reused", 0.1, "here", top1=50.0))
    assert to.getvalue() == f"failed: {tasks[2].name}: loss nan; log: here.log\n"
    clock.now += 31
    progress(Outcome(tasks[4], "done", 1.0, "here", top1=50.0))
    assert to.getvalue().splitlines()[-1].startswith("5 of 6 runs: 3 done, 1 reused, 1 failed, ")
    progress(Outcome(tasks[5], "done", 1.0, "here", top1=50.0))
    progress.close()
    assert to.getvalue().splitlines()[-1] == "6 of 6 runs: 4 done, 1 reused, 1 failed, in 53 s"


def test_on_a_terminal_progress_is_one_line() -> None:
    """On a terminal a bar is drawn over itself; a failure stands above it."""
    tasks, to = many((0,)), Terminal()
    progress = Progress(tasks, to)
    progress(Outcome(tasks[0], "failed", 1.0, "here", "loss nan", "here.log"))
    progress(Outcome(tasks[1], "done", 1.0, "here", top1=50.0))
    progress.close()
    assert "\r" in to.getvalue()
    assert f"failed: {tasks[0].name}: loss nan; log: here.log\n" in to.getvalue()
    assert "0 of 2 runs: 0 done, 0 reused, 0 failed, processes start" in to.getvalue()
    assert "2 of 2 runs: 1 done, 0 reused, 1 failed" in to.getvalue().split("\r")[-1]


# -- the command ----------------------------------------------------------------------------------------------------------


class Pretends:
    """An engine that performs nothing."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds

    def perform(self, tasks: Sequence[Task], tell: Callable[[Outcome], None]) -> None:
        for task, kind in zip(tasks, self.kinds, strict=False):
            if kind == "interrupt":
                raise KeyboardInterrupt
            if kind == "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
            tell(Outcome(task, kind, 1.0, "here", "loss nan", "/logs/here.log"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kinds", "code", "said"),
    [
        (("done", "reused"), 0, "all 2 runs are in the store; next: python -m vp results"),
        (("failed", "done"), 1, "1 of 2 runs failed; start again to try them once more. Logs:\n  /logs/here.log  loss nan"),
        (("done", "interrupt"), 130, "1 of 2 runs: 1 done, 0 reused, 0 failed"),
        (("done", "terminate"), 130, "1 of 2 runs: 1 done, 0 reused, 0 failed"),
    ],
)
def test_the_exit_code_says_how_a_sweep_ended(
    kinds: tuple[str, ...], code: int, said: str, tmp_path: Path, capsys: Capture
) -> None:
    """0 when all is done, 1 when runs failed, with the place of their logs, 130 when interrupted, with what was done until then."""
    file = written(tmp_path, '[[grid]]\ndataset = "mini10"\nmethod = "padding"\nseeds = 2\n')
    with mock.patch("vp.commands.sweep.engine_of", return_value=Pretends(*kinds)):
        assert main(["sweep", str(file)]) == code
    out, err = capsys.readouterr()
    assert said in out + err


def test_on_ray_the_engine_is_made_of_address_and_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--on ray --address A --gpu-share S --device D` performs the sweep on RayEngine(A, S, D)."""
    made: list[tuple[str | None, float | None, str]] = []

    def engine(address: str | None, gpu_share: float | None, device: str) -> Engine:
        made.append((address, gpu_share, device))
        return Pretends("done")

    monkeypatch.setitem(sys.modules, "vp.sweeps.ray", SimpleNamespace(RayEngine=engine))
    file = written(tmp_path, '[[grid]]\ndataset = "mini10"\nmethod = "padding"\n')
    assert main(["sweep", str(file), "--on", "ray"]) == 0
    assert main(["sweep", str(file), "--on", "ray", "--address", "auto", "--gpu-share", "0.25", "--device", "cpu"]) == 0
    assert made == [(None, None, "auto"), ("auto", 0.25, "cpu")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "ray"], 'pip install "vp[cluster]"'),
        (["--on", "ray", "--workers", "2"], "--workers belongs to --on local"),
        (["--address", "auto"], "--address belongs to --on ray"),
        (["--gpu-share", "0.5"], "--gpu-share belongs to --on ray"),
        (["--workers", "0"], "--workers 0: give at least 1"),
    ],
)
def test_options_of_the_other_engine_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that the engine does not have is an error, and so is Ray where it is not installed: one line with the cure."""
    monkeypatch.setitem(sys.modules, "vp.sweeps.ray", None)
    file = written(tmp_path, '[[grid]]\ndataset = "mini10"\nmethod = "padding"\n')
    assert main(["sweep", str(file), *words]) == 2
    assert message in capsys.readouterr().err


# -- how long it will take ------------------------------------------------------------------------------------------------


def result_of(task: Task, top1: float = 50.0, seconds: float = 2.0, validation: float | None = 0.5) -> Result:
    """A made-up Result of a Task on 200 images."""
    history = [{"epoch": 1.0, "loss": 0.1, "validation_accuracy": validation}] if validation is not None else []
    parameters = 64 * task.run.method.n if hasattr(task.run.method, "n") else (100 if task.run.recipe else 0)
    return Result(task.run.name, "mini", task.run.dataset, task.run.backbone, task.seed, torch.arange(200) < 2 * top1, {}, history,  # type: ignore[arg-type]
                  1 if history else None, parameters, seconds, {"torch": "3", "device": "a device"})  # fmt: skip


def test_an_estimate_rests_on_like_runs_of_the_store() -> None:
    """Runs of one kind take as long for their work as the median of those that are stored; what is stored costs nothing."""
    tasks = many((0,), (1, 2, 4))
    found = [result_of(task, seconds=3 * passes(task.run)) if i < 2 else None for i, task in enumerate(tasks)]
    told = estimate(tasks, found)
    assert told.seconds == pytest.approx(3 * sum(passes(task.run) for task in tasks[2:]))
    assert (told.unknown, told.rests_on) == (0, ["4 runs like stored results"])
    assert estimate(tasks, [result_of(task) for task in tasks]).seconds == 0


def test_an_estimate_rests_on_a_measured_gpu_else() -> None:
    """At full scale images/s of a measured GPU stand in, between measured blocks interpolated; other backbones are not counted."""
    (gpu,) = load_measured(Path(__file__).parents[2] / "expectations")[:1]
    full = [Task(run, 0) for run in runs("full").values() if run.name in ("padding-10", "deep-10-block6-n1-back")]
    rate = gpu.images_per_s
    by_hand = sum(20 * (40_000 + 10_000 / 3) / rate[kind] for kind in ("visual prompt", "deep prompt, k = 6"))
    by_hand += (10_000 + 10_000 + 50_000) / rate["evaluation, ViT-B-32-quickgelu"]  # both tested; prefixes computed once
    told = estimate(full, [None, None], gpu)
    assert told.seconds == pytest.approx(by_hand)
    assert told.rests_on == [f"2 runs by images/s of {gpu.device}, measured {gpu.date}"]
    deep: Any = full[1].run
    at = {k: estimate([Task(replace(deep, method=replace(deep.method, block=k)), 0)], [None], gpu).seconds for k in (0, 3, 6)}
    assert at[0] > at[3] > at[6]


def test_an_estimate_is_scaled_to_other_backbones() -> None:
    """A vision transformer that was not measured takes as many times as long as it has operations; a ResNet is not counted."""
    (gpu,) = load_measured(Path(__file__).parents[2] / "expectations")[:1]

    def seconds(backbone: str, **settings: Any) -> float:
        told = estimate(
            [Task(own_run("cifar10", "deep" if "block" in settings else "padding", backbone, **settings), 0)], [None], gpu
        )
        assert not told.unknown
        return told.seconds

    def by_hand(blocks: int, tokens: int, width: int) -> float:  # products of weights, and of attention
        return blocks * (tokens * 12 * width**2 * 2 + 2 * tokens**2 * width * 2)

    large, base = "ViT-L-14-quickgelu/openai", "ViT-B-32-quickgelu/openai"
    assert seconds(large) / seconds(base) == pytest.approx(by_hand(24, 257, 1024) / by_hand(12, 50, 768))
    assert seconds(large, block=0) > seconds(large, block=12) > seconds(large, block=23)
    told = estimate([Task(own_run("cifar10", "padding", "RN50-quickgelu/openai"), 0)], [None], gpu)
    assert (told.seconds, told.unknown) == (0, 1)
    assert "not counted" in told.rests_on[0]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mini-clip", "mini-clip/random", "ViT-B-32/random"])
def test_shapes_known_without_weights_are_those_of_the_models(backbone: str) -> None:
    """Side, blocks, tokens and width of a backbone are those of the network itself."""
    clip = load_clip(backbone)
    visual = clip.model.visual
    assert image_side(backbone) == clip.preprocess.size
    shape = vision_shape(backbone)
    assert shape is not None
    assert shape.blocks == len(visual.transformer.resblocks)
    assert (shape.tokens, shape.width) == tuple(visual.positional_embedding.shape)


@pytest.mark.slow
def test_a_dry_run_says_how_many_how_long_and_which(at_home: Swept, capsys: Capture) -> None:
    """`--dry-run` counts runs and those in the store, estimates device hours and says what that rests on, and names the first."""
    with mock.patch("vp.commands.sweep.engine_of", side_effect=AssertionError("something is performed")):
        assert main(["sweep", str(at_home.file), "--dry-run", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"{at_home.file}: 6 runs, 5 in the store already" in said
    assert "device hours" in said
    assert "1 runs like stored results" in said
    assert all(task.name in said for task in at_home.tasks)


def test_a_dry_run_without_images_says_what_is_missing(tmp_path: Path, capsys: Capture) -> None:
    """Where images are not here, the store cannot be asked: the rest is said all the same."""
    file = written(tmp_path, '[[grid]]\nruns = "table_2"\nscale = "full"\nseeds = 5\n')
    assert main(["sweep", str(file), "--dry-run", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "20 runs, none can be looked up in the store: cifar10" in said
    assert "20 runs by images/s of " in said
    assert "... and 10 more" in said


# -- results --------------------------------------------------------------------------------------------------------------


def test_a_row_says_all_that_is_known_of_a_run() -> None:
    """A row has the settings, k, N, 100 k / N with its Wilson interval, cost and provenance; a missing run has its settings."""
    task = many((6,))[1]
    result = result_of(task, top1=70)
    row = row_of(task, result)
    assert (row["correct"], row["total"], row["top1"], row["validation_top1"]) == (140, 200, 70.0, 50.0)
    assert (row["low95"], row["high95"]) == result.interval()
    assert row["low95"] < 70 < row["high95"]
    assert (row["method"], row["block"], row["n"], row["size"], row["seed"], row["epochs"]) == ("deep", 6, 1, None, 1, 1)
    assert (row["seconds"], row["trained_parameters"], row["provenance_torch"]) == (2.0, 64, "3")
    missing = row_of(task, None)
    assert missing["status"] == "missing"
    assert {key: row[key] for key in missing if key != "status"} == {key: missing[key] for key in missing if key != "status"}


def test_two_results_that_differ_are_a_row_and_refuse_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of which the store has two results that differ has status conflict; all others are there."""
    tasks = [Task(own_run("mini10", "padding"), seed) for seed in (0, 1)]

    def looked_up(task: Task, device: str) -> Result:
        if task.seed:
            raise ConflictingResults("two results of one run differ")
        return result_of(task)

    monkeypatch.setattr("vp.sweeps.results.stored", looked_up)
    table = rows_of(tasks, "cpu")
    assert [row["status"] for row in table.rows] == ["stored", "conflict"]
    assert missing_of(table) == [tasks[1].name]


@given(tops=st.lists(st.integers(0, 100), min_size=1, max_size=6), missing=st.integers(0, 2))
def test_over_seeds_stand_mean_spread_and_count(tops: list[int], missing: int) -> None:
    """A row a run: mean, sample standard deviation (none for one seed), range and count over seeds, and how many are missing."""
    run = many((6,))[0].run
    rows = [row_of(Task(run, seed), result_of(Task(run, seed), top1=top)) for seed, top in enumerate(tops)]
    rows += [row_of(Task(run, 100 + seed), None) for seed in range(missing)]
    (row,) = aggregate(Table((), rows)).rows
    assert row["mean_top1"] == pytest.approx(fmean(tops))
    assert row["std_top1"] == (pytest.approx(stdev(tops)) if len(tops) > 1 else None)
    assert (row["lowest_top1"], row["highest_top1"]) == (min(tops), max(tops))
    assert (row["seeds"], row["seeds_missing"]) == (len(tops), missing)
    assert row["total_seconds"] == pytest.approx(2 * len(tops))


@pytest.mark.slow
def test_results_are_written_and_what_is_missing_is_named(at_home: Swept, tmp_path: Path, capsys: Capture) -> None:
    """Every run of the file is a row of the CSV; the one that failed is there as missing and named; numbers are the store's."""
    assert main(["results", str(at_home.file), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    with (tmp_path / "out" / "runs.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [(row["run"], int(row["seed"])) for row in rows] == [(task.run.name, task.seed) for task in at_home.tasks]
    for row, task in zip(rows, at_home.tasks, strict=True):
        found = stored(task, "cpu")
        assert row["status"] == ("stored" if found else "missing")
        assert row["top1"] == (str(found.top1) if found else "")
        assert row["provenance_device"] == (found.provenance["device"] if found else "")
    with (tmp_path / "out" / "over-seeds.csv").open() as file:
        assert [row["seeds"] for row in csv.DictReader(file)] == ["1", "2", "2"]
    assert "5 of 6 runs, 3 over seeds:" in out
    (name,) = (task.name for task in at_home.tasks if at_home.first[task].kind == "failed")
    assert f"(status `missing` or `conflict` in the table): {name}" in err
    assert (tmp_path / "out" / "accuracy-over-parameters.svg").read_text().count("<svg") == 1


def test_parquet_holds_what_the_csv_does(tmp_path: Path) -> None:
    """The same columns and values, numbers as numbers."""
    parquet = pytest.importorskip("pyarrow.parquet", reason='NOT RUN: needs pip install "vp[cluster]"')
    tasks = many((0, 6))
    table = Table((*row_of(tasks[0], result_of(tasks[0])),), [row_of(task, result_of(task)) for task in tasks[:-1]])
    write(table, tmp_path / "a.parquet")
    write(table, tmp_path / "a.csv")
    assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == table.rows
    with (tmp_path / "a.csv").open() as file:
        assert [*csv.DictReader(file)] == [
            {key: "" if value is None else str(value) for key, value in row.items()} for row in table.rows
        ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "parquet"], 'pip install "vp[cluster]", or give --format csv'),
        ([], "none of the 2 runs is in the store"),
    ],
)
def test_results_that_cannot_be_written_are_an_error(
    words: list[str], message: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parquet without pyarrow, and a sweep of which nothing is stored: one line with the cure, and no file."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    file = written(tmp_path, '[[grid]]\ndataset = "mini10"\nmethod = "padding"\nseeds = 2\n')
    assert main(["results", str(file), "--device", "cpu", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep-results").exists()


def test_an_out_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A file where the folder should be is said with the cure."""
    (tmp_path / "out").touch()
    with pytest.raises(VpError, match=r"cannot write .*give another --out"):
        write(Table(("a",), [{"a": 1}]), tmp_path / "out" / "runs.csv")


def test_validation_images_choose_among_recipes_never_test_images() -> None:
    """Of rows that differ in their recipe the one with the highest validation accuracy stands, however it did on test images."""
    rows = [{"cell": 1, "mean_validation_top1": v, "mean_top1": t} for v, t in ((50, 90), (70, 60), (60, 99))]
    assert best_by_validation([*rows, {"cell": 2, "mean_validation_top1": None, "mean_top1": 3}], ["cell"]) == [
        rows[1],
        {"cell": 2, "mean_validation_top1": None, "mean_top1": 3},
    ]


def over_seeds(file: Path) -> list[dict[str, Any]]:
    """Made-up results of a sweep, over seeds."""
    tasks = expand(file)
    with mock.patch.object(tables, "stored", lambda task, device: result_of(task, top1=10 + len(task.name) % 7 + task.seed)):
        return aggregate(rows_of(tasks)).rows


@pytest.mark.slow
def test_plots_show_each_run_once(tmp_path: Path) -> None:
    """A panel a dataset, a line a number of tokens (or block), a mark a block; every cell of the heat map has its number."""
    text = '[[grid]]\ndataset = ["mini10", "mini100"]\nmethod = ["deep", "padding", "zero-shot"]\n'
    text += "block = [0, 6, 11]\nn = [1, 4]\nseeds = 2\n"
    rows = over_seeds(written(tmp_path, text))
    drawn = {name: draw(rows) for name, draw in FIGURES.items()}
    for name, lines, marks in (("accuracy-over-block", 2, 3), ("accuracy-over-tokens", 3, 2)):
        panels = drawn[name].axes  # type: ignore[union-attr]
        assert [panel.get_title() for panel in panels] == ["mini10", "mini100"]
        for panel in panels:
            assert [len(bars.lines[0].get_xdata()) for bars in panel.containers] == [marks] * lines  # type: ignore[attr-defined]
    for panel in drawn["block-by-tokens"].axes:  # type: ignore[union-attr]
        assert len(panel.texts) == 6
        assert panel.images[0].get_array().shape == (2, 3)  # type: ignore[union-attr]
        (value,) = (row["mean_top1"] for row in rows if (row["dataset"], row["block"], row["n"]) == (panel.get_title(), 6, 4))
        assert panel.images[0].get_array()[1, 1] == pytest.approx(value)  # type: ignore[index]
    labels = {text.get_text() for text in drawn["accuracy-over-parameters"].legends[0].get_texts()}  # type: ignore[union-attr]
    assert labels == {"deep", "padding", "zero-shot"}
    for name, figure in drawn.items():
        save(figure, tmp_path / f"{name}.svg")  # type: ignore[arg-type]
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()


def test_where_there_is_nothing_to_compare_there_is_no_plot(tmp_path: Path) -> None:
    """One block, one number of tokens, one size: no plot over it."""
    rows = over_seeds(written(tmp_path, '[[grid]]\ndataset = "mini10"\nmethod = "deep"\n'))
    assert {name: draw(rows) for name, draw in FIGURES.items()} == dict.fromkeys(FIGURES)
