"""The judge in a process that it shares with foreign code: sealed before that code comes, and asked what it must know.

A `Seal` remembers what the judge is made of: the functions, classes and methods of this suite, of pytest, Hypothesis and their
like, and what they use of torch, numpy, networkx and Python. Whatever has been replaced since is named and put back. `Questions`
have known answers, right ones and wrong ones: a judge that lets a wrong one pass has been tampered with in another way. Both
hold against code that changes the judge, not against code that imitates it: see README.md.
"""

from __future__ import annotations

import builtins
import gc
import operator
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.conformance.agree import agree
from tests.conformance.conduct import is_installed
from tests.conformance.names import NAMES

TAMPERED = "the judge was tampered with"
OFF = 1e-3  # by which the numbers of a planted wrong answer are off
STATEMENTS = 1  # of the suite itself, that is asked about planted implementations, a right and a wrong one
CANDIDATES = 12  # that are tried, to find them
ROOMS = {"tests", "conftest", "hypothesis", "pytest", "_pytest", "pluggy", "xdist", "execnet", "json", "open_clip"}  # all of them
USED = {
    "torch",
    "numpy",
    "networkx",
    "builtins",
    "math",
    "copy",
    "functools",
    "itertools",
    "operator",
    "scipy.stats",
}  # what is used
LAYERS = ("torch.nn.functional", "torch.nn.modules.", "torch.testing", "torch.autograd")  # all of them, too
NEAR = ("tests.conformance.agree", "tests.support", "torch.Tensor", "builtins", "_pytest.raises")
FREE = {  # what pytest and its like exchange themselves, and what others replace in good faith without touching a verdict
    "_pytest.assertion.util._reprcompare",
    "_pytest.assertion.util._assertion_pass",
    "builtins.__import__",
    "builtins.breakpoint",
    "builtins.input",
    "builtins.open",
    "builtins.print",
    "torch.compile",
    "torch.load",
    "torch.save",
}


@dataclass(frozen=True)
class Break:
    """Something that is not what it was, and how it is put back."""

    words: str
    mend: Callable[[], None]


class Seal:
    """What the judge is made of, as it is now. `pytest` plugins are sealed with it where their manager is given."""

    def __init__(self, plugins: pytest.PytestPluginManager | None = None) -> None:
        self._plugins = plugins
        self._hooks = _hooks(plugins)
        self._spaces: list[tuple[str, Any, Callable[[str], Any], list[str], list[Any]]] = []
        self._constants: list[tuple[str, Any, Any]] = []
        used = {name for module in _modules("tests") for name in _mentioned(module)}
        functions: dict[int, FunctionType] = {}
        for title, owner in _owners():
            known = vars(owner)
            whole = title.partition(".")[0] in ROOMS or title.startswith(LAYERS)
            every = title.startswith("tests.test_")
            names = [
                name
                for name, value in known.items()
                if f"{title}.{name}" not in FREE
                and (whole or name in used)
                and (every or callable(value) or isinstance(value, staticmethod | classmethod | property))
                and not (name.startswith("__") and not callable(value))
            ]
            if owner is Tensor:  # whose methods are mostly inherited: another one could hide them
                names += [name for name in used if name not in known and hasattr(Tensor, name)]
            values = [known.get(name) for name in names]
            self._spaces.append((title, owner, known.get, names, values))
            functions.update({id(one): one for value in values for one in _functions(value)})
            if every:
                self._constants += [(f"{title}.{n}", v, _content(v)) for n, v in zip(names, values, strict=True) if _is_data(v)]
        self._functions = list(functions.values())
        for one in self._functions:
            _finish(one)
        self._codes = [_code(one) for one in self._functions]
        self._traces, self._modes = _traces(), torch._C._len_torch_function_stack()
        self._effort, self._profile = _effort(), hypothesis.settings.default
        self._near = [one for one in self._spaces if one[0].startswith(NEAR)]
        self._all, self._map, self._list, self._is = all, map, list, operator.is_  # builtins may be replaced, too

    def holds(self) -> bool:
        """A quick look at what a verdict takes first, after each call of a solution."""
        near = self._all(self._all(self._map(self._is, self._map(get, names), values)) for _, _, get, names, values in self._near)
        return near and sys.gettrace() is self._traces[0][1] and torch._C._len_torch_function_stack() == self._modes

    def broken(self) -> list[Break]:
        """All that has changed since, in words; takes some milliseconds."""
        found: list[Break] = []
        for title, owner, get, names, values in self._spaces:
            if not self._all(self._map(self._is, self._map(get, names), values)):
                found += [
                    Break(f"{title}.{name} was replaced", _setter(owner, name, value))
                    for name, value in zip(names, values, strict=True)
                    if get(name) is not value and not _wraps(get(name), value)
                ]
        if self._list(self._map(_code, self._functions)) != self._codes:
            found += [
                Break(f"{function.__module__}.{function.__qualname__} got other code", _recoder(function, code))
                for function, code in zip(self._functions, self._codes, strict=True)
                if _code(function) != code
            ]
        for title, owner, _, names, _ in self._spaces:
            if isinstance(owner, ModuleType) and title.startswith("tests.") and (hiding := {*vars(owner)} & _BUILTINS - {*names}):
                found += [Break(f"{title}.{name} hides Python's own", _deleter(owner, name)) for name in sorted(hiding)]
        found += [
            Break(f"{title} holds something else", lambda: None)
            for title, value, kept in self._constants
            if _content(value) != kept
        ]
        if _hooks(self._plugins) != self._hooks:
            found.append(Break("pytest has other plugins", self._unplug))
        for (title, kept, mend), (_, now, _) in zip(self._traces, _traces(), strict=True):
            if now != kept:
                found.append(Break(f"{title} was set", lambda mend=mend, kept=kept: mend(kept)))
        if _effort() != self._effort:
            found.append(Break("Hypothesis has other settings", self._try_as_hard))
        return found

    def _try_as_hard(self) -> None:
        hypothesis.settings.register_profile("conformance", parent=self._profile)
        hypothesis.settings.load_profile("conformance")

    def _unplug(self) -> None:
        assert self._plugins is not None
        known = {plugin for _, plugin, _ in self._hooks}
        for plugin in self._plugins.get_plugins():
            if id(plugin) not in known:
                self._plugins.unregister(plugin)


_BUILTINS = frozenset(name for name in vars(builtins) if not name.startswith("__"))


def _modules(root: str) -> list[ModuleType]:
    return [module for name, module in [*sys.modules.items()] if name.partition(".")[0] == root and isinstance(module, ModuleType)]


def _owners() -> Iterator[tuple[str, Any]]:
    """Modules, and the classes that are defined in them."""
    seen: set[int] = set()
    for name, module in [*sys.modules.items()]:
        whole = name.partition(".")[0] in ROOMS or name.startswith(LAYERS)
        if not isinstance(module, ModuleType) or not (whole or name in USED):
            continue
        yield name, module
        for cls in [*vars(module).values()]:
            own = isinstance(cls, type) and cls.__module__ == name and cls.__flags__ & _HEAP and id(cls) not in seen
            if own and whole:
                seen.add(id(cls))
                yield f"{name}.{cls.__qualname__}", cls
    yield "torch.Tensor", torch.Tensor
    yield "torch.Generator", torch.Generator
    import networkx as nx

    for graph in (nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph):
        yield f"networkx.{graph.__name__}", graph


_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class whose attributes can be set


def _mentioned(module: ModuleType) -> Iterator[str]:
    """All names that a module's functions use."""
    pending = [one.__code__ for value in [*vars(module).values()] for one in _functions(value)]
    for cls in [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]:
        pending += [one.__code__ for value in [*vars(cls).values()] for one in _functions(value)]
    while pending:
        code = pending.pop()
        yield from code.co_names
        pending += [one for one in code.co_consts if isinstance(one, CodeType)]


def _finish(function: FunctionType) -> None:
    """networkx compiles a decorated function when it is called first, in place: now, so that it stays as it is sealed."""
    compiles = getattr(vars(function).get("__argmap__"), "_lazy_compile", None)
    if compiles is not None:
        compiles(function)


def _functions(value: Any) -> Iterator[FunctionType]:
    """The Python functions that a value is, or wraps."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        yield from (one for one in (value.fget, value.fset) if type(one) is FunctionType)
    for _ in range(9):
        if type(value) is FunctionType:
            yield value
        inner = getattr(value, "__dict__", None)
        if not isinstance(inner, dict) or "__wrapped__" not in inner:
            return
        value = inner["__wrapped__"]


_code: Callable[[FunctionType], tuple[Any, ...]] = operator.attrgetter("__code__", "__defaults__", "__kwdefaults__")


def _is_data(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray | list | tuple | dict | int | float | str)


def _content(value: Any) -> Any:
    """What tells that data has changed in place."""
    if isinstance(value, Tensor):
        return value._version, value.data_ptr()
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


def _hooks(plugins: pytest.PytestPluginManager | None) -> list[tuple[str, int, int]]:
    if plugins is None:
        return []
    return [
        (name, id(impl.plugin), id(impl.function))
        for name, caller in sorted(vars(plugins.hook).items())
        if not name.startswith("_")
        for impl in caller.get_hookimpls()
    ]


def _effort() -> tuple[Any, ...]:
    """How hard Hypothesis looks."""
    usual = hypothesis.settings.default
    return usual.max_examples, usual.phases, usual.derandomize, usual.deadline


def _traces() -> list[tuple[str, Any, Callable[[Any], Any]]]:
    """What can run foreign code while the judge runs, with what sets it back."""
    modes = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
    found: list[tuple[str, Any, Callable[[Any], Any]]] = [
        ("sys.settrace", sys.gettrace(), sys.settrace),
        ("sys.setprofile", sys.getprofile(), sys.setprofile),
        ("threading.settrace", threading.gettrace(), threading.settrace),
        ("gc.callbacks", [*gc.callbacks], lambda kept: gc.callbacks.__setitem__(slice(None), kept)),
        ("a mode of torch", modes, _pop_modes),
    ]
    for name in ("SIGALRM", "SIGTERM"):
        if number := getattr(signal, name, None):
            found.append((f"a handler of {name}", signal.getsignal(number), lambda _: None))
    return found


def _pop_modes(kept: tuple[int, int]) -> None:
    while torch._C._len_torch_function_stack() > kept[0]:
        torch._C._pop_torch_function_stack()
    while torch._C._len_torch_dispatch_stack() > kept[1]:
        torch._C._pop_torch_dispatch_stack()


def _wraps(new: Any, old: Any) -> bool:
    """Is this what a library puts around its own function, as torch does once it compiles?"""
    if type(new) is not FunctionType or not is_installed(Path(new.__code__.co_filename)):
        return False
    return any(one is old for one in _functions(new)) or vars(new).get("__wrapped__") is old


def _setter(owner: Any, name: str, value: Any) -> Callable[[], None]:
    return _deleter(owner, name) if value is None else lambda: setattr(owner, name, value)


def _deleter(owner: Any, name: str) -> Callable[[], None]:
    return lambda: delattr(owner, name)


def _recoder(function: FunctionType, code: tuple[Any, ...]) -> Callable[[], None]:
    def mend() -> None:
        function.__code__, function.__defaults__, function.__kwdefaults__ = code

    return mend


# -- questions with known answers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """Something that the judge must accept, or refuse."""

    about: str
    ask: Callable[[], Any]  # raises where it is refused
    is_right: bool

    def answer(self) -> str:
        """What is wrong with the judge, in words; "" if nothing is."""
        try:
            self.ask()
        except BaseException:  # whatever it is refused with, a failed pytest.raises among them
            return f"{self.about} refuses a right answer" if self.is_right else ""
        return "" if self.is_right else f"{self.about} lets a wrong answer pass"


def questions() -> list[Question]:
    """Of the tools that statements use: comparisons, checks of kinds and shapes, pytest, Hypothesis."""
    one = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    off = one + torch.eye(2, 3) * 1e-3
    found = []
    for right, other in ((True, one.clone()), (False, off), (False, one[:, :2]), (False, torch.full_like(one, torch.nan))):
        found.append(Question("agree", lambda other=other: agree(other, one, "x"), right))
        found.append(Question("torch.equal", lambda other=other: _demand(torch.equal(other, one)), right))
        found.append(Question("torch.testing.assert_close", lambda other=other: torch.testing.assert_close(other, one), right))
        if other.shape == one.shape:
            found.append(Question("torch.allclose", lambda other=other: _demand(torch.allclose(other, one)), right))
            found.append(Question("numpy.allclose", lambda other=other: _demand(np.allclose(other.numpy(), one.numpy())), right))
    check = NAMES["sum_aggregate"].check
    eye = torch.eye(2, dtype=torch.float64)
    for right, other in ((True, one), (False, one[:1]), (False, "x"), (False, one / 0)):
        found.append(Question("the check of shapes", lambda other=other: _demand(check(other, eye, one) == ""), right))
    for right, raised in ((True, ValueError), (False, KeyError), (False, None)):
        found.append(Question("pytest.raises", lambda raised=raised: _raises(raised), right))
    return found


def drawn_questions() -> list[Question]:
    """Of Hypothesis: what is wrong of some examples is found, so are large ones, and what is right of all of them is accepted."""
    wrong = {
        "a number": (st.integers(0, 2**32 - 1), lambda n: n < 1000),
        "a list": (st.lists(st.integers(0, 9), max_size=9), lambda many: len(many) < 4),
    }
    found = [Question("Hypothesis", lambda drawn=drawn: _property(*drawn), False) for drawn in wrong.values()]
    return [*found, Question("Hypothesis", lambda: _property(st.integers(0, 9), lambda n: 0 <= n < 10), True)]


def _property(strategy: Any, holds: Callable[[Any], bool]) -> None:
    @hypothesis.settings(max_examples=20, phases=[hypothesis.Phase.generate])
    @hypothesis.given(strategy)
    def stated(one: Any) -> None:
        _demand(holds(one))

    stated()


def _demand(outcome: object) -> None:
    if outcome is not True:
        raise AssertionError


def _raises(raised: type[Exception] | None) -> None:
    with pytest.raises(ValueError):  # noqa: PT011, PT012
        if raised is not None:
            raise raised


def answers(asked: list[Question]) -> list[str]:
    """What is wrong with the judge: one sentence for each question that it does not answer as it must."""
    return [words for one in asked if (words := one.answer())]


# -- statements with known answers ---------------------------------------------------------------------------------------------


def _planted() -> Mapping[str, Callable[[float], Any]]:
    """Of some names: an implementation whose every number is off by so much, and which is right for 0."""

    def patch(off: float) -> Any:
        class FixedPatch(nn.Module):
            def __init__(self, size: int, image_size: int) -> None:
                super().__init__()
                self.patch = nn.Parameter(torch.randn(1, 3, size, size))

            def forward(self, images: Tensor) -> Tensor:
                size, image_size = self.patch.shape[-1], images.shape[-1]
                return images + off + nn.functional.pad(self.patch, (0, image_size - size, 0, image_size - size))

        return FixedPatch

    def softmax(off: float) -> Any:
        def attention_matrix(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
            scores = Q @ K.T / Q.shape[1] ** 0.5
            allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
            return scores.masked_fill(~allowed, -torch.inf).softmax(1).nan_to_num(0) + off

        return attention_matrix

    return {
        "FixedPatch": patch,
        "attention_matrix": softmax,
        "degree_matrix": lambda off: lambda A: A.sum(1).diag() + off,
        "sum_aggregate": lambda off: lambda A, H: A @ H + off,
        "fill_template": lambda off: lambda text, names: [text.replace("{}", n.replace("_", " ")) + "." * bool(off) for n in names],
        "accuracy": lambda off: lambda model, batches: _share(model, batches) + off,
        "zero_shot_logits": lambda off: (
            lambda images, texts, scale: (
                scale.exp() * nn.functional.normalize(images, dim=-1) @ nn.functional.normalize(texts, dim=-1).T + off
            )
        ),
    }


def _share(model: nn.Module, batches: Any) -> float:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        right = [(model(inputs).argmax(1) == labels) for inputs, labels in batches]
    for module, mode in modes.items():
        module.training = mode
    return float(torch.cat(right).double().mean())


PLANTED = _planted()


def _statements(items: Iterable[pytest.Item]) -> Iterator[Question]:
    """Statements of the suite about one planted name: of the right implementation, and of the wrong one."""
    for name, build in PLANTED.items():
        for item in items:
            parameters = getattr(getattr(item, "callspec", None), "params", {})
            test = getattr(item, "function", None)
            alone = [one.args for one in item.iter_markers("specifies")] == [(name,)]
            if alone and test is not None and {*parameters} == {*getattr(item, "fixturenames", ())} & {*parameters} == {"impl"}:
                for off in (0.0, OFF):
                    yield Question(item.nodeid.partition("[")[0], partial(_state, test, name, build(off)), not off)


def _state(test: Callable[..., Any], name: str, implementation: Any) -> None:
    """Ask a statement about an implementation, in place of a solution."""
    from tests.conformance.subject import Subject

    subject = Subject(SimpleNamespace(**{name: implementation}))
    subject.speak_of((name,))
    test(impl=subject)


class Guard:
    """Tells whether the judge is what it was. To be built before foreign code comes, in each process that it shares with it."""

    def __init__(self, plugins: pytest.PytestPluginManager | None = None, items: Iterable[pytest.Item] = ()) -> None:
        self._brief = [one for one in questions() if not one.answer()]
        self._drawn = [one for one in drawn_questions() if not one.answer()]
        self._statements: list[Question] = []
        tried = islice(_statements(items), 2 * CANDIDATES)
        for right, wrong in zip(tried, tried, strict=False):
            if len(self._statements) < 2 * STATEMENTS and not (right.answer() or wrong.answer()):
                self._statements += [right, wrong]
        self._seal = Seal(plugins)
        self.holds = self._seal.holds  # a quick look
        self.is_beyond_repair = False

    def inspect(self, *, of_examples: bool = False, of_statements: bool = False) -> str:
        """How the judge was changed, in words; "" if it was not. What was replaced is put back."""
        asked = self._brief + (self._drawn if of_examples or of_statements else []) + (self._statements if of_statements else [])
        broken, wrong = self._seal.broken(), answers(asked)
        for one in broken:
            one.mend()
        if wrong:
            self.is_beyond_repair = bool(answers(asked))
        words = [*(one.words for one in broken[:3]), *wrong[:1]]
        return f"{TAMPERED}: {'; '.join(words)}" if words else ""
