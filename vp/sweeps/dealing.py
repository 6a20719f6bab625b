"""Which Tasks a worker gets next: those that share what it has loaded, the longest first; one without work takes from others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vp.sweeps.tasks import Task, grouped

CALL_S = 0.5  # of work in one call: calls cost milliseconds, and as much work at most is done in vain when a worker dies
MOST = 64  # Tasks of one call
TRIES = 3  # of a Task whose worker or node dies; a Task may be what kills it


@dataclass(eq=False)
class Piece:
    """A Task, and how often a worker was lost while it had it."""

    task: Task
    lost: int = 0


@dataclass
class Taste:
    """What a worker has loaded, and how many Tasks like its last ones it does in CALL_S."""

    shares: tuple[str, str, int] | None = None
    count: int = 1

    def learn(self, seconds: float) -> None:
        """The last call took that long: the next one has twice the Tasks, or half as many."""
        if seconds < CALL_S / 2:
            self.count = min(MOST, 2 * self.count)
        elif seconds > CALL_S:
            self.count = max(1, self.count // 2)


class Deal:
    """Tasks that nobody has yet. A worker stays with its group while that lasts; then it opens another, the most like its own and
    the longest; when all are open it takes from the group with most work left."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._groups = [[Piece(task) for task in group] for group in grouped(tasks)]
        self._open: set[tuple[str, str, int]] = set()

    def __len__(self) -> int:
        return sum(map(len, self._groups))

    def take(self, taste: Taste) -> list[Piece]:
        """The next Tasks for a worker, all of one group, the longest first; none when none is left."""
        if not (left := [group for group in self._groups if group]):
            return []
        group = max(left, key=lambda group: self._rank(group, taste.shares))
        if (shares := group[0].task.shares) != taste.shares:
            taste.shares, taste.count = shares, 1
        self._open.add(shares)
        alone = group[0].lost > 0  # so that others do not suffer from what it may do to its worker
        count = (
            1 if alone else next((i for i, piece in enumerate(group[: taste.count]) if piece.lost), min(taste.count, len(group)))
        )
        taken = group[:count]
        del group[:count]
        return taken

    def _rank(self, group: list[Piece], shares: tuple[str, str, int] | None) -> tuple[bool, bool, int, float]:
        own = group[0].task.shares
        alike = 0 if shares is None or own[0] != shares[0] else 1 + (own[1] == shares[1])
        return own == shares, own not in self._open, alike, sum(1 + piece.task.run.relative_cost for piece in group)

    def give_back(self, pieces: Sequence[Piece]) -> None:
        """Tasks whose worker was lost are dealt again, before the others of their groups."""
        for piece in reversed(pieces):
            for group in self._groups:
                if group and group[0].task.shares == piece.task.shares:
                    group.insert(0, piece)
                    break
            else:
                self._groups.append([piece])
