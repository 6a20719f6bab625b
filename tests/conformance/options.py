"""The options of conformance mode, and what conftest.py needs of it before a worker has its device: nothing here imports torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from vp.machine.devices import usable_cores

WORKERS = 2
SPECIFIES = "@pytest.mark.specifies("


def add_options(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--impl",
        action="append",
        metavar="SOLUTION",
        help="ask the specification of this file.py, notebook.ipynb, folder, module, either:object, or course:FOLDER; repeatable",
    )
    group.addoption(
        "--isolated",
        action="store_true",
        help="with --impl: workers run as another user, without a network, the project read-only, as far as the system allows it",
    )
    group.addoption("--time-limit", type=float, default=10.0, metavar="S", help="with --impl: seconds for one call of a solution")
    group.addoption("--scores", type=Path, metavar="FILE", help="with --impl: points for sections, names or statements (TOML)")


def write_results(path: Path | None, content: Any) -> str:
    """Write what `--results` asks for; gives back what went wrong, in words."""
    if path is None:
        return ""
    try:
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        return f"no results: {path} cannot be written ({error.strerror}): give --results another file"
    return ""


def split_label(label: str) -> tuple[str, str]:
    """The file or module of a solution, and what in it holds the names: "" for all of it. A drive's colon is the file's own."""
    if label and Path(label).is_dir():
        return label, ""
    found = re.fullmatch(r"(.+\.(?:py|ipynb))(?::(\w+))?", label) or re.fullmatch(r"([^:]*):?(.*)", label)
    assert found is not None
    return found[1], found[2] or ""


def names_of(item: pytest.Item) -> tuple[str, ...]:
    """The public names that a test speaks of; {name} in a marker is a parameter of the test."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    asked = [name for marker in item.iter_markers("specifies") for name in marker.args]
    return tuple(re.sub(r"\{(\w+)\}", lambda found: str(parameters[found[1]]), name) for name in asked)


def use_workers(config: pytest.Config) -> None:
    """Foreign code runs in workers only, which may die: unless the caller says otherwise, two of them."""
    if config.getoption("--scores") and not config.getoption("--impl"):
        raise pytest.UsageError("--scores gives points to a solution: name one with --impl")
    if not config.getoption("--impl") or hasattr(config, "workerinput"):
        return
    option = config.option
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of the workers, too: what needs a GPU says so
    if getattr(option, "numprocesses", None) is None and not option.usepdb:
        option.numprocesses = min(WORKERS, usable_cores())
    if getattr(option, "maxworkerrestart", None) is None:
        option.maxworkerrestart = "100000"
