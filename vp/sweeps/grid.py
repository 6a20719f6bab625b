"""A sweep as a literal: a TOML file of grids that expands to Tasks.

    [common]                          # fields of every grid that has none of its own
    dataset = ["mini10", "mini100"]   # a list: each of its values
    seeds = 3                         # how many, 0, 1, 2; or a list of them

    [[grid]]                          # all combinations of its values; several grids follow each other
    method = ["padding", "deep"]
    size = {from = 2, to = 6, step = 2}   # a range, its end included: 2, 4, 6; varies padding, which has a size
    block = [0, 6, 11]                    # varies deep

    [[grid]]
    runs = ["table_2", "deep-10-*"]   # of the report: tables, names or patterns

    [[exclude]]                       # combinations that are left out: those that have all of these values
    method = "padding"
    size = [4, 6]

Every error says FILE:LINE and the key. Paths are relative to the file.
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, get_args

from vp.data import GaussianNoise
from vp.data.cifar import CLASS_NAMES
from vp.data.world import WORLD_NAMES
from vp.experiments import SCALES, DeepTokens, Run, VisualPrompt, runs, vary
from vp.experiments.own import METHODS, SETTINGS, fitted, method_name, named, own_run
from vp.machine.errors import VpError
from vp.models import DEFAULT_TEMPLATE
from vp.models.clip import fill_template
from vp.models.templates import templates_of
from vp.models.weights import check_clip_name
from vp.prompts import VISUAL_PROMPTS
from vp.prompts.deep import Position, Readout
from vp.report.expectations import read_toml
from vp.sweeps.shapes import image_side, vision_shape
from vp.sweeps.tasks import Task
from vp.training import Recipe

MOST = 100_000  # Tasks of a sweep
RECIPE = tuple(field.name for field in fields(Recipe))
OF_PROMPTS = ("size", "n", "block", "position", "readout", "scrambled")
RANGE = ("from", "to", "step")


# -- what a value may be: each gives it back as a Run has it, or raises ValueError or VpError with what is expected -----------


def _whole(value: Any, least: int, below: float = math.inf) -> int:
    if type(value) is not int or not least <= value < below:
        raise ValueError(f"give a whole number of at least {least}" + (f", below {below:g}" if below < math.inf else ""))
    return value


def _number(value: Any, fits: Callable[[float], bool], expected: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not fits(value):
        raise ValueError(f"give a number {expected}")
    return float(value)  # 1 and 1.0 are one value, and one run


def _word(value: Any, known: Iterable[str]) -> str:
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        raise ValueError((f"did you mean {near[0]!r}? " if near else "") + f"Give one of {', '.join(known)}")
    return str(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("give true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("give a text")
    return value


def _dataset(value: Any, folder: Path) -> str:
    known = [*WORLD_NAMES, *CLASS_NAMES]
    if all(part in known for part in _text(value).split("+")):
        return str(value)
    if (path := folder / Path(value).expanduser()).is_dir():
        return str(path.resolve())
    near = difflib.get_close_matches(value, known, n=1)
    raise ValueError(
        (f"did you mean {near[0]!r}? " if near else "") + f"Give one of {', '.join(known)}, or a folder, seen from {folder}"
    )


def _backbone(value: Any) -> str:
    if _text(value) != "mini-clip":
        check_clip_name(value)
    return str(value)


def _template(value: Any) -> str:
    fill_template(_text(value), ["label"])
    return str(value)


def _templates(value: Any, folder: Path) -> tuple[str, ...]:
    path = folder / _text(value)
    return templates_of(str(path) if path.is_file() else value)


def _runs(value: Any, scale: str) -> list[Run]:
    """The report's runs of a table, or by a name or pattern."""
    known = runs(scale)
    found = [run for run in known.values() if _text(value).replace("-", "_") == run.table or fnmatch.fnmatchcase(run.name, value)]
    if not found:
        near = difflib.get_close_matches(value, [*dict.fromkeys(run.table for run in known.values()), *known], n=3)
        had = f"did you mean {', '.join(near)}?" if near else "`python -m vp list` shows all"
        raise ValueError(f"the report has no such table or run at scale {scale}: {had}")
    return found


_KINDS: dict[str, Callable[[Any], Any]] = {
    "backbone": _backbone,
    "method": partial(_word, known=METHODS),
    "size": partial(_whole, least=1),
    "n": partial(_whole, least=1),
    "block": partial(_whole, least=0),
    "position": partial(_word, known=get_args(Position)),
    "readout": partial(_word, known=get_args(Readout)),
    "scrambled": _flag,
    "optimiser": partial(_word, known=("sgd", "adam")),
    "learning_rate": partial(_number, fits=lambda x: x > 0, expected="above 0"),
    "momentum": partial(_number, fits=lambda x: 0 <= x < 1, expected="from 0 to below 1"),
    "warmup_steps": partial(_whole, least=0),
    "schedule": partial(_word, known=("cosine", "constant")),
    "epochs": partial(_whole, least=1),
    "batch_size": partial(_whole, least=1),
    "shuffle": _flag,
    "template": _template,
    "noise": partial(_number, fits=lambda x: x >= 0, expected="of at least 0: the standard deviation"),
    "limit": partial(_whole, least=10),
    "seeds": partial(_whole, least=0, below=2**32),
}
FIELDS = ("dataset", "backbone", "method", *OF_PROMPTS, *RECIPE, "template", "templates", "noise", "limit", "seeds")
OF_RUNS = ("runs", "scale", "limit", "seeds")  # the fields of a grid of the report's runs


# -- a file and its places ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """One table of the file: [common], or one of several [[grid]] and [[exclude]]."""

    file: Path
    name: str
    nth: int  # of several tables of that name, from 0
    values: Mapping[str, Any]

    @property
    def words(self) -> str:
        """As it is written."""
        return "[common]" if self.name == "common" else f"[[{self.name}]]"

    def error(self, key: str, message: str) -> VpError:
        """An error at the line of a key; at the line of the table where it has no such key."""
        return VpError(f"{self.file}:{line_of(self.file.read_text(encoding='utf-8'), self.name, self.nth, key)}: {message}")


def line_of(text: str, table: str, nth: int = 0, key: str = "") -> int:
    """The line, from 1, of a key in the nth table of that name, from 0; of the table's head where it has no such key; else 1.

    An empty table's name is the top of the file. Text of several lines between three quotes is passed over.
    """
    head, count, inside, quoted = 1, -1, not table, False
    for number, line in enumerate(text.splitlines(), start=1):
        was_quoted, quoted = quoted, quoted != bool((line.count('"""') + line.count("'''")) % 2)
        if was_quoted:
            continue
        if found := re.match(r"\s*\[\[?\s*([^\[\],=]+?)\s*\]\]?\s*(#.*)?$", line):
            words = [word.strip().strip("\"'") for word in found[1].split(".")]
            if words == [table]:
                count += 1
                if count == nth:
                    head = number
            inside = words[0] == table and count == nth
            if inside and words[1:2] == [key]:  # [grid.size]: the value of a key as a table of its own
                return number
        elif inside and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
            return number
    return head


def _tables(file: Path) -> dict[str, list[_Table]]:
    if not file.is_file():
        raise VpError(f"there is no file {file}: give a TOML file of [[grid]] tables")
    values = read_toml(file)
    found: dict[str, list[_Table]] = {"common": [], "grid": [], "exclude": []}
    text = file.read_text(encoding="utf-8")
    for name, content in values.items():
        several = content if isinstance(content, list) else [content]
        if name not in found:
            near = difflib.get_close_matches(name, found, n=1)
            line = line_of(text, name) if isinstance(content, dict) or _is_tables(content) else line_of(text, "", 0, name)
            raise VpError(f"{file}:{line}: {name}: {_near(near)}a sweep has [common], [[grid]] and [[exclude]]")
        if isinstance(content, list) == (name == "common") or not _is_tables(several):
            heads = {"common": "one table [common]", "grid": "tables [[grid]]", "exclude": "tables [[exclude]]"}
            line = line_of(text, name) if isinstance(content, dict) else line_of(text, "", 0, name)
            raise VpError(f"{file}:{line}: {name}: give {heads[name]} of FIELD = value")
        found[name] = [_Table(file, name, nth, one) for nth, one in enumerate(several)]
    if not found["grid"]:
        raise VpError(f"{file}:1: grid: the file has no [[grid]], so that there is nothing to run: give at least one")
    return found


def _is_tables(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and all(isinstance(one, dict) for one in content)


def _near(near: list[str]) -> str:
    return f"did you mean {near[0]}? " if near else ""


# -- values ---------------------------------------------------------------------------------------------------------------


def _listed(table: _Table, key: str, raw: Any) -> list[Any]:
    """The values of a list, a range or a single value."""
    if isinstance(raw, dict):
        return _range(table, key, raw)
    if isinstance(raw, list):
        if not raw:
            raise table.error(key, f"{key} = []: the list is empty, so that the grid is: give at least one value")
        return raw
    return [raw]


def _range(table: _Table, key: str, raw: Mapping[str, Any]) -> list[Any]:
    """{from, to, step} with its end: exact also in tenths."""
    numbers = {name: value for name, value in ({"step": 1} | dict(raw)).items() if type(value) in (int, float)}
    if {*numbers} != {*RANGE} or not all(map(math.isfinite, numbers.values())):
        raise table.error(
            key, f"{key} = {dict(raw)}: a range has numbers {{from = 2, to = 6, step = 2}}, of which step may be left out"
        )
    first, last, step = (Decimal(repr(numbers[name])) for name in RANGE)
    if step <= 0 or last < first:
        raise table.error(key, f"{key} = {dict(raw)}: the range is empty: give a step above 0, and a `to` of at least `from`")
    if (last - first) / step > MOST:
        raise table.error(key, f"{key} = {dict(raw)}: that is more than {MOST:,} values")
    count = int((last - first) / step) + 1
    is_whole = all(type(value) is int for value in numbers.values())
    return [int(first + i * step) if is_whole else float(first + i * step) for i in range(count)]


def _parsed(table: _Table, key: str, raw: Any) -> list[Any]:
    """A field's values as a Run has them, each once. Raises VpError with FILE:LINE."""
    folder = table.file.parent
    kinds = _KINDS | {"dataset": partial(_dataset, folder=folder), "templates": partial(_templates, folder=folder)}
    if key == "seeds" and not isinstance(raw, list | dict):
        if table.name == "exclude":
            raise table.error(key, f"seeds = {raw!r}: give a list of the seeds to leave out, e.g. [{raw!r}]")
        if type(raw) is not int or not 1 <= raw <= MOST:
            raise table.error(key, f"seeds = {raw!r}: give how many, at least 1, or a list of them")
        raw = list(range(raw))
    found: dict[Any, None] = {}
    for value in _listed(table, key, raw):
        try:
            one = kinds[key](value)
        except (ValueError, VpError) as error:
            raise table.error(key, f"{key} = {value!r}: {error}") from error
        if one in found:
            raise table.error(key, f"{key} has {value!r} twice, which would run the same twice: give it once")
        found[one] = None
    return [*found]


# -- from grids to Tasks --------------------------------------------------------------------------------------------------


def expand(file: Path) -> list[Task]:
    """The Tasks of a TOML file, grid by grid; within one the fields vary in the order of `FIELDS`, the last fastest.

    A setting varies the methods that have it, a recipe those that train; what no seed changes has the first seed only. Raises
    VpError with FILE:LINE and the key for what is unknown, empty, there twice or impossible.
    """
    tables = _tables(file)
    common = tables["common"][0] if tables["common"] else _Table(file, "common", 0, {})
    _check_fields(common, FIELDS)
    excludes = [_Exclude.of(table) for table in tables["exclude"]]
    found: dict[tuple[str, int], tuple[Task, _Table]] = {}
    used: set[str] = set()
    for table in tables["grid"]:
        some, own = (_of_runs if "runs" in table.values else _of_grid)(table, common)
        used |= own
        kept = [task for task in some if not any([exclude.leaves_out(task) for exclude in excludes])]
        for task in kept:
            if (double := found.get((task.run.canonical(), task.seed))) is not None:
                first = double[1]
                line = line_of(file.read_text(encoding="utf-8"), "grid", first.nth)
                also = "" if double[0].name == task.name else f" (as {task.name})"
                raise table.error(
                    "", f"[[grid]] repeats {double[0].name}{also} of the [[grid]] in line {line}: leave it out of one"
                )
            found[task.run.canonical(), task.seed] = task, table
    if unused := [key for key in common.values if key not in used]:
        raise common.error(unused[0], f"{unused[0]}: no grid has a method that takes it: leave it out")
    for exclude in excludes:
        if not exclude.matched:
            raise exclude.table.error("", "[[exclude]] leaves out nothing: no combination has these values")
    if not found:
        raise excludes[-1].table.error("", "[[exclude]] leaves out everything that is left, so that there is nothing to run")
    return [task for task, _ in found.values()]


def _check_fields(table: _Table, known: Iterable[str]) -> None:
    for key in table.values:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), n=1)
            raise table.error(key, f"{key}: {_near(near)}{table.words} has no such field, but {', '.join(known)}")


def _of_runs(table: _Table, common: _Table) -> tuple[list[Task], set[str]]:
    """The Tasks of a grid of the report's runs, and which common fields it takes."""
    _check_fields(table, OF_RUNS)
    scale = table.values.get("scale", "mini")
    if not isinstance(scale, str) or scale not in SCALES:
        raise table.error("scale", f"scale = {scale!r}: give one of {', '.join(SCALES)}")
    listed: dict[str, Run] = {}
    for value in _listed(table, "runs", table.values["runs"]):
        try:
            some = _runs(value, scale)
        except ValueError as error:
            raise table.error("runs", f"runs = {value!r}: {error}") from error
        if doubles := [run.name for run in some if run.name in listed]:
            raise table.error("runs", f"runs = {value!r}: {doubles[0]} is there already: give it once")
        listed |= {run.name: run for run in some}
    values = {key: _field(table, common, key) for key in ("limit", "seeds")}
    tasks = []
    for run, limit in itertools.product(listed.values(), values["limit"] or [None]):
        varied = vary(run, limit)
        tasks += [Task(varied, seed) for seed in _seeds(varied, values["seeds"])]
    return tasks, {key for key, some in values.items() if some and key not in table.values}


def _seeds(run: Run, given: list[int]) -> list[int]:
    """What no seed changes has one."""
    seeds = given or [0]
    return seeds if run.method.learns else seeds[:1]


def _field(table: _Table, common: _Table, key: str) -> list[Any]:
    """A field's values, from the grid or else from [common]; none where neither has it."""
    source = table if key in table.values else common
    return _parsed(source, key, source.values[key]) if key in source.values else []


def _of_grid(table: _Table, common: _Table) -> tuple[list[Task], set[str]]:
    """The Tasks of a grid, and which common fields it takes."""
    _check_fields(table, FIELDS)
    values = {key: some for key in FIELDS if (some := _field(table, common, key))}
    for key in ("dataset", "method"):
        if key not in values:
            raise table.error("", f"[[grid]] has no {key}: give one, here or in [common]")
    ensembles = values.pop("templates", [])
    if "template" in values or ensembles:
        values["template"] = values.get("template", []) + ensembles
    takes: set[str] = set()
    tasks: list[Task] = []
    for method in values["method"]:
        own = _takes(method)
        keys = [key for key in FIELDS if key in values and key in own and key not in ("method", "seeds")]
        takes |= own
        count = math.prod(len(values[key]) for key in keys) * (1 if method == "zero-shot" else len(values.get("seeds", [0])))
        if len(tasks) + count > MOST:
            raise table.error("", f"[[grid]] has more than {MOST:,} runs: divide it")
        for combination in itertools.product(*(values[key] for key in keys)):
            run = _run(table, common, method, dict(zip(keys, combination, strict=True)))
            tasks += [Task(run, seed) for seed in _seeds(run, values.get("seeds", []))]
    if unused := [key for key in table.values if key not in takes]:
        methods = ", ".join(values["method"])
        raise table.error(unused[0], f"{unused[0]}: no method of this grid takes it ({methods}): leave it out, or name its method")
    return tasks, takes - {*table.values}


def _takes(method: str) -> set[str]:
    """The fields that change a Run of this method."""
    settings = SETTINGS.get(method, ("size",))
    of_training = () if method == "zero-shot" else RECIPE
    words = () if method == "linear-probe" else ("template", "templates")
    return {"dataset", "backbone", "method", *settings, *of_training, *words, "noise", "limit", "seeds"}


def _run(table: _Table, common: _Table, method: str, chosen: dict[str, Any]) -> Run:
    """The Run of a combination. Raises VpError where its backbone has no room for it."""
    recipe = {key: chosen[key] for key in RECIPE if key in chosen}
    settings = {key: chosen[key] for key in OF_PROMPTS if key in chosen}
    backbone = chosen.get("backbone", "mini-clip")
    run = own_run(chosen["dataset"], method, backbone, recipe, chosen.get("template", DEFAULT_TEMPLATE), **settings)
    key = "size" if isinstance(run.method, VisualPrompt) else "block"
    try:
        _check_room(run)
    except ValueError as error:
        raise (common if key in common.values and key not in table.values else table).error(key, f"{key}: {error}") from error
    try:
        run = fitted(run, chosen.get("limit"), recipe)
    except VpError as error:  # of a folder that is no dataset
        raise (table if "dataset" in table.values else common).error("dataset", f"dataset = {run.dataset!r}: {error}") from error
    return named(replace(run, noise=GaussianNoise(chosen["noise"]))) if chosen.get("noise") else run


def _check_room(run: Run) -> None:
    if isinstance(run.method, VisualPrompt):
        _check_size(run.method.kind, run.method.size, image_side(run.backbone))
    elif isinstance(run.method, DeepTokens):
        if (shape := vision_shape(run.backbone)) is None:
            raise ValueError(f"{run.backbone} has no transformer blocks to put tokens into: give another backbone")
        if run.method.block >= shape.blocks:
            raise ValueError(f"block {run.method.block} of {run.backbone}, which has {shape.blocks}: give 0 to {shape.blocks - 1}")


@lru_cache(maxsize=1024)
def _check_size(kind: str, size: int, side: int) -> None:
    VISUAL_PROMPTS[kind](size, side)


# -- what a Run is, by field ----------------------------------------------------------------------------------------------


def settings_of(task: Task) -> dict[str, Any]:
    """A Task's value of every field, as a file would say it; of a field that it does not take, None."""
    run = task.run
    found: dict[str, Any] = dict.fromkeys(FIELDS)
    found |= {"dataset": run.dataset, "backbone": run.backbone, "method": method_name(run.method), "limit": run.limit}
    found |= {key: getattr(run.method, key, None) for key in OF_PROMPTS}
    found |= {key: getattr(run.recipe, key) if run.recipe else None for key in RECIPE}
    found["template" if isinstance(run.template, str) else "templates"] = run.template
    return found | {"noise": run.noise.std if run.noise else 0.0, "seeds": task.seed}


@dataclass
class _Exclude:
    """Combinations that are left out, and whether there was any."""

    table: _Table
    values: dict[str, list[Any]]
    matched: bool = False

    @classmethod
    def of(cls, table: _Table) -> _Exclude:
        if not table.values:
            raise table.error("", "[[exclude]] is empty, which would leave out everything: give FIELD = value")
        _check_fields(table, FIELDS)
        return cls(table, {key: _parsed(table, key, raw) for key, raw in table.values.items()})

    def leaves_out(self, task: Task) -> bool:
        """Has the Task all of these values?"""
        own = settings_of(task)
        found = all(own[key] in values for key, values in self.values.items())
        self.matched = self.matched or found
        return found
