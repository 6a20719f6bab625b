"""Counting what is done by several processes: a line in a file for each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class Counted:
    """What is counted calls `begun` each time; `before_it_ends` runs then, so that a test can look on while it is under way."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.before_it_ends: Callable[[], object] = lambda: None

    def begun(self, seed: int) -> None:
        with self.log.open("a") as log:
            log.write(f"{seed}\n")
        self.before_it_ends()

    @property
    def count(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0
