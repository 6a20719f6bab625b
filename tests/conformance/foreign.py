"""Someone else's solution: imported with a time limit, called under watch.

Whatever foreign code does becomes a sentence: it does not import, lacks a name, takes other arguments, raises, runs too long,
changes what it was given, or gives back another kind of thing. What ends its process, or hangs where Python cannot interrupt it,
ends a test worker only; `Marks` on the disk tell the next worker, so that nothing is tried in vain a second time.
"""

from __future__ import annotations

import faulthandler
import hashlib
import importlib
import importlib.util
import inspect
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import networkx as nx
import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from tests.conformance.names import NAMES, Check, described

GRACE_S = 5.0  # from the first, polite end of a call to that of its process
TAKES_SPARSE = "TAKES_SPARSE"  # a solution that sets it True is also given adjacency matrices in compressed sparse rows


class Complaint(AssertionError):
    """What is wrong with a solution, in words for its author."""


class GivenUp(BaseException):
    """Trying again would lead to the same end: the solution, or one of its names, hung or ended the process."""


class NotClaimed(BaseException):
    """The solution does not have a name that the test needs."""


class _TooLong(BaseException):
    pass


@contextmanager
def foreign_ground(seconds: float) -> Iterator[None]:
    """Where foreign code runs: without warnings, and ended when it takes longer than `seconds`: by an exception in the main thread,
    or, where that does not help, with its process."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise _TooLong

    politely = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, interrupt) if politely else None
    faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True, file=_nowhere())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning is an error in these tests, but the solution's own business
            if politely:
                signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
    finally:
        if politely:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


@cache
def _nowhere() -> int:
    """Where the process's last words go; open for as long as it lives."""
    return os.open(os.devnull, os.O_WRONLY)


class Marks:
    """What must not be tried again, told from one test worker to the others by files in a folder of the session."""

    def __init__(self, folder: Path, label: str) -> None:
        self.folder = folder / hashlib.sha256(label.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)

    def leave(self, name: str, words: str) -> None:
        (self.folder / name).write_text(words, encoding="utf-8")

    def left(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def clear(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


class Foreign:
    """A solution by its label: a Python file, a module's name, or either of them, a colon and what in it holds the names."""

    def __init__(self, label: str, marks: Marks, limit_s: float) -> None:
        self.label, self.marks, self.limit_s = label, marks, limit_s
        self._holder: Any = None

    def missing(self, names: tuple[str, ...]) -> list[str]:
        """Those of `names` that the solution does not have. Raises GivenUp when it does not import."""
        holder = self._imported()
        return [name for name in names if _get(holder, name) is None]

    def known_to_miss(self, names: tuple[str, ...]) -> list[str]:
        """The same of a solution that has been imported here already; none of any other."""
        return [] if self._holder is None else [name for name in names if _get(self._holder, name) is None]

    def __getattr__(self, name: str) -> Watched:
        if name not in NAMES:
            raise AttributeError(name)
        holder = self._imported()
        if (target := _get(holder, name)) is None:
            raise NotClaimed(name)
        return Watched(self, name, target, bool(_get(holder, TAKES_SPARSE)))

    def __repr__(self) -> str:
        return self.label

    def _imported(self) -> Any:
        if words := self.marks.left("import"):
            raise GivenUp(words)
        if self._holder is None:
            with FileLock(self.marks.folder / "import.lock"):
                if words := self.marks.left("importing"):  # by a worker that did not live to say more
                    self.marks.leave("import", words)
                    raise GivenUp(words)
                self.marks.leave("importing", "does not import: it ended the process, or ran too long")
                try:
                    with foreign_ground(self.limit_s):
                        self._holder = load(self.label)
                except BaseException as error:
                    words = f"does not import: {_why(error, self.limit_s)}"
                    self.marks.leave("import", words)
                    raise GivenUp(words) from None
                finally:
                    self.marks.clear("importing")
        return self._holder


def load(label: str) -> Any:
    """What holds the names of a solution. Raises whatever its import raises, Complaint when there is no such thing."""
    place, _, attribute = label.partition(":")
    if place.endswith(".py"):
        path = Path(place).resolve()
        if not path.is_file():
            raise Complaint(f"there is no file {place}")
        name = f"solution_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(path.parent))  # a solution of several files
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    if not attribute:
        return module
    if (holder := _get(module, attribute)) is None:
        raise Complaint(f"{place} has no {attribute!r}")
    return holder


def _get(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


class Watched:
    """One name of a solution: calls it, and complains in words."""

    def __init__(self, solution: Foreign, name: str, target: Any, takes_sparse: bool = False) -> None:
        self.solution, self.name, self.target, self.takes_sparse = solution, name, target, takes_sparse
        self.mark = f"name-{name}"

    def __call__(self, *given: Any) -> Any:
        call = NAMES[self.name].call
        if not callable(self.target):
            raise Complaint(f"{self.name} is {described(self.target)}: expected something to call as {self.name}{call}")
        if (takes := _signature(self.target)) is not None:
            try:
                takes.bind(*given)
            except TypeError as error:
                raise Complaint(
                    f"{self.name} takes {takes} ({error}): it is called as {self.name}{call}; an adapter of a few lines can do that"
                ) from None
        found = self.watch(self.target, self.name, NAMES[self.name].check, given)
        return WatchedModule(self, found) if isinstance(found, nn.Module) else found

    def watch(self, target: Callable[..., Any], name: str, check: Check | None, given: tuple[Any, ...]) -> Any:
        """Call `target` and hold it to what any call must keep to. Raises Complaint; GivenUp where it runs too long."""
        if words := self.solution.marks.left(self.mark):
            raise GivenUp(words)
        given = tuple(_dense(one) if not self.takes_sparse else one for one in given)
        before = [_snapshot(one) for one in given]
        told = f"{name}({', '.join(described(one) for one in given)})"
        try:
            with foreign_ground(self.solution.limit_s):
                found = target(*(one._module if isinstance(one, WatchedModule) else one for one in given))
        except _TooLong:
            words = f"{told} did not come to an end in {self.solution.limit_s:g} s"
            self.solution.marks.leave(self.mark, f"{words}; not tried again")
            raise GivenUp(words) from None
        except BaseException as error:
            raise Complaint(f"{told} {_why(error, self.solution.limit_s)}") from None
        for one, kept in zip(given, before, strict=True):
            if _changed(one, kept):
                raise Complaint(f"{told} changed {described(one)} that it was given: expected it to stay as it was")
        if check and (wrong := check(found, *given)):
            raise Complaint(f"{told} {wrong}")
        return found


class WatchedModule:
    """A module of a solution: itself in everything, but for its calls being watched."""

    def __init__(self, watched: Watched, module: nn.Module) -> None:
        self._watched, self._module = watched, module

    def __call__(self, *given: Any) -> Any:
        return self._watched.watch(self._module, f"{self._watched.name} module", NAMES[self._watched.name].forward, given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _signature(target: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def _dense(value: Any) -> Any:
    return value.to_dense() if isinstance(value, Tensor) and value.layout == torch.sparse_csr else value


def _snapshot(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, nx.Graph):
        return list(value.nodes(data=True)), list(value.edges(data=True))
    if isinstance(value, dict):
        return dict(value)
    return [_snapshot(one) for one in value] if isinstance(value, list | tuple) else None


def _changed(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor):
        return value.shape != before.shape or not torch.equal(_dense(value.detach()), _dense(before))
    if isinstance(value, np.ndarray):
        return not np.array_equal(value, before)
    if isinstance(value, nx.Graph):
        return (list(value.nodes(data=True)), list(value.edges(data=True))) != before
    if isinstance(value, dict):
        return value != before
    if isinstance(value, list | tuple):
        return len(value) != len(before) or any(_changed(one, kept) for one, kept in zip(value, before, strict=True))
    return False


def _why(error: BaseException, limit_s: float) -> str:
    """What foreign code raised, and where in it, in a line."""
    if isinstance(error, _TooLong):
        return f"it ran for more than {limit_s:g} s"
    if isinstance(error, Complaint):
        return str(error)
    message = str(error).strip().split("\n", 1)[0]
    own = Path(__file__).resolve().parent
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve().parent != own]
    outside = [
        f for f in frames if "site-packages" not in f.filename and "importlib" not in f.filename and "/lib/python" not in f.filename
    ]
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({Path(error.filename).name}, line {error.lineno})"
    else:
        where = f" ({Path(outside[-1].filename).name}, line {outside[-1].lineno})" if outside else ""
    cuda = (
        "; it needs CUDA: give back what works where its input is"
        if "cuda" in message.lower() or "nvidia" in message.lower()
        else ""
    )
    return f"raised {type(error).__name__}{f': {message}' if message else ''}{where}{cuda}"
