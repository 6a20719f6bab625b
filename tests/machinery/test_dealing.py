"""vp.sweeps.dealing: which tasks a worker gets next, and what becomes of those whose worker was lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.controls import dealing as controls
from vp.experiments import ZERO_SHOT, DeepTokens, Method, Run, VisualPrompt
from vp.sweeps import Task
from vp.sweeps.dealing import CALL_S, MOST, Deal, Taste
from vp.training import Recipe

ADAM = Recipe("adam", learning_rate=0.1, warmup_steps=0, epochs=1, batch_size=8)
PATCH = VisualPrompt("fixed-patch", 1)


def task(name: str, method: Method = PATCH, dataset: str = "mini10", backbone: str = "mini-clip", epochs: int = 1) -> Task:
    recipe = replace(ADAM, epochs=epochs) if method.learns else None
    return Task(Run(name, "sweep", "mini", dataset, "test", backbone, method, recipe), 0)


@pytest.fixture
def kind() -> type[Deal]:
    """What is tested, in whose place the controls are put."""
    return Deal


def names(deal: Deal, taste: Taste) -> list[str]:
    return [piece.task.run.name for piece in deal.take(taste)]


def test_the_longest_go_first(kind: type[Deal]) -> None:
    """The group with most work, and in it the task that takes longest, is dealt first."""
    deal = kind([task("other", dataset="mini100", epochs=4), task("short"), task("long", epochs=5), task("middle", epochs=2)])
    taste = Taste()
    assert [names(deal, taste) for _ in range(5)] == [["long"], ["middle"], ["short"], ["other"], []]


def test_a_worker_stays_with_what_it_has_loaded(kind: type[Deal]) -> None:
    """A worker gets the tasks of its group while there are any, although another group has longer ones by then."""
    deal = kind([task(f"a{i}", epochs=3) for i in range(3)] + [task(f"b{i}", dataset="mini100", epochs=4) for i in range(3)])
    first, second = Taste(), Taste()
    assert [names(deal, worker) for worker in (first, second, second, first, second)] == [["b0"], ["a0"], ["a1"], ["b1"], ["a2"]]


def test_the_next_group_is_the_most_alike() -> None:
    """Of groups that nobody has begun, a worker opens one with its backbone and images before one with its backbone, and that
    before any other, however much work they hold."""
    deal = Deal(
        [
            task("first", epochs=9),
            task("other backbone", backbone="ViT-B-32", epochs=8),
            task("other images", dataset="mini100", epochs=5),
            task("other block", DeepTokens(1, 6, "back", "class")),
        ]
    )
    taste = Taste()
    assert [names(deal, taste) for _ in range(4)] == [["first"], ["other block"], ["other images"], ["other backbone"]]


def test_a_worker_without_work_takes_from_the_group_with_most_left(kind: type[Deal]) -> None:
    """When every group has a worker, one that is done helps where most is left."""
    large = [task(f"large{i}", epochs=3) for i in range(4)]
    small = [task(f"small{i}", dataset="mini100") for i in range(3)]
    deal = kind([*large, *small, task("tiny", backbone="ViT-B-32")])
    for begun in ("large0", "small0", "tiny"):
        taste = Taste()
        assert names(deal, taste) == [begun]
    assert names(deal, taste) == ["large1"]
    assert names(deal, Taste(shares=small[0].shares)) == ["small1"]


def test_short_tasks_are_dealt_several_at_a_time() -> None:
    """A worker gets twice as many after a short call, at most MOST, half as many after a long one, and one of a new group."""
    deal, taste = Deal([task(f"t{i:03d}", ZERO_SHOT) for i in range(1000)] + [task("new", dataset="mini100")]), Taste()
    taste.shares = task("t", ZERO_SHOT).shares
    counts = []
    for seconds in (0.1, 0.1, CALL_S * 0.75, 2.0, 0.1, *[0.0] * 9):
        counts.append(len(deal.take(taste)))
        taste.learn(seconds)
    assert counts[:6] == [1, 2, 4, 4, 2, 4]
    assert max(counts) == MOST
    assert len(names(deal, Taste(shares=("another", "group", 0), count=MOST))) == 1


def test_what_was_lost_comes_first_and_alone(kind: type[Deal]) -> None:
    """A task whose worker was lost is dealt again before the others of its group, and with no other in the same call."""
    deal, taste = kind([task(f"t{i}") for i in range(4)]), Taste(shares=task("t").shares, count=2)
    lost = deal.take(taste)
    assert [piece.task.run.name for piece in lost] == ["t0", "t1"]
    for piece in lost:
        piece.lost += 1
    deal.give_back(lost)
    taste.count = MOST
    assert [names(deal, taste) for _ in range(4)] == [["t0"], ["t1"], ["t2", "t3"], []]


def test_what_was_lost_last_of_its_group_is_not_forgotten() -> None:
    """Its group is empty by then."""
    deal = Deal([task("only")])
    deal.give_back(deal.take(Taste()))
    assert len(deal) == 1
    assert names(deal, Taste()) == ["only"]


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        (controls.FirstComeFirstServed, test_the_longest_go_first),
        (controls.Restless, test_a_worker_stays_with_what_it_has_loaded),
        (controls.Faithful, test_a_worker_without_work_takes_from_the_group_with_most_left),
        (controls.Forgetful, test_what_was_lost_comes_first_and_alone),
    ],
)
def test_wrong_deals_are_rejected(wrong: type[Deal], test: Callable[[type[Deal]], None]) -> None:
    """Each wrong way to deal fails the test that it names."""
    with pytest.raises((AssertionError, IndexError)):
        test(wrong)


@pytest.mark.parametrize("lose", [0.0, 0.3])
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 5), count=st.integers(0, 40))
def test_every_task_is_dealt_once(lose: float, seed: int, workers: int, count: int) -> None:
    """Whatever the workers take, lose and give back, each task is done once, and no call mixes groups."""
    draw = random.Random(seed)
    tasks = [task(f"t{i}", dataset=draw.choice(["mini10", "mini100"]), epochs=draw.randint(1, 9)) for i in range(count)]
    deal, tastes, done = Deal(tasks), [Taste() for _ in range(workers)], list[Task]()
    while len(deal):
        taste = draw.choice(tastes)
        pieces = deal.take(taste)
        assert {piece.task.shares for piece in pieces} == {taste.shares}
        if draw.random() < lose:
            for piece in pieces:
                piece.lost += 1
            deal.give_back(pieces)
        else:
            done += [piece.task for piece in pieces]
            taste.learn(draw.random())
    assert sorted(task.name for task in done) == sorted(task.name for task in tasks)
    assert len(done) == count
