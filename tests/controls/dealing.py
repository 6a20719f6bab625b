"""Wrong ways to deal the tasks of a sweep. Each breaks one sentence and must be rejected by the test named."""

from __future__ import annotations

from collections.abc import Sequence

from vp.sweeps import Task
from vp.sweeps.dealing import Deal, Piece, Taste


class Forgetful(Deal):
    """Does not deal again what was lost: test_what_was_lost_comes_first_and_alone."""

    def give_back(self, pieces: Sequence[Piece]) -> None:
        pass


class Restless(Deal):
    """Gives each worker the longest that is left, whatever it has loaded: test_a_worker_stays_with_what_it_has_loaded."""

    def take(self, taste: Taste) -> list[Piece]:
        taste.shares = None
        return super().take(taste)


class FirstComeFirstServed(Deal):
    """Deals groups as if all took equally long: test_the_longest_go_first."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__(tasks)
        self._groups.sort(key=lambda group: [task.shares for task in tasks].index(group[0].task.shares))

    def _rank(self, group: list[Piece], shares: tuple[str, str, int] | None) -> tuple[bool, bool, int, float]:
        return (*super()._rank(group, shares)[:3], 0.0)


class Faithful(Deal):
    """Lets no worker help with a group that another has begun: test_a_worker_without_work_takes_from_the_group_with_most_left."""

    def take(self, taste: Taste) -> list[Piece]:
        kept = self._groups
        self._groups = [
            group for group in kept if group and (group[0].task.shares == taste.shares or group[0].task.shares not in self._open)
        ]
        try:
            return super().take(taste)
        finally:
            self._groups = kept
