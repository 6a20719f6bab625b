"""Wrong ways to expand a sweep and to hand out its runs: tests/machinery/test_sweeps.py rejects each by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from vp.sweeps import Task, grid
from vp.sweeps.grid import expand, settings_of
from vp.sweeps.local import Queue

Expand = Callable[[Path], list[Task]]
LISTED, RANGE, LEAVES_OUT = grid._listed, grid._range, grid._Exclude.leaves_out


def expanding(context: Callable[[], Iterator[object]]) -> Expand:
    """`expand` while the decorated context lasts."""
    broken = contextmanager(context)

    def wrong(file: Path) -> list[Task]:
        with broken():
            return expand(file)

    wrong.__name__, wrong.__doc__ = context.__name__, context.__doc__
    return wrong


@expanding
def without_the_last_value() -> Iterator[object]:
    """Forgets the last of several values."""
    with mock.patch.object(grid, "_listed", lambda table, key, raw: LISTED(table, key, raw)[: max(1, len(raw) - 1)]):
        yield


@expanding
def side_by_side() -> Iterator[object]:
    """Takes the first values together, then the second ones, in place of all combinations."""
    with mock.patch.object(grid.itertools, "product", lambda *values: zip(*values, strict=False)):
        yield


@expanding
def without_the_end() -> Iterator[object]:
    """Leaves out the end of a range, as Python does."""
    with mock.patch.object(grid, "_range", lambda *given: RANGE(*given)[:-1] or RANGE(*given)):
        yield


@expanding
def in_floating_point() -> Iterator[object]:
    """Adds up the steps of a range in floating point."""
    with mock.patch.object(grid, "Decimal", lambda text: float(text)):
        yield


@expanding
def excluded_by_any_value() -> Iterator[object]:
    """Leaves out what has one of the excluded values, in place of all."""

    def leaves_out(self: Any, task: Task) -> bool:
        self.matched = True
        return any(settings_of(task)[key] in values for key, values in self.values.items())

    with mock.patch.object(grid._Exclude, "leaves_out", leaves_out):
        yield


@expanding
def excluded_but_once() -> Iterator[object]:
    """Leaves out the first combination only."""

    def leaves_out(self: Any, task: Task) -> bool:
        return not self.matched and LEAVES_OUT(self, task)

    with mock.patch.object(grid._Exclude, "leaves_out", leaves_out):
        yield


def in_the_order_of_the_file(file: Path) -> list[Task]:
    """Lets the order of a table's keys decide the order of runs."""
    keys = [line.partition(" =")[0] for line in file.read_text(encoding="utf-8").splitlines() if " = " in line]
    return sorted(expand(file), key=lambda task: [str(settings_of(task).get(key)) for key in keys])


class InTheOrderOfTheFile(Queue):
    """Hands out runs as they stand in the file, whatever they share."""

    def next(self, own: object, busy: Sequence[object]) -> int | None:
        some = [numbers for numbers in self.groups.values() if numbers]
        if not some:
            return None
        first = min(some, key=lambda numbers: min(numbers))
        number = min(first)
        first.remove(number)
        return number


class NeverJoins(Queue):
    """Leaves a process idle where all groups are taken, however much is left in them."""

    def next(self, own: Any, busy: Sequence[Any]) -> int | None:
        free = [shares for shares, numbers in self.groups.items() if numbers and (shares == own or shares not in busy)]
        return super().next(own, busy) if free else None
