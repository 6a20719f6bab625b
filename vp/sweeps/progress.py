"""How far a sweep is: one line on a terminal, and plain lines from time to time where there is none."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, TextIO

from tqdm import tqdm

from vp.experiments.speed import duration
from vp.sweeps.estimate import passes
from vp.sweeps.tasks import Outcome, Task

EVERY_S = 30.0  # a plain line


class Progress:
    """Counts outcomes, tells of each failure at once, and says how long the rest will take."""

    def __init__(self, tasks: Sequence[Task], to: TextIO | None = None) -> None:
        self.to = to or sys.stderr
        self.tasks = len(tasks)
        self.kinds: Counter[str] = Counter()
        self.failed: list[Outcome] = []
        self._work, self._ended = sum(map(_work, tasks)), 0.0
        self._started = self._said = time.monotonic()
        self._first: float | None = None  # when the first Task began, once processes were there
        self._bar: Any = None
        if self.to.isatty():
            self._bar = tqdm(total=self.tasks, file=self.to, bar_format="|{bar}| {desc}", dynamic_ncols=True)
            self._bar.set_description_str(f"{self.words()}, processes start")

    def __call__(self, outcome: Outcome) -> None:
        """Take note of an outcome."""
        self.kinds[outcome.kind] += 1
        self._first = self._first if self._first is not None else time.monotonic() - outcome.seconds
        self._ended += _work(outcome.task)
        if outcome.kind == "failed":
            self.failed.append(outcome)
            self._say(f"failed: {outcome.task.name}: {outcome.words}; log: {outcome.log}")
        if self._bar is not None:
            self._bar.set_description_str(self.words(), refresh=False)
            self._bar.update()
        elif time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            self._say(self.words())

    def words(self) -> str:
        """Runs done, reused and failed, and the time left."""
        is_under_way = 0 < self.kinds.total() < self.tasks
        return self._counted() + (f", {duration(self.seconds_left())} left" if is_under_way else "")

    def _counted(self) -> str:
        counted = ", ".join(f"{self.kinds[kind]} {kind}" for kind in ("done", "reused", "failed"))
        return f"{self.kinds.total()} of {self.tasks} runs: {counted}"

    def seconds_left(self) -> float:
        """What is left takes as long for its work as what has ended, reused or not."""
        if self._first is None:
            return 0.0
        return (time.monotonic() - self._first) * (self._work - self._ended) / self._ended

    def close(self) -> None:
        """The last word."""
        if self._bar is not None:
            self._bar.close()
        self._say(f"{self._counted()}, in {duration(time.monotonic() - self._started)}")

    def _say(self, words: str) -> None:
        if self._bar is not None and not self._bar.disable:
            self._bar.write(words, file=self.to)
        else:
            print(words, file=self.to, flush=True)


def _work(task: Task) -> float:
    return 1e-9 + passes(task.run)
