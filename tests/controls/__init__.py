"""The catalogue of wrong implementations: each breaks one sentence of the specification, and a named test must reject it.

Those of a public name are registered by `control` and asked through conformance mode itself (tests/controls/check_controls.py):
`pytest --impl=tests.controls:CornersCountedTwice` shows what becomes of one. `equivalents` is the opposite: correct
implementations, written otherwise than vp's, which must pass. Wrong versions of vp's own machinery are in the other modules,
and each is rejected by the test that it names.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

T = TypeVar("T")
OTHERS = ("machinery/test_evaluation", "machinery/test_training", "machinery/test_data")
MODULES = {  # by section of the report: the modules with wrong implementations, and the tests that are asked about them
    "1 and 2.4 on": (
        ["noise", "union", "evaluation", "training", "fine_tuning", "data"],
        ["test_1_2_fine_tuning", "test_2_4_noise", "test_2_5_union", *OTHERS],
    ),
    "2.1 to 2.3": (["prompts", "deep_prompts"], ["test_2_1_zero_shot", "test_2_2_visual_prompts", "test_2_3_deep_prompts"]),
    "values as large as real ones": (
        ["large_values"],
        [
            "test_2_1_zero_shot",
            "test_2_2_visual_prompts",
            "test_2_3_deep_prompts",
            "test_3_1_adjacency",
            "test_3_3_matrix_form",
            *OTHERS,
        ],
    ),
    "3": (
        ["graphs"],
        [
            "test_3_1_adjacency",
            "test_3_2_graph_convolution",
            "test_3_3_matrix_form",
            "test_3_4_permutations",
            "test_3_5_transformers",
        ],
    ),
}


@dataclass(frozen=True)
class Control:
    """A wrong implementation of one public name."""

    name: str  # the public name that it takes the place of
    wrong: Any
    rejected_by: str  # the test function that must fail

    @property
    def module(self) -> str:
        """Where it is: `graphs`, say."""
        return str(self.wrong.__module__).rpartition(".")[2]

    @property
    def says(self) -> str:
        """What is wrong with it."""
        return str(self.wrong.__doc__).split("\n", 1)[0]


CATALOGUE: dict[str, Control] = {}


def control(name: str, rejected_by: str) -> Callable[[T], T]:
    """Registers a wrong implementation of the public `name`; its docstring says what it does wrong."""

    def register(wrong: T) -> T:
        key = wrong.__name__  # type: ignore[attr-defined]
        if key in CATALOGUE and CATALOGUE[key].wrong.__module__ != wrong.__module__:
            raise ValueError(f"two controls are named {key!r}: give each its own name")
        CATALOGUE[key] = Control(name, wrong, rejected_by)
        return wrong

    return register


def catalogue() -> dict[str, Control]:
    """All of them, by their own name."""
    for modules, _ in MODULES.values():
        for module in modules:
            importlib.import_module(f"tests.controls.{module}")
    return CATALOGUE


def __getattr__(key: str) -> Any:
    """`tests.controls:KEY` is a solution that has a single public name, and that one wrong.

    Who imports one module of controls is asked for it here first, and need not wait for all others.
    """
    if key.startswith("_") or importlib.util.find_spec(f"{__name__}.{key}") or (found := catalogue().get(key)) is None:
        raise AttributeError(key)
    return SimpleNamespace(**{found.name: found.wrong})
