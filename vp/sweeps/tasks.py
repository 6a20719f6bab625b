"""What an engine is given and what it tells: a Task is a Run with a seed, an Outcome how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from vp.experiments import Run


@dataclass(frozen=True)
class Task:
    """One Run for one seed."""

    run: Run
    seed: int

    @property
    def name(self) -> str:
        """For people: the run's name, and the seed."""
        return f"{self.run.name}-s{self.seed}"

    @property
    def shares(self) -> tuple[str, str, int]:
        """Tasks alike in this share what a process keeps warm: backbone, images, and the prefix below the prompt's block."""
        return self.run.backbone, self.run.dataset, getattr(self.run.method, "block", -1)


@dataclass(frozen=True)
class Outcome:
    """How a Task ended: performed now (done), found in the store (reused), or failed, with its log."""

    task: Task
    kind: Literal["done", "reused", "failed"]
    seconds: float
    where: str  # the process or node, for people
    words: str = ""  # of a failure, in a line
    log: str = ""  # of a failure, the file that has all of it
    top1: float | None = None  # in percent; of a failure None


TellOutcome = Callable[[Outcome], None]


class Engine(Protocol):
    """Performs Tasks somewhere."""

    def perform(self, tasks: Sequence[Task], tell: TellOutcome) -> None:
        """Perform each Task once and tell of it when it ends; a failed one does not stop the rest.

        Raises VpError where nothing can be performed, before anything starts; KeyboardInterrupt when interrupted, after its
        processes have ended and with all finished results in the store.
        """


def grouped(tasks: Sequence[Task]) -> list[list[Task]]:
    """Tasks that share a backbone, images and prefix together, the group that takes longest first, and in it the longest first."""
    groups: dict[tuple[str, str, int], list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.shares, []).append(task)
    ordered = [sorted(group, key=lambda task: -task.run.relative_cost) for group in groups.values()]
    return sorted(ordered, key=lambda group: -sum(task.run.relative_cost for task in group))
