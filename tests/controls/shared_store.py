"""Wrong ways to share a store between nodes. Each breaks one sentence and must be rejected by the test named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vp.experiments import Result
from vp.machine import artifacts
from vp.machine.shelves import Shelf, Version


def overwrites(self: Any, name: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any], over: Version | None = None) -> bool:
    """Puts the later result over the first: test_what_stands_under_a_name_stays."""
    artifacts.save(self.folder / name, tensors, note)
    return True


def looks_before_it_writes(
    self: Any, name: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any], over: Version | None = None
) -> bool:
    """Looks, then writes, and another may have written in between: test_of_writers_that_meet_one_writes."""
    if self.look([name]):
        return False
    artifacts.save(self.folder / name, tensors, note)
    return True


def writes_in_place(
    self: Any, name: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any], over: Version | None = None
) -> bool:
    """Others read what is half written: test_a_killed_writer_leaves_nothing_visible."""
    try:
        with (self.folder / name).open("xb") as file:
            data = artifacts.packed(tensors, note)
            file.write(data[: len(data) // 2])
            file.flush()
            artifacts.os.link(self.folder / name, self.folder / "never")
            file.write(data[len(data) // 2 :])
    except FileExistsError:
        return False
    return True


def trusts_the_first(shelf: Shelf, name: str, result: Result, key: str) -> Result:
    """Does not compare what two nodes found: test_two_results_that_differ_are_both_kept_and_refused."""
    return result


def compares_time(first: Result, second: Result) -> bool:
    """No two trainings take the same time: test_two_results_that_say_the_same_are_one."""
    return str(first) == str(second)


def compares_accuracy(first: Result, second: Result) -> bool:
    """Results of equal accuracy may differ: test_equal_means_the_numbers."""
    return first.top1 == second.top1


def trusts_all_locks(folder: Path) -> bool:
    """Takes locks for granted: test_without_locks_one_result_is_kept."""
    return True


def ignores_conditions(self: Any, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
    """A bucket that overwrites whatever it is told: test_a_bucket_that_ignores_conditions_is_refused."""
    self.open(path, mode="wb", data=value)
