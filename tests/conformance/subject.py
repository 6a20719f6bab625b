"""What a test speaks of: `impl`, which has the names of the test's marker, and is vp unless --impl says otherwise."""

from __future__ import annotations

import importlib
from typing import Any

from tests.conformance.names import NAMES


class Ours:
    """vp itself, unwatched; imported when it is asked, which takes seconds that other solutions need not wait."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("tests.conformance.ours"), name)

    def __repr__(self) -> str:
        return "vp"


class Subject:
    """The implementation that is asked: it gives out the names that the running test is marked with, and no others."""

    def __init__(self, implementation: Any) -> None:
        self._implementation = implementation
        self._names: tuple[str, ...] = ()

    def speak_of(self, names: tuple[str, ...]) -> None:
        if unknown := [name for name in names if name not in NAMES]:
            raise LookupError(f"a test is marked specifies({unknown[0]!r}): tests/conformance/names.py has no such name")
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name not in NAMES:
            raise AttributeError(name)  # hypothesis asks whether this is a mock
        if name not in self._names:
            raise LookupError(f"the test uses impl.{name}, but is marked specifies{self._names}")
        return getattr(self._implementation, name)

    def __repr__(self) -> str:
        return repr(self._implementation)
