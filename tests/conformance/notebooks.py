"""Notebooks as solutions: what their cells define, and nothing that they compute, print, train or download.

Kept are imports, functions, classes and constants, wherever they stand; everything else is left out and said, cell by cell. Magics
(`%...`, `!...`, `name?`) are removed; a cell of another language (`%%bash`) is left out.
"""

from __future__ import annotations

import ast
import json
import linecache
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

# Calls of which the value of a constant may be made: cheap, and without effect.
_CHEAP = re.compile(
    r"(range|len|int|float|str|bool|tuple|list|dict|set|frozenset|slice|sorted|min|max|sum|round|abs|zip|enumerate|reversed)"
    r"|(math|nn|torch\.nn|transforms|T|torchvision\.transforms|\w*\.?InterpolationMode)\.[\w.]+"
    r"|torch\.(device|tensor|Size|cuda\.is_available|cuda\.device_count|backends\.mps\.is_available)|(np|numpy)\.(array|log|sqrt)"
    r"|(pathlib\.)?Path|os\.path\.\w+|(collections\.)?namedtuple|(functools\.)?partial|(types\.)?SimpleNamespace"
    r"|(argparse\.)?Namespace|(typing\.)?TypeVar|re\.compile"
)
_OF_THE_NOTEBOOK = ("google.colab", "IPython", "ipywidgets")  # modules of the program that shows it
_STILL_PYTHON = ("time", "timeit", "capture", "prun")  # cell magics whose cell is Python
_MAGIC = re.compile(r"^(\s*)(%{1,2}\w|!|\?|[\w.]+\s*\?{1,2}\s*$|[\w, ]+=\s*(!|%\w))")


class NotebookError(ValueError):
    """A file that is no notebook."""


@dataclass(frozen=True)
class Cell:
    """A cell of code: its number, from 1, among all cells, its source, what of it is kept, and why the rest is not."""

    number: int
    source: str
    kept: ast.Module
    left_out: str

    def file(self, path: Path) -> str:
        """What stands for its file in a traceback: `alice.ipynb cell 3`."""
        return f"{path} cell {self.number}"


def cells(path: Path) -> Iterator[Cell]:
    """The cells of code. Raises NotebookError."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        found = notebook["cells"] if "cells" in notebook else notebook["worksheets"][0]["cells"]  # the latter before 2015
        sources = [(cell["cell_type"], cell.get("source", cell.get("input", ""))) for cell in found]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise NotebookError(f"{path.name} is no notebook ({type(error).__name__}: {error})") from None
    for number, (kind, source) in enumerate(sources, start=1):
        if kind == "code":
            yield _cell(number, source if isinstance(source, str) else "".join(source))


def left_out(path: Path) -> list[str]:
    """What of a notebook is not asked, a sentence for each such cell."""
    try:
        return [f"cell {cell.number}: left out {cell.left_out}" for cell in cells(path) if cell.left_out]
    except NotebookError:
        return []


def load(path: Path, name: str) -> ModuleType:
    """A module of what a notebook defines. Raises NotebookError, and whatever its imports raise."""
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    for cell in cells(path):
        file = cell.file(path)
        linecache.cache[file] = (len(cell.source), None, cell.source.splitlines(keepends=True), file)
        exec(compile(cell.kept, file, "exec"), module.__dict__)
    return module


def _cell(number: int, source: str) -> Cell:
    nothing = ast.Module([], [])
    try:
        parsed = ast.parse(python(source))
    except (SyntaxError, ValueError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        return Cell(number, source, nothing, f"all of it: it is no Python{line}: {getattr(error, 'msg', error)}")
    if language := _language(source):
        return Cell(number, source, nothing, f"all of it: it is %%{language}")
    kept = [node for node in parsed.body if _defines(node)]
    others = [node for node in parsed.body if node not in kept and not isinstance(node, ast.Pass)]
    told = [f"line {node.lineno} ({_brief(node)})" for node in others]
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    words = f"{', '.join(told[:3])}{more}, which does more than define a name" if told else ""
    return Cell(number, source, ast.Module(kept, []), words)


def python(source: str) -> str:
    """A cell's source as Python, line for line: a magic becomes `pass`, a cell of another language is empty."""
    try:
        ast.parse(source)
        return source
    except (SyntaxError, ValueError):
        pass
    if _language(source):
        return ""
    lines, goes_on = [], False
    for line in source.split("\n"):
        magic = _MAGIC.match(line)
        lines.append("" if goes_on else f"{magic[1]}pass" if magic else line)
        goes_on = (goes_on or bool(magic)) and line.rstrip().endswith("\\")
    return "\n".join(lines)


def _language(source: str) -> str:
    """The cell magic that makes a cell something else than Python."""
    found = re.match(r"\s*%%(\w+)", source)
    return found[1] if found and found[1] not in _STILL_PYTHON else ""


def _defines(node: ast.stmt) -> bool:
    """Does a statement only give a name to something that costs nothing?"""
    match node:
        case ast.Import(names=names):
            return not any(alias.name.startswith(_OF_THE_NOTEBOOK) for alias in names)
        case ast.ImportFrom(module=module):
            return not (module or "").startswith(_OF_THE_NOTEBOOK)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return True
        case ast.Expr(value=value):
            return isinstance(value, ast.Constant)
        case ast.Assign(targets=targets, value=value):
            return all(map(_is_name, targets)) and _is_cheap(value)
        case ast.AnnAssign(target=target, value=value):
            return _is_name(target) and (value is None or _is_cheap(value))
        case ast.If(test=test, body=body, orelse=orelse):
            return _is_cheap(test) and all(map(_defines, [*body, *orelse]))
        case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
            return all(map(_defines, [*body, *orelse, *final, *(one for handler in handlers for one in handler.body)]))
        case ast.Pass():
            return True
    return False


def _is_name(target: ast.expr) -> bool:
    if isinstance(target, ast.Tuple | ast.List):
        return all(map(_is_name, target.elts))
    return isinstance(target, ast.Name | ast.Attribute)


def _is_cheap(value: ast.expr) -> bool:
    """No call but cheap ones; the body of a lambda is not run."""
    if isinstance(value, ast.Lambda):
        return True
    if isinstance(value, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
        return False
    if isinstance(value, ast.Call):
        of_text = isinstance(value.func, ast.Attribute) and isinstance(value.func.value, ast.Constant)
        if not of_text and not _CHEAP.fullmatch(ast.unparse(value.func)):
            return False
    parts: list[ast.AST] = []
    for child in ast.iter_child_nodes(value):
        match child:
            case ast.comprehension(iter=source, ifs=conditions):
                parts += [source, *conditions]
            case ast.keyword(value=given):
                parts.append(given)
            case _:
                parts.append(child)
    return all(_is_cheap(part) for part in parts if isinstance(part, ast.expr))


def _brief(node: ast.stmt) -> str:
    line = ast.unparse(node).split("\n", 1)[0]
    return f"`{line}`" if len(line) <= 50 else f"`{line[:50]}…`"
