"""The worker of a sweep on Ray: a process on some node that keeps models and images loaded and performs Task after Task."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import uuid4

import torch

from vp.experiments import Result
from vp.experiments.nodes import differences
from vp.experiments.store import obtain, result_path, run_key, store_folder
from vp.machine.device_lock import this_device
from vp.machine.errors import VpError
from vp.machine.home import home
from vp.sweeps.tasks import Task

NODE_HOME = "VP_NODE_HOME"  # set where `ray start` runs: the VP_HOME of a node that cannot have the driver's


@dataclass(frozen=True)
class Terms:
    """What the driver tells each performer."""

    code: dict[str, str]  # `vp.experiments.nodes.code_here` of the driver
    environment: dict[str, str]  # the driver's VP_... variables
    folder: str  # the driver's working folder, in which relative names of image folders begin
    marker: str | None  # a file in the driver's store; None where all nodes have VP_STORE in common
    device: str
    threads: int
    sources: dict[str, str] = field(default_factory=dict)  # of modules from elsewhere that define methods, by name


@dataclass(frozen=True)
class Hello:
    """What a performer tells of its process before it gets any Task."""

    differs: str  # from the driver's code, in words; empty: it does not
    shares_store: bool  # what it stores the driver finds


@dataclass(frozen=True)
class Ended:
    """How a Task ended, and its result where the driver cannot find that in the store."""

    kind: Literal["done", "reused", "failed"]
    seconds: float
    top1: float | None = None
    words: str = ""
    log: str = ""  # all that was printed, and the traceback
    key: str = ""  # under which the driver has the result, or stores it
    result: Result | None = None


def _written(sources: dict[str, str]) -> Path:
    """The folder below VP_HOME that has these modules; the same ones have the same, however many processes write them."""
    folder = home() / "methods" / hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    for module, source in sources.items():
        part = folder / f".{uuid4().hex}.part"
        part.write_text(source, encoding="utf-8")
        os.replace(part, folder / f"{module}.py")
    return folder


class Performer:
    """An actor of Ray, with a core or a share of a GPU. It lives as long as the sweep, so that what it has loaded stays loaded."""

    def __init__(self, terms: Terms) -> None:
        os.environ.update(terms.environment)
        if own_home := os.environ.get(NODE_HOME):
            os.environ["VP_HOME"] = own_home
        with suppress(OSError):  # another machine may not have it, and then no such folders either
            os.chdir(terms.folder)
        torch.set_num_threads(terms.threads)
        self._terms = terms
        self._has_the_store = terms.marker is None
        if terms.sources:
            sys.path.insert(0, str(_written(terms.sources)))  # first: a node may have another file of that name

    def hello(self) -> Hello:
        """Whether this process has the driver's code and store."""
        if self._terms.marker is not None:
            with suppress(OSError):
                self._has_the_store = (store_folder() / self._terms.marker).exists()
        return Hello(differences(self._terms.code), self._has_the_store)

    def perform(self, tasks: Sequence[Task], driver_has: frozenset[str] = frozenset()) -> list[Ended]:
        """Perform Tasks in turn; a failed one does not stop the rest. driver_has: file names of results that nobody needs."""
        with this_device().share():
            return [self._perform(task, driver_has) for task in tasks]

    def _perform(self, task: Task, driver_has: frozenset[str]) -> Ended:
        started, said, trained = time.perf_counter(), io.StringIO(), list[bool]()

        def seconds() -> float:
            return round(time.perf_counter() - started, 3)

        try:
            with redirect_stdout(said), redirect_stderr(said):
                key = "" if self._has_the_store else run_key(task.run, task.seed, self._terms.device)
                if key and result_path(task.run, key).name in driver_has:
                    return Ended("reused", seconds(), key=key)
                result = obtain(
                    task.run, task.seed, device=self._terms.device, progress=False, performing=lambda: trained.append(True)
                )
        except Exception as error:
            words = " ".join(str(error).split())
            if not isinstance(error, VpError):
                words = f"{type(error).__name__}: {words}"
            return Ended("failed", seconds(), words=words, log=said.getvalue() + traceback.format_exc())
        return Ended("done" if trained else "reused", seconds(), result.top1, key=key, result=result if key else None)
